"""From the paths in a folder or an archive to samples: what is an image, its label, group and split, its stable id.

One set of rules for folders, zips, tars and shards. Opens nothing itself. Needs the standard library only.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hemalens.core.errors import SourceError
from hemalens.core.types import CELL_CLASSES, Sample, canonical_class
from hemalens.data.sources.labels import SPLITS, name_labels

__all__ = ["LARGEST_FILE", "Catalogue", "Entry", "arrange", "check_size", "escape", "number_repeats", "set_aside"]

LARGEST_FILE = 512 << 20
"""Bytes one image file may have, unpacked: reading it would otherwise fill the memory."""

_METADATA = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".yml", ".yaml", ".toml", ".html"}
    | {".cls", ".log", ".py", ".ipynb", ".parquet"}
)
_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})
_SIDECARS = (".cls", ".json")
_LARGEST_SIDECAR = 1 << 16

# Control signs, line separators and marks that turn the reading direction: they break tables or fool the eye.
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file met in a folder or an archive.

    Attributes:
        path: where it lies inside, parts separated by ``/``, escaped.
        location: where its reader finds it.
        size: bytes, unpacked.
        time: modification time in ns, 0 in archives.
        shard: what goes before the path in the id: the archive's name and ``/`` in a folder of shards.
        unreadable: why it will not be read although it seems to be an image.
        ignored: why it is no sample.
    """

    path: str
    location: Any
    size: int = 0
    time: int = 0
    shard: str = ""
    unreadable: str | None = None
    ignored: str | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Samples sorted by id, the entries they come from in the same order, and what was left out."""

    samples: tuple[Sample, ...]
    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    label: int | str | None = None
    group: str | None = None
    split: str | None = None
    unreadable: str | None = None


def arrange(
    entries: Iterable[Entry], *, read: Callable[[Entry], bytes], classes: Sequence[str] | None, what: str
) -> Catalogue:
    """Turn entries into samples.

    The first folder is the label; folders named train, val, valid, validation or test, and nothing else, are splits
    and the next folder is the label; one folder around all others is stepped into. ``key.cls`` or ``key.json`` beside
    ``key.jpg`` speaks before the folder does.

    Args:
        entries: in the order met: of two with one id the first is kept, the later one is unreadable.
        read: returns the bytes of a label file.
        classes: as for ``name_labels``.
        what: the source, for errors.

    Raises:
        SourceError: where no entry is a sample, or labels do not fit ``classes``.
    """
    kept: list[Entry] = []
    ignored: list[tuple[str, str]] = []
    sidecars: dict[str, Entry] = {}
    for entry in entries:
        reason = entry.ignored or set_aside(entry.path)
        if reason is None:
            kept.append(entry)
            continue
        ignored.append((entry.shard + entry.path, reason))
        if entry.path.endswith(_SIDECARS) and entry.unreadable is None and entry.ignored is None:
            sidecars[entry.shard + entry.path] = entry
    if not kept:
        step = f"name a source of images ({len(ignored)} other entries were met)"
        raise SourceError(f"source {what}", "holds no file that could be an image", step)
    skipped, has_splits = _layout([entry.path for entry in kept if entry.unreadable is None])
    facts = []
    of_folder: dict[str, _Facts] = {}
    for entry in kept:
        folder = entry.path.rpartition("/")[0]
        if (found := of_folder.get(folder)) is None:
            found = of_folder[folder] = _from_folder(folder, skipped, has_splits=has_splits)
        facts.append(_from_sidecars(entry, found, sidecars, read) if sidecars else found)
    labels, names = name_labels([fact.label for fact in facts], classes, what=what)
    ids, repeated = number_repeats([entry.shard + entry.path for entry in kept])
    order = sorted(range(len(kept)), key=ids.__getitem__)
    samples = []
    for index in order:
        fact = facts[index]
        unreadable = "has the id of an earlier image (duplicate id)" if repeated[index] else None
        unreadable = kept[index].unreadable or unreadable or fact.unreadable
        samples.append(Sample(ids[index], labels[index], fact.group, fact.split, unreadable))
    return Catalogue(tuple(samples), tuple(kept[index] for index in order), names, tuple(sorted(ignored)))


def escape(name: str) -> str:
    r"""Write a file name on one line of UTF-8: undecodable bytes and control signs become escapes.

    >>> print(escape("a\nb"), escape(b"caf\xe9.png".decode("utf-8", "surrogateescape")))
    a\nb caf\xe9.png
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if not name.isascii() else name
    return _UNPRINTED.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def number_repeats(ids: Sequence[str]) -> tuple[list[str], list[bool]]:
    """Make ids unique: later ones get ``#2``, ``#3``, ...; tell which were renamed.

    >>> number_repeats(["a", "b", "a"])
    (['a', 'b', 'a#2'], [False, False, True])
    """
    if len(set(ids)) == len(ids):
        return list(ids), [False] * len(ids)
    taken, seen = set(ids), set[str]()
    out, repeated = [], []
    for name in ids:
        new, number = name, 1
        while new in seen or (number > 1 and new in taken):
            number += 1
            new = f"{name}#{number}"
        seen.add(new)
        out.append(new)
        repeated.append(number > 1)
    return out, repeated


