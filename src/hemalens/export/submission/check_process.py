"""The clean process in which a submission is tried: run by path, with the standard library and numpy, no hemalens.

    python -I -S -B check_process.py CONFIG.json DESCRIPTOR

Tells on the descriptor, line by line as JSON, what it is about to do, and at the end a result or why the submission is
refused. It catches mistakes; code that means harm is not held back by it.
"""

import contextlib
import hashlib
import importlib
import importlib.abc
import inspect
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

__all__ = ["main"]

_PROBE = 16
_WRITES = frozenset(
    f"os.{name}" for name in ("chmod", "chown", "link", "mkdir", "remove", "rename", "rmdir", "symlink", "truncate")
)
_NETWORK = frozenset(
    f"socket.{name}" for name in ("bind", "connect", "getaddrinfo", "gethostbyaddr", "gethostbyname", "sendto")
)
_PROCESSES = frozenset(
    ("subprocess.Popen", *(f"os.{name}" for name in ("exec", "fork", "forkpty", "posix_spawn", "spawn", "system")))
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SYSTEM = ("/dev", "/etc", "/lib", "/proc", "/sys", "/usr/lib", "/usr/share")


class RefusedError(Exception):
    """Why a submission is refused: the rule it breaks, and what to do."""

    def __init__(self, rule: str, step: str) -> None:
        super().__init__(rule)
        self.rule, self.step = rule, step


class DeniedError(PermissionError):
    """What the submission tried and may not do."""


class _Only(importlib.abc.MetaPathFinder):
    """Lets in the standard library, the submission's own modules and the chosen runtime."""

    def __init__(self, folder: Path, allowed: Sequence[str]) -> None:
        self._folder, self._allowed = folder, frozenset(allowed) | sys.stdlib_module_names

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        """Return nothing, so that the search goes on, or raise ModuleNotFoundError."""
        top = fullname.partition(".")[0]
        own = any(entry.name.partition(".")[0] == top for entry in self._folder.iterdir())
        if top not in self._allowed and not own:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)


