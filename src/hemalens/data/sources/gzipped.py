"""From a gzipped tar to a source: unpacked once into the cache, then read in place as any tar is.

A gzip stream cannot be read from its middle, so members could not be fetched by index; unpacked to disk they can, by
every process. Needs the standard library only.
"""

import gzip
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import IO

from hemalens.core.artifacts import read_json, write_atomically, write_json
from hemalens.core.errors import ArtifactError, SourceError
from hemalens.core.provenance import sha256_file
from hemalens.core.types import Progress, no_progress
from hemalens.data.sources.archives import TarSource, open_tar
from hemalens.data.sources.fetch import default_cache

__all__ = ["GzippedTarSource", "open_gzipped_tar"]

_BLOCK = 1 << 20
# Images are compressed already: a tar of small PNGs shrinks to a fifth, of uncompressed BMPs to a tenth. Zeros shrink
# to a thousandth. What is small does no harm, so the ratio counts from 64 MiB on.
_HARMLESS = 64 << 20
_LARGEST_RATIO = 100
_KEPT_FREE = 1 << 30  # bytes that stay free on the disk of the cache


@dataclass(frozen=True, eq=False, kw_only=True)
class GzippedTarSource(TarSource):
    """Images in a gzipped tar; ``packed`` is its path, ``tars`` names the unpacked copy in the cache."""

    packed: str

    def fingerprint(self) -> str:
        """Return the SHA-256 of the gzipped file."""
        return sha256_file(Path(self.packed))


def open_gzipped_tar(
    path: Path,
    *,
    spec: str,
    classes: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> GzippedTarSource:
    """List a gzipped tar, unpacking it into the cache where it is not there yet.

    Args:
        path: the file.
        spec: how the user named it.
        classes: as for ``open_source``.
        cache: the folder whose ``unpacked`` holds the copy; $HEMALENS_CACHE or ~/.cache/hemalens where None.
        progress: called for the packed bytes done and in all.

    Raises:
        SourceError: it is damaged, grows like no pile of images does, does not fit on the disk, or holds no image.
    """
    try:
        digest = sha256_file(path)
        folder = (default_cache() if cache is None else cache) / "unpacked"
        folder.mkdir(parents=True, exist_ok=True)
        unpacked = folder / f"{digest}.tar"
        if not _is_whole(unpacked):
            _unpack(path, unpacked, spec, progress)
    except (OSError, ArtifactError) as error:
        rule = f"cannot be unpacked into the cache ({error})"
        step = "free some space, or set HEMALENS_CACHE to a folder elsewhere"
        raise SourceError(f"source {spec}", rule, step) from error
    tar = open_tar(unpacked, spec=spec, classes=classes)
    facts = {one.name: getattr(tar, one.name) for one in fields(tar) if one.init}
    return GzippedTarSource(**facts, packed=str(path.absolute()))


def _is_whole(unpacked: Path) -> bool:
    """Tell whether a copy in the cache is the one that was written: its hash is checked, as that of every file."""
    try:
        return unpacked.is_file() and sha256_file(unpacked) == read_json(_record(unpacked)).get("sha256")
    except ArtifactError:
        return False


def _record(unpacked: Path) -> Path:
    return unpacked.with_suffix(".json")


def _unpack(path: Path, unpacked: Path, spec: str, progress: Progress) -> None:
    """Write the tar inside a gzip file and, after it, its hash; raise SourceError for a bomb or a damaged file."""
    total, digest = path.stat().st_size, sha256()
    room = shutil.disk_usage(unpacked.parent).free - _KEPT_FREE

    def copy(target: IO[bytes]) -> None:
        done = 0
        with path.open("rb") as packed, gzip.open(packed) as file:
            while block := file.read(_BLOCK):
                done += len(block)
                if done > _HARMLESS and done > _LARGEST_RATIO * packed.tell():
                    rule = f"unpacks to more than {_LARGEST_RATIO} times its size, which images do not"
                    raise SourceError(f"source {spec}", rule, "unpack it yourself if you trust it, and give the .tar")
                if done > room:
                    rule = f"unpacks to more than the {max(room, 0):,} bytes that the disk of the cache can spare"
                    step = f"free some space at {unpacked.parent}, or set HEMALENS_CACHE to a folder elsewhere"
                    raise SourceError(f"source {spec}", rule, step)
                digest.update(block)
                target.write(block)
                progress("unpacking", packed.tell(), total)

    try:
        write_atomically(unpacked, copy)
    except ArtifactError as error:
        # A damaged gzip file is an OSError too, and is told apart from a full disk by its type.
        if isinstance(error.__cause__, gzip.BadGzipFile):
            raise _damaged(spec, error.__cause__) from error
        raise
    except (EOFError, zlib.error) as error:
        raise _damaged(spec, error) from error
    write_json(_record(unpacked), {"sha256": digest.hexdigest()})


def _damaged(spec: str, error: Exception) -> SourceError:
    return SourceError(f"source {spec}", f"is no gzip file, or a damaged one ({error})", "fetch or pack it again")
