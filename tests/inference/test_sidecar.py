"""Sidecars: read whole, or refused by name with what to do."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemalens.core.abstention import confidence_rule
from hemalens.core.errors import ArtifactError
from hemalens.inference.onnx_metadata import read_metadata, with_metadata
from hemalens.inference.sidecar import (
    DIGEST_KEY,
    array_from_json,
    array_to_json,
    find_onnx,
    parse_sidecar,
    read_exported,
    sidecar_digest,
    sidecar_path,
)

_OWN = ("onnx_sha256",)
DATA = b"\x08\x0a"  # an ONNX file that says its version and no more
FACTS: dict[str, Any] = {
    "schema_version": 2,
    "classes": ["a", "b"],
    "image_size": 8,
    "model": {},
    "run": {},
    "temperature": 1.5,
    "threshold": 0.6,
    "abstention": None,
    "head": {"weight": array_to_json(np.ones((2, 3), np.float32)), "bias": array_to_json(np.zeros(2, np.float32))},
}
REFUSAL = confidence_rule(np.eye(2, dtype=np.float32).repeat(20, 0), np.arange(2).repeat(20)).to_json()
WHOLE = FACTS | {
    "temperature": REFUSAL["temperature"],
    "threshold": REFUSAL["confidence_limit"],
    "abstention": REFUSAL,
}


def bound(facts: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Let a model name these facts and these the model, as an export does."""
    data = with_metadata(DATA, DIGEST_KEY, sidecar_digest(facts))
    return data, facts | {"onnx_sha256": hashlib.sha256(data).hexdigest()}


def written(folder: Path, changes: dict[str, Any], *, without: str = "") -> Path:
    data, facts = bound({key: value for key, value in (FACTS | changes).items() if key != without})
    (folder / "model.onnx").write_bytes(data)
    (folder / "model.json").write_text(json.dumps(facts | {key: changes[key] for key in changes if key in _OWN}))
    return folder / "model.onnx"


def test_a_whole_one_is_read(tmp_path: Path) -> None:
    data, sidecar = read_exported(written(tmp_path, {}))
    assert (data[:2], sidecar.classes, sidecar.image_size) == (DATA, ("a", "b"), 8)
    assert (sidecar.abstention.temperature, sidecar.abstention.confidence_limit) == (1.5, 0.6)
    assert sidecar.abstention.gaussians is None
    assert sidecar.head is not None
    assert sidecar.head[0].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 1}, "has schema_version 1, this hemalens reads 2"),
        ({"onnx_sha256": "0" * 64}, "is damaged or not the one of model.json"),
        ({"image_size": "x"}, "must hold a whole number from 1 to 4,096"),
        ({"classes": []}, "must hold a list of names"),
        ({"classes": "ab"}, "must hold a list of names"),
        ({"classes": [["a"], ["b"]]}, "must hold a list of names"),
        ({"classes": ["a", "a"]}, "names the class 'a' twice"),
        ({"threshold": 1.5}, "must hold a number from 0 to 1"),
        ({"temperature": True}, "must hold a number from 1e-06"),
        ({"abstention": []}, "abstention data must be an object"),
        ({"model": []}, "must hold an object as 'model'"),
        ({"temperature": 0}, "must hold a number from 1e-06"),
        ({"head": {"weight": {"dtype": "float32", "shape": [9], "base64": "AAAA"}, "bias": None}}, "another kind"),
        ({"head": {"weight": {"dtype": "object", "shape": [1], "base64": "AAAA"}, "bias": None}}, "another kind"),
    ],
)
def test_a_damaged_one_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        read_exported(written(tmp_path, changes))
    assert "hemalens export RUN" in str(caught.value)


@pytest.mark.parametrize("key", ["classes", "image_size", "abstention", "head"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ArtifactError, match=f"lacks the key '{key}'"):
        read_exported(written(tmp_path, {}, without=key))


def test_a_missing_sidecar_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    sidecar_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"has no sidecar model\.json beside it"):
        read_exported(path)


def test_a_model_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        find_onnx(tmp_path / "none.onnx")
    with pytest.raises(ArtifactError, match=r"is a directory, an \.onnx file is needed here; export it first"):
        find_onnx(tmp_path)
    monkeypatch.setattr("hemalens.inference.sidecar.files", lambda _: tmp_path)
    with pytest.raises(ArtifactError, match="model embedded: is not part of this installation; give a model"):
        find_onnx("embedded")


@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "uint8", "bool"])
def test_arrays_travel_whole(kind: str) -> None:
    array = np.arange(6).reshape(2, 3).T.astype(kind)
    found = array_from_json(json.loads(json.dumps(array_to_json(array))))
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_metadata_stand_beside_the_graph_and_are_read_without_it() -> None:
    data = with_metadata(with_metadata(DATA, "a", "1"), "b" * 200, "ä" * 300)
    assert read_metadata(data) == {"a": "1", "b" * 200: "ä" * 300}
    with pytest.raises(ValueError, match="names 'a' already"):
        with_metadata(data, "a", "2")
    with pytest.raises(ValueError, match="twice"):
        read_metadata(data + data[len(DATA) :])


@given(st.binary(max_size=60))
def test_any_bytes_have_metadata_or_are_no_onnx_file(data: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(read_metadata(data), dict)


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "a", "b", "float32", "AAAA", 10**299, -1, float("inf"), 1e-320]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["shape", "base64", "a"]), inner),
    max_leaves=4,
)


def mutated(data: st.DataObject, facts: Any) -> Any:
    """Put something else in one place of a document, take it away, or exchange two items of a list."""
    if isinstance(facts, dict) and facts and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(facts)))
        if data.draw(st.integers(0, 5)) == 0:
            return {name: value for name, value in facts.items() if name != key}
        return facts | {key: mutated(data, facts[key])}
    if isinstance(facts, list) and facts and data.draw(st.booleans()):
        return data.draw(st.permutations(facts))
    return data.draw(ANY)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_sidecar_means_the_same_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    onnx, facts = bound(WHOLE)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx)
    changed = mutated(data, facts)
    sidecar_path(path).write_text(json.dumps(changed))
    with suppress(ArtifactError):
        assert read_exported(path)[1].facts == facts
    # Even where somebody computes the digests anew, it is a sidecar with values that can be meant, or refused.
    if isinstance(changed, dict):
        with suppress(ArtifactError):
            found = parse_sidecar(changed, path)
            assert len(set(found.classes)) == len(found.classes) == len(found.abstention.set_thresholds)
            assert 0 < found.abstention.temperature < float("inf")
            assert 0 <= found.abstention.confidence_limit <= 1
