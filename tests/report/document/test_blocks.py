import io
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader

from hemalens.core.charts import bar_counts, figure_svg
from hemalens.core.page import image_uri
from hemalens.report.document.blocks import (
    Bullets,
    Code,
    Document,
    Equation,
    Facts,
    Figure,
    Gallery,
    Heading,
    Section,
    Span,
    Table,
    code,
    emphasis,
    numbers,
    paragraph,
    reference,
    strong,
)
from hemalens.report.document.html import render_document
from hemalens.report.document.markdown import render_markdown
from hemalens.report.document.pdf import render_images, render_pdf
from tests.core.test_page import Page

TIME = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
HOSTILE = (
    '#panic("x") *bold* _em_ $x^2$ `raw` @ref // no comment',
    "<script>alert(1)</script>",
    '"]) #import "@preview/x:1.0"',
    "= Heading",
    "a|b",
    "{} \\ [x](http://example.org)",
    "\udc80 lone surrogate",
    "bell\x07",
    "turned \u202e back",
    "w" * 300,
)


def text_of(pdf):
    """Read the text of a PDF, every kind of space folded."""
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages))


def document(*blocks, title="A title", footer="at the foot"):
    return Document(title, (paragraph("In short."),), (Section("one", "First", tuple(blocks)),), footer)


@pytest.fixture(scope="module")
def everything():
    """One of every kind of block."""
    cell = np.full((96, 96, 3), (190, 120, 170), np.uint8)
    counts = bar_counts({"ig": 30, "platelet": 12})
    items = [
        {"uri": image_uri(cell), "alt": "a cell", "lines": ["ig", "row-1"]},
        {"uri": None, "alt": "a lost one", "lines": ["platelet"]},
    ]
    return document(
        paragraph("See ", (reference("t"), " and ", reference("g"), ".")),
        paragraph(("A ", strong("loud"), " ", emphasis("soft"), " ", code("typed"), " word."), note=True),
        Heading("Below"),
        Bullets((paragraph("Point one."), paragraph("Point two."))),
        Table("t", "Numbers.", ("class", "n"), [["ig", {"lines": ["30", "of 40"], "best": True}], ["platelet", "12"]]),
        Figure("f", "A chart.", figure_svg(counts, label="counts"), "counts"),
        Gallery("g", "Cells.", items, 2),
        Equation("<math><mi>x</mi></math>", "x = 1/2", "x is one half"),
        Code("hemalens run x"),
        Facts([("Seed", "7")]),
        Facts([("model.json", "ab" * 32)], hashes=True),
        paragraph((Span("the page", "link", "audit/audit.html"),)),
    )


def test_tables_and_figures_are_numbered_in_order_of_the_document(everything):
    assert numbers(everything) == {"one": "section 1", "t": "Table 1", "f": "Figure 1", "g": "Figure 2"}


def test_sentences_that_say_nothing_leave_no_space():
    assert paragraph("One.", None, "", ("Two ", "parts.")).words == ("One.", " ", "Two ", "parts.")


def test_every_renderer_says_every_word(everything):
    html = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", render_document(everything)))
    pdf, card = text_of(render_pdf(everything)), re.sub(r"\s+", " ", render_markdown(everything))
    words = [
        "A title",
        "In short.",
        "First",
        "See",
        "Table 1",
        "Figure 2",
        "loud",
        "soft",
        "typed",
        "Below",
        "Point two.",
    ]
    words += ["Numbers.", "platelet", "of 40", "hemalens run x", "Seed", "the page", "at the foot", "ab" * 32]
    for word in words:
        assert word in html, word
        assert word in card, word
        assert word in pdf, word
    for word in ("A chart.", "Cells.", "no image"):
        assert word in html
        assert word in pdf
    assert "audit/audit.html" in pdf


def test_references_lead_to_what_they_name(everything):
    html = render_document(everything)
    assert '<a href="#t">Table 1</a>' in html
    known = {attributes["id"] for _, attributes in Page(html).attributes if "id" in attributes}
    assert {"t", "f", "g", "one"} <= known
    reader = PdfReader(io.BytesIO(render_pdf(everything)))
    links = [note.get_object() for page in reader.pages for note in page.get("/Annots") or []]
    assert len(links) == 2


