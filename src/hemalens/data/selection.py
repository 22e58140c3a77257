"""From a source and its split to the samples that a training stage may look at."""

from collections.abc import Sequence
from pathlib import Path

from hemalens.core.errors import SourceError
from hemalens.core.types import IntArray, Progress, encode_labels, no_progress
from hemalens.data.sources import Source, open_source
from hemalens.data.split import RATIOS, choose_splits, parse_ratios, read_splits

__all__ = ["choose_split", "open_assigned"]


def open_assigned(
    source: str | Path | Source, splits: Path | None, *, seed: int, progress: Progress = no_progress
) -> tuple[Source, list[str]]:
    """Open a source of two classes or more; return it with the split of each of its samples.

    Args:
        source: any SOURCE with labels, or one that is open already.
        splits: a ``splits.csv`` of this source; without it the source's own splits, or 83:13:4 drawn from the seed.
        seed: of the draw.
        progress: called for the steps.

    Raises:
        SourceError: fewer than two classes.
        ArtifactError: ``splits`` is not of this source.
    """
    opened = source if isinstance(source, Source) else open_source(source)
    present = {sample.label for sample in opened.samples} - {None}  # arrays bring all eight names, used or not
    if len(present) < 2:
        found = "".join(str(name) for name in present) or "none"
        step = "sort the images into class folders, or name labels in a manifest"
        raise SourceError(f"source {opened.spec}", f"needs at least two classes to train on, it has {found}", step)
    if splits:
        return opened, read_splits(splits, opened.samples)
    return opened, choose_splits(opened, shares=parse_ratios(RATIOS), seed=seed, progress=progress)


def choose_split(source: Source, assigned: Sequence[str], split: str) -> tuple[IntArray, list[int]]:
    """Return labels (M,) int64 and indices in the source of one split; samples without a label stay out.

    Raises SourceError where there are too few of them.
    """
    labels = encode_labels([sample.label for sample in source.samples], source.classes)
    chosen = [index for index, found in enumerate(assigned) if found == split and labels[index] >= 0]
    # Batch normalisation has no variance to learn from a single sample.
    fewest = 2 if split == "train" else 1
    if len(chosen) < fewest:
        rule = f"has {len(chosen)} labelled samples, at least {fewest} are needed"
        raise SourceError(f"split {split} of {source.spec}", rule, "split with other ratios, or use more samples")
    return labels[chosen], chosen
