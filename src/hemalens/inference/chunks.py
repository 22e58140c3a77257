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
from hemalens.data.reading.decode import decode, decode_array
from hemalens.data.reading.parallel import map_chunks
from hemalens.data.scale import zoomed
from hemalens.data.sources import Source
from hemalens.inference.model import Model

__all__ = ["CHUNK", "Decoded", "decode_chunk", "decoded_chunks", "judge_chunk", "schema"]

CHUNK = 64
"""Samples decoded in one task and judged in one call: the same whatever runs it, so that rows agree to the bit."""

Decoded = tuple[Images, tuple[str, ...]]
"""Images (N, S, S, 3) uint8, zeros where unreadable, and why a sample is (N texts, "" where it is not)."""
_Raw = bytes | npt.NDArray[Any] | DecodeError
_Task = tuple[Sequence[int], Sequence[_Raw] | None]
_CRASHED = "its decoder crashed"


def decoded_chunks(
    source: Source, size: int, *, begin: int = 0, workers: int | None = None, zoom: float = 1.0
) -> Iterator[Decoded]:
    """Yield the samples of a source from ``begin`` on, CHUNK at a time and in order, zoomed, ``size`` pixels a side."""
    # Workers get the listing of the source once, tasks carry numbers; of arrays they carry the rows.
    function = partial(_decode_task, None if source.in_memory else source, size, zoom)
    lost = partial(_lost, size)
    buffered: list[Decoded] = []
    for part in map_chunks(function, _tasks(source, begin), halve=_halve, lost=lost, workers=workers):
        buffered.append(part)
        # Where a worker died, a task comes back in parts.
        if (held := sum(len(reasons) for _, reasons in buffered)) == CHUNK:
            yield _joined(buffered)
            buffered = []
        assert held <= CHUNK
    if buffered:
        yield _joined(buffered)


def decode_chunk(source: Source, size: int, indices: Sequence[int], *, zoom: float = 1.0) -> Decoded:
    """Read, decode and resize some samples of a source; one that cannot be read keeps its place with the reason."""
    return _decode_all([_read(source, index) for index in indices], size, zoom)


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


def _tasks(source: Source, begin: int) -> Iterator[_Task]:
    for start in range(begin, len(source), CHUNK):
        indices = range(start, min(start + CHUNK, len(source)))
        yield indices, [_read(source, index) for index in indices] if source.in_memory else None


def _read(source: Source, index: int) -> _Raw:
    """Return what a source holds of a sample, or the error it raises."""
    try:
        return source.read(index)
    except DecodeError as error:
        return error


def _decode_task(source: Source | None, size: int, zoom: float, task: _Task) -> Decoded:
    indices, held = task
    if held is not None:
        return _decode_all(held, size, zoom)
    assert source is not None
    return decode_chunk(source, size, indices, zoom=zoom)


def _decode_all(held: Sequence[_Raw], size: int, zoom: float) -> Decoded:
    images = np.zeros((len(held), size, size, 3), np.uint8)
    reasons = []
    side = size if zoom == 1.0 else None  # then decoded and resized in one step
    for index, raw in enumerate(held):
        try:
            if isinstance(raw, DecodeError):
                raise raw
            image = decode_array(raw) if isinstance(raw, np.ndarray) else decode(raw, side=side)
            images[index] = zoomed(image.pixels, zoom, size)
            reasons.append("")
        except DecodeError as error:
            reasons.append(error.rule)
    return images, tuple(reasons)


def _halve(task: _Task) -> list[_Task]:
    indices, held = task
    middle = len(indices) // 2
    parts = (slice(None, middle), slice(middle, None)) if middle else ()
    return [(indices[part], None if held is None else held[part]) for part in parts]


def _lost(size: int, task: _Task) -> Decoded:
    return np.zeros((len(task[0]), size, size, 3), np.uint8), (_CRASHED,) * len(task[0])


def _joined(parts: Sequence[Decoded]) -> Decoded:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([images for images, _ in parts]), tuple(reason for _, texts in parts for reason in texts)
