"""From a seed to a labelled synthetic set, with the faults of a real file planted in it and written down row by row.

Needs numpy and scipy.ndimage; no file is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hemalens.core.artifacts import write_atomically
from hemalens.core.errors import ConfigError
from hemalens.core.types import CELL_CLASSES, Images, IntArray, Progress, canonical_class, no_progress
from hemalens.data.synthetic.cells import LOOKS, paint_cell
from hemalens.data.synthetic.fields import make_plane
from hemalens.data.synthetic.foreign import colour_chart, landscape
from hemalens.data.synthetic.scene import (
    BLUISH_MICROSCOPE,
    USUAL_MICROSCOPE,
    Microscope,
    red_cells,
    take_image,
)

__all__ = ["SyntheticSet", "render_cell", "synthetic_set", "write_synthetic"]

_SIZES = (16, 512)
_BLUISH_SHARE = 0.02
# Rows planted per cell, as counted in the challenge file of 11,959 cells: 200 landscapes under each of 8 labels and
# 200 charts under one. Copies are rarer there; three in a thousand make some appear in a small set.
_LANDSCAPES_PER_CELL = 1600 / 11_959
_CHARTS_PER_CELL = 200 / 11_959
_COPIES_PER_CELL = 0.003
_CHART_LABEL = "monocyte"


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticSet:
    """Rendered images, their labels, and what is wrong with each.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,) uint8, the place in ``classes``.
        classes: class names.
        reasons: N names in the words of the audit: ``foreign``, ``exact_duplicate``, ``label_conflict`` (a copy under
            another label), ``background_batch`` (a sound cell on a bluish background), or empty.
        twins: (N,) int64, the row of the cell that this row copies, else -1.
    """

    images: Images
    labels: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    reasons: tuple[str, ...]
    twins: npt.NDArray[np.int64]

    @property
    def planted(self) -> npt.NDArray[np.bool_]:
        """Return (N,) bool: the row is no cell of its own, but a foreign image or a copy."""
        return np.array([reason not in ("", "background_batch") for reason in self.reasons], bool)


def render_cell(cell_class: str, *, size: int = 96, seed: int) -> Images:
    """Return one synthetic image (size, size, 3) uint8: the first of its class in the set of that seed.

    Args:
        cell_class: one of the eight, or a common synonym.
        size: pixels a side, 16 to 512; the scene is the same at every size.
        seed: 0 or more.

    Raises:
        ConfigError: unknown class, size or seed out of range.

    >>> render_cell("neutrophil", size=32, seed=0).shape
    (32, 32, 3)
    """
    _check_size_and_seed(size, seed)
    return _render(_known_class(cell_class), size, (seed, 0), mixed_microscopes=False)[0]


def synthetic_set(
    n_per_class: int | Mapping[str, int],
    *,
    size: int = 96,
    seed: int = 0,
    contamination: bool = True,
    progress: Progress = no_progress,
) -> SyntheticSet:
    """Return a rendered set: cells class by class, then what was planted.

    With ``contamination`` the set has the faults of the challenge file, in its proportions: one landscape repeated
    under every label in use, one test chart repeated under one, together 13 % of the rows; a few copied cells, the
    first of them under another label; and 2 % of the cells on a bluish background. At least one landscape a label, two
    charts and two copies are planted, so in a set below some hundred cells the share is larger. Cell i of a class
    depends on the seed, the class and i alone: a larger set begins with the smaller one's cells.

    Args:
        n_per_class: cells of each class, or a mapping of class to count (a class left out has none).
        size: pixels a side, 16 to 512.
        seed: 0 or more.
        contamination: plant the faults; without them every row is a sound cell of the usual background.
        progress: called after every cell.

    Raises:
        ConfigError: unknown class, negative count, no cell at all, size or seed out of range.

    >>> small = synthetic_set(2, size=32, contamination=False)
    >>> small.images.shape, small.labels.tolist()[:4]
    ((16, 32, 32, 3), [0, 0, 1, 1])
    """
    _check_size_and_seed(size, seed)
    counts = _counts(n_per_class)
    labels = np.repeat(np.arange(len(CELL_CLASSES)), [counts[name] for name in CELL_CLASSES])
    images = np.empty((len(labels), size, size, 3), np.uint8)
    reasons = []
    for row, label in enumerate(labels):
        index = row - int(np.searchsorted(labels, label))
        name = CELL_CLASSES[label]
        images[row], bluish = _render(name, size, (seed, index), mixed_microscopes=contamination)
        reasons.append("background_batch" if bluish else "")
        progress("rendering synthetic cells", row + 1, len(labels))
    cells = SyntheticSet(
        images, labels.astype(np.uint8), CELL_CLASSES, tuple(reasons), np.full(len(labels), -1, np.int64)
    )
    return _contaminate(cells, size, seed) if contamination else cells


def write_synthetic(
    path: Path,
    n_per_class: int | Mapping[str, int],
    *,
    size: int = 96,
    seed: int = 0,
    contamination: bool = True,
    progress: Progress = no_progress,
) -> SyntheticSet:
    """Write a synthetic set as ``.npz`` with ``images`` (N, H, W, 3) and ``labels`` (N, 1), both uint8; return it.

    The file appears whole or not at all, with the same bytes for the same arguments and library versions. An existing
    file is replaced: refusing it is the caller's part.

    Raises:
        ConfigError: as ``synthetic_set`` does, or another suffix.
        ArtifactError: the disk refuses.
    """
    if path.suffix != ".npz":
        raise ConfigError(f"synthetic set {path}", "is written as .npz", "name a file ending in .npz")
    made = synthetic_set(n_per_class, size=size, seed=seed, contamination=contamination, progress=progress)
    write_atomically(path, lambda file: np.savez(file, images=made.images, labels=made.labels[:, None]))
    return made


def _render(name: str, size: int, key: tuple[int, int], *, mixed_microscopes: bool) -> tuple[Images, bool]:
    """Return the image of (seed, index) of a class, and whether it has the bluish background."""
    seed, index = key
    rng = np.random.default_rng([seed, CELL_CLASSES.index(name), index])
    bluish = bool(rng.uniform() < _BLUISH_SHARE) and mixed_microscopes
    microscope: Microscope = BLUISH_MICROSCOPE if bluish else USUAL_MICROSCOPE
    plane = make_plane(size, zoom=rng.uniform(*microscope.zoom))
    look = LOOKS[name]
    radius = float(rng.uniform(*look.radius))
    centre = (float(rng.normal(0, 1.5)), float(rng.normal(0, 1.5)))
    density = red_cells(plane, rng, clear=radius, most=int(rng.integers(3, 12)))
    if rng.uniform() < 0.15:  # a platelet beside the cell, as often in a smear
        angle, reach = rng.uniform(0, 2 * np.pi), radius + rng.uniform(6, 14)
        beside = (float(reach * np.cos(angle)), float(reach * np.sin(angle)))
        density = paint_cell(plane, density, LOOKS["platelet"], rng, radius=float(rng.uniform(3, 5)), centre=beside)
    density = paint_cell(plane, density, look, rng, radius=radius, centre=centre)
    return take_image(plane, density, microscope, rng), bluish


def _contaminate(cells: SyntheticSet, size: int, seed: int) -> SyntheticSet:
    """Return the set with copies, landscapes and charts appended, in this order."""
    n, used = len(cells.labels), np.unique(cells.labels)
    sources, copied = _copies(cells, seed)
    landscapes = np.repeat(used, max(1, round(n * _LANDSCAPES_PER_CELL / len(used))))
    charts = max(2, round(n * _CHARTS_PER_CELL))
    preferred = CELL_CLASSES.index(_CHART_LABEL)
    chart_label = preferred if preferred in used else int(used[0])
    repeats = [len(landscapes), charts]
    junk = np.repeat(np.stack([landscape(size, seed), colour_chart(size, seed)]), repeats, axis=0)
    other = tuple("exact_duplicate" if same else "label_conflict" for same in copied == cells.labels[sources])
    return SyntheticSet(
        np.concatenate([cells.images, cells.images[sources], junk]),
        np.concatenate([cells.labels, copied, landscapes, np.full(charts, chart_label)]).astype(np.uint8),
        cells.classes,
        cells.reasons + other + ("foreign",) * sum(repeats),
        np.concatenate([cells.twins, sources, np.full(sum(repeats), -1)]).astype(np.int64),
    )


def _copies(cells: SyntheticSet, seed: int) -> tuple[IntArray, IntArray]:
    """Return the rows to copy and the copies' labels; the first gets another label where there are two."""
    n = len(cells.labels)
    rng = np.random.default_rng([seed, len(CELL_CLASSES)])
    sources = rng.choice(n, min(n, max(2, round(n * _COPIES_PER_CELL))), replace=False)
    labels = cells.labels[sources].astype(np.int64)
    others = np.setdiff1d(np.unique(cells.labels), labels[:1])
    if len(others):
        labels[0] = rng.choice(others)
    return sources, labels


def _known_class(name: str) -> str:
    found = canonical_class(name)
    if found not in CELL_CLASSES:
        raise ConfigError(f"cell class {name!r}", f"must be one of {', '.join(CELL_CLASSES)}", "choose one of them")
    return found


def _counts(n_per_class: int | Mapping[str, int]) -> dict[str, int]:
    """Return a count for each of the eight classes."""
    if isinstance(n_per_class, Mapping):
        counts = dict.fromkeys(CELL_CLASSES, 0) | {_known_class(name): n for name, n in n_per_class.items()}
    else:
        counts = dict.fromkeys(CELL_CLASSES, n_per_class)
    if min(counts.values()) < 0 or not sum(counts.values()):
        raise ConfigError(f"cells per class {n_per_class}", "must be 0 or more, with one cell at least", "ask for some")
    return counts


def _check_size_and_seed(size: int, seed: int) -> None:
    least, most = _SIZES
    if not least <= size <= most:
        raise ConfigError(f"image size {size}", f"must be {least} to {most} pixels", "choose 28, 64 or 96")
    if seed < 0:
        raise ConfigError(f"seed {seed}", "must be 0 or more", "choose another seed")
