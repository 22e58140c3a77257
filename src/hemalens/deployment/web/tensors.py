"""The Open Inference Protocol's tensors, JSON and binary, to pictures and back.

Nothing of a request becomes an array, or more objects than its limits allow, before types, counts and shape are known
to fit. Needs numpy only. The protocol: https://github.com/kserve/open-inference-protocol, version 2, REST, with its
extension "binary tensor data": a JSON head, whose length a header tells, and the tensors' bytes behind it.
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from hemalens.core.errors import DecodeError, RequestError
from hemalens.core.refusal import Judgement
from hemalens.core.types import FloatArray, Images
from hemalens.data.decode import check_size
from hemalens.deployment.web.limits import Limits

__all__ = [
    "EXTENSIONS",
    "HEAD_LENGTH",
    "INPUT",
    "OUTPUTS",
    "Framing",
    "TensorRequest",
    "answer_tensors",
    "read_framing",
    "read_tensors",
]

INPUT = "pictures"
OUTPUTS = {
    "probabilities": "FP32",
    "logits": "FP32",
    "predicted": "BYTES",
    "confidence": "FP32",
    "abstained": "BOOL",
    "reason": "BYTES",
}
"""What can be asked for -> its type in the protocol."""
EXTENSIONS = ("binary_tensor_data",)
HEAD_LENGTH = "inference-header-content-length"
"""The header that tells how many bytes of a body are JSON; the tensors' bytes follow."""
_STEP = "see /openapi.json for an example"
_UNPACK = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# What JSON may hold, counted before it is parsed: an empty list of 3 bytes costs 64 in memory, an empty object 72, a
# text 50 or more. A pixel in a list of its own, [0,0,0] and a comma, has 8 bytes.
_BYTES_A_LIST, _FEW_LISTS, _MOST_OBJECTS, _MOST_QUOTES = 7, 100, 1_000, 4_000


@dataclass(frozen=True, slots=True)
class Framing:
    """How a request's body is to be read: bytes of its JSON, all of it where None, and how it is packed."""

    head: int | None = None
    encoding: str = ""


@dataclass(frozen=True, slots=True)
class TensorRequest:
    """Pictures (N, H, W, 3) uint8, the outputs wanted (name -> whether as bytes), and the request's own id or None."""

    pictures: Images
    outputs: dict[str, bool]
    id: str | None


