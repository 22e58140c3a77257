"""From labels as they are written (numbers, names, nothing) to class names and their order.

Needs the standard library only.
"""

from collections.abc import Sequence

from hemalens.core.errors import SourceError
from hemalens.core.types import CELL_CLASSES, canonical_class, class_order

__all__ = ["SPLITS", "name_labels"]

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""How splits are written, in lower case -> their names."""

_MOST_CLASSES = 10_000  # a stray number as label would otherwise make a name for each one below it


def name_labels(
    raw: Sequence[int | str | None], classes: Sequence[str] | None, *, what: str
) -> tuple[list[str | None], tuple[str, ...]]:
    """Return the labels as class names, and all class names in order (none where nothing is labelled).

    Args:
        raw: one label a sample: all class numbers, or all names; None where unknown.
        classes: the names by class number, or the order of the names; None to take the challenge's.
        what: the source, for errors.

    Raises:
        SourceError: for labels of both kinds, negative ones, or ones that ``classes`` does not hold.

    >>> name_labels([3, None, 0], None, what="a")[0], name_labels(["Platelets", "IG"], None, what="a")
    (['ig', None, 'basophil'], (['platelet', 'ig'], ('ig', 'platelet')))
    """
    given = None if classes is None else _check_names(classes, what)
    numbers = {label for label in raw if isinstance(label, int)}
    words = {label: canonical_class(label) for label in raw if isinstance(label, str)}
    if numbers and words:
        rule = f"mixes class numbers ({min(numbers)}) and class names ({next(iter(words))!r})"
        raise SourceError(f"labels of {what}", rule, "write all of one kind")
    if numbers:
        names = _number_names(min(numbers), max(numbers), given, what)
        return [names[label] if isinstance(label, int) else None for label in raw], names
    if not words:
        return [None] * len(raw), ()
    names = class_order(words.values()) if given is None else given
    if strange := sorted(set(words.values()) - set(names)):
        rule = f"is not among the classes given ({', '.join(names)})"
        raise SourceError(f"label {strange[0]!r} of {what}", rule, "add it to --classes")
    return [words[label] if isinstance(label, str) else None for label in raw], names


def _check_names(classes: Sequence[str], what: str) -> tuple[str, ...]:
    names = tuple(canonical_class(name) for name in classes)
    for name in names:
        if not name or names.count(name) > 1:
            rule = "names a class twice" if name else "holds an empty name"
            raise SourceError(f"classes {','.join(classes)} for {what}", rule, "give each class one name")
    return names


def _number_names(low: int, high: int, given: tuple[str, ...] | None, what: str) -> tuple[str, ...]:
    if low < 0:
        raise SourceError(
            f"label {low} of {what}", "is negative, class numbers start at 0", "number the classes from 0"
        )
    if given is None:
        if high >= _MOST_CLASSES:
            rule = f"is no class number (at most {_MOST_CLASSES - 1:,})"
            raise SourceError(f"label {high} of {what}", rule, "number the classes from 0")
        given = CELL_CLASSES if high < len(CELL_CLASSES) else tuple(f"class-{number:02d}" for number in range(high + 1))
    if high >= len(given):
        rule = f"has no name, {len(given)} classes are named"
        raise SourceError(f"label {high} of {what}", rule, "name as many classes as there are numbers")
    return given
