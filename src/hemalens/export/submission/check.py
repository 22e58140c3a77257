"""A competition zip to its score, run as the competition runs it: unpacked, in a clean process, without network.

Only the standard library and the chosen runtime can be imported there, under limits of time and memory. Needs a POSIX
system; ``distorted`` needs the extra ``train``.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.core.errors import ArtifactError, ConfigError, MissingExtraError, SourceError
from hemalens.core.metrics import accuracy, bootstrap_interval, confusion_matrix, macro_f1
from hemalens.core.types import CELL_CLASSES, Images, IntArray, Progress, no_progress
from hemalens.data.sources import Source, open_source
from hemalens.export.submission.archive import label_numbers, read_facts, unpack
from hemalens.inference.chunks import decoded_chunks

__all__ = ["check"]

_SIDE = 96  # of the competition's images
_RUNTIMES = {"numpy": ("numpy",), "onnx": ("numpy", "onnxruntime"), "torch": ("numpy", "torch")}
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--")


@dataclass(frozen=True, slots=True)
class _Limits:
    seconds: float
    memory_gb: float


def check(
    submission: Path,
    source: str | Path,
    *,
    runtime: str | None = None,
    distorted: bool = False,
    seconds: float = 600.0,
    memory_gb: float = 8.0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Run a submission on a source and return its score, speed and peak memory.

    Args:
        submission: the .zip, of hemalens or of other make.
        source: any SOURCE with labels; its images are given in the competition's size, 96 x 96.
        runtime: what can be imported beside the standard library: ``numpy``, ``onnx`` or ``torch``; None for the one
            that the zip names, or numpy.
        distorted: score the field-like distorted copy too, as ``evaluate`` makes it, in the network's own size.
        seconds: of the whole trial.
        memory_gb: of address space, in the units of 2 ** 30 bytes.
        progress: told about the steps.

    Raises:
        ArtifactError: the submission is refused, with the reason.
        SourceError: the source has no label that the submission knows.
        ConfigError: another runtime, or one that is not installed here.
    """
    if os.name != "posix":
        raise ConfigError(f"system {os.name}", "has no limits for a process", "check submissions on Linux or macOS")
    opened = open_source(source)
    with tempfile.TemporaryDirectory(prefix="hemalens-check-") as place:
        home = Path(place).resolve()
        folder = home / "submission"
        for name in ("submission", "scratch", "elsewhere"):
            (home / name).mkdir()
        unpacked = unpack(submission, folder)
        facts = read_facts(folder) or _other_make(opened)
        chosen = runtime or facts["runtime"]
        labels, places = _labels(opened, facts)
        n_labels = len(CELL_CLASSES) if set(facts["classes"]) <= set(CELL_CLASSES) else len(facts["classes"])
        sets = [_images(opened, places, _SIDE, progress)]
        if distorted:
            sizes = set(facts["image_sizes"])
            side = sizes.pop() if len(sizes) == 1 else _SIDE
            sets.append(_distorted(_images(opened, places, side, progress)))
        for number, images in enumerate(sets):
            np.save(home / f"set-{number}.npy", images)
        config = {
            "folder": str(folder),
            "scratch": str(home / "scratch"),
            "sets": [str(home / f"set-{number}.npy") for number in range(len(sets))],
            "n_labels": n_labels,
            "runtime": chosen,
            **_importable(chosen),
        }
        progress("running the submission", 0, 1)
        found, notes, isolation = _run(submission, home, config, _Limits(seconds, memory_gb))
        progress("running the submission", 1, 1)
    clean, *copies = (np.array(one, np.int64) for one in found["labels"])
    matrix = confusion_matrix(labels, clean, n_labels)
    result = {
        "submission": str(submission),
        "source": str(source),
        "runtime": chosen,
        "n": len(labels),
        "classes": list(facts["classes"]),
        "accuracy": asdict(bootstrap_interval(matrix, accuracy)),
        "macro_f1": asdict(bootstrap_interval(matrix, macro_f1)),
        "confusion_matrix": matrix.tolist(),
        "images_per_second": len(labels) / max(found["seconds"][0], 1e-9),
        "construct_seconds": found["construct_seconds"],
        "peak_memory_mb": found["peak_bytes"] / 2**20,
        "bytes": {"zip": submission.stat().st_size, "unpacked": unpacked},
        "network": isolation,
        "notes": notes,
    }
    for one in copies:
        result["distorted"] = asdict(bootstrap_interval(confusion_matrix(labels, one, n_labels), accuracy))
    return result


def _other_make(source: Source) -> dict[str, Any]:
    """Return what is taken for granted of a submission that says nothing of itself: the challenge, where it fits."""
    classes = CELL_CLASSES if set(source.classes) <= set(CELL_CLASSES) else source.classes
    return {"classes": classes, "labels": label_numbers(classes), "image_sizes": [_SIDE], "runtime": "numpy"}


