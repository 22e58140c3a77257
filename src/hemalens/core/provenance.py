"""Where a result came from: command, version, commit, hardware, libraries, inputs.

Needs the standard library only; never imports torch (it reads torch's version from the package metadata).
"""

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["PROVENANCE", "STARTED", "provenance", "sha256_file", "version"]

PROVENANCE = "provenance.json"
"""The file that is written last into a directory, and makes it complete."""

STARTED = ".hemalens-started"
"""The file that marks a directory as begun and not written to its end."""

_LIBRARIES = ("numpy", "pillow", "polars", "scipy", "scikit-learn", "torch", "torchvision", "timm", "onnxruntime")
_BLOCK = 1 << 20
_SETTLED = 3_000_000_000  # ns
_KNOWN: dict[tuple[int, int, int, int, int], str] = {}


def version() -> str:
    """Return the installed version of hemalens."""
    return metadata.version("hemalens")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits, reading 1 MiB at a time.

    A file that nobody has touched for some seconds is hashed once in a process.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        key = _identity(file.fileno())
        if key in _KNOWN:
            return _KNOWN[key]
        while block := file.read(_BLOCK):
            digest.update(block)
        found = digest.hexdigest()
        # Younger ones may change again within one tick of the file system's clock and look the same.
        if key == _identity(file.fileno()) and time.time_ns() - max(key[3:]) > _SETTLED:
            _KNOWN[key] = found
    return found


def _identity(handle: int) -> tuple[int, int, int, int, int]:
    """Return what tells a file's contents apart without reading them; the time of the change cannot be set back."""
    facts = os.fstat(handle)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def provenance(
    command: str, *, seed: int | None, inputs: Mapping[str, str], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the facts needed to tell where a result came from, ready for JSON.

    Args:
        command: name of the stage.
        seed: the seed it used, None where nothing is drawn.
        inputs: name of each input -> SHA-256.
        options: the options that shaped the result.
    """
    commit, dirty = _git_state()
    return {
        "schema_version": 1,
        "command": command,
        # Bytes that are no UTF-8 reach us as lone surrogates, which JSON files cannot hold.
        "argv": [word.encode("utf-8", "backslashreplace").decode("utf-8") for word in sys.argv[1:]],
        "version": version(),
        "commit": commit,
        "dirty": dirty,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(),
        "libraries": {"python": platform.python_version()} | _library_versions(),
        "seed": seed,
        "inputs": dict(inputs),
        "options": dict(options or {}),
    }


def _library_versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_state() -> tuple[str | None, bool | None]:
    """Return (commit, has uncommitted changes) of the checkout this package runs from, (None, None) outside one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, dirty


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


def _hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux: the platform's own name stands
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "platform": platform.platform()}
