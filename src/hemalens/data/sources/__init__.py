"""From the name of any source of pictures to one face: samples in a stable order, read one by one.

``source`` is the face; ``folders``, ``archives``, ``arrays`` and ``manifests`` are the kinds; ``entries`` and
``labels`` hold the rules they share; ``fetch`` gets the public record. Opening lists, it decodes nothing. Needs numpy
and Pillow; polars only for manifests.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hemalens.core.errors import SourceError
from hemalens.core.provenance import PROVENANCE, STARTED
from hemalens.core.types import Progress, no_progress
from hemalens.data.sources.archives import open_shards, open_tar, open_zip
from hemalens.data.sources.arrays import open_arrays
from hemalens.data.sources.entries import set_aside
from hemalens.data.sources.folders import open_folder, walk
from hemalens.data.sources.manifests import open_manifest
from hemalens.data.sources.source import Source, content_sha256

__all__ = ["Source", "content_sha256", "open_source"]

_PACKED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|gz|bz2|xz|zst|7z|rar)$", re.IGNORECASE)
_KNOWN = "a folder, .npz, .npy, .zip, .tar, .csv, .parquet, or bloodmnist[:28|64|128|224]"


def open_source(
    spec: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Source:
    """Open any source of pictures and list its samples.

    Args:
        spec: a path, or ``bloodmnist``, ``bloodmnist:28``, ``:64``, ``:128`` or ``:224`` (``./bloodmnist`` is a path).
        classes: class names by class number, or the order of named classes; the challenge's where None.
        cache: where fetched records are kept; $HEMALENS_CACHE or ~/.cache/hemalens where None.
        progress: called while a record is fetched.

    Raises:
        SourceError: where it does not exist, is of no known kind, cannot be read or holds no picture.
        ArtifactError: where hemalens wrote it and it has changed since.
    """
    name = os.fspath(spec)
    if isinstance(spec, str) and (spec == "bloodmnist" or spec.startswith("bloodmnist:")):
        from hemalens.data.sources.fetch import fetch_bloodmnist  # here: the network stack takes 30 ms to import

        return open_arrays(fetch_bloodmnist(spec, cache=cache, progress=progress), spec=name, classes=classes)
    path = Path(name)
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except (OSError, ValueError) as error:
        raise SourceError(f"source {name!r}", f"cannot be looked at ({error})", "check the path") from error
    if is_folder:
        return _open_folder(path, name, classes)
    if not is_file:
        rule = "is no regular file" if exists else "does not exist"
        raise SourceError(f"source {name}", rule, f"check the path; a source is {_KNOWN}")
    if packed := _PACKED.search(path.name):
        raise SourceError(f"source {name}", f"is compressed ({packed[0]})", "decompress it first")
    opener = {
        ".npz": open_arrays,
        ".npy": open_arrays,
        ".zip": open_zip,
        ".tar": open_tar,
        ".csv": open_manifest,
        ".parquet": open_manifest,
    }.get(path.suffix.lower())
    if opener is None:
        raise SourceError(f"source {name}", f"is of no known kind ({path.suffix or 'no extension'})", f"give {_KNOWN}")
    if not os.access(path, os.R_OK):
        raise SourceError(f"source {name}", "cannot be read (Permission denied)", "check its permissions")
    from hemalens.core.records import find_record  # here: polars takes 0.2 s to import, which a listing does not need

    if (record := find_record(path)) is not None:
        record.checked(record.relative(path))
    return opener(path, spec=name, classes=classes)


def _open_folder(path: Path, spec: str, classes: Sequence[str] | None) -> Source:
    entries = walk(path)
    names = {entry.path for entry in entries}
    if STARTED in names and PROVENANCE not in names:
        step = "run the command that writes it once more"
        raise SourceError(f"source {spec}", "was not written to its end by hemalens", step)
    files = [entry for entry in entries if entry.ignored is None and not set_aside(entry.path)]
    if files and all(entry.path.lower().endswith(".tar") for entry in files):
        return open_shards(path, entries, spec=spec, classes=classes)
    return open_folder(path, spec=spec, entries=entries, classes=classes, recorded=_recorded(path, names))


def _recorded(path: Path, names: set[str]) -> Mapping[str, str]:
    """Return file -> SHA-256 of a folder that ``clean`` wrote, or of a part of it; raise where one was taken away."""
    whole = path.absolute()
    for folder in (whole, *whole.parents[:2]):
        if not (folder / PROVENANCE).is_file():
            continue
        from hemalens.core.records import folder_record  # here: polars takes 0.2 s to import

        record = folder_record(folder)
        if record is None or record.command != "clean":
            return {}
        below = "" if folder == whole else f"{whole.relative_to(folder).as_posix()}/"
        listed = {name.removeprefix(below): digest for name, digest in record.outputs.items() if name.startswith(below)}
        for name in listed.keys() - names:
            record.checked(f"{below}{name}")  # raises: it is not there
        return listed
    return {}
