"""Pictures to numbers: one parallel pass that decodes each sample once and keeps a row and a 16 x 16 thumbnail of it.

Everything later in the audit works on these rows, so a new threshold needs no new pass over the pixels. Memory is one
row and 768 bytes a sample. Needs numpy and Pillow (workers are spawned and must start fast); no torch, no polars.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from hemalens.core.errors import DecodeError, SourceError
from hemalens.core.types import FloatArray, Images, Progress, no_progress
from hemalens.data.decode import Picture, decode, decode_array
from hemalens.data.parallel import map_chunks
from hemalens.data.sources import Source

__all__ = ["THUMBNAIL", "Measurement", "Statistics", "measure", "measure_source"]

THUMBNAIL = 16
_HASH_SIDE, _HASH_BITS = 32, 8
# Sharpness is measured at one scale whatever the camera: pictures with a longer side are reduced to it first.
_SHARPNESS_SIDE = 128
# 64 pictures a task: 96 px pictures take about 40 ms then, so the pool's overhead of 0.3 ms a task vanishes.
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one pass learns of one picture; luminance and colours are 0-255, hashes hexadecimal.

    Attributes:
        width, height: pixels, after EXIF orientation.
        mode: the file's own colour mode.
        bytes: encoded size.
        sha256: of the encoded bytes.
        pixel_sha256: of the decoded RGB pixels and their shape: equal for equal pictures whatever the file.
        phash: 64-bit perceptual hash (signs of the lowest 8 x 8 DCT coefficients but the constant one).
        brightness, contrast: mean and standard deviation of the luminance (Rec. 601).
        dark_tail, bright_tail: its 5th and 95th percentile.
        sharpness: variance of the Laplacian over the variance of the luminance.
        background_red, background_green, background_blue: mean of the brighter half of the border.
        conversions: the rules that decoding applied, joined by "; ".
    """

    width: int
    height: int
    mode: str
    bytes: int
    sha256: str
    pixel_sha256: str
    phash: str
    brightness: float
    contrast: float
    dark_tail: float
    bright_tail: float
    sharpness: float
    background_red: float
    background_green: float
    background_blue: float
    conversions: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """The measured samples of a source.

    Attributes:
        measurements: one a sample in the source's order, None where the sample is unreadable.
        reasons: why it is unreadable, "" where it is not.
        thumbnails: (N, 16, 16, 3) uint8, zeros where unreadable.
    """

    measurements: tuple[Measurement | None, ...]
    reasons: tuple[str, ...]
    thumbnails: Images

    def column(self, name: str) -> list[object]:
        """Return one measurement's values, None where unreadable."""
        return [None if row is None else getattr(row, name) for row in self.measurements]

    @property
    def readable(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which samples were read, (N,) bool."""
        return np.array([row is not None for row in self.measurements], bool)


def measure(picture: Picture, *, encoded: bytes) -> tuple[Measurement, Images]:
    """Return a picture's measurement and its (16, 16, 3) uint8 thumbnail (area average)."""
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    grey = image.convert("L")
    luminance = np.asarray(grey)
    thumbnail = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    # A histogram of 256 bins gives the exact moments and percentiles of uint8 values 20 times faster than sorting.
    counts = np.bincount(luminance.reshape(-1), minlength=256)
    cumulated = np.cumsum(counts)
    levels = np.arange(256)
    mean = float(counts @ levels) / luminance.size
    variance = float(counts @ np.square(levels - mean)) / luminance.size
    tails = np.searchsorted(cumulated, [0.05 * luminance.size, 0.95 * luminance.size])
    red, green, blue = _background(thumbnail)
    row = Measurement(
        width=width,
        height=height,
        mode=picture.mode,
        bytes=len(encoded),
        sha256=hashlib.sha256(encoded).hexdigest(),
        pixel_sha256=hashlib.sha256(b"%d %d " % (height, width) + pixels.tobytes()).hexdigest(),
        phash=_perceptual_hash(grey),
        brightness=round(mean, 3),
        contrast=round(variance**0.5, 3),
        dark_tail=float(tails[0]),
        bright_tail=float(tails[1]),
        sharpness=round(_sharpness(grey), 5),
        background_red=red,
        background_green=green,
        background_blue=blue,
        conversions="; ".join(picture.conversions),
    )
    return row, thumbnail


def measure_source(source: Source, *, workers: int | None = None, progress: Progress = no_progress) -> Statistics:
    """Measure every sample of a source in worker processes; an unreadable one keeps its place with the reason.

    Args:
        source: what ``open_source`` returned.
        workers: processes; None for one a core, 0 for this process.
        progress: told after every chunk.
    """
    total = len(source)
    thumbnails = np.zeros((total, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    rows: list[Measurement | None] = []
    reasons: list[str] = []
    progress("measuring", 0, total)
    # The listing of 13,759 files takes as long to send as 80 of them take to measure: workers get it once, not a task.
    function = partial(_measure_chunk, None if source.in_memory else source)
    for results in map_chunks(function, _chunks(source), halve=_halve, lost=_lost, workers=workers):
        for row, thumbnail, reason in results:
            if thumbnail is not None:
                thumbnails[len(rows)] = thumbnail
            rows.append(row)
            reasons.append(reason)
        progress("measuring", len(rows), total)
    return Statistics(tuple(rows), tuple(reasons), thumbnails)


_Result = tuple[Measurement | None, Images | None, str]
_Task = tuple[Sequence[int], list[np.ndarray | str] | None]


def _chunks(source: Source) -> Iterator[_Task]:
    """Cut a source into tasks; rows of arrays travel with the task, files are read where they are measured."""
    for start in range(0, len(source), _CHUNK):
        indices = range(start, min(start + _CHUNK, len(source)))
        if source.in_memory:
            yield indices, [_row(source, index) for index in indices]
        else:
            yield indices, None


def _row(source: Source, index: int) -> np.ndarray | str:
    """Return a row of an array, or why it will not be read."""
    try:
        return np.asarray(source.read(index))
    except DecodeError as error:
        return error.rule


def _measure_chunk(source: Source | None, task: _Task) -> list[_Result]:
    indices, rows = task
    results: list[_Result] = []
    for place, index in enumerate(indices):
        try:
            if source is not None:
                results.append((*_measure_data(source.read(index), source.samples[index].sample_id), ""))
            elif rows is not None:
                held = rows[place]
                measured = (None, None, held) if isinstance(held, str) else (*_measure_data(held, ""), "")
                results.append(measured)
        except (DecodeError, SourceError) as error:
            results.append((None, None, error.rule))
    return results


def _measure_data(data: bytes | np.ndarray, name: str) -> tuple[Measurement, Images]:
    if isinstance(data, np.ndarray):
        return measure(decode_array(data, name=name), encoded=np.ascontiguousarray(data).tobytes())
    return measure(decode(data, name=name), encoded=data)


def _halve(task: _Task) -> list[_Task]:
    indices, rows = task
    middle = len(indices) // 2
    parts = (slice(None, middle), slice(middle, None)) if middle else ()
    return [(indices[part], None if rows is None else rows[part]) for part in parts]


def _lost(task: _Task) -> list[_Result]:
    return [(None, None, "its decoder crashed") for _ in task[0]]


def _background(thumbnail: Images) -> tuple[float, float, float]:
    """Return the mean colour of the brighter half of the thumbnail's border: the glass, where no cell touches it."""
    border = np.concatenate([thumbnail[0], thumbnail[-1], thumbnail[1:-1, 0], thumbnail[1:-1, -1]]).astype(np.float64)
    luminance = border.sum(axis=1)
    bright = border[luminance >= np.median(luminance)].mean(axis=0)
    return round(float(bright[0]), 2), round(float(bright[1]), 2), round(float(bright[2]), 2)


def _sharpness(grey: Image.Image) -> float:
    if max(grey.size) > _SHARPNESS_SIDE:
        grey = grey.copy()
        grey.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE), Image.Resampling.BOX)
    if min(grey.size) < 3:
        return 0.0
    values = np.asarray(grey).astype(np.int16)
    laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * values[1:-1, 1:-1]
    # One grey level of variance is added so that an empty field is not called sharp for its rounding noise.
    return float(np.square(laplacian, dtype=np.float32).mean() / (values.astype(np.float32).var() + 1.0))


def _dct_rows() -> FloatArray:
    """Return the first 8 rows of the orthonormal DCT-II matrix of size 32, (8, 32)."""
    frequency, place = np.mgrid[:_HASH_BITS, :_HASH_SIDE]
    return np.asarray(np.cos(np.pi * frequency * (2 * place + 1) / (2 * _HASH_SIDE)))


_DCT = _dct_rows()


def _perceptual_hash(grey: Image.Image) -> str:
    """Return 16 hexadecimal digits: signs of the 64 lowest DCT coefficients against their median (Zauner 2010, 3.2)."""
    small = np.asarray(grey.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX), np.float64)
    coefficients = (_DCT @ small @ _DCT.T).reshape(-1)
    bits = coefficients > np.median(coefficients[1:])
    return np.packbits(bits).tobytes().hex()
