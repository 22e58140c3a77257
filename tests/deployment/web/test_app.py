"""The API of a running server: answers as the model gives them, refusals in the house's form, health and metrics."""

import json
import zipfile
from io import BytesIO

import numpy as np
import pytest

from hemalens.deployment.classifier import Classifier
from tests.deployment.conftest import Exported
from tests.deployment.web.conftest import Cells, Server, encode


@pytest.fixture(scope="module")
def classifier(exported: Exported) -> Classifier:
    return Classifier.open(exported.onnx, threads=1)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_pictures_are_answered_in_order_as_the_model_answers_them(server: Server, cells: Cells, classifier) -> None:
    pictures = [*cells.kept, cells.refused]
    reply = server.predict(*[(f"{place}.png", encode(one)) for place, one in enumerate(pictures)])
    assert reply.status == 200
    said = reply.json()
    assert said["classes"] == classifier.classes_.tolist()
    judged = classifier.judge(pictures)
    for place, row in enumerate(said["predictions"]):
        assert row["sample_id"] == f"{place}.png"
        assert row["predicted"] == classifier.classes_[judged.predicted[place]]
        assert row["abstained"] == judged.abstained[place]
        shares = [row[f"p_{name}"] for name in said["classes"]]
        np.testing.assert_allclose(shares, judged.probabilities[place], atol=1e-5)
        assert row["confidence"] == max(shares)
        assert bool(row["reason"]) == row["abstained"]
        assert (row["width"], row["height"]) == (24, 24)
        assert "heat_map" not in row
    assert said["predictions"][-1]["abstained"]


def test_one_raw_picture_is_answered_and_heat_maps_come_when_asked_for(server: Server, cells: Cells) -> None:
    reply = server.ask("POST", "/v1/predict?heat_maps=true", encode(cells.kept[0]), Content_Type="image/png")
    (row,) = reply.json()["predictions"]
    assert row["predicted"]
    for key in ("picture", "heat_map"):
        assert row[key].startswith("data:image/png;base64,")
    assert row["picture"] != row["heat_map"]


def test_a_zip_is_answered_picture_by_picture_and_what_leads_out_is_refused(server: Server, cells: Cells) -> None:
    members = {f"a/{place}.png": encode(one) for place, one in enumerate(cells.kept)}
    members |= {"../../evil.png": encode(cells.kept[0]), "notes.txt": b"x", "__MACOSX/a/0.png": b"x", "b.png": b"no"}
    said = server.predict(("cells.zip", zipped(members)), ("alone.png", encode(cells.kept[0]))).json()
    rows = {row["sample_id"]: row for row in said["predictions"]}
    assert [*rows] == [*(f"a/{place}.png" for place in range(6)), "../../evil.png", "b.png", "alone.png"]
    assert rows["../../evil.png"]["reason"] == "unreadable: has a name that leads out of the archive"
    assert rows["b.png"]["predicted"] is None
    assert rows["a/0.png"]["predicted"] == rows["alone.png"]["predicted"]


def test_a_member_packed_otherwise_than_deflated_is_named(server: Server, cells: Cells) -> None:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", encode(cells.kept[0]))
        archive.writestr("b.png", encode(cells.kept[0]), zipfile.ZIP_STORED)
    packed, plain = server.predict(("cells.zip", buffer.getvalue())).json()["predictions"]
    assert packed["reason"] == "unreadable: is packed otherwise than plain or deflated; pack it again"
    assert plain["predicted"]


def test_one_bad_picture_does_not_spoil_the_others(server: Server, cells: Cells) -> None:
    reply = server.predict(("no.png", b"hello"), ("yes.png", encode(cells.kept[0])), ("yes.png", b""))
    no, yes, empty = reply.json()["predictions"]
    assert (no["predicted"], no["abstained"], no["reason"]) == (None, True, "unreadable: is text, not a picture")
    assert yes["predicted"]
    assert empty["sample_id"] == "yes.png#2", "ids stay unique"
    assert "empty" in empty["reason"]


def test_tensors_are_answered_by_the_open_inference_protocol(server: Server, cells: Cells, classifier) -> None:
    described = server.ask("GET", f"/v2/models/{server.model}").json()
    assert described["inputs"] == [{"name": "pictures", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    pictures = np.stack(cells.kept[:2])
    tensor = {"name": "pictures", "shape": [*pictures.shape], "datatype": "UINT8"}
    judged = classifier.judge(pictures)
    for data in (pictures.ravel().tolist(), pictures.tolist()):
        asked = json.dumps({"id": "one", "inputs": [{**tensor, "data": data}]}).encode()
        reply = server.ask("POST", f"/v2/models/{server.model}/infer", asked, Content_Type="application/json")
        said = reply.json()
        assert (said["model_name"], said["id"]) == (server.model, "one")
        outputs = {one["name"]: one for one in said["outputs"]}
        assert outputs["probabilities"]["shape"] == [2, 8]
        shares = np.reshape(outputs["probabilities"]["data"], (2, 8))
        np.testing.assert_allclose(shares, judged.probabilities, atol=1e-5)
        assert outputs["predicted"]["data"] == classifier.classes_[judged.predicted].tolist()
    wanted = json.dumps({"inputs": [{**tensor, "data": data}], "outputs": [{"name": "logits"}]}).encode()
    reply = server.ask("POST", f"/v2/models/{server.model}/infer", wanted, Content_Type="application/json")
    assert [one["name"] for one in reply.json()["outputs"]] == ["logits"]


def test_health_metrics_and_the_description_are_there(server: Server, cells: Cells) -> None:
    server.predict(("a.png", encode(cells.kept[0])))
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{server.model}/ready"):
        assert server.ask("GET", path).status == 200
    assert server.ask("GET", "/v2/models/other").status == 404
    text = server.ask("GET", "/metrics").body.decode()
    assert 'hemalens_requests_total{method="POST",path="/v1/predict",status="200"}' in text
    assert 'hemalens_pictures_total{outcome="answered"}' in text
    described = server.ask("GET", "/openapi.json").json()
    assert {"/v1/predict", "/v2/health/ready", "/v2/models/{name}/infer"} <= described["paths"].keys()
    assert "example" in described["paths"]["/v1/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    for path in ("/docs", "/redoc"):
        assert server.ask("GET", path).status == 404, "the interactive pages ask another server for their code"


def test_every_answer_forbids_what_a_page_does_not_need(server: Server) -> None:
    for path in ("/", "/assets/serve.js", "/v2/health/live", "/nothing"):
        reply = server.ask("GET", path)
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in reply.headers
        assert reply.headers["server"] == "hemalens"
    page = server.ask("GET", "/").body.decode()
    assert "<style" not in page
    assert " style=" not in page
    assert page.count("<script") == page.count('<script src="assets/')
    assert "Not for diagnosis" in page


def test_too_much_at_once_is_turned_away_with_the_time_to_come_back(exported: Exported, cells: Cells) -> None:
    crowded = Server(exported.onnx, {"held_bytes": 100})
    try:
        reply = crowded.predict(("a.png", encode(cells.kept[0])))
        assert (reply.status, reply.headers["retry-after"]) == (503, "2")
        assert "ask again" in reply.error
        assert crowded.healthy()
    finally:
        crowded.kill()
