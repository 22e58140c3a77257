"""What all tests share: where the real cells are, and a real browser."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.exported import exported, fp32

__all__ = ["exported", "fp32"]  # fixtures: one run and its export serve several rooms

PATIENCE = 60_000  # ms that a busy machine may take for a step of a page
_QUIET = "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
_BLANK = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1" aria-label="nothing"></svg>'


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real cells, named by HEMALENS_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("HEMALENS_DATA")
    if not folder:
        pytest.skip("HEMALENS_DATA is not set: the real cells are not here")
    return Path(folder)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures undrawn where a test does not look at them: they take most of an evaluation's time."""
    for module in ("evaluation.evaluate", "report.parts", "evaluation.robustness"):
        monkeypatch.setattr(f"hemalens.{module}.figure_svg", lambda *_, **__: _BLANK)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; tests of pages are skipped without it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs headless Chromium (chromium is not installed)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive Chromium")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=_QUIET.split())
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[], Any]]:
    """Open pages that keep what they asked for (``asked``) and every error and warning (``faults``)."""
    opened = []

    def new_page() -> Any:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.asked, page.faults = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda line: page.faults.append(line.text) if line.type in ("error", "warning") else None)
        opened.append(page)
        return page

    yield new_page
    for page in opened:
        page.close()
