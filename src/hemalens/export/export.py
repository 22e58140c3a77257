"""A finished run to one ONNX file with its preprocessing inside, a sidecar, and the proof that it says what torch says.

Needs the extra ``train``; what is written needs onnxruntime alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hemalens.core.abstention import confidence_rule
from hemalens.core.artifacts import output_file, provenance_path, read_json, write_atomically, write_json
from hemalens.core.errors import ArtifactError, ConfigError, UserError
from hemalens.core.provenance import version
from hemalens.core.recorded import file_record, open_record
from hemalens.core.types import FloatArray, Images, IntArray, Progress, no_progress
from hemalens.data.reading.resize import resize
from hemalens.data.selection import choose_split
from hemalens.data.sources import Source, open_source
from hemalens.data.split import read_splits
from hemalens.data.synthetic import synthetic_set
from hemalens.export.network import assemble, linear_head, trace_network
from hemalens.export.parity import compare, onnx_logits, resize_parity
from hemalens.export.quantise import quantise, time_in_turn
from hemalens.export.signing import require_key, sign_model, signature_path
from hemalens.inference.onnx_metadata import with_metadata
from hemalens.inference.sidecar import (
    DIGEST_KEY,
    INTENDED_USE,
    SCHEMA_VERSION,
    array_to_json,
    sidecar_digest,
    sidecar_path,
)
from hemalens.training.checkpoint import LoadedModel, load_model, model_directory, read_abstention, read_validation
from hemalens.training.models import Normalised

__all__ = ["bind", "export", "export_once"]

_LOST_POINTS = 0.5
_CALIBRATION = 512
_TIMED = 256
_STAND_INS = 64  # of each kind, where the validation images are not at hand
_WEIGHTS = "model.safetensors"
_ONCE = Path("exported") / "model.onnx"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What to compare on: images of any sizes, read anew each time, their labels (N,), and where they are from."""

    read: Callable[[], Iterator[Images]]
    total: int
    labels: IntArray | None
    words: str


