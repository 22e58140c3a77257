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

from hemalens.core.errors import ArtifactError
from hemalens.core.refusal import Refusal
from hemalens.core.strict_json import canonical_json, read_json
from hemalens.core.types import FloatArray
from hemalens.deployment.onnx_metadata import read_metadata

__all__ = [
    "DIGEST_KEY",
    "EMBEDDED",
    "INTENDED_USE",
    "SCHEMA_VERSION",
    "Sidecar",
    "array_from_json",
    "array_to_json",
    "find_onnx",
    "parse_sidecar",
    "read_exported",
    "sidecar_digest",
    "sidecar_path",
]

EMBEDDED = "embedded"
DIGEST_KEY = "hemalens_sidecar_sha256"
"""Under which key an ONNX file names the digest of its sidecar."""
SCHEMA_VERSION = 1
INTENDED_USE = "For research and teaching. Not for diagnosis."
_LARGEST_SIDE = 4096  # pixels
_LONGEST = 1 << 31  # of an axis
_TINIEST, _HOTTEST = 1e-6, 1e30  # temperatures; fitted ones lie between 0.05 and 20
_AGAIN = "export the run again: hemalens export RUN --out FILE.onnx"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What must be known to use an exported model.

    Attributes:
        classes: names in the order of the logits.
        image_size: pixels per side that the network sees.
        refusal: temperature and limits, for ``core.refusal.judge``.
        head: weight (C, D) and bias (C,) of a linear layer on the mean of the last map, or None.
        facts: all of the file.
    """

    classes: tuple[str, ...]
    image_size: int
    refusal: Refusal
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
    """Return the bytes of an ONNX file and its sidecar, once each was found to be the one that the other names.

    Raises ArtifactError where one is missing, damaged, of another version or of another file.
    """
    beside = sidecar_path(path)
    if not beside.is_file():
        raise ArtifactError(f"model {path}", f"has no sidecar {beside.name} beside it", f"put it back, or {_AGAIN}")
    facts = read_json(beside, step=_AGAIN)
    if facts.get("schema_version") != SCHEMA_VERSION:
        rule = f"has schema_version {facts.get('schema_version')!r:.40}, this hemalens reads {SCHEMA_VERSION}"
        raise ArtifactError(f"sidecar {beside}", rule, _AGAIN)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"model {path}", f"cannot be read ({error.strerror})", "check its permissions") from error
    if hashlib.sha256(data).hexdigest() != facts.get("onnx_sha256"):
        rule = f"is damaged or not the one of {beside.name}: its SHA-256 is another"
        raise ArtifactError(f"model {path}", rule, f"copy both files again, or {_AGAIN}")
    try:
        named = read_metadata(data).get(DIGEST_KEY)
    except ValueError as error:
        raise ArtifactError(f"model {path}", f"is no ONNX file ({error})", _AGAIN) from error
    if named is None:
        rule = "is of an earlier version of hemalens: it does not name its sidecar, which anybody could have changed"
        raise ArtifactError(f"model {path}", rule, _AGAIN)
    if named != sidecar_digest(facts):
        rule = f"is not the one that {path.name} names: it was changed after the export"
        raise ArtifactError(f"sidecar {beside}", rule, f"copy both files again, or {_AGAIN}")
    return data, parse_sidecar(facts, beside)


def sidecar_digest(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a sidecar says, without the hash of the ONNX file that names this digest in turn."""
    content = {key: value for key, value in facts.items() if key != "onnx_sha256"}
    return hashlib.sha256(canonical_json(content)).hexdigest()


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
    kind, shape = np.dtype(str(value["dtype"])), value["shape"]
    if kind.kind not in "biuf":
        raise ValueError(f"arrays of {kind} are not read")
    if not isinstance(shape, list) or not all(type(side) is int and 0 <= side < _LONGEST for side in shape):
        raise ValueError(f"shape {shape!r:.40}")
    data = base64.b64decode(value["base64"], validate=True)
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape).astype(kind)