def _labels(source: Source, facts: dict[str, Any]) -> tuple[IntArray, list[int]]:
    """Return the labels (N,) of the samples whose class the submission knows, and their places in the source."""
    numbers = dict(zip(facts["classes"], facts["labels"], strict=True))
    for sample in source.samples:
        if sample.unreadable is not None:
            raise SourceError(f"sample {sample.sample_id}", f"cannot be read ({sample.unreadable})", "clean the source")
    places = [place for place, sample in enumerate(source.samples) if sample.label in numbers]
    if not places:
        rule = f"has no sample labelled with a class of the submission ({', '.join(facts['classes'])})"
        raise SourceError(f"source {source.spec}", rule, "give labels, or use another source")
    return np.array([numbers[source.samples[place].label] for place in places], np.int64), places


def _images(source: Source, places: Sequence[int], side: int, progress: Progress) -> Images:
    """Return the chosen samples (N, side, side, 3); raise SourceError for the first that cannot be read."""
    everything = np.empty((len(source), side, side, 3), np.uint8)
    done = 0
    for images, reasons in decoded_chunks(source, side):
        progress("loading images", done, len(source))
        for row, reason in enumerate(reasons):
            if reason:
                sample = source.samples[done + row].sample_id
                raise SourceError(f"sample {sample}", f"cannot be read ({reason})", "audit and clean the source")
        everything[done : done + len(images)] = images
        done += len(images)
    return everything[list(places)]


def _distorted(images: Images) -> Images:
    try:
        import torch

        from hemalens.training.predicting import distort  # here: nothing else of this needs torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("the distorted set", "train") from error
    return distort(torch.from_numpy(images)).numpy()


def _importable(runtime: str) -> dict[str, list[str]]:
    """Return the folders of a runtime's packages, and the names that may be imported from them."""
    if runtime not in _RUNTIMES:
        raise ConfigError(f"runtime {runtime}", f"must be one of {', '.join(_RUNTIMES)}", "change --runtime")
    wanted, known = list(_RUNTIMES[runtime]), set[str]()
    folders: list[str] = []
    while wanted:
        name = _plain(wanted.pop())
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in _RUNTIMES[runtime]:
                raise ConfigError(f"runtime {runtime}", f"needs {name}, which is not installed", "install it") from None
            continue  # another platform's, or an optional one
        if name not in known:
            known.add(name)
            folders.append(str(found.locate_file("")))
            wanted += [one for one in found.requires or () if "extra ==" not in one]
    allowed = [top for top, makers in _makers().items() if known & {_plain(maker) for maker in makers}]
    return {"packages": list(dict.fromkeys(folders)), "allowed": allowed}


@cache
def _makers() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _plain(requirement: str) -> str:
    """Return the normalised name in a requirement such as ``Foo_bar>=1; python_version < '4'``."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _run(
    submission: Path, home: Path, config: dict[str, Any], limits: _Limits
) -> tuple[dict[str, Any], list[str], str]:
    """Return what the clean process found, notes, and how the network was taken away."""
    cores = os.cpu_count() or 1
    facts = config | {"memory_gb": limits.memory_gb, "cpu_seconds": int(limits.seconds * cores) + 5}
    (home / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    environment = {"PATH": os.defpath, "HOME": facts["scratch"], "TMPDIR": facts["scratch"], "LANG": "C.UTF-8"}
    environment |= {name: os.environ[name] for name in _THREADS if name in os.environ}
    prefix = _UNSHARE if _can_unshare() else ()
    said, told = home / "said.txt", home / "told.txt"
    with said.open("wb") as spoken, told.open("wb") as lines:
        script = Path(__file__).with_name("check_process.py")
        words = ["-I", "-S", "-B", str(script), str(home / "config.json"), str(lines.fileno())]
        process = subprocess.Popen(
            [*prefix, sys.executable, *words],
            cwd=home / "elsewhere",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=spoken,
            stderr=subprocess.STDOUT,
            pass_fds=(lines.fileno(),),
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = _result(submission, told, code, limits)
    notes = [f"it tried this, was denied it and went on: it {what}" for what in found["denied"]]
    if said.stat().st_size:
        notes.append(f"it prints {said.stat().st_size:,} bytes: who reads its output may stumble over them")
    return found, notes, "a network namespace of its own, without any" if prefix else "sockets denied"


def _result(submission: Path, told: Path, code: int | None, limits: _Limits) -> dict[str, Any]:
    """Return the result that the process told, or raise why there is none."""
    doing = "starting"
    for line in told.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        if "refused" in value:
            rule, step = value["refused"]
            raise ArtifactError(f"submission {submission}", rule, step)
        if "result" in value:
            result: dict[str, Any] = value["result"]
            return result
        doing = value["doing"]
    if code is None or code == -signal.SIGXCPU:
        rule = f"is too slow: stopped after {limits.seconds:g} s while {doing}"
        raise ArtifactError(f"submission {submission}", rule, "make it faster, or raise --seconds")
    ended = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    rule = f"ends the process {ended} while {doing}"
    step = f"the limit of memory is {limits.memory_gb:g} GB: raise --memory-gb if it was met"
    raise ArtifactError(f"submission {submission}", rule, step)


@cache
def _can_unshare() -> bool:
    """Tell whether this system lets a process have a network namespace of its own."""
    if shutil.which(_UNSHARE[0]) is None:
        return False
    return subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode == 0
