"""Finished runs to the competition's zip: ``model.py`` with ``class Model``, weights, and the code that runs them.

The default runtime is numpy alone, since nobody promises more where the zip will run. Needs the extra ``train`` (a run
is exported first); what is written needs only the runtime that was chosen.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx

from hemalens.core.artifacts import output_file, write_atomically
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.core.provenance import sha256_file, version
from hemalens.core.types import FloatArray, Images, Progress, no_progress
from hemalens.data.synthetic import synthetic_set
from hemalens.export.export import export_once
from hemalens.export.parity import TOLERANCE
from hemalens.export.submission.archive import FACTS, SUMS, label_numbers, list_sums
from hemalens.export.submission.graph import graph_bytes, to_graph
from hemalens.export.submission.submitted.numpy_runtime import Network
from hemalens.export.submission.torchscript import script_bytes
from hemalens.inference.model import open_session
from hemalens.inference.sidecar import INTENDED_USE, Sidecar, find_onnx, read_exported

__all__ = ["Runtime", "package"]

Runtime = Literal["numpy", "onnx", "torch"]
_CODE = {
    "numpy": ("numpy_runtime.py", "numpy_operations.py"),
    "onnx": ("onnx_runtime.py",),
    "torch": ("torch_runtime.py", "numpy_runtime.py", "numpy_operations.py"),
}
_SIDE = 96  # of the competition's images
_PER_CLASS = 4  # rendered cells to compare runtimes on
_THEN = (1980, 1, 1, 0, 0, 0)  # a zip of the same content is the same file


@dataclass(frozen=True, slots=True)
class _Member:
    """A run or export to pack: where its ONNX file is, the bytes, the sidecar, and the run, if it was one."""

    path: Path
    data: bytes
    sidecar: Sidecar
    run: Path | None


def package(
    models: Sequence[str | Path],
    out: Path,
    *,
    runtime: Runtime = "numpy",
    tta: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the zip of one model or of several, whose calibrated probabilities are averaged; return a summary.

    Args:
        models: RUN directories, or .onnx files with their sidecars.
        out: the .zip to write.
        runtime: what runs the networks where the zip is unpacked: ``numpy``, ``onnx`` (onnxruntime) or ``torch``.
        tta: average over the 8 symmetries of each image; takes 8 times as long.
        overwrite: replace an earlier zip.
        progress: called for the steps.

    Raises:
        ConfigError: another suffix or runtime, models of different classes, a network that the runtime cannot run.
        ArtifactError: a model is missing, the output exists, or the packed network says something else than its export.
    """
    _check(models, out, runtime)
    members = [_open(model, progress) for model in models]
    classes = members[0].sidecar.classes
    for member in members:
        if member.sidecar.classes != classes:
            rule = f"knows other classes than {members[0].path} ({', '.join(member.sidecar.classes)})"
            raise ConfigError(f"model {member.path}", rule, "average models of the same classes")
    inputs = {f"model_{number}": sha256_file(member.path) for number, member in enumerate(members, 1)}
    options = {"runtime": runtime, "tta": tta}
    with output_file(out, "package", overwrite=overwrite, inputs=inputs, options=options):
        contents = _code(runtime)
        compared = []
        for number, member in enumerate(members, 1):
            progress("packing", number - 1, len(members))
            packed, found = _pack(member, runtime, number)
            contents |= packed
            compared.append(found)
        progress("packing", len(members), len(members))
        facts = _facts(members, runtime, tta)
        contents[FACTS] = (json.dumps(facts, indent=2) + "\n").encode()
        contents["README.txt"] = _readme(facts).encode()
        contents[SUMS] = list_sums(contents)
        data = _zip(contents)
        write_atomically(out, lambda file: file.write(data))
    return {
        "out": str(out),
        "runtime": runtime,
        "tta": tta,
        "models": len(members),
        "classes": list(classes),
        "labels": facts["labels"],
        "bytes": len(data),
        "compared": compared,
    }


def _check(models: Sequence[str | Path], out: Path, runtime: str) -> None:
    if out.suffix != ".zip":
        raise ConfigError(f"output {out}", "must be named .zip", "write for example --out submission.zip")
    if runtime not in get_args(Runtime):
        raise ConfigError(f"runtime {runtime}", f"must be one of {', '.join(get_args(Runtime))}", "change --runtime")
    if not models:
        raise ConfigError("package", "needs a RUN", "name one, or several to average: hemalens package RUN --out FILE")


