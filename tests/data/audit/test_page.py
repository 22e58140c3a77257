"""The audit's page: complete in itself, a gallery for each finding, names of files only ever shown."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hemalens.data.audit.audit import audit
from tests.data.conftest import Audited
from tests.data.hostile import cell, encode, png


class Page(HTMLParser):
    """What a page holds, by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def page(audited: Audited) -> Page:
    return Page((audited.out / "audit.html").read_text(encoding="utf-8"))


def test_the_page_fetches_nothing_and_forbids_fetching(page: Page) -> None:
    links = [a[key] or "" for _, a in page.tags for key in ("src", "href", "xlink:href", "srcset", "data") if key in a]
    assert links
    assert {link.partition(":")[0] if ":" in link else link[:1] for link in links} <= {"data", "#"}
    policies = [meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policies[0]["content"] or "")
    assert not page.all("script")


def test_tables_and_figures_are_numbered_and_captioned(page: Page, audited: Audited) -> None:
    assert len(page.all("caption")) == len(page.all("table")) == 3
    figures = [figure for figure in page.all("figure") if "numbered" in (figure.get("class") or "")]
    assert len(figures) >= 4
    style = (audited.out / "audit.html").read_text().partition("</style>")[0]
    assert re.search(r'content:\s*"Table ', style)
    assert re.search(r'content:\s*"Figure ', style)
    assert len(page.all("svg")) == 3


def test_each_kind_of_finding_has_one_gallery(page: Page, audited: Audited) -> None:
    text = (audited.out / "audit.html").read_text(encoding="utf-8")
    headings = [heading["id"] for heading in page.all("h3")]
    assert headings == list(audited.summary.issues)
    for section in re.split(r"<h3 ", text)[1:]:
        assert section.count('<ul class="gallery">') == 1
        assert 1 <= section.count("<li>") <= 12 + section.count("<nav")


def test_links_within_the_page_lead_somewhere_and_no_id_is_given_twice(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in ids}


def test_every_image_has_words_for_those_who_do_not_see_it(page: Page) -> None:
    assert len(page.all("img")) > 10
    assert all(image.get("alt") for image in page.all("img"))


def test_the_numbers_are_those_of_the_summary(page: Page, audited: Audited) -> None:
    assert f"{audited.summary.n_samples} samples, {audited.summary.suggested_drops} suggested to drop" in page.text
    for name in audited.made.classes:
        assert name in page.text


def test_names_of_files_and_classes_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    evil = '<script>alert("x")<'
    (tmp_path / "cells" / evil).mkdir(parents=True)
    for name, data in {f"{evil}.png": encode(cell()), "bomb.png": png(60_000, 60_000)}.items():
        (tmp_path / "cells" / evil / name).write_bytes(data)
    (tmp_path / "cells" / "<img src=x>.txt").write_text("ignored")
    summary = audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    assert evil in summary.classes
    page = Page((tmp_path / "audit" / "audit.html").read_text(encoding="utf-8"))
    assert not page.all("script")
    assert evil in page.text
    assert "<img src=x>.txt" in page.text
    assert "no image" in page.text  # the empty frame of the bomb


def test_a_set_too_small_for_a_map_says_so_instead_of_drawing_zeros(tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", images=[cell(8, 1), cell(8, 2)], labels=[0, 1])
    audit(tmp_path / "small.npz", tmp_path / "audit", workers=0)
    page = Page((tmp_path / "audit" / "audit.html").read_text(encoding="utf-8"))
    assert "under 50" in page.text
    assert "Nothing was found." in page.text
    assert len(page.all("svg")) == 1
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["issues"] == {}