class _Guard:
    """An audit hook that denies what a submission may not do, and remembers it."""

    def __init__(self, folder: Path, scratch: Path, packages: Sequence[str]) -> None:
        self.denied: list[str] = []
        self._packages = tuple(packages)
        readable = (sys.prefix, sys.base_prefix, str(Path(os.__file__).parent), *packages, __file__)
        self._own = tuple(os.path.realpath(path) for path in (folder, scratch))
        self._readable = (*self._own, *(os.path.realpath(path) for path in readable), *_SYSTEM)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise PermissionError for what is not allowed."""
        if event == "open":
            self._open(*arguments)
        elif event in _WRITES:
            for path in arguments:
                if isinstance(path, (str, bytes)) and not _below(path, self._own):
                    self._deny(f"changes {os.fsdecode(path)!r}, outside its folder")
        elif event in _NETWORK:
            self._deny("needs the network")
        elif event in _PROCESSES:
            self._deny("starts another process")

    def _open(self, path: object, mode: str | None, flags: int) -> None:
        if not isinstance(path, (str, bytes)):
            return  # a descriptor that is open already
        name = Path(os.fsdecode(path))
        writes = bool(flags & _WRITING) or bool(set(mode or "") & set("wax+"))
        if writes and str(name) != os.devnull and not _below(path, self._own):
            self._deny(f"writes {str(name)!r}, outside its folder")
        if not writes and name.is_absolute() and name.exists() and not _below(path, self._readable):
            self._deny(f"reads {str(name)!r}, outside its folder")

    def _deny(self, what: str) -> NoReturn:
        frame: FrameType | None = sys._getframe()  # noqa: SLF001  # the way to know who asks
        while frame is not None and not frame.f_code.co_filename.startswith((*self._packages, *self._own)):
            frame = frame.f_back
        # What the runtime's packages try of their own accord is none of the submission's doing.
        if frame is not None and not frame.f_code.co_filename.startswith(self._packages):
            self.denied.append(what)
        raise DeniedError(what)


def _below(path: str | bytes, roots: Sequence[str]) -> bool:
    found = os.path.realpath(os.fsdecode(path))
    return any(found == root or found.startswith(root.rstrip("/") + "/") for root in roots)


class _Trial:
    """A submission in this process, step by step."""

    def __init__(self, facts: dict[str, Any], tell: Callable[[dict[str, Any]], None], guard: _Guard) -> None:
        self._facts, self._tell, self._guard = facts, tell, guard
        self._model: Any = None

    def run(self, sets: Sequence[Any]) -> dict[str, Any]:
        """Return labels and seconds of each set of images, after trying what goes wrong most."""
        started = time.monotonic()
        self._model = self._construct()
        constructed = time.monotonic() - started
        self._probe(sets[0][:_PROBE])
        labels, seconds = [], []
        for images in sets:
            started = time.monotonic()
            labels.append(self._predict(images, f"predicting {len(images)} images").tolist())
            seconds.append(time.monotonic() - started)
        return {
            "labels": labels,
            "seconds": seconds,
            "construct_seconds": constructed,
            "peak_bytes": _peak_bytes(),
            "denied": sorted(set(self._guard.denied)),
        }

    def _construct(self) -> Any:  # noqa: ANN401  # whatever the submission made
        module = self._doing("importing model.py", lambda: importlib.import_module("model"))
        made = getattr(module, "Model", None)
        if not inspect.isclass(made):
            raise RefusedError("its model.py has no class Model", "the competition calls Model().predict(X)")
        with contextlib.suppress(ValueError):  # a class of C has no signature
            wanted = inspect.signature(made).parameters.values()
            kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            missing = [one.name for one in wanted if one.default is one.empty and one.kind not in kinds]
            if missing:
                raise RefusedError(f"its Model needs arguments ({', '.join(missing)})", "the competition calls Model()")
        model = self._doing("constructing Model()", made)
        if not callable(getattr(model, "predict", None)):
            raise RefusedError("its Model has no method predict", "the competition calls Model().predict(X)")
        return model

    def _probe(self, images: Any) -> None:  # noqa: ANN401  # an array, but numpy comes later than this line
        first = self._predict(images, f"predicting {len(images)} images")
        again = self._predict(images, "predicting the same images again")
        if (first != again).any():
            step = "switch dropout and the like off, and seed what is drawn"
            raise RefusedError("returns other labels for the same images when asked again", step)
        floats = self._predict(images.astype("float32"), "predicting images as float32 of 0-255")
        if (first != floats).any():
            raise RefusedError("returns other labels for float than for uint8 images of the same values", "take both")
        turned = self._predict(images[::-1].copy(), "predicting in another order")[::-1]
        alone = [self._predict(images[k : k + 1], "predicting one image")[0] for k in range(len(images))]
        if (first != turned).any() or list(first) != alone:
            step = "each label may depend on its own image only; is batch normalisation still learning?"
            raise RefusedError("returns other labels when the images come alone or in another order", step)

    def _predict(self, images: Any, what: str) -> Any:  # noqa: ANN401  # arrays
        before = _digest(images)
        found = self._doing(what, lambda: self._model.predict(images))
        if _digest(images) != before:
            raise RefusedError("changes the images that it is given", "work on a copy: X = numpy.array(X)")
        return self._doing("reading what predict returned", lambda: _check(found, len(images), self._facts))

    def _doing(self, what: str, call: Callable[[], Any]) -> Any:  # noqa: ANN401  # what the call returns
        """Call the submission's code, and say in one line what became of it where it fails."""
        self._tell({"doing": what})
        try:
            return call()
        except RefusedError:
            raise
        except SystemExit as error:
            raise RefusedError(f"ends the process (sys.exit) while {what}", "return, or raise an error") from error
        except MemoryError as error:
            rule = f"needs more than {self._facts['memory_gb']:g} GB of memory while {what}"
            raise RefusedError(rule, "predict in smaller batches, or raise --memory-gb") from error
        except BaseException as error:  # another's code: whatever it raises is the finding
            raise self._explained(error, what) from error

    def _explained(self, error: BaseException, what: str) -> RefusedError:
        first = (str(error).splitlines() or [""])[0][:200]
        said = f"{type(error).__name__}: {first}" if first else type(error).__name__
        behind: BaseException | None = error
        while behind is not None:
            if isinstance(behind, DeniedError):
                step = "it must do with the files in its own folder, without network and other processes"
                return RefusedError(f"{behind}, while {what}", step)
            behind = behind.__cause__ or behind.__context__
        if isinstance(error, ModuleNotFoundError):
            rule = f"needs the package {error.name!r} while {what}, which the runtime {self._facts['runtime']} has not"
            return RefusedError(rule, "pack it, do without, or check with another --runtime")
        name = getattr(error, "filename", None)
        if isinstance(error, FileNotFoundError) and isinstance(name, str):
            rule = f"does not find {name!r} while {what}"
            return RefusedError(rule, "look beside model.py whatever the working directory is: Path(__file__).parent")
        return RefusedError(f"fails while {what} ({said})", "call it yourself with images as described, and mend it")


