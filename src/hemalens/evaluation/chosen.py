"""A source and its split to the samples that a model is scored on or explained by. Needs numpy; no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.types import FloatArray, Images, IntArray
from hemalens.data.sources import Source
from hemalens.data.split import read_splits

__all__ = ["Chosen", "SplitName", "check_split", "choose_indices", "worst_mistakes"]

SplitName = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The samples to score: images (N, S, S, 3) uint8, labels (N,) or -1, their indices in the source.

    ``unknown`` (N,) bool says which are labelled with a class that the model does not know.
    """

    images: Images
    labels: IntArray
    unknown: npt.NDArray[np.bool_]
    indices: tuple[int, ...]


def check_split(split: SplitName | None, splits: Path | None) -> SplitName:
    """Return the split that is meant: ``test`` where splits are given and none is named, ``all`` without splits.

    Raises ConfigError for another word, or for a split without splits.
    """
    if split is not None and split not in get_args(SplitName):
        raise ConfigError(f"split {split}", f"must be one of {', '.join(get_args(SplitName))}", "change --split")
    if split not in (None, "all") and splits is None:
        raise ConfigError(f"split {split}", "needs to know who is in it", "give --splits splits.csv")
    return split or ("all" if splits is None else "test")


def choose_indices(source: Source, splits: Path | None, split: SplitName) -> list[int]:
    """Return the indices of a split's samples in the source.

    Raises SourceError where a sample of the source cannot be read, ArtifactError where the split is empty or ``splits``
    is not of this source.
    """
    lone = next((sample for sample in source.samples if sample.unreadable), None)
    if lone is not None:
        rule = f"cannot be read ({lone.unreadable})"
        raise SourceError(f"sample {lone.sample_id}", rule, "audit and clean the source")
    if splits is None or split == "all":
        return list(range(len(source)))
    chosen = [index for index, found in enumerate(read_splits(splits, source.samples)) if found == split]
    if not chosen:
        raise ArtifactError(f"split {split} in {splits}", "is empty", "split with a larger share, or choose another")
    return chosen


def worst_mistakes(labels: IntArray, probabilities: FloatArray, most: int) -> IntArray:
    """Return the rows of the mistakes made with most confidence, worst first, of labels (N,) or -1.

    >>> worst_mistakes(np.array([0, 0, 1]), np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]), 2).tolist()
    [1, 0]
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero((labels >= 0) & (predicted != labels))
    return np.asarray(wrong[np.argsort(-confidence[wrong], kind="stable")][:most])
