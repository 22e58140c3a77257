"""The API in OpenAPI's words: what is asked, what is answered, with examples of the model that is served.

Standard library only.
"""

from collections.abc import Sequence
from typing import Any

from hemalens.deployment.web.tensors import HEAD_LENGTH, INPUT, OUTPUTS

__all__ = ["ERRORS", "infer_body", "infer_errors", "metadata_schema", "predict_operation", "responses"]

_TEXT = {"type": "string"}
_NUMBERS = {"type": "array", "items": {"type": "integer"}}
ERRORS = {
    400: "The request is malformed.",
    403: "The request comes from another site's page.",
    404: "There is no such model.",
    408: "The body came too slowly.",
    413: "Too many bytes, pictures or pixels.",
    415: "No picture of a known format, or a content type that is not taken.",
    421: "The host is none of this server's names.",
    422: "A parameter or a picture cannot be understood.",
    503: "Too much waits already, or the server is stopping; Retry-After says when to ask again.",
}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "What, the rule it breaks, and what to do next."}},
    "required": ["error"],
    "example": {"error": "picture 'notes.txt': is text, not a picture; save it as PNG, JPEG, BMP, TIFF, WebP or GIF"},
}


def responses(schema: dict[str, Any], example: object, errors: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    """Return a path's answers: one schema with an example, and the errors that it may give."""
    found: dict[int | str, dict[str, Any]] = {
        200: {"description": "Done.", "content": {"application/json": {"schema": schema, "example": example}}}
    }
    for status in errors:
        found[status] = {"description": ERRORS[status], "content": {"application/json": {"schema": _ERROR}}}
    return found


def predict_operation(classes: Sequence[str], model: str) -> dict[str, Any]:
    """Return all of ``/v1/predict``."""
    flag = {"name": "heat_maps", "in": "query", "required": False, "schema": {"type": "boolean", "default": False}}
    answers = {str(status): answer for status, answer in _predict_answers(classes, model).items()}
    return {
        "tags": ["hemalens"],
        "summary": "Answer one or more pictures, or zips of them",
        "operationId": "predict",
        "parameters": [flag | {"description": "Also return each picture, small, and its heat map."}],
        **_predict_body(),
        "responses": answers,
    }


def _predict_body() -> dict[str, Any]:
    """Return what ``/v1/predict`` takes."""
    file = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "properties": {"files": {"type": "array", "items": file, "minItems": 1, "description": "Pictures, or zips."}},
        "required": ["files"],
    }
    kinds = ("image/jpeg", "image/png", "image/*", "application/zip", "application/octet-stream")
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content | {kind: {"schema": file} for kind in kinds}}}


def _predict_answers(classes: Sequence[str], model: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of ``/v1/predict``."""
    share = 1 / len(classes)
    nothing = {"type": ["number", "null"]}
    row = {
        "type": "object",
        "properties": {
            "sample_id": _TEXT | {"description": "The file's name; of members of a zip with their folder."},
            "predicted": {"type": ["string", "null"], "enum": [*classes, None]},
            "confidence": nothing | {"description": "The largest probability, calibrated."},
            "abstained": {"type": "boolean", "description": "True where nothing is claimed."},
            "reason": _TEXT | {"description": "Why; empty where the answer stands."},
            **{f"p_{name}": {"type": "number"} for name in classes},
            "width": {"type": "integer"},
            "height": {"type": "integer"},
            "picture": _TEXT | {"description": "With heat_maps: the picture, small, as a data: address."},
            "heat_map": {
                "type": ["string", "null"],
                "description": "With heat_maps: what speaks for the class, over the picture, as a data: address.",
            },
            "error": _TEXT | {"description": "Of an unreadable picture: what is wrong, and what to do next."},
        },
        "required": ["sample_id", "predicted", "confidence", "abstained", "reason"],
    }
    schema = {
        "type": "object",
        "properties": {
            "model": _TEXT,
            "classes": {"type": "array", "items": _TEXT},
            "predictions": {"type": "array", "items": row},
            "intended_use": _TEXT,
        },
        "required": ["model", "classes", "predictions"],
    }
    example_row = {
        "sample_id": "cell.jpg",
        "predicted": classes[0],
        "confidence": 0.98,
        "abstained": False,
        "reason": "",
        **{f"p_{name}": round(share, 3) for name in classes[1:]},
        f"p_{classes[0]}": 0.98,
        "width": 360,
        "height": 363,
    }
    example = {"model": model, "classes": list(classes), "predictions": [example_row]}
    return responses(schema, example, (400, 403, 408, 413, 415, 421, 422, 503))


def infer_body() -> dict[str, Any]:
    """Return what the protocol's ``infer`` takes."""
    free = {"type": ["object", "null"]}
    side = {"type": "integer", "minimum": 1}
    tensor = {
        "type": "object",
        "properties": {
            "name": {"const": INPUT},
            "shape": {
                "type": "array",
                "prefixItems": [side, side, side, {"const": 3}],
                "items": False,
                "minItems": 4,
                "maxItems": 4,
            },
            "datatype": {"const": "UINT8"},
            "data": {"type": "array", "description": "Whole numbers 0-255, flat or nested as the shape says."},
            "parameters": {
                "type": ["object", "null"],
                "properties": {
                    "binary_data_size": {
                        "type": "integer",
                        "description": "Bytes behind the JSON in the place of data (binary_tensor_data).",
                    }
                },
            },
        },
        "required": ["name", "shape", "datatype"],
    }
    wanted = {
        "type": "object",
        "properties": {"name": {"enum": list(OUTPUTS)}, "parameters": free},
        "required": ["name"],
    }
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": free,
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": {"type": ["array", "null"], "items": wanted},
        },
        "required": ["inputs"],
    }
    pixels = [[[200, 180, 210], [120, 60, 150]]]
    example = {"inputs": [{"name": INPUT, "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": [pixels]}]}
    content: dict[str, Any] = {"application/json": {"schema": schema, "example": example}}
    behind = f"JSON as above, of as many bytes as the header {HEAD_LENGTH} says, and the tensor's bytes behind it."
    content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary", "description": behind}}
    return {"requestBody": {"required": True, "content": content}}


def infer_errors(classes: Sequence[str], model: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of the protocol's ``infer``."""
    tensor = {
        "type": "object",
        "properties": {
            "name": {"enum": list(OUTPUTS)},
            "datatype": _TEXT,
            "shape": _NUMBERS,
            "data": {"type": "array"},
        },
        "required": ["name", "datatype", "shape", "data"],
    }
    schema = {
        "type": "object",
        "properties": {"model_name": _TEXT, "id": _TEXT, "outputs": {"type": "array", "items": tensor}},
        "required": ["model_name", "outputs"],
    }
    outputs = [{"name": "predicted", "datatype": "BYTES", "shape": [1], "data": [classes[0]]}]
    example = {"model_name": model, "outputs": outputs}
    return responses(schema, example, (400, 403, 404, 408, 413, 415, 421, 422, 503))


def metadata_schema() -> dict[str, Any]:
    """Return the schema of a model's metadata."""
    tensor = {"type": "object", "properties": {"name": _TEXT, "datatype": _TEXT, "shape": _NUMBERS}}
    tensors = {"type": "array", "items": tensor}
    return {
        "type": "object",
        "properties": {"name": _TEXT, "platform": _TEXT, "inputs": tensors, "outputs": tensors},
        "required": ["name", "platform", "inputs", "outputs"],
    }