def _digest(images: Any) -> bytes:  # noqa: ANN401  # an array
    return hashlib.blake2b(images).digest()


def _peak_bytes() -> int:
    """Return the most memory this process has held; getrusage counts what its parent held before it too."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def _check(found: Any, n: int, facts: dict[str, Any]) -> Any:  # noqa: ANN401  # whatever predict returned
    """Return labels (n,), or raise what is wrong with them."""
    import numpy as np

    labels = np.asarray(found)
    step = f"return integers (n,) from 0 to {facts['n_labels'] - 1}"
    if labels.dtype.kind not in "biuf":
        raise RefusedError(f"returns text or objects ({labels.dtype}), no numbers", step)
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise RefusedError("returns NaN", step)
    if labels.ndim == 2 and len(labels) == n and labels.shape[1] > 1:
        raise RefusedError(f"returns {labels.shape}, as of one-hot labels or probabilities", f"{step}: argmax(axis=1)")
    if labels.ndim == 1 and len(labels) != n:
        raise RefusedError(f"returns {len(labels)} labels for {n} images", step)
    if labels.shape != (n,):
        raise RefusedError(f"returns an array of shape {labels.shape}", step)
    if labels.dtype.kind not in "iu":
        raise RefusedError(f"returns {labels.dtype} labels", f"{step}: .astype(int)")
    if n and not (labels.min() >= 0 and labels.max() < facts["n_labels"]):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise RefusedError(f"returns the label {wrong}", step)
    return labels.astype(np.int64)


def main() -> None:
    """Try the submission that the configuration names."""
    facts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    descriptor = int(sys.argv[2])

    def tell(value: dict[str, Any]) -> None:
        os.write(descriptor, json.dumps(value).encode() + b"\n")

    _limit(resource.RLIMIT_AS, int(facts["memory_gb"] * (1 << 30)))
    _limit(resource.RLIMIT_CPU, facts["cpu_seconds"])
    _limit(resource.RLIMIT_FSIZE, 1 << 30)
    _limit(resource.RLIMIT_CORE, 0)
    tell({"doing": "starting numpy"})
    sys.path += facts["packages"]
    import numpy as np

    sets = [np.load(path) for path in facts["sets"]]
    folder, scratch = Path(facts["folder"]), Path(facts["scratch"])
    guard = _Guard(folder, scratch, facts["packages"])
    sys.meta_path.insert(0, _Only(folder, facts["allowed"]))
    sys.path.insert(0, str(folder))
    sys.addaudithook(guard)
    try:
        tell({"result": _Trial(facts, tell, guard).run(sets)})
    except RefusedError as error:
        tell({"refused": [error.rule, error.step]})


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, hard))


if __name__ == "__main__":
    main()
