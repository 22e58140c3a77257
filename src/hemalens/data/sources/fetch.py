"""From the name ``bloodmnist[:28|64|128|224]`` to a checked file in the cache.

The record is Zenodo 10519652 (Yang et al., MedMNIST v2, Scientific Data 10, 41, 2023; CC BY 4.0). A download that
breaks off is resumed; a file whose MD5 is not the published one is never kept. Needs the standard library only.
"""

import http.client
import os
import re
import urllib.error
import urllib.request
from hashlib import md5 as new_md5
from pathlib import Path
from typing import IO

from hemalens.core.errors import SourceError
from hemalens.core.types import Progress, no_progress

__all__ = ["RECORD_URL", "default_cache", "fetch", "fetch_bloodmnist"]

RECORD_URL = "https://zenodo.org/records/10519652/files"
"""Where the official files lie, one address each below it."""

# Side in pixels -> (file, MD5), as published in the record and in medmnist 3.0.2.
_FILES = {
    28: ("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc"),
    64: ("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b"),
    128: ("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c"),
    224: ("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601"),
}
_BLOCK = 1 << 18
_PARTIAL, _RANGE_REFUSED = 206, 416


def default_cache() -> Path:
    """Return where fetched files are kept: $HEMALENS_CACHE, or ~/.cache/hemalens."""
    return Path(os.environ.get("HEMALENS_CACHE") or Path.home() / ".cache" / "hemalens")


def fetch_bloodmnist(
    name: str, *, cache: Path | None = None, base_url: str = RECORD_URL, progress: Progress = no_progress
) -> Path:
    """Return the cached file of ``bloodmnist`` or ``bloodmnist:SIDE``, fetching it where it is not there yet.

    Raises:
        SourceError: for another size, and whatever ``fetch`` raises.
    """
    _, _, size = name.partition(":")
    if size and size not in {str(known) for known in _FILES}:
        sizes = ", ".join(str(known) for known in _FILES)
        raise SourceError(f"source {name}", f"has no such size, there are {sizes}", "write bloodmnist:64, for example")
    file, digest = _FILES[int(size or 28)]
    target = (default_cache() if cache is None else cache) / file
    return fetch(f"{base_url}/{file}", target, md5=digest, progress=progress)


def fetch(url: str, target: Path, *, md5: str, progress: Progress = no_progress, timeout: float = 30.0) -> Path:
    """Download a file to ``target`` unless it is there, and return ``target``.

    What has arrived lies in ``target`` + ``.part`` until its MD5 is checked; the next call goes on from there.

    Args:
        url: ``https://`` or ``http://``.
        target: the file to write.
        md5: 32 hexadecimal digits that its content must have.
        progress: called with bytes done and in all.
        timeout: seconds to wait for the server, each time.

    Raises:
        SourceError: without a network, for a server's refusal, a full disk or another MD5 than ``md5``.
    """
    if target.is_file():
        if _md5(target) != md5:
            step = "delete it, so that it is fetched again"
            raise SourceError(f"file {target}", f"has another MD5 than {url} ({md5})", step)
        return target
    part = target.with_name(f"{target.name}.part")
    by_hand = f"download {url} by any means and put it at {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part, progress, timeout)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceError(f"download of {url}", f"failed ({reason})", f"try again, or {by_hand}") from error
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise SourceError(f"download of {url}", f"has the MD5 {found}, not {md5}", f"try again, or {by_hand}")
    part.replace(target)
    return target


def _download(url: str, part: Path, progress: Progress, timeout: float) -> None:
    if not url.startswith(("https://", "http://")):
        raise ValueError("only http and https are fetched")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "hemalens"})  # noqa: S310 - scheme checked above
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - scheme checked above
            start = _resumes_at(answer.headers.get("Content-Range")) if answer.status == _PARTIAL else 0
            if start not in (0, have):
                raise OSError(f"the server resumes at byte {start}, {have} were asked for")
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length else 0
            with part.open("ab" if start else "wb") as file:
                done = _copy(answer, file, start, total, progress)
        if total and done < total:
            raise OSError(f"the connection broke after {done:,} of {total:,} bytes; what arrived is kept")
    except urllib.error.HTTPError as error:
        with error:
            if error.code != _RANGE_REFUSED or not have:
                raise
        part.unlink()  # longer than the file itself, or the server's file has changed
        _download(url, part, progress, timeout)


def _resumes_at(content_range: str | None) -> int:
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if found else 0


def _copy(answer: IO[bytes], file: IO[bytes], done: int, total: int, progress: Progress) -> int:
    while block := answer.read(_BLOCK):
        file.write(block)
        done += len(block)
        progress("fetching", done, total)
    return done


def _md5(path: Path) -> str:
    digest = new_md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
