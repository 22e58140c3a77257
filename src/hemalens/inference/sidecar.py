"""What stands beside an exported model: its classes, size, calibration, refusal and hash, as JSON.

Needs numpy only; no torch, no onnxruntime.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hemalens.core.abstention import Abstention
from hemalens.core.artifacts import read_json
from hemalens.core.errors import ArtifactError
from hemalens.core.types import FloatArray

__all__ = [
    "EMBEDDED",
    "INTENDED_USE",
    "SCHEMA_VERSION",
    "Sidecar",
    "array_from_json",
    "array_to_json",
    "find_onnx",
    "read_exported",
    "sidecar_path",
]

EMBEDDED = "embedded"
SCHEMA_VERSION = 2
INTENDED_USE = "For research and teaching. Not for diagnosis."
_AGAIN = "export the run again: hemalens export RUN --out FILE.onnx"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What must be known to use an exported model.

    Attributes:
        classes: names in the order of the logits.
        image_size: pixels per side that the network sees.
        abstention: temperature and limits, for ``core.abstention.judge``.
        head: weight (C, D) and bias (C,) of a linear layer on the mean of the last map, or None.
        facts: all of the file.
    """

    classes: tuple[str, ...]
    image_size: int
    abstention: Abstention
    head: tuple[FloatArray, FloatArray] | None
    facts: dict[str, Any]


def sidecar_path(model: Path) -> Path:
    """Return where the sidecar of an ONNX file lies: beside it, under its name with .json."""
    return model.with_suffix(".json")


def find_onnx(model: str | Path) -> Path:
    """Return the file of ``embedded`` or of a path; raise ArtifactError where it is not there."""
    if str(model) == EMBEDDED:
        path = Path(str(files("hemalens"))) / "pretrained" / "embedded.onnx"
        if not path.is_file():
            step = "give a model of your own: --model RUN or --model FILE.onnx"
            raise ArtifactError("model embedded", "is not part of this installation", step)
        return path
    path = Path(model)
    if path.is_dir():
        step = f"export it first: hemalens export {path} --out {path.name}.onnx"
        raise ArtifactError(f"model {path}", "is a directory, an .onnx file is needed here", step)
    if not path.is_file():
        raise ArtifactError(f"model {path}", "does not exist", "give an .onnx file that hemalens export wrote")
    return path


def read_exported(path: Path) -> tuple[bytes, Sidecar]:
    """Return the bytes of an ONNX file and its sidecar.

    Raises ArtifactError where one is missing, damaged, of another version or of another file.
    """
    beside = sidecar_path(path)
    if not beside.is_file():
        raise ArtifactError(f"model {path}", f"has no sidecar {beside.name} beside it", f"put it back, or {_AGAIN}")
    facts = read_json(beside)
    if facts.get("schema_version") != SCHEMA_VERSION:
        rule = f"has schema_version {facts.get('schema_version')!r}, this version of hemalens reads {SCHEMA_VERSION}"
        raise ArtifactError(f"sidecar {beside}", rule, _AGAIN)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"model {path}", f"cannot be read ({error.strerror})", "check its permissions") from error
    if hashlib.sha256(data).hexdigest() != facts.get("onnx_sha256"):
        rule = f"is damaged or not the one of {beside.name}: its SHA-256 is another"
        raise ArtifactError(f"model {path}", rule, f"copy both files again, or {_AGAIN}")
    return data, _parse(facts, beside)


def array_to_json(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array as JSON: its type, shape and little-endian bytes in base64."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    text = base64.b64encode(plain.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": text}


def array_from_json(value: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the array that ``array_to_json`` wrote; raise ValueError, KeyError or TypeError where it is damaged.

    >>> array_from_json(array_to_json(np.eye(2, dtype=np.float32))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    kind = np.dtype(str(value["dtype"]))
    if kind.kind not in "biuf":
        raise ValueError(f"arrays of {kind} are not read")
    data = base64.b64decode(value["base64"], validate=True)
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(value["shape"]).astype(kind)


def _parse(facts: dict[str, Any], path: Path) -> Sidecar:
    try:
        head = facts["head"]
        read = Sidecar(
            tuple(str(name) for name in facts["classes"]),
            int(facts["image_size"]),
            _abstention(facts),
            None if head is None else (array_from_json(head["weight"]), array_from_json(head["bias"])),
            facts,
        )
    except KeyError as error:
        raise ArtifactError(f"sidecar {path}", f"lacks the key {error}", _AGAIN) from error
    except (TypeError, ValueError, binascii.Error) as error:
        raise ArtifactError(f"sidecar {path}", f"holds a value of another kind ({error})", _AGAIN) from error
    if len(read.classes) < 1 or read.image_size < 1 or not read.abstention.temperature > 0:
        raise ArtifactError(f"sidecar {path}", "has no classes, no size or no temperature above 0", _AGAIN)
    return read


def _abstention(facts: Mapping[str, Any]) -> Abstention:
    """Return the refusal that was exported, or one by confidence alone where there was none."""
    if facts["abstention"] is not None:
        return Abstention.from_json(facts["abstention"])
    everything = np.ones(len(facts["classes"]), np.float32)
    return Abstention(float(facts["temperature"]), 0.05, 0.0, float(facts["threshold"]), everything, None)
