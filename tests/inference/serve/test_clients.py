"""Clients that others wrote, at their own defaults, against a running server."""

import asyncio
import gzip
import json
import struct
import urllib.request
from typing import Any

import numpy as np
import pytest

from hemalens.inference.model import Model
from hemalens.inference.serve.tensors import OUTPUTS
from tests.exported import Exported
from tests.inference.serve.conftest import Cells, Server, encode, form

triton = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


@pytest.fixture(scope="module")
def wanted(exported: Exported, cells: Cells) -> Any:
    return Model.open(exported.onnx, threads=1).judge(np.stack(cells.kept))


def given(cells: Cells, *, binary: bool = True) -> list[Any]:
    images = np.stack(cells.kept)
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


def test_tritonclient_finds_the_server_and_its_model(client: Any, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(server.model)
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.get_model_metadata(server.model)["inputs"][0]["name"] == "images"


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_tritonclient_at_its_defaults_sends_and_gets_bytes(
    client: Any, server: Server, cells: Cells, wanted: Any, packed: str | None
) -> None:
    result = client.infer(
        server.model,
        given(cells),
        request_id="7",
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    said = result.get_response()
    assert said["id"] == "7"
    assert [one["name"] for one in said["outputs"]] == list(OUTPUTS)
    assert all("data" not in one for one in said["outputs"])
    np.testing.assert_allclose(result.as_numpy("probabilities"), wanted.probabilities, atol=1e-6)
    assert result.as_numpy("abstained").tolist() == wanted.abstained.tolist()
    assert [text.decode() for text in result.as_numpy("reason")] == list(wanted.reasons)
    classes = json.loads(json.dumps(client.get_model_metadata(server.model)))["parameters"]["classes"]
    assert [text.decode() for text in result.as_numpy("predicted")] == [classes[index] for index in wanted.predicted]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritonclient_may_mix_json_and_bytes(
    client: Any, server: Server, cells: Cells, wanted: Any, binary_in: bool, binary_out: bool
) -> None:
    outputs = [
        triton.InferRequestedOutput("confidence", binary_data=binary_out),
        triton.InferRequestedOutput("logits", binary_data=True),
    ]
    result = client.infer(server.model, given(cells, binary=binary_in), outputs=outputs)
    np.testing.assert_allclose(result.as_numpy("confidence"), wanted.confidence, atol=1e-6)
    assert result.as_numpy("logits").shape == wanted.probabilities.shape
    assert result.as_numpy("reason") is None


def test_tritonclient_in_asyncio_names_octet_stream(server: Server, cells: Cells, wanted: Any) -> None:
    aio = pytest.importorskip("tritonclient.http.aio")

    async def ask() -> Any:
        async with aio.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
            return [await opened.infer(server.model, given(cells, binary=binary)) for binary in (True, False)]

    for result in asyncio.run(ask()):
        np.testing.assert_allclose(result.as_numpy("confidence"), wanted.confidence, atol=1e-6)


def test_tritonclient_shows_what_is_wrong(client: Any, server: Server) -> None:
    tensor = triton.InferInput("cells", [1, 1, 1, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 1, 1, 3), np.uint8))
    with pytest.raises(triton.InferenceServerException, match="input 'cells': must be named 'images'"):
        client.infer(server.model, [tensor])


def test_kserve_names_headers_in_lower_case_and_writes_null_for_what_is_not_there(
    server: Server, cells: Cells, wanted: Any
) -> None:
    images = np.stack(cells.kept)
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
    head = json.dumps(
        {
            "id": None,
            "inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}],
            "outputs": [{"name": "confidence", "parameters": {"binary_data": True}}],
            "parameters": None,
        }
    ).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    reply = server.ask("POST", f"/v2/models/{server.model}/infer", head + images.tobytes(), **headers)
    assert reply.headers["content-type"] == "application/octet-stream"
    cut = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.body[:cut])["model_name"] == server.model
    np.testing.assert_allclose(np.frombuffer(reply.body[cut:], "<f4"), wanted.confidence, atol=1e-6)
    plain = json.dumps({"inputs": [{**tensor, "data": images.tolist(), "parameters": None}], "outputs": None})
    reply = server.ask(
        "POST", f"/v2/models/{server.model}/infer", plain.encode(), **{"content-type": "application/json"}
    )
    assert [one["name"] for one in reply.json()["outputs"]] == list(OUTPUTS)


def test_urllib_names_a_form_and_the_extensions_header_tells_better(server: Server, cells: Cells) -> None:
    images = np.stack(cells.kept)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "shape": list(images.shape),
                    "datatype": "UINT8",
                    "parameters": {"binary_data_size": images.nbytes},
                }
            ]
        }
    ).encode()
    request = urllib.request.Request(
        f"{server.address}v2/models/{server.model}/infer",
        gzip.compress(head + images.tobytes()),
        {"Inference-Header-Content-Length": str(len(head)), "Content-Encoding": "gzip"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert len(json.load(reply)["outputs"]) == len(OUTPUTS)


def test_bentoml_sends_each_file_as_a_field_of_its_own_name_and_type(server: Server, cells: Cells) -> None:
    body, kind = form(("cell.png", encode(cells.kept[0])))
    body = body.replace(b'name="files"', b'name="image"').replace(b'.png"\r\n', b'.png"\r\nContent-Type: image/png\r\n')
    reply = server.ask("POST", "/v1/predict", body, Content_Type=kind, Accept="*/*", User_Agent="BentoML HTTP Client")
    assert reply.status == 200
    assert reply.json()["predictions"][0]["sample_id"] == "cell.png"


@pytest.mark.parametrize("head", [0, 10, 10**9])
def test_a_wrong_head_is_answered(server: Server, head: int) -> None:
    reply = server.ask(
        "POST", f"/v2/models/{server.model}/infer", struct.pack("<I", 7) * 9, Inference_Header_Content_Length=str(head)
    )
    assert reply.status == 400
    assert server.healthy()


def test_a_text_among_numbers_takes_no_memory_and_no_worker(server: Server, cells: Cells) -> None:
    data = ["x" * 30_000, *([1] * 50_000)]
    asked = {"inputs": [{"name": "images", "shape": [1, 1, 50_001, 3], "datatype": "UINT8", "data": data}]}
    reply = server.ask(
        "POST", f"/v2/models/{server.model}/infer", json.dumps(asked).encode(), Content_Type="application/json"
    )
    assert reply.status == 400
    assert "whole numbers" in reply.error
    metrics = server.ask("GET", "/metrics").body.decode()
    replaced = [line for line in metrics.splitlines() if line.startswith("hemalens_workers_replaced_total")]
    assert replaced == ["hemalens_workers_replaced_total 0.0"]
