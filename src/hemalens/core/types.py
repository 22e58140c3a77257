"""Words that every phase shares: array aliases, the class names and their order, a sample's record.

Needs numpy only.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "CELL_CLASSES",
    "FloatArray",
    "Images",
    "IntArray",
    "Progress",
    "Sample",
    "canonical_class",
    "class_order",
    "encode_labels",
    "no_progress",
]

Images = npt.NDArray[np.uint8]
"""Images, (N, H, W, 3) or one (H, W, 3), uint8, RGB, 0-255."""
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all); the command line draws a bar from it."""

CELL_CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "ig",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
"""The eight cells in the order of the challenge and of BloodMNIST (label 0 to 7)."""

_SYNONYMS = {
    "immaturegranulocyte": "ig",
    "immaturegranulocytes": "ig",
    "igs": "ig",
    "immaturegranulocytesmyelocytesmetamyelocytesandpromyelocytes": "ig",
    "normoblast": "erythroblast",
    "normoblasts": "erythroblast",
    "nrbc": "erythroblast",
    "nucleatedredbloodcell": "erythroblast",
    "thrombocyte": "platelet",
    "thrombocytes": "platelet",
}
_SYNONYMS |= {cell: cell for cell in CELL_CLASSES} | {f"{cell}s": cell for cell in CELL_CLASSES}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image's index in a source, before anything is decoded.

    Attributes:
        sample_id: stable id, unique in its source: the path inside it, or ``row-000123``.
        label: class name, or None where unknown.
        group: what must not be torn apart by a split (a patient, a slide), or None.
        split: ``train``, ``val`` or ``test`` where the source itself says so, or None.
        unreadable: why it will not be read (a link out of the folder, no permission), or None.
    """

    sample_id: str
    label: str | None = None
    group: str | None = None
    split: str | None = None
    unreadable: str | None = None


def canonical_class(name: str) -> str:
    """Return the challenge's name for a class name, or the name itself, stripped, where it is none of the eight.

    >>> canonical_class("Immature Granulocytes"), canonical_class("thrombocyte"), canonical_class("myeloblast")
    ('ig', 'platelet', 'myeloblast')
    """
    key = re.sub(r"[^a-z]", "", name.casefold())
    return _SYNONYMS.get(key, name.strip())


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct class names in the challenge's order if all are of the eight, else sorted.

    >>> class_order(["platelet", "basophil"]), class_order(["neutrophil", "myeloblast"])
    (('basophil', 'platelet'), ('myeloblast', 'neutrophil'))
    """
    distinct = set(names)
    if distinct <= set(CELL_CLASSES):
        return tuple(cell for cell in CELL_CLASSES if cell in distinct)
    return tuple(sorted(distinct))


def encode_labels(labels: Sequence[str | None], classes: Sequence[str]) -> IntArray:
    """Return the class number of each label (N,) int64, -1 where there is none or it is not one of the classes."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([-1 if label is None else numbers.get(label, -1) for label in labels], np.int64)


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore progress: the default where nobody watches."""
