"""The process in which a submission is tried: run by path, with the standard library and numpy, no hemalens.

    python -I -S -B -u check_process.py FACTS

It looks whether it is shut in, and answers on stdout what it is asked on stdin. From the first question on the parent
believes nothing of what it says: what the submission can reach here, it can forge.
"""

import ctypes
import errno
import hashlib
import importlib
import inspect
import io
import json
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

__all__ = ["ANSWER", "NUMBERS", "REQUEST", "main"]

# Command, pictures, their side, kind of their numbers; the pictures follow, and 8 bytes that the answer begins with.
REQUEST = struct.Struct("<cQQ2s")
# The 8 bytes, kind of the answer, kind of the numbers, axes, up to four lengths, a detail; the labels follow.
ANSWER = struct.Struct("<8sc16sB4Q240s")
NUMBERS = re.compile(r"[<>|](b1|[iu][1248]|f[248])")  # the kinds of which n come back: other lengths are only told
_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.ENETDOWN}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def _holes(facts: dict[str, Any]) -> list[str]:
    """Return what of this machine can be reached from here although it should not."""
    found = [f"its {kind} namespace" for kind, name in facts["namespaces"].items() if _namespace(kind) == name]
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":\t", 1) for line in lines if line.startswith(("Cap", "NoNew")))
    found += [name for name, value in status.items() if name.startswith("Cap") and int(value, 16)]
    found += ["new privileges"] * (status.get("NoNewPrivs") != "1")
    found += [f"file /{name}" for name in {path.name for path in Path("/").iterdir()} - set(facts["roots"])]
    found += ["the first process"] * (ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0)  # PTRACE_ATTACH
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, _, options, *_ = line.split(" ")
        if "rw" in options.split(",") and place != "/tmp" and not place.startswith("/dev/"):  # noqa: S108
            found.append(f"writing in {place}")
    return found


def _namespace(kind: str) -> str:
    return str(Path(f"/proc/self/ns/{kind}").readlink())


def _stay_first() -> None:
    """Stay behind as the first process inside, which the rest dies with; return in a second one.

    It cannot be traced: else a submission could make it deaf to the end of the parent, and live on.
    """
    prctl, dumpable = ctypes.CDLL(None).prctl, 4
    prctl(dumpable, 0, 0, 0, 0)
    child = os.fork()
    if not child:
        prctl(dumpable, 1, 0, 0, 0)
        return
    os.closerange(0, 3)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


class _Trial:
    """A submission in this process: each method returns the kind of its answer, a detail, and labels if it has any."""

    def __init__(self) -> None:
        self._made: Any = None
        self._model: Any = None

    def answer(self, command: bytes, pictures: Any) -> tuple[bytes, str, Any]:  # noqa: ANN401  # arrays
        """Do what is asked; whatever the submission's code raises is the finding."""
        call = {b"i": self._import, b"c": self._construct, b"p": self._predict}[command]
        try:
            return call(pictures)
        except SystemExit:
            return b"x", "", None
        except MemoryError:
            return b"o", "", None
        except BaseException as error:  # noqa: BLE001  # another's code: whatever it raises is the finding
            return *_failure(error), None

    def _import(self, _: object) -> tuple[bytes, str, Any]:
        self._made = getattr(importlib.import_module("model"), "Model", None)
        return b"." if inspect.isclass(self._made) else b"C", "", None

    def _construct(self, _: object) -> tuple[bytes, str, Any]:
        try:
            wanted = list(inspect.signature(self._made).parameters.values())
        except ValueError:  # a class of C has no signature
            wanted = []
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        missing = [one.name for one in wanted if one.default is one.empty and one.kind not in kinds]
        if missing:
            return b"A", ", ".join(missing), None
        self._model = self._made()
        return b"." if callable(getattr(self._model, "predict", None)) else b"P", "", None

    def _predict(self, pictures: Any) -> tuple[bytes, str, Any]:  # noqa: ANN401  # arrays
        import numpy as np

        few = len(pictures) <= 16  # the whole set is timed: there it would be slower by the digest
        before = few and hashlib.blake2b(pictures).digest()
        labels = np.asarray(self._model.predict(pictures))
        changed = few and hashlib.blake2b(pictures).digest() != before
        return (b"I", "", None) if changed else (b"l", "", labels)


def _failure(error: BaseException) -> tuple[bytes, str]:
    """Return the kind of an error of the submission's, by what lies behind it, and its words."""
    behind: BaseException | None = error
    while behind is not None:
        number = getattr(behind, "errno", None)
        if type(behind).__name__ == "gaierror" or number in _NETWORK:
            return b"N", ""
        if number in _CLOSED:
            return b"W", repr(getattr(behind, "filename", None) or str(behind))
        behind = behind.__cause__ or behind.__context__
    if isinstance(error, ModuleNotFoundError):
        return b"M", repr(error.name)
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return b"F", repr(error.filename)
    first = (str(error).splitlines() or [""])[0]
    return b"E", f"{type(error).__name__}: {first}" if first else type(error).__name__


def _packed(token: bytes, kind: bytes, detail: str, labels: Any) -> bytes:  # noqa: ANN401  # arrays
    shape, sort = ((0,), "") if labels is None else (labels.shape, labels.dtype.str)
    lengths = (*shape, 0, 0, 0, 0)[:4]
    axes = min(len(shape), 255)
    return ANSWER.pack(token, kind, sort.encode(), axes, *lengths, detail.encode("utf-8", "replace")[:240])


def _serve(requests: io.BufferedReader, answers: io.BufferedWriter) -> None:
    import numpy as np

    trial = _Trial()
    while head := requests.read(REQUEST.size):
        command, n, side, sort = REQUEST.unpack(head)
        pictures = np.empty((n, side, side, 3), sort.decode())
        if n:
            requests.readinto(pictures.data.cast("B"))
        token = requests.read(8)
        kind, detail, labels = trial.answer(command, pictures)
        answers.write(_packed(token, kind, detail, labels))
        if labels is not None and labels.shape == (n,) and NUMBERS.fullmatch(labels.dtype.str):
            answers.write(np.ascontiguousarray(labels).tobytes())
        answers.flush()


def _limit(facts: dict[str, Any]) -> None:
    import resource  # here: the parent imports this module on systems without it

    for name, value in facts["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def main() -> None:
    """Try the submission that the facts name."""
    facts = json.loads(sys.argv[1])
    if os.getpid() == 1:
        _stay_first()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what the submission prints
    holes = _holes(facts) if facts["namespaces"] else []
    _limit(facts)
    sys.path.append(facts["packages"])
    import numpy as np  # noqa: F401  # before the submission can stand in its place

    sys.path.insert(0, facts["submission"])
    answers.write(_packed(bytes(8), b"H" if holes else b".", ", ".join(holes), None))
    answers.flush()
    if not holes:
        _serve(requests, answers)


if __name__ == "__main__":
    main()