def test_paper_has_its_fonts_inside_and_draws_charts_as_vectors(everything):
    reader = PdfReader(io.BytesIO(render_pdf(everything, time=TIME)))
    fonts = [font.get_object() for page in reader.pages for font in page["/Resources"]["/Font"].values()]
    assert fonts
    for font in fonts:
        kind = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
        assert {"/FontFile", "/FontFile2", "/FontFile3"} & kind["/FontDescriptor"].keys()
    images = [image for page in reader.pages for image in page.images]
    assert [image.image.size for image in images] == [(96, 96)]  # the cell, and no chart
    assert "platelet" in text_of(render_pdf(document(everything.sections[0].blocks[5])))  # letters stay letters


def test_paper_knows_its_title_time_and_language(everything):
    reader = PdfReader(io.BytesIO(render_pdf(everything, time=TIME)))
    assert reader.metadata.title == "A title"
    assert reader.metadata.creation_date == TIME
    assert reader.trailer["/Root"]["/Lang"] == "en"
    assert "2026-03-04" in text_of(render_pdf(everything, time=TIME))


@pytest.mark.parametrize("time", [None, TIME])
def test_the_same_document_makes_the_same_paper(everything, time):
    assert render_pdf(everything, time=time) == render_pdf(everything, time=time)


def test_paper_is_a4_in_two_columns():
    blocks = [paragraph("word " * 400), paragraph("LEFT " * 300), paragraph("RIGHT " * 300)]
    reader = PdfReader(io.BytesIO(render_pdf(document(*blocks))))
    page = reader.pages[0]
    assert [round(float(side)) for side in page.mediabox[2:]] == [595, 842]
    starts = set()
    page.extract_text(visitor_text=lambda text, user, at, *_: starts.add(user[4] + at[4]) if text.strip() else None)
    assert any(start < 100 for start in starts)
    assert any(start > 300 for start in starts)


def test_pages_can_be_looked_at(everything):
    pages = render_images(everything, ppi=40)
    assert [Image.open(io.BytesIO(page)).size for page in pages] == [(331, 468)] * len(pages)


def hostile():
    rows = [[name, {"lines": [name, name], "best": True}] for name in HOSTILE]
    item = {"uri": None, "alt": HOSTILE[0], "lines": HOSTILE}
    names = [(name, name) for name in HOSTILE]
    return document(
        paragraph(*HOSTILE),
        paragraph(tuple(style(name) for style in (code, strong, emphasis) for name in HOSTILE)),
        Heading(HOSTILE[0]),
        Bullets(tuple(paragraph(name) for name in HOSTILE)),
        Table("t", HOSTILE[2], HOSTILE[:2], rows),
        Gallery("g", HOSTILE[0], [item], 4),
        *(Code(name) for name in HOSTILE),
        Facts(names),
        Facts(names, hashes=True),
        title=HOSTILE[0],
        footer=HOSTILE[1],
    )


def test_names_are_printed_on_paper_and_never_run():
    text = text_of(render_pdf(hostile()))
    for name in HOSTILE[:6]:
        assert name in text, name
    assert "w" * 300 in re.sub(r"\s", "", text)
    assert "\u200b" not in text
    assert "\u202e" not in text


def test_names_are_no_markup_on_a_page():
    html = render_document(hostile())
    assert "<script" not in html
    Page(html)


def test_names_are_no_markup_in_a_text():
    text = render_markdown(hostile())
    outside = re.sub(r"(?s)^(`{3,})\n.*?\n\1$", "", text, flags=re.MULTILINE)
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"\\.", "", outside))
    assert "<" not in outside
    assert "](" not in outside
    assert "$" not in outside
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.strip().splitlines()}) == 1


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("98.7 % [97.7, 99.6]", "98.7 % [97.7, 99.6]"),
        ("[1](http://example.org)", r"\[1\](http://example.org)"),
        ("[1]: x", r"\[1\]: x"),
    ],
)
def test_intervals_keep_their_brackets_and_links_do_not(text, written):
    assert render_markdown(document(paragraph(text))).split("\n\n")[3] == written


def test_letters_that_our_fonts_lack_do_not_stop_the_press():
    assert "细" in text_of(render_pdf(document(paragraph("one 细 cell"))))


@pytest.mark.parametrize("rows", [0, 1, 60])
@pytest.mark.parametrize("wide", [True, False])
def test_tables_of_any_length_lose_no_row(rows, wide):
    table = Table("t", "Many.", ("name", "n"), [[f"row-{row:03d}", str(row)] for row in range(rows)], wide=wide)
    text = text_of(render_pdf(document(table)))
    assert re.findall(r"row-\d+", text) == [f"row-{row:03d}" for row in range(rows)]
