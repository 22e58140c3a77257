"""The page in a real browser: drop, batch, refusal, keyboard, narrow and dark screens, download; nobody left out."""

import base64
import csv
import re
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.deployment.conftest import Exported
from tests.deployment.web.conftest import Cells, Server, encode

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive Chromium")

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)>.png"
DROP = """
([files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    data.items.add(new File([Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0))], name));
  }
  const event = (kind) => new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event("dragenter"));
  const over = document.body.classList.contains("over");
  document.body.dispatchEvent(event("drop"));
  return over;
}
"""


@pytest.fixture
def page(open_page, server: Server) -> object:
    opened = open_page()
    opened.goto(server.address)
    return opened


def choose(page, *files: tuple[str, bytes]) -> None:
    kinds = {".zip": "application/zip", ".png": "image/png"}
    given = [{"name": name, "mimeType": kinds[Path(name).suffix], "buffer": data} for name, data in files]
    page.set_input_files("#files", given)


def done(page, number: int) -> None:
    playwright.expect(page.locator("#said")).to_have_text(f"{number} pictures done.")


def test_dropped_pictures_are_answered_refused_or_named_and_downloaded(page, server: Server, cells: Cells) -> None:
    files = [(f"{place}.png", encode(one)) for place, one in enumerate(cells.kept)]
    files += [("=odd,name;-x.png", encode(cells.refused)), (EVIL, b"hello")]
    files += [(f"again-{place}.png", encode(cells.kept[0])) for place in range(10)]
    packed = [[name, base64.b64encode(data).decode()] for name, data in files]
    assert page.locator("body").evaluate(f"(_, files) => ({DROP})(files)", [packed]), "the drop zone shows itself"
    done(page, 18)
    cards = page.locator("#cards > li")
    assert cards.count() == 18
    names = cards.locator(".name").all_text_contents()
    assert names == [name for name, _ in files], "in the order of the files, names as text"

    first = cards.nth(0)
    said = server.predict(files[0]).json()["predictions"][0]
    playwright.expect(first.locator("h3")).to_have_text(re.compile(rf"{said['predicted']}, [\d.]+\s%"))
    assert first.locator(".bars li").count() == 8
    assert first.locator(".best .fill").bounding_box()["width"] > 0
    assert first.locator("img").count() == 2, "the picture and its heat map"
    playwright.expect(first.locator("img").nth(1)).to_have_js_property("naturalWidth", 24)

    assert "refused" in cards.nth(6).get_attribute("class")
    playwright.expect(cards.nth(6).locator("h3")).to_have_text("No answer")
    playwright.expect(cards.nth(6).locator(".reason")).to_have_text(re.compile("confidence|unlike"))
    playwright.expect(cards.nth(7).locator("h3")).to_have_text("Not read")
    playwright.expect(cards.nth(7).locator(".reason")).to_contain_text("is text, not a picture")
    playwright.expect(page.locator("#counts")).to_contain_text("no answer: 1, not read: 1")

    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    assert waiting.value.suggested_filename == "predictions.csv"
    table = list(csv.DictReader(Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()))
    fixed = ["sample_id", "label", "predicted", "confidence", "abstained", "reason"]
    assert list(table[0]) == [*fixed, *(key for key in said if key.startswith("p_"))]
    assert [row["sample_id"] for row in table][6:8] == ["'=odd,name;'-x.png", EVIL]
    assert (table[0]["predicted"], table[0]["abstained"]) == (said["predicted"], "false")
    assert float(table[0]["confidence"]) == pytest.approx(said["confidence"], abs=1e-4)
    assert table[6]["abstained"] == table[7]["abstained"] == "true"
    assert page.faults == []
    assert {address.startswith((server.address, "blob:", "data:")) for address in page.asked} == {True}


