"""A competition zip to its score, run as the competition runs it: unpacked, in a sandbox, without network.

Only the standard library and the chosen runtime are there, under limits of time and memory. Needs a POSIX system;
``distorted`` needs the extra ``train``.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hemalens.core.errors import ConfigError, MissingExtraError, SourceError
from hemalens.core.metrics import accuracy, bootstrap_interval, confusion_matrix, macro_f1
from hemalens.core.types import CELL_CLASSES, Images, IntArray, Progress, no_progress
from hemalens.data.sources import Source, open_source
from hemalens.export.submission.archive import label_numbers, read_facts, unpack
from hemalens.export.submission.process import Place, started
from hemalens.export.submission.trial import Trial
from hemalens.inference.chunks import decoded_chunks

__all__ = ["check"]

_SIDE = 96  # of the competition's images
_RUNTIMES = {"numpy": ("numpy",), "onnx": ("numpy", "onnxruntime"), "torch": ("numpy", "torch")}


def check(
    submission: Path,
    source: str | Path,
    *,
    runtime: str | None = None,
    distorted: bool = False,
    seconds: float = 600.0,
    memory_gb: float = 8.0,
    trust: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Run a submission on a source in a sandbox and return its score, speed and peak memory.

    Args:
        submission: the .zip, of hemalens or of other make.
        source: any SOURCE with labels; its images are given in the competition's size, 96 x 96.
        runtime: what can be imported beside the standard library: ``numpy``, ``onnx`` or ``torch``; None for the one
            that the zip names, or numpy.
        distorted: score the field-like distorted copy too, as ``evaluate`` makes it, in the network's own size.
        seconds: of the whole trial.
        memory_gb: of all its processes together, and of the address space of each, in the units of 2 ** 30 bytes.
        trust: run it with all rights of the user where no sandbox works.
        progress: called for the steps.

    Raises:
        ArtifactError: the submission is refused, with the reason.
        SourceError: the source has no label that the submission knows.
        ConfigError: another runtime, or one that is not installed here; no sandbox and no trust.
    """
    if os.name != "posix":
        raise ConfigError(f"system {os.name}", "has no limits for a process", "check submissions on Linux or macOS")
    opened = open_source(source)
    with tempfile.TemporaryDirectory(prefix="hemalens-check-") as home:
        for name in ("submission", "scratch", "elsewhere"):
            Path(home, name).mkdir()
        folder = Path(home, "submission")
        unpacked = unpack(submission, folder)
        facts = read_facts(submission, folder) or _other_make(opened)
        chosen = runtime or facts["runtime"]
        place = Place(submission, Path(home).resolve(), _packages(chosen), seconds, memory_gb)
        labels, places = _labels(opened, facts)
        n_labels = len(CELL_CLASSES) if set(facts["classes"]) <= set(CELL_CLASSES) else len(facts["classes"])
        sets = [_images(opened, places, _SIDE, progress)]
        if distorted:
            sizes = set(facts["image_sizes"])
            side = sizes.pop() if len(sizes) == 1 else _SIDE
            sets.append(_distorted(_images(opened, places, side, progress)))
        progress("running the submission", 0, 1)
        with started(place, trust=trust) as (talk, isolation):
            (clean, *copies), times, constructed = Trial(talk, chosen, n_labels).run(sets)
        progress("running the submission", 1, 1)
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
        "images_per_second": len(labels) / times[0],
        "construct_seconds": constructed,
        "peak_memory_mb": talk.most_bytes / 2**20,
        "bytes": {"zip": submission.stat().st_size, "unpacked": unpacked},
        "isolation": isolation,
        "notes": _notes(len(opened) - len(labels), talk.said_bytes),
    }
    for one in copies:
        result["distorted"] = asdict(bootstrap_interval(confusion_matrix(labels, one, n_labels), accuracy))
    return result


def _notes(n_left_out: int, said_bytes: int) -> list[str]:
    left_out = [f"{n_left_out} images are not counted: it does not know their class"] * (n_left_out > 0)
    prints = [f"it prints {said_bytes:,} bytes: who reads its output may stumble over them"] * (said_bytes > 0)
    return [*left_out, *prints]


def _other_make(source: Source) -> dict[str, Any]:
    """Return what is taken for granted of a submission that says nothing of itself: the challenge, where it fits."""
    classes = CELL_CLASSES if set(source.classes) <= set(CELL_CLASSES) else source.classes
    return {"classes": classes, "labels": label_numbers(classes), "image_sizes": [_SIDE], "runtime": "numpy"}


def _labels(source: Source, facts: dict[str, Any]) -> tuple[IntArray, list[int]]:
    """Return the labels (N,) of the samples whose class the submission knows, and their indices in the source."""
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


def _packages(runtime: str) -> dict[str, Path]:
    """Return what lies in site-packages of a runtime's distributions and of those that they need, by name."""
    if runtime not in _RUNTIMES:
        raise ConfigError(f"runtime {runtime}", f"must be one of {', '.join(_RUNTIMES)}", "change --runtime")
    wanted, known = list(_RUNTIMES[runtime]), set[str]()
    found: dict[str, Path] = {}
    while wanted:
        name = _plain(wanted.pop())
        try:
            made = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in _RUNTIMES[runtime]:
                raise ConfigError(f"runtime {runtime}", f"needs {name}, which is not installed", "install it") from None
            continue  # another platform's, or an optional one
        if name not in known:
            known.add(name)
            tops = {path.parts[0] for path in made.files or ()} - {"..", "__pycache__"}
            found |= {top: Path(str(made.locate_file(top))).resolve() for top in tops}
            wanted += [one for one in made.requires or () if "extra ==" not in one]
    return {name: path for name, path in sorted(found.items()) if path.exists()}


def _plain(requirement: str) -> str:
    """Return the normalised name in a requirement such as ``Foo_bar>=1; python_version < '4'``."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
