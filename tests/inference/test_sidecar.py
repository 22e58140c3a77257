"""Sidecars: read whole, or refused by name with what to do."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemalens.core.errors import ArtifactError
from hemalens.inference.sidecar import array_from_json, array_to_json, find_onnx, read_exported, sidecar_path

DATA = b"not looked into here"
FACTS: dict[str, Any] = {
    "schema_version": 1,
    "classes": ["a", "b"],
    "image_size": 8,
    "temperature": 1.5,
    "threshold": 0.6,
    "abstention": None,
    "head": {"weight": array_to_json(np.ones((2, 3), np.float32)), "bias": array_to_json(np.zeros(2, np.float32))},
    "onnx_sha256": hashlib.sha256(DATA).hexdigest(),
}


def written(folder: Path, changes: dict[str, Any], *, without: str = "") -> Path:
    facts = {key: value for key, value in (FACTS | changes).items() if key != without}
    (folder / "model.onnx").write_bytes(DATA)
    (folder / "model.json").write_text(json.dumps(facts))
    return folder / "model.onnx"


def test_a_whole_one_is_read(tmp_path: Path) -> None:
    data, sidecar = read_exported(written(tmp_path, {}))
    assert (data, sidecar.classes, sidecar.image_size) == (DATA, ("a", "b"), 8)
    assert (sidecar.abstention.temperature, sidecar.abstention.confidence_limit) == (1.5, 0.6)
    assert sidecar.abstention.gaussians is None
    assert sidecar.head is not None
    assert sidecar.head[0].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "has schema_version 2, this version of hemalens reads 1"),
        ({"onnx_sha256": "0" * 64}, "is damaged or not the one of model.json"),
        ({"image_size": "x"}, "holds a value of another kind"),
        ({"classes": []}, "has no classes"),
        ({"temperature": 0}, "no temperature above 0"),
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
