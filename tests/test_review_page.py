"""The review page in a real browser: keyboard and mouse, reload and kill, and what clean then makes of it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from hemalens.data.clean import clean
from hemalens.data.sources import open_source
from tests.data.hostile import cell, encode

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive Chromium")

pytestmark = pytest.mark.browser
EVIL = "<b onclick=x>bold.png"


class Served:
    """`hemalens audit --review` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = ["audit", str(folder / "cells"), "--out", str(folder / "audit"), "--review", "--workers", "0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hemalens.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self.process.stderr.readline()
        self.address = re.fullmatch(r"review at (http://127\.0\.0\.1:\d+/[\w-]+/)\n", line)[1]

    def end(self, sign: int) -> tuple[int, str]:
        self.process.send_signal(sign)
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """One picture three times (suggested to drop as foreign), 60 grey ones, a file that is none; up for review."""
    files = {f"ig/copy-{number}.png": encode(cell(16, 1)) for number in range(3)}
    files |= {f"platelet/grey-{number:02d}.png": encode(cell(16, 10 + number)[..., 0]) for number in range(60)}
    files |= {f"platelet/{EVIL}": b"no picture"}
    for name, data in files.items():
        (tmp_path / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cells" / name).write_bytes(data)
    started = Served(tmp_path)
    yield started
    if started.process.poll() is None:
        started.end(signal.SIGKILL)
    started.process.stdout.close()
    started.process.stderr.close()


@pytest.fixture
def page(open_page, served: Served) -> object:
    opened = open_page()
    show(opened, served.address)
    return opened


def show(page, address: str) -> None:
    page.goto(address)
    playwright.expect(page.locator("#range")).not_to_be_empty()


def said(page, words: str) -> None:
    """Wait until the page has said something: then the server has confirmed it."""
    playwright.expect(page.locator("#said")).to_contain_text(words)


def focused(page) -> str:
    return page.evaluate("document.activeElement.closest('.card')?.dataset.id")


def shown(page) -> list[str]:
    return page.locator(".card").evaluate_all("cards => cards.map(card => card.dataset.id)")


def pick(page, control: str, value: str) -> None:
    page.select_option(f"#{control}", value)
    playwright.expect(page).to_have_url(re.compile(f"{control}={value}&"))


def test_deciding_by_keyboard_outlives_reload_and_kill_and_clean_obeys(page, served: Served, browser) -> None:
    pick(page, "issue", "converted")
    page.locator(".card").first.focus()
    assert focused(page) == "platelet/grey-00.png"
    page.keyboard.press("d")
    said(page, "platelet/grey-00.png: dropped")
    assert focused(page) == "platelet/grey-01.png", "the next one is at hand"
    page.keyboard.press("k")
    said(page, "platelet/grey-01.png: kept")
    page.keyboard.press("r")
    page.keyboard.press("0")
    said(page, "platelet/grey-02.png: relabelled ig")
    page.keyboard.press("d")
    said(page, "platelet/grey-03.png: dropped")
    page.keyboard.press("u")
    said(page, "Undone: platelet/grey-03.png")
    assert focused(page) == "platelet/grey-03.png"
    page.keyboard.press("ArrowDown")
    below = focused(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert focused(page) == below != "platelet/grey-03.png"
    page.keyboard.press("ArrowUp")
    assert focused(page) == "platelet/grey-03.png"

    page.reload()
    page.wait_for_selector(".card.turned")
    assert page.locator(".card.kept, .card.dropped, .card.turned").evaluate_all(
        "cards => cards.map(card => card.querySelector('.verdict').textContent)"
    ) == ["dropped", "kept", "relabelled ig"]
    assert page.locator("#issue").input_value() == "converted"

    served.end(signal.SIGKILL)
    page.keyboard.press("d")
    said(page, "does not answer: start the command again")
    again = Served(served.folder)
    try:
        show(page, again.address)
        playwright.expect(page.locator("#count")).to_have_text("3 of 64 samples decided")
        pick(page, "show", "decided")
        assert shown(page) == [f"platelet/grey-{number:02d}.png" for number in range(3)]
        assert again.end(signal.SIGINT)[0] == 0, "an interrupt is the usual end"
    finally:
        again.process.kill()
        again.process.communicate()

    done = clean(served.folder / "cells", served.folder / "clean", audit=served.folder / "audit")
    assert (done["kept"], done["dropped"], done["relabelled"]) == (59, 5, 1)
    labels = {sample.sample_id: sample.label for sample in open_source(served.folder / "clean").samples}
    assert "platelet/grey-00.png" not in labels
    assert labels["platelet/grey-01.png"] == "platelet"
    assert labels["ig/grey-02.png"] == "ig"
    table = pl.read_csv(served.folder / "clean" / "relabelled.csv", infer_schema=False)
    assert table.row(0)[:3] == ("platelet/grey-02.png", "platelet", "ig")


def test_deciding_by_mouse_pages_filters_groups_and_the_end(page, served: Served) -> None:
    assert len(shown(page)) == 48
    page.click("#next")
    playwright.expect(page.locator("#range")).to_have_text("49 to 67 of 67")
    assert page.locator("#next").is_disabled()

    pick(page, "issue", "exact_duplicate")
    assert page.locator("section.group .card").count() == 3
    page.get_by_role("button", name="Drop all 3").click()
    said(page, "Group of 3: dropped")
    page.click("#undo")
    said(page, "Undone: ig/copy-0.png and 2 more")
    assert page.locator(".dropped").count() == 0
    page.locator(".card").nth(2).click(position={"x": 5, "y": 5})
    page.keyboard.press("o")
    said(page, "ig/copy-2.png: kept, the other 2 of its group dropped")

    pick(page, "issue", "converted")
    card = page.locator(".card").nth(4)
    card.get_by_role("button", name="Drop").click()
    said(page, "platelet/grey-04.png: dropped")
    playwright.expect(card.get_by_role("button", name="Drop")).to_have_attribute("aria-pressed", "true")
    card = page.locator(".card").nth(5)
    card.get_by_role("button", name="Relabel").click()
    page.locator("#relabel").get_by_role("button", name="ig").click()
    said(page, "platelet/grey-05.png: relabelled ig")
    card.locator(".look").click()
    playwright.expect(page.locator("#large-title")).to_have_text("platelet/grey-05.png")
    page.locator("#large").get_by_role("button", name="Close").click()
    pick(page, "show", "undecided")
    assert "platelet/grey-04.png" not in shown(page)

    page.click("#finish")
    playwright.expect(page.locator("#done-counts")).to_contain_text("60 kept, 1 of them under another label; 4 dropped")
    assert page.locator("#done-command").inner_text().startswith("hemalens clean ")
    out, _ = served.process.communicate(timeout=60)
    assert served.process.returncode == 0
    assert "60 samples kept, 1 of them under another label, 4 dropped; next: hemalens clean" in out
    assert clean(served.folder / "cells", served.folder / "clean", audit=served.folder / "audit")["dropped"] == 4


def test_the_page_is_closed_to_the_outside_named_throughout_and_fits_narrow_screens(page, served: Served) -> None:
    pick(page, "issue", "unreadable")
    assert shown(page) == [f"platelet/{EVIL}"]
    assert page.locator(".card b").count() == 0, "a name of a file has become markup"
    page.locator(".card").first.focus()
    page.keyboard.press("k")
    said(page, "is unreadable: it can only be dropped")
    page.keyboard.press("d")
    said(page, "dropped")
    page.keyboard.press("?")
    playwright.expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    pick(page, "issue", "converted")
    playwright.expect(page.locator(".card img").first).to_have_js_property("naturalWidth", 16)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (320, 390, 1200):
            page.set_viewport_size({"width": width, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    nameless = "all => all.filter(one => !(one.ariaLabel || one.labels?.length || one.textContent.trim())).length"
    assert page.locator("button, select, progress, [tabindex='0'], dialog[open]").evaluate_all(nameless) == 0
    assert {url.startswith(served.address) for url in page.asked} == {True}
    assert page.faults == []


def test_slow_loading_and_saving_say_so_and_unsaved_decisions_hold_the_page(page, served: Served) -> None:
    held = []
    page.route("**/api/*", lambda route: held.append(route))
    page.locator(".card").first.focus()
    page.keyboard.press("d")
    said(page, "saving…")
    with page.expect_event("dialog") as waiting:
        page.evaluate("setTimeout(() => location.reload())")
    assert waiting.value.type == "beforeunload"
    waiting.value.dismiss()
    held.pop().continue_()
    said(page, "dropped")
    page.keyboard.press("n")
    said(page, "loading…")
    held.pop().continue_()
    playwright.expect(page.locator("#said")).to_be_empty()
    page.unroute("**/api/*")
    show(page, served.address)  # nothing is unsaved: nobody asks