def export(
    run: Path,
    out: Path,
    *,
    source: str | Path | None = None,
    int8: bool = False,
    sign_key: Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write a run's model as ``FILE.onnx`` with ``FILE.json`` and ``parity.json`` beside it; return the last's content.

    Args:
        run: a RUN directory.
        out: the .onnx file to write.
        source: what the run was trained on: its validation images are compared on. Where None it is looked for
            under the name it had; where it is not found, seeded stand-ins are compared on, and ``parity.json`` says so.
        int8: quantise to 8 bits, if that is faster here and loses at most 0.5 points on the validation images.
        sign_key: private key in PEM (elliptic curve, no password) to sign the model with: ``FILE.onnx.sig``.
        overwrite: replace an earlier export.
        progress: called for the steps.

    Raises:
        ArtifactError: the run is not finished, a file is in the way, or the export differs from torch.
        ConfigError: the network cannot be exported, ``int8`` without the run's source, or a key that cannot sign.
        MissingExtraError: ``sign_key`` without the extra ``sign``.
    """
    if sign_key is not None:
        require_key(sign_key)
    run = model_directory(run)
    loaded = load_model(run)
    beside = _check_names(out)
    opened = _find_source(run, source)
    if int8 and opened is None:
        step = "name what the run was trained on: --source SOURCE"
        raise ConfigError(f"export of {run} in 8 bits", "needs training images to calibrate on", step)
    inputs = {"model": open_record(run, "train").digest(_WEIGHTS)}
    inputs |= {"source": opened.fingerprint()} if opened else {}
    written = (beside.name, "parity.json", signature_path(out).name)
    with output_file(out, "export", overwrite=overwrite, inputs=inputs, options={"int8": int8}, beside=written):
        parity, data = _export(run, loaded, opened, int8=int8, progress=progress)
        data, sidecar = bind(data, _sidecar(run, loaded, parity["precision"]))
        parity = {"schema_version": SCHEMA_VERSION, "onnx": out.name, **parity, "onnx_sha256": sidecar["onnx_sha256"]}
        write_atomically(out, lambda file: file.write(data))
        write_json(beside, sidecar)
        write_json(out.with_name("parity.json"), parity)
        signature_path(out).unlink(missing_ok=True)  # of the model that was replaced
        if sign_key is not None:
            sign_model(out, sign_key)
    return parity | {"out": str(out)}


def export_once(run: Path, *, progress: Progress = no_progress) -> Path:
    """Return the export that lies in a run's ``exported`` directory, written first where it is missing or outdated."""
    run = model_directory(run)
    path = run / _ONCE
    known = path.is_file() and provenance_path(path).is_file()
    if not known or file_record(path, "export").inputs.get("model") != open_record(run, "train").digest(_WEIGHTS):
        export(run, path, overwrite=True, progress=progress)
    return path


def bind(data: bytes, sidecar: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return a model's bytes and its sidecar so that each names the other; the graph's bytes stay as they are."""
    bound = with_metadata(data, DIGEST_KEY, sidecar_digest(sidecar))
    return bound, sidecar | {"onnx_sha256": hashlib.sha256(bound).hexdigest()}


def _export(
    run: Path, loaded: LoadedModel, source: Source | None, *, int8: bool, progress: Progress
) -> tuple[dict[str, Any], bytes]:
    """Return what ``parity.json`` says and the model's bytes."""
    module = loaded.module
    assert isinstance(module, Normalised)
    size = loaded.image_size
    progress("exporting", 0, 1)
    network = trace_network(module, size)
    data = assemble(network, module, size).SerializeToString(deterministic=True)
    progress("exporting", 1, 1)
    images = _stand_ins(size) if source is None else _validation(run, source)
    compared, ours, theirs = compare(module, data, images.read, size=size, total=images.total, progress=progress)
    parity: dict[str, Any] = {
        "n": images.total,
        "images": images.words,
        **compared,
        "resize": resize_parity(size),
    }
    if images.labels is not None:
        stored, _ = read_validation(run)
        scores = {"torch": theirs, "onnx": ours}
        parity["accuracy"] = {name: _accuracy(logits, images.labels) for name, logits in scores.items()}
        if stored.shape == theirs.shape:
            parity["stored_logits_max_difference"] = float(np.abs(stored - theirs).max())
    _check_parity(run, parity)
    parity |= {"precision": "fp32", "onnx_sha256": "", "int8": None}
    if int8:
        assert source is not None
        smaller, tried = _try_int8(run, network, data, module, source, images, ours, progress)
        parity["int8"] = tried
        if tried["kept"]:
            data = smaller
            parity |= {"precision": "int8"}
    return parity, data


def _try_int8(
    run: Path,
    network: onnx.ModelProto,
    data: bytes,
    module: Normalised,
    source: Source,
    images: _Loaded,
    logits: FloatArray,
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    """Return the quantised model's bytes and whether it is worth keeping, with the figures that say so."""
    size = _network_size(network)
    progress("quantising", 0, 1)
    _, indices = choose_split(source, read_splits(run / "splits.csv", source.samples), "train")
    chosen = np.random.default_rng(0).permutation(indices)[:_CALIBRATION]
    small = np.stack([resize(source.image(int(index)).pixels, size) for index in chosen])
    mean, std = (value.numpy().reshape(3) for value in (module.mean, module.std))
    normalised = ((small.astype(np.float32) / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    smaller = assemble(quantise(network, normalised), module, size).SerializeToString(deterministic=True)
    progress("quantising", 1, 1)
    found = onnx_logits(smaller, images.read(), total=images.total, progress=progress)
    assert images.labels is not None
    before, after = _accuracy(logits, images.labels), _accuracy(found, images.labels)
    rates = time_in_turn({"fp32": data, "int8": smaller}, small[:_TIMED])
    lost, faster = 100.0 * (before - after), rates["int8"] / rates["fp32"]
    why = [f"they are slower here ({faster:.2f} times as fast)"] if faster <= 1.0 else []
    why += (
        [f"they lose {lost:.2f} points of accuracy, at most {_LOST_POINTS} are allowed"] if lost > _LOST_POINTS else []
    )
    return smaller, {
        "kept": not why,
        "reason": "; ".join(why) or f"{faster:.2f} times as fast, {lost:.2f} points lost",
        "accuracy": {"fp32": before, "int8": after},
        "labels_equal_share": float((found.argmax(axis=1) == logits.argmax(axis=1)).mean()),
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "timed": f"processor time of one thread, batches of 32 at {size} px, median of 7 rounds in turn",
        "bytes": {"fp32": len(data), "int8": len(smaller)},
        "calibrated_on": len(small),
    }


def _network_size(network: onnx.ModelProto) -> int:
    return int(network.graph.input[0].type.tensor_type.shape.dim[2].dim_value)


def _check_names(out: Path) -> Path:
    """Return where the sidecar goes; refuse names that would take the place of other files."""
    if out.suffix != ".onnx":
        raise ConfigError(f"output {out}", "must be named .onnx", "write for example --out model.onnx")
    beside = sidecar_path(out)
    if beside.exists() and "onnx_sha256" not in read_json(beside):
        step = "choose another name or directory in --out"
        raise ArtifactError(f"file {beside}", "exists already; the sidecar needs this name", step)
    return beside


def _find_source(run: Path, given: str | Path | None) -> Source | None:
    """Return what a run was trained on: as given, or where its contents are still the same under a name it had."""
    if given is not None:
        opened = open_source(given)
        read_splits(run / "splits.csv", opened.samples)
        return opened
    record = open_record(run, "train").facts
    words = list(record.get("argv") or [])
    named = words[words.index("train") + 1 :][:1] if "train" in words else []
    for path in (*map(Path, named), run.parent / "clean.npz", run.parent / "clean"):
        try:
            if path.exists() and (opened := open_source(path)).fingerprint() == record["inputs"].get("source"):
                return opened
        except UserError:
            continue  # what lies there now is something else
    return None


def _validation(run: Path, source: Source) -> _Loaded:
    labels, indices = choose_split(source, read_splits(run / "splits.csv", source.samples), "val")
    words = f"the {len(indices)} validation images of the run, in their own sizes"
    return _Loaded(partial(_read, source, indices), len(indices), labels, words)


def _read(source: Source, indices: Sequence[int]) -> Iterator[Images]:
    return (source.image(index).pixels for index in indices)


def _stand_ins(size: int) -> _Loaded:
    """Return rendered cells and noise of many sizes, the same on every call."""
    draw = np.random.default_rng(0)
    cells = synthetic_set(_STAND_INS // 8, size=72, seed=0, contamination=False).images
    assigned = draw.integers(8, 4 * size, (_STAND_INS, 2)).tolist()
    noise = [draw.integers(0, 256, (*side, 3), np.uint8) for side in assigned]
    words = (
        f"{len(cells)} rendered cells and {len(noise)} images of noise, seeded: the run's validation images are "
        "not at hand (name them with --source), and its stored logits cannot be compared without them"
    )
    return _Loaded(lambda: iter([*cells, *noise]), len(cells) + len(noise), None, words)


def _check_parity(run: Path, parity: dict[str, Any]) -> None:
    wrong = parity["n"] - parity["labels_equal"]
    rules = [f"predicts another label than torch for {wrong} of {parity['n']} images"] if wrong else []
    if parity["logits_max_difference"] > parity["logits_tolerance"]:
        rules.append(f"has logits {parity['logits_max_difference']:.2g} off, {parity['logits_tolerance']:.2g} allowed")
    if parity["resize"]["max_difference"]:
        rules.append(f"resizes otherwise than Pillow {parity['resize']['pillow']}, for which it was made to be exact")
    if rules:
        step = "nothing was written; please report it with the network's name and the versions in use"
        raise ArtifactError(f"export of {run}", "; ".join(rules), step)


def _sidecar(run: Path, loaded: LoadedModel, precision: str) -> dict[str, Any]:
    record = open_record(run, "train")
    limits = read_abstention(run) or confidence_rule(*read_validation(run))
    assert isinstance(loaded.module, Normalised)
    head = linear_head(loaded.module, loaded.image_size)
    return {
        "schema_version": SCHEMA_VERSION,
        "classes": list(loaded.classes),
        "image_size": loaded.image_size,
        "model": {
            "network": loaded.card["model"],
            "recipe": record.options.get("recipe"),
            "parameters": loaded.card["parameters"],
            "precision": precision,
        },
        "temperature": limits.temperature,
        "threshold": limits.confidence_limit,
        "abstention": limits.to_json(),
        "head": None if head is None else {"weight": array_to_json(head[0]), "bias": array_to_json(head[1])},
        "onnx_sha256": "",  # once the model is known that names the rest
        "run": {
            "config": record.json("config.json"),
            "seed": record.facts.get("seed"),
            "source_sha256": record.inputs.get("source"),
            "model_sha256": record.digest(_WEIGHTS),
            "version": record.facts.get("version"),
            "val_accuracy": loaded.card.get("val_accuracy"),
            "val_distorted_accuracy": loaded.card.get("val_distorted_accuracy"),
        },
        "exported_by": f"hemalens {version()}",
        "licence": "Apache-2.0",
        "intended_use": INTENDED_USE,
    }


def _accuracy(logits: FloatArray, labels: IntArray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
