"""Samples to rows of predictions, chunk by chunk: decoded and resized in worker processes, judged by one model.

A sample that cannot be read becomes a row with its reason. Needs numpy, Pillow, polars and onnxruntime; no torch.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from hemalens.core.errors import DecodeError
from hemalens.core.types import FloatArray, Images, Sample
from hemalens.data.reading.load import read_sized
from hemalens.data.reading.mapping import map_images
from hemalens.data.sources import Source
from hemalens.inference.model import Model

__all__ = ["CHUNK", "Decoded", "decode_chunk", "decoded_chunks", "judge_chunk", "schema"]

CHUNK = 64
"""Samples decoded in one task and judged in one call: the same whatever runs it, so that rows agree to the bit."""

Decoded = tuple[Images, tuple[str, ...]]
"""Images (N, S, S, 3) uint8, zeros where unreadable, and why a sample is (N texts, "" where it is not)."""


def decoded_chunks(
    source: Source, size: int, *, begin: int = 0, workers: int | None = None, zoom: float = 1.0
) -> Iterator[Decoded]:
    """Yield the samples of a source from ``begin`` on, CHUNK at a time and in order, zoomed, ``size`` pixels a side."""
    decode = partial(_decode_part, size, zoom)
    for results in map_images(source, range(begin, len(source)), decode, chunk=CHUNK, workers=workers):
        yield _stacked(results, size)


def decode_chunk(source: Source, size: int, indices: Sequence[int], *, zoom: float = 1.0) -> Decoded:
    """Read, decode and resize some samples of a source here; one that cannot be read keeps its row, with the reason."""
    return _stacked(_decode_part(size, zoom, source.part(indices), indices), size)


def judge_chunk(classifier: Model, samples: Sequence[Sample], decoded: Decoded) -> pl.DataFrame:
    """Return the rows of some samples, in the columns of ``schema``."""
    images, reasons = decoded
    readable = np.array([not reason for reason in reasons], bool)
    # All of them, the zeros too: a batch of the same size gives the same bits wherever it is cut.
    judged = classifier.judge_outputs(classifier.run(images))
    names = classifier.classes_[judged.predicted]
    said = [
        words if not reason else f"unreadable: {reason}" for words, reason in zip(judged.reasons, reasons, strict=True)
    ]
    columns: dict[str, Any] = {
        "sample_id": [sample.sample_id for sample in samples],
        "label": [sample.label for sample in samples],
        "predicted": [str(name) if known else None for name, known in zip(names, readable, strict=True)],
        "confidence": _known(judged.confidence, readable),
        "abstained": judged.abstained | ~readable,
        "reason": said,
    }
    columns |= {
        f"p_{name}": _known(judged.probabilities[:, index], readable) for index, name in enumerate(classifier.classes_)
    }
    return pl.DataFrame(columns, schema=schema(classifier.classes_.tolist()))


def schema(classes: Sequence[str]) -> dict[str, type[pl.DataType]]:
    """Return the columns of ``predictions.csv`` and their types."""
    fixed: dict[str, type[pl.DataType]] = {
        "sample_id": pl.String,
        "label": pl.String,
        "predicted": pl.String,
        "confidence": pl.Float64,
        "abstained": pl.Boolean,
        "reason": pl.String,
    }
    return fixed | {f"p_{name}": pl.Float64 for name in classes}


def _known(values: FloatArray, readable: npt.NDArray[np.bool_]) -> list[float | None]:
    rounded = np.asarray(values, np.float64).round(6).tolist()
    return [value if known else None for value, known in zip(rounded, readable, strict=True)]


def _decode_part(size: int, zoom: float, source: Source, _: Sequence[int]) -> list[Images | DecodeError]:
    results: list[Images | DecodeError] = []
    for index in range(len(source)):
        try:
            results.append(read_sized(source, index, size, zoom=zoom))
        except DecodeError as error:
            results.append(error)
    return results


def _stacked(results: Sequence[Images | DecodeError], size: int) -> Decoded:
    images, reasons = np.zeros((len(results), size, size, 3), np.uint8), []
    for row, result in enumerate(results):
        if isinstance(result, DecodeError):
            reasons.append(result.rule)
        else:
            images[row] = result
            reasons.append("")
    return images, tuple(reasons)
