"""A file of class probabilities to an array in the order of a source: what out-of-fold training wrote, or one's own.

Needs polars; no torch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from hemalens.core.artifacts import read_table
from hemalens.core.errors import ArtifactError
from hemalens.core.records import find_record
from hemalens.core.types import FloatArray, Sample

__all__ = ["read_probabilities"]

_PREFIX = "p_"
# Six decimals of a hundred classes, or single precision: a sum may be off by less than this.
_TOLERANCE = 1e-2


def read_probabilities(path: Path, samples: Sequence[Sample], classes: Sequence[str]) -> FloatArray:
    """Return the probabilities (N, C) float64 of a source's samples and classes, NaN for samples that have none.

    Args:
        path: a CSV or Parquet table with ``sample_id`` and a column ``p_CLASS`` for each class that is used as a label
            (other classes count as 0), or a ``.npy`` array (N, C) in the order of the source and of its classes.
        samples: of the source.
        classes: of the source, in their order.

    Raises:
        ArtifactError: the file cannot be read, is of another source, or a row holds no probabilities.
    """
    values = _array(path, samples, classes) if path.suffix == ".npy" else _table(path, samples, classes)
    given = ~np.isnan(values).all(axis=1)
    rows = values[given]
    wrong = ~((rows >= 0).all(axis=1) & (rows <= 1).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) <= _TOLERANCE))
    if wrong.any():
        lone = samples[int(np.flatnonzero(given)[np.flatnonzero(wrong)[0]])].sample_id
        rule = "must be in [0, 1] and sum to 1 over the classes"
        raise ArtifactError(f"probabilities of {lone} in {path}", rule, "give class probabilities, not logits")
    return values


def _array(path: Path, samples: Sequence[Sample], classes: Sequence[str]) -> FloatArray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(
            f"file {path}", f"cannot be read as an array ({error})", "save it with numpy.save"
        ) from None
    wanted = (len(samples), len(classes))
    if not isinstance(values, np.ndarray) or values.shape != wanted or values.dtype.kind != "f":
        found = f"{values.shape} {values.dtype}" if isinstance(values, np.ndarray) else "several arrays"
        raise ArtifactError(f"array {path} {found}", f"must be {wanted} of floats", "one row a sample of this source")
    return values.astype(np.float64)


def _table(path: Path, samples: Sequence[Sample], classes: Sequence[str]) -> FloatArray:
    used = {sample.label for sample in samples}
    needed = {f"{_PREFIX}{name}": pl.Float64 for name in classes if name in used}
    record, columns = find_record(path), {"sample_id": pl.String, **needed}
    table = read_table(path, columns) if record is None else record.table(record.relative(path), columns)
    places = {sample.sample_id: place for place, sample in enumerate(samples)}
    values = np.full((len(samples), len(classes)), np.nan)
    ids = table["sample_id"].to_list()
    unknown = next((name for name in ids if name not in places), None)
    if unknown is not None:
        raise ArtifactError(f"sample {unknown} in {path}", "is not in the source", "give probabilities of this source")
    if len(set(ids)) < len(ids):
        lone = table["sample_id"].filter(table["sample_id"].is_duplicated())[0]
        raise ArtifactError(f"sample {lone} in {path}", "is there twice", "delete one of its lines")
    chosen = [places[name] for name in ids]
    for number, name in enumerate(classes):
        column = f"{_PREFIX}{name}"
        known = column in table.columns
        values[chosen, number] = table[column].cast(pl.Float64).to_numpy() if known else 0.0
    return values