def test_all_of_it_goes_by_keyboard(page, cells: Cells) -> None:
    # Choosers are caught from here on: asked for with the key press alone, the browser may open one of its own first.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    assert page.locator(":focus").text_content() == "Skip to the answers"
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("id") == "choose"
    with page.expect_file_chooser() as waiting:
        page.keyboard.press("o")
    waiting.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": encode(cells.kept[0])})
    done(page, 1)
    with page.expect_download():
        page.keyboard.press("d")
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("id") == "download", "what cannot be used yet is passed over"
    with page.expect_download():
        page.keyboard.press("Enter")
    page.keyboard.press("x")
    playwright.expect(page.locator("#said")).to_have_text("Nothing is left here.")
    assert page.locator("#cards > li").count() == 0
    assert page.locator("#answers").is_hidden()
    assert page.get_by_role("button", name="Clear").is_disabled()


def test_a_zip_becomes_its_pictures_and_a_broken_one_says_so(page, cells: Cells) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for place, one in enumerate(cells.kept[:3]):
            archive.writestr(f"cells/{place}.png", encode(one))
    choose(page, ("cells.zip", buffer.getvalue()), ("broken.zip", b"PK\x03\x04 and no more"))
    done(page, 4)
    assert page.locator("#cards .name").all_text_contents() == [
        *(f"cells/{place}.png" for place in range(3)),
        "broken.zip",
    ]
    playwright.expect(page.locator(".failed .reason")).to_contain_text("is damaged or no zip")


def test_files_too_large_are_named_before_they_are_sent(page) -> None:
    choose(page, ("large.png", bytes((4 << 20) + 1)))
    done(page, 1)
    playwright.expect(page.locator(".failed .reason")).to_contain_text("the limit is 4194304")
    assert not any("predict" in address for address in page.asked)


def test_the_page_is_accessible_and_fits_narrow_and_dark_screens(page, browser, server: Server, cells: Cells) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    choose(page, ("a.png", encode(cells.kept[0])), ("b.png", encode(cells.refused)), ("c" * 100 + ".png", b"no"))
    done(page, 3)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (320, 390, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page)
        assert [(one["id"], one["help"]) for one in found.response["violations"]] == []
    phone = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    held = phone.new_page()
    held.goto(server.address)
    assert held.locator("#camera").get_attribute("capture") == "environment"
    assert held.locator("button#choose").bounding_box()["height"] >= 44, "large enough for a finger"
    phone.close()
    assert page.faults == []


def test_a_server_that_is_gone_is_said_so(browser, page, cells: Cells) -> None:
    page.route("**/v1/predict*", lambda route: route.abort())
    choose(page, ("a.png", encode(cells.kept[0])))
    done(page, 1)
    playwright.expect(page.locator(".failed .reason")).to_contain_text("the server does not answer")


def test_the_token_is_asked_for_once_and_kept_for_the_tab(
    open_page, exported: Exported, cells: Cells, tmp_path: Path
) -> None:
    token = "a-token-of-the-tests"
    (tmp_path / "token").write_text(token)
    guarded = Server(exported.onnx, {}, token_file=str(tmp_path / "token"))
    try:
        page = open_page()
        page.goto(guarded.address)
        files = [(f"{place}.png", encode(cells.kept[0])) for place in range(20)]  # three requests, two at once
        choose(page, *files)
        page.locator("#token").fill("not-the-right-token")
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_text("It does not take the one")).to_be_visible()
        page.locator("#token").fill(token)
        page.get_by_role("button", name="Go on").click()
        done(page, 20)
        assert page.locator(".failed").count() == 0
        page.reload()
        choose(page, files[0])
        done(page, 1)
        assert page.locator(".failed").count() == 0, "not asked again"
        page.evaluate("sessionStorage.clear()")
        choose(page, files[0])
        playwright.expect(page.locator("#token")).to_be_visible()
        page.keyboard.press("Escape")
        playwright.expect(page.locator(".failed .reason")).to_contain_text("token: is missing or wrong")
        assert not any(token in address for address in page.asked)
        assert [fault for fault in page.faults if "401" not in fault] == []
    finally:
        guarded.kill()