def check_size(size: int) -> str | None:
    """Return why a file of so many bytes is not read, None where it is."""
    return f"has {size:,} bytes unpacked, the limit is {LARGEST_FILE:,}" if size > LARGEST_FILE else None


def set_aside(path: str) -> str | None:
    """Return why a path is no sample by its name alone, None where it may be one.

    >>> set_aside("cells/.DS_Store"), set_aside("labels.csv"), set_aside("cells/a.jpg")
    ('hidden', 'metadata (.csv)', None)
    """
    parts = path.split("/")
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden"
    if parts[-1].lower() in _SYSTEM or "__MACOSX" in parts:
        return "left by the operating system"
    suffix = _suffix(parts[-1])
    return f"metadata ({suffix})" if suffix in _METADATA else None


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def _layout(paths: Sequence[str]) -> tuple[int, bool]:
    """Return how many folders to step over, and whether the next ones are splits."""
    folders = [folder.split("/") if folder else [] for folder in {path.rpartition("/")[0] for path in paths}]
    skipped = 0
    while True:
        tops = {folder[skipped] for folder in folders if len(folder) > skipped}
        if tops and all(top.lower() in SPLITS for top in tops):
            return skipped, True
        around_all = len(tops) == 1 and all(len(folder) > skipped for folder in folders)
        deeper = any(len(folder) > skipped + 1 for folder in folders)
        # A single cell class with a folder for each patient is a class, not a wrapper.
        if not (around_all and deeper) or canonical_class(next(iter(tops))) in CELL_CLASSES:
            return skipped, False
        skipped += 1


def _from_folder(folder: str, skipped: int, *, has_splits: bool) -> _Facts:
    folders = folder.split("/") if folder else []
    if folder.startswith("/") or ".." in folders:
        return _Facts()
    folders = folders[skipped:]
    split = SPLITS.get(folders[0].lower()) if has_splits and folders else None
    if split is not None:
        folders = folders[1:]
    return _Facts(label=canonical_class(folders[0]) or None if folders else None, split=split)


def _from_sidecars(entry: Entry, facts: _Facts, sidecars: dict[str, Entry], read: Callable[[Entry], bytes]) -> _Facts:
    """Let the label files beside an image speak; the WebDataset key ends at the name's first dot."""
    folder, slash, name = (entry.shard + entry.path).rpartition("/")
    for suffix in _SIDECARS:
        for key in dict.fromkeys((name.rpartition(".")[0] or name, name.partition(".")[0])):
            if (sidecar := sidecars.get(f"{folder}{slash}{key}{suffix}")) is None:
                continue
            try:
                facts = _parse_sidecar(_read_sidecar(sidecar, read), suffix, facts)
            except (SourceError, OSError, ValueError, TypeError, RecursionError) as error:
                reason = error.rule if isinstance(error, SourceError) else str(error)
                return replace(facts, unreadable=f"its label file {sidecar.path!r} is unusable ({reason})")
            break
    return facts


def _read_sidecar(sidecar: Entry, read: Callable[[Entry], bytes]) -> str:
    if sidecar.size > _LARGEST_SIDECAR:
        raise ValueError(f"{sidecar.size:,} bytes")
    return read(sidecar).decode("utf-8")


def _parse_sidecar(text: str, suffix: str, facts: _Facts) -> _Facts:
    if suffix == ".cls":
        word = text.strip()
        return replace(facts, label=int(word) if word.isdecimal() else word or facts.label)
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    label, group, split = value.get("label"), value.get("group"), value.get("split")
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise TypeError(f"label {label!r} is neither number nor name")
    if split is not None and str(split).lower() not in SPLITS:
        raise ValueError(f"split {split!r} is none of train, val, test")
    return replace(
        facts,
        label=facts.label if label is None or label == "" else label,
        group=facts.group if group is None else str(group),
        split=facts.split if split is None else SPLITS[str(split).lower()],
    )