def read_framing(headers: Mapping[str, str]) -> Framing:
    """Return how the body of a request for inference is to be read; raise RequestError where it cannot be (400, 415).

    Clients differ: tritonclient names no content type or application/octet-stream, KServe's the latter, urllib that of
    a form; the extension's header, which no page of another site may send, tells enough.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", *_UNPACK):
        rule = f"must be one of {', '.join(_UNPACK)}"
        raise RequestError(415, f"content-encoding {encoding!r:.60}", rule, "leave it out")
    encoding = encoding if encoding in _UNPACK else ""
    length = headers.get(HEAD_LENGTH)
    if length is not None:
        if re.fullmatch("[0-9]{1,10}", length) is None:
            raise _wrong(f"{HEAD_LENGTH} {length!r:.60}", "must be the number of bytes of the body's JSON")
        return Framing(int(length), encoding)
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/octet-stream"):
        step = f"send tensors as JSON, or with the header {HEAD_LENGTH}"
        raise RequestError(415, f"content-type {kind!r:.80}", "must be application/json", step)
    return Framing(None, encoding)


def read_tensors(body: bytes, limits: Limits, framing: Framing | None = None) -> TensorRequest:
    """Parse a request for inference.

    Raises:
        RequestError: it is none of the protocol's form (400), or holds too much (413).
    """
    framing = framing or Framing()
    body = _unpacked(body, framing.encoding, limits.infer_bytes)
    head = len(body) if framing.head is None else framing.head
    if head > len(body):
        raise _wrong(f"{HEAD_LENGTH} {head:,}", f"is more than the body's {len(body):,} bytes")
    asked = _object(body[:head], limits.json_bytes)
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong("inputs", "must be a list of one tensor")
    name = asked.get("id")
    if not isinstance(name, str | None):
        raise _wrong("id", "must be a text")
    parameters = _parameters(asked, "parameters")
    outputs = _outputs(asked.get("outputs"), binary=_flag(parameters, "binary_data_output", False))
    pictures = _pictures(inputs[0], memoryview(body)[head:], limits)
    return TensorRequest(pictures, outputs, name or None)


def answer_tensors(
    request: TensorRequest, judged: Judgement, logits: FloatArray, classes: npt.NDArray[np.str_], model: str
) -> tuple[bytes, int | None]:
    """Return the answer in the protocol's form, and the bytes of its JSON where tensors follow behind that."""
    made: dict[str, Callable[[], npt.NDArray[Any]]] = {
        "probabilities": lambda: np.asarray(judged.probabilities),
        "logits": lambda: np.asarray(logits),
        "predicted": lambda: classes[judged.predicted],
        "confidence": lambda: np.asarray(judged.confidence),
        "abstained": lambda: judged.abstained,
        "reason": lambda: np.array(judged.reasons, object),
    }
    outputs, behind = [], []
    for name, binary in request.outputs.items():
        values = made[name]()
        output = {"name": name, "datatype": OUTPUTS[name], "shape": list(values.shape)}
        if binary:
            behind.append(_to_bytes(values, OUTPUTS[name]))
            outputs.append({**output, "parameters": {"binary_data_size": len(behind[-1])}})
        else:
            shown = values.astype(np.float64).round(6) if OUTPUTS[name] == "FP32" else values
            outputs.append({**output, "data": shown.ravel().tolist()})
    answer: dict[str, Any] = {"model_name": model, "outputs": outputs}
    head = json.dumps(answer if request.id is None else {**answer, "id": request.id}, ensure_ascii=True).encode()
    return (b"".join([head, *behind]), len(head)) if behind else (head, None)


def _to_bytes(values: npt.NDArray[Any], kind: str) -> bytes:
    """Return an output as the extension has it: little-endian and row by row, each text after its length."""
    if kind == "BYTES":
        texts = [str(value).encode() for value in values.ravel()]
        return b"".join(chain.from_iterable((len(text).to_bytes(4, "little"), text) for text in texts))
    return values.astype("<f4" if kind == "FP32" else np.bool_).tobytes()


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    if not encoding:
        return body
    unpacker = zlib.decompressobj(_UNPACK[encoding])
    try:
        found = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise _wrong("body", f"is not packed by {encoding} ({error})") from error
    if len(found) > most:
        raise RequestError(413, "body", f"unpacks to more than {most:,} bytes", "send fewer pictures at a time")
    if not unpacker.eof or unpacker.unused_data:
        raise _wrong("body", f"is cut short, or holds more than one stream of {encoding}")
    return found


