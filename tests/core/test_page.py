import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hemalens.core import page
from hemalens.core.metrics import Interval
from hemalens.core.page import contact_sheet_uri, image_uri, render_page
from hemalens.core.text import ABSENT, duration, interval, markdown, number, percent, thousands

TEMPLATES = Path(page.__file__).parent / "templates"


class Page(HTMLParser):
    """Collects tags and checks that they close in order."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "mspace"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.attributes = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pixels_of(uri):
    kind, _, data = uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{image.format.lower()}"
    return np.asarray(image.convert("RGB"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make a package with templates of its own; returns a function that renders text as a page of it."""
    name_of_package = f"pages_of_{tmp_path.name}"  # a module of its own for every test
    home = tmp_path / name_of_package
    (home / "templates").mkdir(parents=True)
    (home / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def render(text, name="page.html", **context):
        (home / "templates" / name).write_text(text, encoding="utf-8")
        return render_page(name, name_of_package, context)

    yield render
    page._environment.cache_clear()


FRAMED = """{% extends "base.html" %}{% import "macros.html" as parts %}
{% set sections = {"one": "First", "two": "Second <&>"} %}
{% block main %}<section id="one"><h2>{{ sections.one }}</h2>
{{ parts.table("t", "Cells", ["class", "n"], [["<b>", 1], ["ig", 2]]) }}
{{ parts.figure("<svg></svg>", "Seen") }}{{ parts.image("data:,", "a <b>", "Seen too") }}
{{ parts.gallery([{"uri": none, "alt": "x", "lines": ["a", "b"]}]) }}{{ parts.facts([("k", "v")]) }}
</section>{% endblock %}"""


def test_a_page_is_whole_well_formed_and_says_its_language(package):
    html = package(FRAMED, title="A < B")
    found = Page(html)
    assert html.startswith("<!doctype html>")
    assert ("html", {"lang": "en"}) in found.attributes
    assert "<title>A &lt; B</title>" in html
    assert found.tags.count("h1") == 1
    assert html.count("<style>") == 1


def test_a_page_forbids_every_outside_request_and_makes_none(package):
    html = package(FRAMED, title="t")
    policy = next(a["content"] for _, a in Page(html).attributes if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules
    for tag, attributes in Page(html).attributes:
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import|https?://", html)


def test_contents_lead_to_the_sections(package):
    html = package(FRAMED, title="t")
    assert '<a href="#one">First</a>' in html
    assert '<a href="#two">Second &lt;&amp;&gt;</a>' in html


def test_a_page_without_sections_has_no_contents(package):
    html = package('{% extends "base.html" %}', title="t")
    assert "<nav" not in html


def test_what_a_page_is_told_is_escaped(package):
    html = package(FRAMED + "{# #}", title="<script>alert(1)</script>")
    assert "<script>" not in html
    assert '<th scope="row">&lt;b&gt;</th>' in html
    assert 'alt="a &lt;b&gt;"' in html


def test_tables_scroll_in_a_box_of_their_own_that_keyboards_reach(package):
    html = package(FRAMED, title="t")
    box = next(attributes for tag, attributes in Page(html).attributes if tag == "div")
    assert box == {"class": "scroll short", "role": "region", "tabindex": "0", "aria-labelledby": "t-caption"}
    assert '<caption id="t-caption">Cells</caption>' in html


def test_a_name_that_the_context_lacks_is_an_error(package):
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        package("{{ missing }}")


def test_markdown_templates_are_not_escaped_as_html(package):
    assert package("{{ a }} {{ a | markdown }}", name="card.md", a="x<y") == r"x<y x\<y"


def test_every_filter_is_at_hand(package):
    text = "{{ 1 | percent }}|{{ s | interval }}|{{ 12345 | thousands }}|{{ 0.5 | number }}|{{ 61 | duration }}"
    plain = package(text, s={"value": 0.5, "low": 0.25, "high": 0.75})
    assert plain.replace("\xa0", " ").replace("\u202f", "_") == "100.0 %|50.0 % [25.0, 75.0]|12_345|0.5|1 min 1 s"


@pytest.mark.parametrize("paper", ["light", "dark"])
def test_text_reads_on_both_papers(paper):
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", blocks[paper == "dark"]))
    for ink, least in (("ink", 7), ("quiet", 4.5), ("link", 4.5), ("edge", 3)):
        for ground in ("paper", "wash"):
            assert contrast(colours[ink], colours[ground]) >= least, (ink, ground)


def contrast(one, other):
    """WCAG 2.2 contrast ratio of two colours."""
    levels = []
    for colour in (one, other):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        levels.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(levels) + 0.05) / (min(levels) + 0.05)


# --- images


def test_a_tiny_image_keeps_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)
    assert image_uri(pixels).startswith("data:image/png;")
    np.testing.assert_array_equal(pixels_of(image_uri(pixels)), pixels)


