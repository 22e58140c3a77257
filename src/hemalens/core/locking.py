"""One writer an output: a lock that the kernel releases when its process dies, and a word on who holds it.

The lock file lies in the output directory, or beside an output file, while a stage writes and is removed at its end;
one that a killed process left behind is nobody's and is taken over. Needs the standard library only.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from hemalens.core.errors import ArtifactError

__all__ = ["LOCK", "lock_path", "locked"]

LOCK = ".hemalens-lock"
"""Name of the lock in a directory; that of a file is ``.NAME.hemalens-lock`` beside it."""
_BYTE = 1 << 30  # on Windows a locked byte cannot be read, so one is locked where nothing is written
_OPEN: set[int] = set()  # descriptors of the locks that this process holds


def lock_path(output: Path) -> Path:
    """Return where the lock of an output lies: in a directory, beside a file."""
    return output / LOCK if output.is_dir() else output.with_name(f".{output.name}{LOCK}")


@contextmanager
def locked(output: Path, command: str) -> Iterator[None]:
    """Hold the lock of an output; raise ArtifactError that names its holder where another process or thread has it.

    The directory, or the parent of the file, must exist. On a file system without locks nothing is held.
    """
    path = lock_path(output)
    handle = _acquire(path, output)
    try:
        with suppress(OSError):  # a full disk: the lock holds without words
            os.truncate(handle, 0)
            os.pwrite(handle, _words(command), 0) if sys.platform != "win32" else os.write(handle, _words(command))
        yield
    finally:
        _release(handle, path)


def _acquire(path: Path, output: Path) -> int:
    """Return a descriptor of the lock file that holds its lock."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            rule = f"cannot be written ({error.strerror})"
            raise ArtifactError(f"output {output}", rule, "choose another --out") from error
        _OPEN.add(handle)
        if not _lock(handle):
            _close(handle)
            step = "wait until it has ended, or choose another --out"
            raise ArtifactError(f"output {output}", f"is being written by {_holder(path)}", step)
        # Its last holder may have removed the file between our opening and our locking it: then the lock is of nothing.
        with suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        _close(handle)


def _release(handle: int, path: Path) -> None:
    if sys.platform == "win32":  # an open file cannot be removed there
        _close(handle)
    with suppress(OSError):
        path.unlink()  # while it is locked: whoever opens the old file sees that it is no longer the one at this path
    _close(handle)


def _close(handle: int) -> None:
    if handle in _OPEN:
        _OPEN.discard(handle)
        os.close(handle)


def _words(command: str) -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    held = {"pid": os.getpid(), "command": command, "since": since, "host": socket.gethostname()}
    return json.dumps(held).encode()


def _holder(path: Path) -> str:
    """Say who holds a lock, as far as its file tells."""
    try:
        told = json.loads(path.read_bytes())
        where = "" if told["host"] == socket.gethostname() else f" on {told['host']}"
        return f"process {int(told['pid'])}{where} (hemalens {told['command']}, since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _lock(handle: int) -> bool:
    """Try to lock an open file and tell whether nobody else has."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system that knows no locks: as it was before there were any
    return True


def _forget() -> None:
    """Close the locks in a forked child: else it would hold them on after its parent's death."""
    for handle in list(_OPEN):
        _close(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
