"""The Open Inference Protocol's tensors (JSON) to images and back.

Needs numpy only. The protocol: https://github.com/kserve/open-inference-protocol, version 2, REST.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from hemalens.core.abstention import Judgement
from hemalens.core.errors import RequestError
from hemalens.core.types import FloatArray, Images

__all__ = ["INPUT", "OUTPUTS", "TensorRequest", "answer_tensors", "read_tensors"]

INPUT = "images"
OUTPUTS = {
    "probabilities": "FP32",
    "logits": "FP32",
    "predicted": "BYTES",
    "confidence": "FP32",
    "abstained": "BOOL",
    "reason": "BYTES",
}
"""What can be asked for -> its type in the protocol."""
_STEP = "see /openapi.json for an example"


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """Images (N, H, W, 3) uint8, the names of the outputs wanted, and the request's own id or None."""

    images: Images
    outputs: tuple[str, ...]
    id: str | None


def read_tensors(body: bytes, max_pixels: int) -> TensorRequest:
    """Parse a request for inference.

    Raises:
        RequestError: it is no JSON of the protocol's form (400), or holds too many pixels (413).
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _wrong("body", f"is no JSON ({error})"[:200]) from error
    if not isinstance(asked, dict):
        raise _wrong("body", "must be a JSON object")
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong("inputs", "must be a list of one tensor")
    name = asked.get("id", "")
    if not isinstance(name, str):
        raise _wrong("id", "must be a text")
    for one, index in ((asked, "parameters"), (inputs[0], "parameters of the input")):
        if not isinstance(one.get("parameters", {}), dict):
            raise _wrong(index, "must be an object")
    outputs = _outputs(asked.get("outputs", []))
    return TensorRequest(_images(inputs[0], max_pixels), outputs, name or None)


def answer_tensors(
    request: TensorRequest, judged: Judgement, logits: FloatArray, classes: npt.NDArray[np.str_], model: str
) -> bytes:
    """Return the answer in the protocol's form, as JSON."""
    made: dict[str, Callable[[], Any]] = {
        "probabilities": lambda: np.asarray(judged.probabilities, np.float64).round(6),
        "logits": lambda: np.asarray(logits, np.float64).round(6),
        "predicted": lambda: classes[judged.predicted],
        "confidence": lambda: np.asarray(judged.confidence, np.float64).round(6),
        "abstained": lambda: judged.abstained,
        "reason": lambda: np.array(judged.reasons, object),
    }
    outputs = []
    for name in request.outputs:
        values = made[name]()
        data = values.ravel().tolist()
        outputs.append({"name": name, "datatype": OUTPUTS[name], "shape": list(values.shape), "data": data})
    answer: dict[str, Any] = {"model_name": model, "outputs": outputs}
    return json.dumps(answer if request.id is None else {**answer, "id": request.id}, ensure_ascii=True).encode()


def _images(tensor: dict[str, Any], max_pixels: int) -> Images:
    if tensor.get("name") != INPUT:
        raise _wrong(f"input {tensor.get('name')!r:.60}", f"must be named '{INPUT}'")
    if tensor.get("datatype") != "UINT8":
        raise _wrong(f"datatype {tensor.get('datatype')!r:.60}", "must be UINT8")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or not all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side < 1 << 31 for side in shape)
        or shape[3] != 3
    ):
        raise _wrong(f"shape {shape!r:.60}", "must be [N, height, width, 3], none of them 0")
    data = tensor.get("data")
    try:
        values = np.asarray(data if isinstance(data, list) else None)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _wrong("data", "must be whole numbers, flat or nested as the shape says") from error
    if values.dtype.kind not in "iu" or values.size != prod(shape) or values.shape not in ((values.size,), (*shape,)):
        raise _wrong("data", f"must be {prod(shape):,} whole numbers, flat or nested as the shape says")
    if int(values.min()) < 0 or int(values.max()) > 255:
        raise _wrong("data", f"holds {int(values.min())} to {int(values.max())}, UINT8 is 0 to 255")
    if prod(shape[:3]) > max_pixels:
        rule = f"has {prod(shape[:3]):,} pixels, the limit is {max_pixels:,}"
        raise RequestError(413, f"shape {shape!r:.60}", rule, "send fewer images at a time")
    return values.astype(np.uint8).reshape(shape)


def _outputs(asked: object) -> tuple[str, ...]:
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        raise _wrong("outputs", "must be a list of objects with a name")
    names: Sequence[Any] = [one.get("name") for one in asked]
    for one, name in zip(asked, names, strict=True):
        if not isinstance(name, str) or name not in OUTPUTS:
            raise _wrong(f"output {name!r:.60}", f"must be one of {', '.join(OUTPUTS)}")
        if not isinstance(one.get("parameters", {}), dict):
            raise _wrong("parameters of an output", "must be an object")
    return tuple(dict.fromkeys(names)) or tuple(OUTPUTS)


def _wrong(what: str, rule: str) -> RequestError:
    return RequestError(400, what, rule, _STEP)
