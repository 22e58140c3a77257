"""Images in memory to what the checks work on, without a file in between."""

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from hemalens.core.types import Images, Sample
from hemalens.data.audit.statistics import Measurement, Statistics, measure
from hemalens.data.reading.decode import decode_array


def measured(images: Iterable[Images | None]) -> Statistics:
    """Measure images of any sizes; None stands for one that could not be read."""
    rows: list[Measurement | None] = []
    thumbnails = []
    for pixels in images:
        row, thumbnail = (None, np.zeros((16, 16, 3), np.uint8))
        if pixels is not None:
            row, thumbnail = measure(decode_array(pixels), encoded=pixels.tobytes())
        rows.append(row)
        thumbnails.append(thumbnail)
    reasons = tuple("is damaged" if row is None else "" for row in rows)
    return Statistics(tuple(rows), reasons, np.stack(thumbnails))


def samples_of(labels: Iterable[str | None]) -> list[Sample]:
    return [Sample(f"row-{index:06d}", label) for index, label in enumerate(labels)]


def page_of_text(size: int) -> Images:
    """Black words on white paper."""
    paper = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(paper)
    for line in range(0, size, 10):
        pen.text((1, line), "the quick brown fox", fill="black")
    return np.asarray(paper)


def bar_chart(size: int) -> Images:
    """A chart of coloured bars with its axes."""
    paper = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(paper)
    for index, colour in enumerate(("steelblue", "orange", "green", "red", "gold")):
        left = size * (index + 1) // 7
        pen.rectangle((left, size // (index + 2), left + size // 10, size - 4), fill=colour)
    pen.line((3, 0, 3, size - 3, size, size - 3), fill="black")
    return np.asarray(paper)


def noise(size: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
