"""Training state and trained models on disk: safetensors and JSON, never pickle.

A plain load of safetensors accepts most flipped bits silently, so nothing is read whose hash does not match. A finished
model's hashes are in its directory's record. Checkpoints are there before any record is: each has its SHA-256 beside
it and names the plan that it is of. The last two are kept: a damaged one is named in a warning and the one before it
is used.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from hemalens.core.abstention import Abstention
from hemalens.core.artifacts import write_atomically, write_json, write_text
from hemalens.core.errors import ArtifactError
from hemalens.core.provenance import sha256_file
from hemalens.core.recorded import Recorded, open_record
from hemalens.core.strict_json import parse_json
from hemalens.core.types import FloatArray, IntArray
from hemalens.training.models import Normalised, build_model

__all__ = [
    "PLAN",
    "LoadedModel",
    "latest_checkpoint",
    "load_model",
    "model_directory",
    "optimizer_tensors",
    "read_abstention",
    "read_tensors",
    "read_validation",
    "restore_optimizer",
    "save_checkpoint",
    "save_model",
    "save_validation",
    "write_tensors",
]

PLAN = "plan.json"
"""What a directory of checkpoints says that they are of."""
_LOG = logging.getLogger(__name__)
_KEPT = 2
_STATE, _OF = "state", "plan_sha256"
_DATA, _HASH = "epoch-*.safetensors", ".sha256"
# What a process that was killed while it saved leaves behind: the names that write_atomically gives.
_LEFT_OVER = re.compile(r"\.epoch-\d+\.safetensors(\.sha256)?\.\w{8}\.tmp")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained model and what must be known to use it.

    Attributes:
        module: images (N, 3, S, S) float in [0, 1] to logits (N, C); in evaluation mode, on the CPU.
        classes: names in the order of its logits.
        image_size: pixels per side it was trained on.
        card: everything ``model.json`` says.
    """

    module: nn.Module
    classes: tuple[str, ...]
    image_size: int
    card: dict[str, Any]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors atomically with their hash beside them; the hash is there before the file is."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    data = save(plain, dict(metadata) if metadata else None)
    write_text(_hash_path(path), hashlib.sha256(data).hexdigest() + "\n")
    write_atomically(path, lambda file: file.write(data))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a file whose hash matches; raise ArtifactError naming the file otherwise."""
    try:
        data = path.read_bytes()
        expected = _hash_path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"file {path}", f"cannot be read with its .sha256 ({error})", "train again") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise ArtifactError(f"file {path}", "is damaged: its SHA-256 is not the recorded one", "use another checkpoint")
    return _parse(data, path)


def _parse(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    what = f"file {path}"
    length = int.from_bytes(data[:8], "little")
    metadata = parse_json(data[8 : 8 + length], what, step="train again").get("__metadata__", {})
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise ArtifactError(what, f"is not a safetensors file ({error})", "train again") from error
    return tensors, metadata if isinstance(metadata, dict) else {}


def save_checkpoint(directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, epoch: int) -> Path:
    """Write the state after an epoch and remove all but it and the one before; return the file written.

    Files of later epochs go too: they are damaged ones that were passed over. So does what killed saves left behind.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.iterdir():
        if _LEFT_OVER.fullmatch(left.name):
            left.unlink()
    path = directory / f"epoch-{epoch:04d}.safetensors"
    write_tensors(path, tensors, {_STATE: json.dumps(dict(state)), _OF: _plan_digest(directory)})
    found = sorted(directory.glob(_DATA))
    kept = [other for other in found if other <= path][-_KEPT:]
    for old in set(found) - set(kept):
        old.unlink()
    for beside in directory.glob(_DATA + _HASH):
        if not beside.with_name(beside.name.removesuffix(_HASH)).exists():
            beside.unlink()
    return path


def latest_checkpoint(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and state of the newest checkpoint that is whole, None where there is none.

    A damaged one is passed over with a warning that names it; another warning says where all are damaged, since
    training starts from the beginning then.
    """
    found = sorted(directory.glob(_DATA), reverse=True)
    for path in found:
        try:
            tensors, metadata = read_tensors(path)
            if _STATE not in metadata:
                _LOG.warning("checkpoint skipped: file %s: holds no state of a training", path)
            elif metadata.get(_OF, "") != _plan_digest(directory):
                _LOG.warning("checkpoint skipped: file %s: is of another training than %s", path, PLAN)
            else:
                return tensors, parse_json(metadata[_STATE].encode(), f"file {path}", step="use another checkpoint")
        except ArtifactError as error:
            _LOG.warning("checkpoint skipped: %s", error)
    if found:
        _LOG.warning("no checkpoint in %s is whole: training starts from the beginning", directory)
    return None


def save_model(run: Path, module: nn.Module, card: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` (weights) and ``model.json`` (what must be known to use them)."""
    _write_plain(run / "model.safetensors", module.state_dict())
    write_json(run / "model.json", card)


def save_validation(run: Path, logits: FloatArray, labels: IntArray) -> None:
    """Write the validation logits (N, C) and labels (N,) of the chosen epoch: calibration is fitted on them."""
    tensors = {"logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels)}
    _write_plain(run / "validation.safetensors", tensors)


def read_validation(run: Path) -> tuple[FloatArray, IntArray]:
    """Return the validation logits (N, C) float32 and labels (N,) int64 of a finished run."""
    tensors = _recorded(open_record(run, "train"), "validation.safetensors")
    logits, labels = (tensors.get(name, torch.empty(0)) for name in ("logits", "labels"))
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        rule = "holds no logits (N, C) and labels (N,)"
        raise ArtifactError(f"file {run / 'validation.safetensors'}", rule, "train again")
    return logits.numpy(), labels.numpy()


def read_abstention(run: Path) -> Abstention | None:
    """Return when a finished run's model refuses; None for a run of before, which recorded no such file."""
    record = open_record(run, "train")
    return Abstention.from_json(record.json("abstention.json")) if record.has("abstention.json") else None


def model_directory(run: Path) -> Path:
    """Return where the model of a run lies: the directory itself, or ``train`` inside a whole run's directory."""
    nested = run / "train"
    return nested if not (run / "model.json").exists() and (nested / "model.json").exists() else run


def load_model(run: Path) -> LoadedModel:
    """Return the trained model of a finished run directory (or of the ``train`` directory inside it)."""
    run = model_directory(run)
    record = open_record(run, "train")
    card = record.json("model.json", {"model": str, "classes": list, "image_size": int})
    tensors = _recorded(record, "model.safetensors")
    network = build_model(card["model"], len(card["classes"]), image_size=int(card["image_size"]))
    module = Normalised(network, torch.zeros(3), torch.ones(3), by_image=card.get("normalise") == "image")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        rule = f"does not fit the network {card['model']} ({str(error).splitlines()[0]})"
        raise ArtifactError(f"file {run / 'model.safetensors'}", rule, "train again") from error
    module.eval()
    return LoadedModel(
        module,
        tuple(card["classes"]),
        int(card["image_size"]),
        card,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value for index, slots in state.items() for name, value in slots.items() if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put named tensors back into an optimizer over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _write_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    data = save({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()})
    write_atomically(path, lambda file: file.write(data))


def _recorded(record: Recorded, name: str) -> dict[str, Tensor]:
    """Return the tensors of a file whose hash is the one that its directory recorded."""
    return _parse(record.bytes(name), record.home / name)[0]


def _plan_digest(directory: Path) -> str:
    """Return the SHA-256 of the plan beside checkpoints, empty where there is none."""
    plan = directory / PLAN
    return sha256_file(plan) if plan.is_file() else ""


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + _HASH)