def _object(text: bytes, most: int) -> dict[str, Any]:
    """Parse JSON that cannot cost more than some 15 bytes of memory for each of its own."""
    if len(text) > most:
        step = f"send fewer pictures at a time, or binary tensors, with the header {HEAD_LENGTH}"
        raise RequestError(413, "body", f"has {len(text):,} bytes of JSON, the limit is {most:,}", step)
    counts = {b"[": len(text) // _BYTES_A_LIST + _FEW_LISTS, b"{": _MOST_OBJECTS, b'"': _MOST_QUOTES}
    for sign, allowed in counts.items():
        if (found := text.count(sign)) > allowed:
            raise _wrong("body", f"holds {found:,} times {sign.decode()}, more than a tensor request of its size needs")
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong("body", f"is no JSON ({error})"[:200]) from error
    if not isinstance(asked, dict):
        raise _wrong("body", "must be a JSON object")
    return asked


def _pictures(tensor: dict[str, Any], behind: memoryview, limits: Limits) -> Images:
    if tensor.get("name") != INPUT:
        raise _wrong(f"input {_shown(tensor.get('name'))}", f"must be named '{INPUT}'")
    if tensor.get("datatype") != "UINT8":
        raise _wrong(f"datatype {_shown(tensor.get('datatype'))}", "must be UINT8")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or not all(type(side) is int and 1 <= side < 1 << 31 for side in shape)
        or shape[3] != 3
    ):
        raise _wrong(f"shape {_shown(shape)}", "must be [N, height, width, 3], none of them 0")
    size = _parameters(tensor, "parameters of the input").get("binary_data_size")
    if size is None:
        if len(behind):
            raise _wrong("body", f"holds {len(behind):,} bytes behind its JSON, which no binary_data_size announces")
        values: bytes | memoryview = _from_json(tensor.get("data"), shape)
    else:
        if "data" in tensor:
            raise _wrong("data", "must not be there with binary_data_size")
        if type(size) is not int or size != len(behind) or size != prod(shape):
            rule = f"must be the bytes of the shape, {prod(shape):,}, and behind the JSON are {len(behind):,}"
            raise _wrong(f"binary_data_size {_shown(size)}", rule)
        values = behind
    _check_amount(shape, limits)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _from_json(data: object, shape: Sequence[int]) -> bytes:
    """Return the values of a tensor, flat or nested as its shape says: level by level, each counted before it is."""
    rule = f"must be {prod(shape):,} whole numbers, flat or nested as the shape says"
    if type(data) is not list:
        raise _wrong("data", rule)
    level: list[Any] = data
    if len(level) == shape[0] and type(level[0]) is list:
        for side in shape[1:]:
            if not all(type(part) is list and len(part) == side for part in level):
                raise _wrong("data", rule)
            level = list(chain.from_iterable(level))
    if len(level) != prod(shape) or set(map(type, level)) != {int}:
        raise _wrong("data", rule)
    try:
        return bytes(level)
    except ValueError:
        shown = f"{_shown(min(level))} to {_shown(max(level))}"
        raise _wrong("data", f"holds {shown}, UINT8 is 0 to 255") from None


def _check_amount(shape: Sequence[int], limits: Limits) -> None:
    if shape[0] > limits.pictures:
        rule = f"holds {shape[0]:,} pictures, the limit is {limits.pictures:,}"
        raise RequestError(413, f"shape {shape!r:.60}", rule, "send fewer pictures at a time")
    if prod(shape[:3]) > limits.pixels:
        rule = f"has {prod(shape[:3]):,} pixels, the limit is {limits.pixels:,}"
        raise RequestError(413, f"shape {shape!r:.60}", rule, "send fewer pictures at a time")
    try:
        check_size((shape[2], shape[1]), limits.pixels, f"shape {shape!r:.60}")
    except DecodeError as error:
        raise RequestError(413, error.what, error.rule, error.step) from error


def _outputs(asked: object, *, binary: bool) -> dict[str, bool]:
    """Return the outputs wanted, each with whether it is to come as bytes."""
    if asked is None:
        asked = []
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        raise _wrong("outputs", "must be a list of objects with a name")
    found: dict[str, bool] = {}
    for one in asked:
        name = one.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            raise _wrong(f"output {_shown(name)}", f"must be one of {', '.join(OUTPUTS)}")
        found[name] = _flag(_parameters(one, "parameters of an output"), "binary_data", binary)
    return found or dict.fromkeys(OUTPUTS, binary)


def _parameters(one: dict[str, Any], what: str) -> dict[str, Any]:
    found = one.get("parameters")
    if found is None:  # some clients write null for what is not there
        return {}
    if not isinstance(found, dict):
        raise _wrong(what, "must be an object")
    return found


def _flag(parameters: dict[str, Any], name: str, otherwise: bool) -> bool:
    found = parameters.get(name, otherwise)
    if not isinstance(found, bool):
        raise _wrong(f"{name} {_shown(found)}", "must be true or false")
    return found


def _shown(value: object) -> str:
    """Return a value for a message, cut; of large numbers and lists not even the text is made."""
    if isinstance(value, list) and any(type(part) is int and part.bit_length() > 128 for part in value):
        return "of large numbers"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 128 bits"
    if isinstance(value, (list, dict)) and (len(value) > 10 or not all(type(part) is int for part in value)):
        return f"of {len(value):,} parts"  # which may be nested too deep for repr
    return f"{value!r:.60}"


def _wrong(what: str, rule: str) -> RequestError:
    return RequestError(400, what, rule, _STEP)
