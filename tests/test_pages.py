"""The pages in a real browser: they draw, on wide and narrow screens and on paper, and ask for nothing from outside."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from hemalens.data.audit.audit import audit
from hemalens.data.synthetic import write_synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs headless Chromium (chromium is not installed)"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_synthetic(folder / "cells.npz", 12, size=48)
    audit(folder / "cells.npz", folder / "audit")
    return folder / "audit" / "audit.html"


def browse(page, folder, *words):
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, "--headless", "--no-sandbox", *QUIET.split(), "--disable-sync", profile, *words, page.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True)


@pytest.mark.parametrize("width", [390, 1200])
def test_page_draws_on_narrow_and_wide_screens(page, tmp_path, width):
    image = tmp_path / "page.png"
    browse(page, tmp_path, f"--screenshot={image}", f"--window-size={width},2000", "--hide-scrollbars")
    pixels = np.asarray(Image.open(image).convert("RGB"))
    assert pixels.shape[1] == width
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500, "the page is blank"


def test_page_prints_to_paper(page, tmp_path):
    paper = tmp_path / "page.pdf"
    browse(page, tmp_path, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 50_000


def test_page_asks_for_nothing_but_itself(page):
    text = page.read_text(encoding="utf-8")
    addresses = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", text))
    assert {address for address in addresses if not address.startswith(("data:", "#"))} == set()