def parse_sidecar(facts: dict[str, Any], path: Path) -> Sidecar:
    """Return what a sidecar says; raise ArtifactError naming the first value that cannot be meant."""
    what = f"sidecar {path}"
    try:
        rule = _broken_rule(facts)
        head = None if rule or facts["head"] is None else _head(facts)
        refusal = _refusal(facts) if not rule else None
        if refusal is not None:
            rule = _unfitting(facts, refusal, head)
    except ArtifactError as error:
        raise ArtifactError(what, f"{error.what} {error.rule}", _AGAIN) from error
    except KeyError as error:
        raise ArtifactError(what, f"lacks the key {error}", _AGAIN) from error
    except (TypeError, ValueError, OverflowError, AttributeError, binascii.Error) as error:
        raise ArtifactError(what, f"holds a value of another kind ({error!s:.100})", _AGAIN) from error
    if rule or refusal is None:
        raise ArtifactError(what, rule or "holds no limits", _AGAIN)
    return Sidecar(tuple(facts["classes"]), facts["image_size"], refusal, head, facts)


def _broken_rule(facts: Mapping[str, Any]) -> str | None:
    """Return which rule a sidecar's plain values break."""
    classes, size = facts["classes"], facts["image_size"]
    if not isinstance(classes, list) or not classes or not all(isinstance(one, str) and one for one in classes):
        return f"must hold a list of names as 'classes', it holds {classes!r:.60}"
    if len(set(classes)) < len(classes):
        return f"names the class {next(one for one in classes if classes.count(one) > 1)!r} twice"
    if type(size) is not int or not 0 < size <= _LARGEST_SIDE:
        return f"must hold a whole number from 1 to {_LARGEST_SIDE:,} as 'image_size', it holds {size!r:.40}"
    for name, least, most in (("temperature", _TINIEST, _HOTTEST), ("threshold", 0.0, 1.0)):
        value = facts[name]
        if type(value) not in (int, float) or not least <= value <= most:  # NaN is in no interval
            return f"must hold a number from {least:g} to {most:g} as {name!r}, it holds {value!r:.40}"
    for name in ("model", "run"):
        if not isinstance(facts[name], dict):
            return f"must hold an object as {name!r}, it holds {facts[name]!r:.40}"
    return None


def _head(facts: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    weight, bias = (array_from_json(facts["head"][name]) for name in ("weight", "bias"))
    classes = len(facts["classes"])
    fits = weight.ndim == 2 and len(weight) == classes and bias.shape == (classes,)
    if not fits or weight.dtype != np.float32 or bias.dtype != np.float32:
        raise ValueError(f"head of {weight.shape} {weight.dtype} and {bias.shape} {bias.dtype}")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError("head that is not finite")
    return weight, bias


def _refusal(facts: Mapping[str, Any]) -> Refusal:
    """Return the refusal that was exported, or one by confidence alone where there was none."""
    if facts["refusal"] is not None:
        return Refusal.from_json(facts["refusal"])
    everything = np.ones(len(facts["classes"]), np.float32)
    return Refusal(float(facts["temperature"]), 0.05, 0.0, float(facts["threshold"]), everything, None)


def _unfitting(facts: Mapping[str, Any], refusal: Refusal, head: tuple[FloatArray, FloatArray] | None) -> str | None:
    """Return which values contradict each other."""
    if len(refusal.set_thresholds) != len(facts["classes"]):
        return f"has limits for {len(refusal.set_thresholds)} classes and names {len(facts['classes'])}"
    if (refusal.temperature, refusal.confidence_limit) != (facts["temperature"], facts["threshold"]):
        return "holds two temperatures or two thresholds, its own and those of its refusal"
    known = [part.means.shape[1] for part in (refusal.gaussians, refusal.home) if part is not None]
    if head is not None and any(width != head[0].shape[1] for width in known):
        return f"has a head of width {head[0].shape[1]} and limits of width {known[0]}"
    return None
