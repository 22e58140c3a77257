"""The addresses behind the review page: they serve this machine, the holder of the token and the page itself only."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hemalens.data.audit import audit
from hemalens.data.review_app import review_app
from hemalens.data.review_session import ReviewSession
from hemalens.data.sources import open_source
from tests.data.hostile import cell, encode

HOME = "http://127.0.0.1:8123"
EVIL = '<img src=x onerror="alert(1)">.png'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in {"ig/a.png": encode(cell(8)[..., 0]), f"ig/{EVIL}": b"bad", "platelet/b.png": b""}.items():
        (tmp_path / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cells" / name).write_bytes(data)
    audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    return tmp_path


@pytest.fixture
def stopped() -> list[bool]:
    return []


@pytest.fixture
def client(folder: Path, stopped: list[bool]) -> Iterator[TestClient]:
    session = ReviewSession(open_source(folder / "cells"), folder / "audit")
    app = review_app(session, "secret", stop=lambda: stopped.append(True))
    with TestClient(app, base_url=HOME) as client:
        yield client


def test_the_page_and_its_parts_are_served_under_the_token_with_a_strict_policy(client: TestClient) -> None:
    for path in ("", "assets/style.css", "assets/review.css", "assets/review.js", "api/findings"):
        answer = client.get(f"/secret/{path}")
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "http" not in answer.text.replace("http-equiv", ""), f"{path} names another address"
    assert client.get("/secret/assets/review_app.py").status_code == 404


@pytest.mark.parametrize("path", ["/", "/secre/", "/secret2/api/findings", "/docs", "/openapi.json", "//secret/"])
def test_without_the_token_there_is_nothing(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404
    assert client.post(path, json={}).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", ""])
def test_another_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/secret/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": HOME, "sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_a_request_that_changes_something_must_come_from_the_page(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    body = json.dumps({"decisions": {"0": "drop"}})
    answer = client.post("/secret/api/decide", content=body, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status
    assert client.get("/secret/api/findings").json()["counts"]["decided"] == (status == 200)


def test_names_of_files_are_text_never_markup(client: TestClient, folder: Path) -> None:
    assert EVIL not in client.get("/secret/").text
    items = client.get("/secret/api/findings").json()["items"]
    assert f"ig/{EVIL}" in [item["sample_id"] for item in items]


def test_deciding_undoing_and_finishing(client: TestClient, folder: Path, stopped: list[bool]) -> None:
    item = client.get("/secret/api/findings", params={"issue": "converted"}).json()["items"][0]
    place = str(item["place"])
    said = client.post("/secret/api/decide", json={"decisions": {place: "relabel:platelet"}}).json()
    assert said["decisions"] == {place: "relabel:platelet"}
    assert client.get("/secret/api/findings?show=decided").json()["total"] == 1
    assert client.post("/secret/api/undo", json={}).json()["decisions"] == {place: ""}
    client.post("/secret/api/decide", json={"decisions": {place: "relabel:platelet"}})
    done = client.post("/secret/api/finish", json={}).json()
    assert (done["kept"], done["dropped"], done["relabelled"]) == (1, 2, 1)
    assert stopped == [True]
    assert "relabel:platelet" in (folder / "audit" / "issues.csv").read_text()


def test_what_cannot_be_done_says_why(client: TestClient) -> None:
    items = {item["sample_id"]: item["place"] for item in client.get("/secret/api/findings").json()["items"]}
    answer = client.post("/secret/api/decide", json={"decisions": {items["platelet/b.png"]: "keep"}})
    assert (answer.status_code, answer.json()["error"].split(":")[1]) == (
        409,
        " is unreadable and cannot be kept; drop it",
    )
    assert client.post("/secret/api/decide", json={"decisions": {"x": "keep"}}).status_code == 422
    assert client.post("/secret/api/decide", json={"decisions": {}, "more": 1}).status_code == 422
    assert client.post("/secret/api/group", json={"issue": "x", "group": "y", "decision": "drop"}).status_code == 409
    assert client.get("/secret/api/findings?issue=ugly").status_code == 409
    assert client.get("/secret/api/findings?show=some").status_code == 422


def test_pictures_come_encoded_anew_and_damaged_ones_not_at_all(client: TestClient, folder: Path) -> None:
    items = {item["sample_id"]: item["place"] for item in client.get("/secret/api/findings").json()["items"]}
    answer = client.get(f"/secret/picture/{items['ig/a.png']}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content != (folder / "cells" / "ig" / "a.png").read_bytes()
    assert client.get(f"/secret/picture/{items['ig/a.png']}?large=true").status_code == 200
    assert client.get(f"/secret/picture/{items['platelet/b.png']}").status_code == 404
    assert client.get("/secret/picture/99").status_code == 409
    assert client.get("/secret/picture/../../cells/ig/a.png").status_code == 404


def test_a_shutdown_writes_the_decisions_and_frees_the_audit(folder: Path) -> None:
    session = ReviewSession(open_source(folder / "cells"), folder / "audit")
    with TestClient(review_app(session, "secret", stop=lambda: None), base_url=HOME) as client:
        place = client.get("/secret/api/findings?issue=converted").json()["items"][0]["place"]
        client.post("/secret/api/decide", json={"decisions": {place: "relabel:platelet"}})
    assert "relabel:platelet" in (folder / "audit" / "issues.csv").read_text()
    ReviewSession(open_source(folder / "cells"), folder / "audit").close()


def test_bodies_have_a_limit_also_for_who_holds_the_token(client: TestClient) -> None:
    huge = b'{"issue": "' + b"a" * (1 << 20) + b'", "group": "", "decision": "keep"}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/secret/api/group", content=huge, headers=headers).status_code == 413
    pieces = (huge[start : start + 4096] for start in range(0, len(huge), 4096))
    assert client.post("/secret/api/group", content=pieces, headers=headers).status_code == 413
    assert client.get("/secret/api/findings").status_code == 200
