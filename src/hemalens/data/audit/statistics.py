"""Images to numbers: one parallel pass that decodes each sample once and keeps a row and a 16 x 16 thumbnail of it.

Everything later in the audit works on these rows, so a new threshold needs no new pass over the pixels. Memory is one
row and 768 bytes a sample. Needs numpy and Pillow (workers are spawned and must start fast); no torch, no polars.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hemalens.core.errors import DecodeError, SourceError, UserError
from hemalens.core.types import FloatArray, Images, IntArray, Progress, no_progress
from hemalens.data.reading.decode import Decoded, decode, decode_array
from hemalens.data.reading.mapping import Engine, map_images
from hemalens.data.sources import Source

__all__ = ["THUMBNAIL", "Measurement", "Statistics", "joined", "measure", "measure_source", "pixels_sha256"]

THUMBNAIL = 16
_HASH_SIDE, _HASH_BITS = 32, 8
# Sharpness is measured at one scale whatever the camera: images with a longer side are reduced to it first.
_SHARPNESS_SIDE = 128
# 64 images a task: 96 px images take about 40 ms then, so the pool's overhead of 0.3 ms a task vanishes.
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one pass learns of one image; luminance and colours are 0-255, hashes hexadecimal.

    Attributes:
        width, height: pixels, after EXIF orientation.
        mode: the file's own colour mode.
        bytes: encoded size.
        sha256: of the encoded bytes.
        pixel_sha256: of the decoded RGB pixels and their shape: equal for equal images whatever the file.
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


def joined(first: Statistics, second: Statistics) -> Statistics:
    """Return the statistics of two sources as of one, the second after the first."""
    thumbnails = np.concatenate([first.thumbnails, second.thumbnails])
    return Statistics(first.measurements + second.measurements, first.reasons + second.reasons, thumbnails)


def measure(image: Decoded, *, encoded: bytes) -> tuple[Measurement, Images]:
    """Return an image's measurement and its (16, 16, 3) uint8 thumbnail (area average)."""
    return _measure_reduced([_reduce(image, encoded)])[0]


def pixels_sha256(pixels: Images) -> str:
    """Return the SHA-256 of an image (H, W, 3) uint8 and its shape."""
    digest = hashlib.sha256(b"%d %d " % pixels.shape[:2])
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def measure_source(
    source: Source, *, workers: int | None = None, engine: Engine = "local", progress: Progress = no_progress
) -> Statistics:
    """Measure every sample of a source in worker processes; an unreadable one keeps its row, with the reason.

    Args:
        source: what ``open_source`` returned.
        workers: processes; None for one a core, 0 for this process.
        engine: "local" for processes of our own, "ray" for Ray Data; the results are the same.
        progress: called after every chunk.

    Raises:
        ConfigError: for Ray and a source that is held in memory.
        MissingExtraError: for Ray where it is not installed.
    """
    total = len(source)
    thumbnails = np.zeros((total, THUMBNAIL, THUMBNAIL, 3), np.uint8)
    rows: list[Measurement | None] = []
    reasons: list[str] = []
    progress("measuring", 0, total)
    for results in map_images(source, range(total), _measure_part, chunk=_CHUNK, workers=workers, engine=engine):
        for result in results:
            if isinstance(result, UserError):
                rows.append(None)
                reasons.append(result.rule)
            else:
                row, thumbnails[len(rows)] = result
                rows.append(row)
                reasons.append("")
        progress("measuring", len(rows), total)
    return Statistics(tuple(rows), tuple(reasons), thumbnails)


def _measure_part(source: Source, _: Sequence[int]) -> list[tuple[Measurement, Images] | UserError]:
    """Decode and reduce one image after the other, so that one is in memory, then measure all that were read."""
    reduced: list[_Reduced] = []
    errors: list[UserError | None] = []
    for index, sample in enumerate(source.samples):
        try:
            held = source.read(index)
            if isinstance(held, bytes):
                reduced.append(_reduce(decode(held, name=sample.sample_id), held))
            else:
                reduced.append(_reduce(decode_array(held), np.ascontiguousarray(held).tobytes()))
            errors.append(None)
        except (DecodeError, SourceError) as error:
            errors.append(error)
    measured = iter(_measure_reduced(reduced))
    return [next(measured) if error is None else error for error in errors]


@dataclass(frozen=True, slots=True)
class _Reduced:
    """What is kept of an image once its pixels are let go: under 20 KB, for any size.

    Attributes:
        facts: the first six fields of its Measurement.
        conversions: the last one.
        counts: its histogram of luminance (256).
        thumbnail: (16, 16, 3) uint8.
        small: (32, 32) uint8 luminance, for the hash.
        grey: luminance uint8 at the scale of sharpness, at most 128 a side.
    """

    facts: tuple[int, int, str, int, str, str]
    conversions: str
    counts: list[int]
    thumbnail: Images
    small: Images
    grey: Images


