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
        if (run / "audit" / "audit.html").is_file():
            page.goto((run / "audit" / "audit.html").as_uri())
            for name, words in (("audit-outliers", "Outliers"), ("audit", "Foreign images")):
                if show(page, words):
                    keep(page, name)
        if (run / "report.html").is_file():
            page.goto((run / "report.html").as_uri())
            keep(page, "report")
            for name, words in (("report-results", "Results"), ("report-mistakes", "mistakes")):
                if show(page, words):
                    keep(page, name)
        if (run / "train" / "model.safetensors").is_file():
            serve(page, run, demo / "cells" / "synthetic.npz")
        browser.close()


def show(page: Any, words: str) -> bool:
    """Scroll to the first heading with these words; tell whether there is one."""
    heading = page.locator("h2, h3").filter(has_text=words).first
    if not heading.count():
        print(f"no heading with {words!r}")
        return False
    heading.evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(300)
    return True


def serve(page: Any, run: Path, cells: Path) -> None:
    """Serve the run's model, and give the page four cells and an image of noise."""
    words = [sys.executable, "-m", "hemalens", "serve", "--model", str(run), "--port", str(PORT)]
    server = subprocess.Popen(words)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if not wait_for(server):
                sys.exit("the server did not start")
            page.goto(f"http://127.0.0.1:{PORT}/", wait_until="load")
            page.set_input_files("input[type=file]", chosen(cells, Path(folder)))
            page.wait_for_timeout(15_000)
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
        names = [str(name) for name in file["classes"]] if "classes" in file else None
    paths = []
    for label in (1, 4, 6, 7):
        path = folder / f"{names[label] if names else label}.png"
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