def _open(model: str | Path, progress: Progress) -> _Member:
    run = Path(model) if Path(model).is_dir() else None
    path = find_onnx(model) if run is None else export_once(run, progress=progress)
    return _Member(path, *read_exported(path), run)


def _pack(member: _Member, runtime: Runtime, number: int) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files of a model, and how its logits compare with the export's under onnxruntime."""
    name, images = f"model-{number}", _cells()
    expected = open_session(member.data, threads=0, name=str(member.path)).run(["logits"], {"images": images})[0]
    if runtime == "onnx":
        return {f"{name}.onnx": member.data}, {"n": len(images), "labels_equal": len(images)}
    if runtime == "numpy":
        graph = to_graph(onnx.load_from_string(member.data), name=str(member.path))
        return {f"{name}.npz": graph_bytes(graph)}, _compare(member, expected, Network(graph)(images))
    if member.run is None:
        raise ConfigError(f"model {member.path}", "is an ONNX file, which torch does not run", "give its RUN directory")
    script, resize, logits = script_bytes(member.run, images)
    return {f"{name}.pt": script, f"{name}.npz": resize}, _compare(member, expected, logits)


def _compare(member: _Member, expected: FloatArray, found: FloatArray) -> dict[str, Any]:
    difference = float(np.abs(expected - found).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:  # NaN too
        rule = f"has logits {difference:.2g} off its export's in this runtime, {allowed:.2g} allowed"
        raise ArtifactError(f"model {member.path}", rule, "package it with --runtime onnx, and please report it")
    equal = int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
    return {"n": len(expected), "labels_equal": equal, "logits_max_difference": difference}


def _cells() -> Images:
    """Return rendered cells in the competition's size, the same on every call."""
    return synthetic_set(_PER_CLASS, size=_SIDE, seed=0, contamination=False).images


def _facts(members: Sequence[_Member], runtime: Runtime, tta: bool) -> dict[str, Any]:
    sidecars = [member.sidecar for member in members]
    classes = sidecars[0].classes
    return {
        "schema_version": 1,
        "classes": list(classes),
        "labels": label_numbers(classes),
        "image_sizes": [sidecar.image_size for sidecar in sidecars],
        "runtime": runtime,
        "symmetries": 8 if tta else 1,
        "models": [f"model-{number}" for number in range(1, len(members) + 1)],
        "temperatures": [sidecar.abstention.temperature for sidecar in sidecars],
        "networks": [sidecar.facts["model"] for sidecar in sidecars],
        "onnx_sha256": [sidecar.facts["onnx_sha256"] for sidecar in sidecars],
        "packaged_by": f"hemalens {version()}",
        "licence": "Apache-2.0",
        "intended_use": INTENDED_USE,
    }


def _readme(facts: dict[str, Any]) -> str:
    needs = {"numpy": "numpy", "onnx": "numpy and onnxruntime", "torch": "numpy and torch"}[facts["runtime"]]
    rows = [f"  {number} {name}" for name, number in zip(facts["classes"], facts["labels"], strict=True)]
    lines = [
        f"A classifier of blood cells, packaged by {facts['packaged_by']}. {facts['intended_use']}",
        "",
        "    from model import Model",
        "    labels = Model().predict(X)",
        "",
        "X: images (n, 96, 96, 3), values 0-255, uint8 or float. labels: (n,) int64,",
        *rows,
        "",
        f"Needs Python 3.10 or later, {needs}. Licence: {facts['licence']}, see LICENSE.",
    ]
    return "\n".join(lines) + "\n"


def _code(runtime: Runtime) -> dict[str, bytes]:
    """Return the files of code, and the licence."""
    folder = files("hemalens.export.submission") / "submitted"
    named = {name: (folder / name).read_bytes() for name in ("model.py", *_CODE[runtime])}
    found = {"model.py": named.pop("model.py")}
    found |= {f"hemalens_runtime/{name}": data for name, data in named.items()}
    found["LICENSE"] = (folder / "LICENSE").read_bytes()
    return found


def _zip(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name, _THEN)
            info.external_attr, info.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()