def _reduce(decoded: Decoded, encoded: bytes) -> _Reduced:
    pixels = decoded.pixels
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    grey = image.convert("L")
    counts = grey.histogram()
    box = Image.Resampling.BOX
    small = np.asarray(grey.resize((_HASH_SIDE, _HASH_SIDE), box))
    if max(grey.size) > _SHARPNESS_SIDE:
        grey.thumbnail((_SHARPNESS_SIDE, _SHARPNESS_SIDE), box)
    sha256 = hashlib.sha256(encoded).hexdigest()
    return _Reduced(
        (width, height, decoded.mode, len(encoded), sha256, pixels_sha256(pixels)),
        "; ".join(decoded.conversions),
        counts,
        np.asarray(image.resize((THUMBNAIL, THUMBNAIL), box)),
        small,
        np.asarray(grey),
    )


def _measure_reduced(images: Sequence[_Reduced]) -> list[tuple[Measurement, Images]]:
    """Measure many images at once: numpy costs more per call than per image of 96 px.

    Every number is a sum of whole numbers below 2^53 or a sum along its own row, so it does not depend on the others.
    """
    if not images:
        return []
    thumbnails = np.stack([image.thumbnail for image in images])
    hashes = _perceptual_hashes(np.stack([image.small for image in images]))
    light = _light(np.array([image.counts for image in images]))
    sharpness = _sharpness([image.grey for image in images])
    backgrounds = _backgrounds(thumbnails)
    measured = []
    for index, image in enumerate(images):
        width, height, mode, size, sha256, pixel_sha256 = image.facts
        mean, deviation, dark, bright = light[index].tolist()
        red, green, blue = backgrounds[index].tolist()
        row = Measurement(
            width=width,
            height=height,
            mode=mode,
            bytes=size,
            sha256=sha256,
            pixel_sha256=pixel_sha256,
            phash=hashes[index],
            brightness=round(mean, 3),
            contrast=round(deviation, 3),
            dark_tail=dark,
            bright_tail=bright,
            sharpness=round(float(sharpness[index]), 5),
            background_red=round(red, 2),
            background_green=round(green, 2),
            background_blue=round(blue, 2),
            conversions=image.conversions,
        )
        measured.append((row, thumbnails[index]))
    return measured


def _light(counts: IntArray) -> FloatArray:
    """Return mean, standard deviation, 5th and 95th percentile of luminance (N, 4) from histograms (N, 256).

    A histogram gives the exact moments and percentiles of uint8 values 20 times faster than sorting.
    """
    levels = np.arange(256)
    size = counts.sum(axis=1)
    mean = counts @ levels / size
    variance = (counts * np.square(levels - mean[:, None])).sum(axis=1) / size
    cumulated = counts.cumsum(axis=1)
    dark, bright = ((cumulated < share * size[:, None]).sum(axis=1) for share in (0.05, 0.95))
    return np.stack([mean, np.sqrt(variance), dark, bright], axis=1)


def _backgrounds(thumbnails: Images) -> FloatArray:
    """Return the mean colour (N, 3) of the brighter half of each border: the glass, where no cell touches it."""
    sides = [thumbnails[:, 0], thumbnails[:, -1], thumbnails[:, 1:-1, 0], thumbnails[:, 1:-1, -1]]
    border = np.concatenate(sides, axis=1).astype(np.int64)
    luminance = border.sum(axis=2)
    bright = luminance >= np.median(luminance, axis=1, keepdims=True)
    return np.asarray((border * bright[:, :, None]).sum(axis=1) / bright.sum(axis=1, keepdims=True))


def _sharpness(greys: Sequence[Images]) -> FloatArray:
    """Return the variance of the Laplacian over that of the luminance (N,) of images (H, W) uint8; 0 under 3 px."""
    of_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, grey in enumerate(greys):
        of_shape[grey.shape].append(index)
    found = np.zeros(len(greys))
    for shape, indices in of_shape.items():
        if min(shape) < 3:
            continue
        values = np.stack([greys[index] for index in indices]).astype(np.int16)
        across = values[:, 1:-1, :-2] + values[:, 1:-1, 2:]
        laplacian = values[:, :-2, 1:-1] + values[:, 2:, 1:-1] + across - 4 * values[:, 1:-1, 1:-1]
        variance = _mean_square(values) - np.square(values.mean(axis=(1, 2)))
        # One grey level of variance is added so that an empty field is not called sharp for its rounding noise.
        found[indices] = _mean_square(laplacian) / (variance + 1.0)
    return found


def _mean_square(values: npt.NDArray[np.int16]) -> FloatArray:
    """Return the mean square of each (N, H, W) -> (N,)."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return np.asarray(np.vecdot(flat, flat) / flat.shape[1])


def _dct_rows() -> FloatArray:
    """Return the first 8 rows of the orthonormal DCT-II matrix of size 32, (8, 32)."""
    frequency, index = np.mgrid[:_HASH_BITS, :_HASH_SIDE]
    return np.asarray(np.cos(np.pi * frequency * (2 * index + 1) / (2 * _HASH_SIDE)))


_DCT = _dct_rows()


def _perceptual_hashes(small: Images) -> list[str]:
    """Return 16 hexadecimal digits for each luminance (N, 32, 32).

    Signs of the 64 lowest DCT coefficients against their median (Zauner 2010, 3.2).
    """
    coefficients = (_DCT @ small.astype(np.float64) @ _DCT.T).reshape(len(small), -1)
    bits = coefficients > np.median(coefficients[:, 1:], axis=1, keepdims=True)
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]