def test_a_larger_image_is_a_jpeg_that_looks_the_same():
    row, column = np.mgrid[:96, :80]
    pixels = np.stack([row, column, row // 2 + column // 2], axis=-1).astype(np.uint8)
    uri = image_uri(pixels)
    assert uri.startswith("data:image/jpeg;")
    assert np.abs(pixels_of(uri).astype(int) - pixels).mean() < 3
    assert len(image_uri(pixels, quality=30)) < len(uri)


@pytest.mark.parametrize(
    ("shape", "fitted"), [((400, 200), (192, 96)), ((100, 193), (99, 192)), ((192, 10), (192, 10))]
)
def test_a_image_is_fitted_into_the_largest_side(shape, fitted):
    assert pixels_of(image_uri(np.zeros((*shape, 3), np.uint8))).shape[:2] == pytest.approx(fitted, abs=1)


def test_a_view_of_pixels_is_taken_as_it_looks():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)[::-1, ::2]
    np.testing.assert_array_equal(pixels_of(image_uri(pixels)), pixels)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_what_is_no_image_is_refused(pixels):
    with pytest.raises(ValueError, match="must be"):
        image_uri(pixels)


def test_a_contact_sheet_shows_images_of_any_size_row_by_row():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    images = [np.full((20 + 30 * i, 50, 3), colour, np.uint8) for i, colour in enumerate(colours)]
    sheet = pixels_of(contact_sheet_uri(images, 3, side=40)).astype(int)
    assert sheet.shape == (82, 124, 3)
    for index, colour in enumerate(colours):
        row, column = divmod(index, 3)
        middle = sheet[row * 42 + 20, column * 42 + 20]
        assert np.abs(middle - colour).max() < 30
    assert np.abs(sheet[62, 104] - 128).max() < 12  # the sixth place is empty


def test_a_contact_sheet_is_no_wider_than_its_images():
    images = np.zeros((2, 96, 96, 3), np.uint8)
    assert pixels_of(contact_sheet_uri(images, 10)).shape == (96, 194, 3)


@pytest.mark.parametrize(("count", "columns"), [(0, 3), (3, 0)])
def test_an_empty_contact_sheet_is_refused(count, columns):
    with pytest.raises(ValueError, match="at least 1"):
        contact_sheet_uri(np.zeros((count, 8, 8, 3), np.uint8), columns)


# --- numbers in words


def test_what_was_not_measured_is_a_dash():
    assert [write(None) for write in (percent, interval, thousands, number, duration)] == [ABSENT] * 5


def test_intervals_come_from_records_and_mappings_alike():
    values = {"value": 0.9, "low": 0.8, "high": 1.0}
    assert interval(Interval(**values)) == interval(values) == "90.0\xa0% [80.0,\xa0100.0]"
    assert interval(values, 0) == "90\xa0% [80,\xa0100]"


@given(st.integers(-(10**12), 10**12))
def test_thousands_only_insert_spaces(count):
    written = thousands(count)
    assert int(written.replace("\u202f", "")) == count
    assert ("\u202f" in written) == (abs(count) >= 10_000)


@given(st.floats(0, 10**6))
def test_durations_have_units_that_add_up(seconds):
    units = {"h": 3600, "min": 60, "s": 1}
    words = duration(seconds).split("\xa0")
    total = sum(float(amount) * units[unit] for amount, unit in zip(words[::2], words[1::2], strict=True))
    assert total == pytest.approx(seconds, abs=60 if "h" in words else 0.5)
    assert len(words) <= 4


@pytest.mark.parametrize(("seconds", "words"), [(0, "0.0 s"), (9.96, "10 s"), (59.7, "1 min"), (3600, "1 h")])
def test_durations_round_over_their_edges(seconds, words):
    assert duration(seconds).replace("\xa0", " ") == words


@given(st.text())
def test_markdown_text_stays_in_its_cell(text):
    escaped = markdown(text)
    assert len(escaped.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<`]", escaped)
