"""Take the pictures of the documents from a run of the demo: python docs/pictures.py DEMO (what --out named).

Needs playwright and Chromium. Every cell in the pictures is rendered, none is a patient's.
"""

import io
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from hemalens.core.types import CELL_CLASSES

IMAGES = Path(__file__).parent / "images"
PORT = 8731
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu"]


def main() -> None:
    """Open the demo's pages and the server's, and write docs/images."""
    demo = Path(sys.argv[1]).resolve()
    run = demo / "synthetic"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=_FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 700}, device_scale_factor=1.2)
        serve(page, demo / "cells" / "synthetic.npz")
        page.goto((run / "audit" / "audit.html").as_uri())
        for name, words in (("audit-outliers", "Outliers"), ("audit", "Foreign images")):
            show(page, words)
            keep(page, name)
        page.goto((run / "report.html").as_uri())
        keep(page, "report")
        show(page, "Results")
        keep(page, "report-results")
        browser.close()


def show(page: Any, words: str) -> None:
    """Scroll to the first heading with these words."""
    # All is drawn first: pictures that load late would push what is shown out of the window.
    page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    page.wait_for_load_state("networkidle")
    for _ in range(3):  # what is laid out on the way moves the heading
        page.locator("h2, h3").filter(has_text=words).first.evaluate("element => element.scrollIntoView()")
        page.wait_for_timeout(500)


def serve(page: Any, cells: Path) -> None:
    """Serve the embedded model, and give the page four cells and an image of noise."""
    server = subprocess.Popen([sys.executable, "-m", "hemalens", "serve", "--port", str(PORT)])
    try:
        with tempfile.TemporaryDirectory() as folder:
            if not wait_for(server):
                sys.exit("the server did not start")
            page.goto(f"http://127.0.0.1:{PORT}/", wait_until="load")
            page.set_input_files("input[type=file]", chosen(cells, Path(folder)))
            page.get_by_text("noise.png").first.wait_for(timeout=60_000)
            page.wait_for_timeout(2_000)
            show(page, "Answers")
            keep(page, "serve")
    finally:
        server.terminate()
        server.wait()


def wait_for(server: "subprocess.Popen[bytes]") -> bool:
    """Wait until the server answers; tell whether it does."""
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v2/health/ready", timeout=2)
        except OSError:
            time.sleep(1)
        else:
            return True
        if server.poll() is not None:
            return False
    return False


def chosen(cells: Path, folder: Path) -> list[str]:
    """Write one cell of each of four classes and a noise image as PNG; return their paths."""
    with np.load(cells) as file:
        images, labels = file["images"], file["labels"].ravel()
    paths = []
    for label in (1, 4, 6, 7):
        path = folder / f"{CELL_CLASSES[label]}.png"
        Image.fromarray(images[np.flatnonzero(labels == label)[3]]).save(path)
        paths.append(str(path))
    noise = np.random.default_rng(0).integers(0, 256, images.shape[1:], dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return [*paths, str(folder / "noise.png")]


def keep(page: Any, name: str) -> None:
    """Write what the window shows as a JPEG of less than 200 KB."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for quality in (85, 75, 65, 50):
        buffer = io.BytesIO()
        shot.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if buffer.tell() < 150_000:
            break
    (IMAGES / f"{name}.jpg").write_bytes(buffer.getvalue())
    print(f"{name}.jpg {buffer.tell():,}")


if __name__ == "__main__":
    main()
