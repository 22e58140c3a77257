"""Exports: what is written, what is proved, what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hemalens.core.abstention import Abstention
from hemalens.core.artifacts import read_json, read_provenance
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.data.reading.resize import resize
from hemalens.data.sources import open_source
from hemalens.export import export as module
from hemalens.export.export import export, export_once
from hemalens.inference.sidecar import array_from_json
from hemalens.training.checkpoint import load_model, read_validation
from hemalens.training.predicting import predict_features
from tests.exported import Exported


def test_labels_equal_torchs_on_all_validation_images_in_their_own_sizes(exported: Exported) -> None:
    parity = read_json(exported.onnx.with_name("parity.json"))
    assert parity["n"] == len(read_validation(exported.run)[1])
    assert parity["images"] == f"the {parity['n']} validation images of the run, in their own sizes"
    assert (parity["labels_equal"], parity["labels_equal_share"]) == (parity["n"], 1.0)
    assert parity["logits_max_difference"] <= parity["logits_tolerance"]
    assert parity["logits_tolerance_reason"]
    assert parity["stored_logits_max_difference"] < 1e-3
    assert parity["accuracy"]["torch"] == parity["accuracy"]["onnx"]
    assert (parity["resize"]["max_difference"], parity["resize"]["values_differing"]) == (0, 0)
    assert parity == {key: value for key, value in exported.parity.items() if key != "out"}


def test_the_sidecar_says_what_a_user_must_know(exported: Exported) -> None:
    facts = read_json(exported.onnx.with_suffix(".json"))
    assert facts["onnx_sha256"] == hashlib.sha256(exported.onnx.read_bytes()).hexdigest()
    assert facts["classes"] == list(load_model(exported.run).classes)
    assert (facts["image_size"], facts["model"]["network"], facts["model"]["recipe"]) == (16, "compact", "compact")
    assert facts["abstention"] == read_json(exported.run / "abstention.json")
    limits = Abstention.from_json(facts["abstention"])
    assert (facts["temperature"], facts["threshold"]) == (limits.temperature, limits.confidence_limit)
    assert array_from_json(facts["head"]["weight"]).shape == (len(facts["classes"]), 192)
    assert facts["run"]["config"]["image_size"] == 16
    assert facts["run"]["source_sha256"] == open_source(exported.source).fingerprint()
    assert "Not for diagnosis" in facts["intended_use"]


def test_provenance_is_written_last_and_names_the_model(exported: Exported) -> None:
    record = read_provenance(exported.onnx)
    assert record is not None
    assert (record["command"], record["options"]) == ("export", {"int8": True})
    assert set(record["inputs"]) == {"model", "source"}


def test_eight_bits_are_timed_against_fp32_and_kept_or_refused_with_the_reason(exported: Exported) -> None:
    tried = exported.parity["int8"]
    rates = tried["images_per_second"]
    lost = 100 * (tried["accuracy"]["fp32"] - tried["accuracy"]["int8"])
    assert tried["kept"] == (rates["int8"] > rates["fp32"] and lost <= 0.5)
    assert exported.parity["precision"] == ("int8" if tried["kept"] else "fp32")
    assert tried["reason"]
    operations = {node.op_type for node in onnx.load(exported.onnx).graph.node}
    assert ("QuantizeLinear" in operations) == tried["kept"]


def bare(path: Path) -> onnx.ModelProto:
    """Return a model as it is before it names its sidecar."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return model


@pytest.mark.parametrize(
    ("rates", "loss", "word"), [((2.0, 1.0), 0.0, "slower here"), ((1.0, 2.0), 0.2, "20.00 points")]
)
def test_eight_bits_that_are_slower_or_worse_are_refused(
    exported: Exported,
    rates: tuple[float, float],
    loss: float,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(module, "trace_network", lambda *_: bare(exported.onnx))
    monkeypatch.setattr(module, "assemble", lambda *_: bare(exported.onnx))
    monkeypatch.setattr(module, "quantise", lambda *_: bare(exported.onnx))
    monkeypatch.setattr(module, "_network_size", lambda _: 16)
    monkeypatch.setattr(module, "_check_parity", lambda *_: None)
    monkeypatch.setattr(module, "time_in_turn", lambda *_: {"fp32": rates[0], "int8": rates[1]})
    scores = iter([0.9, 0.9, 0.9, 0.9 - loss])
    monkeypatch.setattr(module, "_accuracy", lambda *_: next(scores))
    parity = export(exported.run, tmp_path / "model.onnx", source=exported.source, int8=True)
    assert (parity["int8"]["kept"], parity["precision"]) == (False, "fp32")
    assert word in parity["int8"]["reason"]


def test_without_the_source_stand_ins_are_compared_and_that_is_said(exported: Exported, tmp_path: Path) -> None:
    run = tmp_path / "moved" / "run"
    shutil.copytree(exported.run, run)
    path = export_once(run)
    parity = read_json(path.with_name("parity.json"))
    assert path == run / "exported" / "model.onnx"
    assert "validation images are not at hand" in parity["images"]
    assert parity["labels_equal"] == parity["n"] == 128
    assert "accuracy" not in parity
    written = path.stat().st_mtime_ns
    assert export_once(run).stat().st_mtime_ns == written  # nothing is done twice
    with pytest.raises(ConfigError, match="needs training images to calibrate on; name what the run was trained on"):
        export(run, tmp_path / "model.onnx", int8=True)


def test_logits_are_torchs_for_images_of_any_size(exported: Exported) -> None:
    import hemalens

    classifier = hemalens.load(exported.onnx, threads=1)
    loaded = load_model(exported.run)
    draw = np.random.default_rng(5)
    images = [draw.integers(0, 256, (*side, 3), np.uint8) for side in ((16, 16), (40, 9), (9, 70), (200, 100))]
    small = torch.from_numpy(np.stack([resize(image, 16) for image in images]))
    features, logits = predict_features(loaded.module, small)
    outputs = classifier.run(images)
    loose = 1e-5 if exported.parity["precision"] == "fp32" else 0.5
    np.testing.assert_allclose(outputs.logits, logits, atol=loose)
    np.testing.assert_allclose(outputs.features, features, atol=loose)


def test_an_export_that_differs_is_not_written(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "trace_network", lambda *_: None)
    monkeypatch.setattr(module, "assemble", lambda *_: onnx.ModelProto())
    wrong = {"labels_equal": 1, "logits_max_difference": 2.0, "logits_tolerance": 0.1}
    empty = np.zeros((1, 3), np.float32)
    monkeypatch.setattr(module, "compare", lambda *_, **__: (wrong, empty, empty))
    monkeypatch.setattr(module, "_accuracy", lambda *_: 0.0)
    with pytest.raises(ArtifactError, match=r"another label than torch for .* images; has logits 2 off"):
        export(exported.run, tmp_path / "model.onnx", source=exported.source)
    assert list(tmp_path.iterdir()) == []


def test_names_that_would_take_the_place_of_other_files_are_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"model": "compact"}))
    with pytest.raises(ArtifactError, match=r"model\.json: exists already"):
        export(exported.run, tmp_path / "model.onnx", overwrite=True)
    with pytest.raises(ConfigError, match=r"must be named \.onnx"):
        export(exported.run, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="exists already"):
        export(exported.run, exported.onnx)


def test_another_source_than_the_runs_is_refused(exported: Exported, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros((99999 // 900, 4, 4, 3), np.uint8), labels=np.zeros(111, np.int64))
    with pytest.raises(ArtifactError, match=r"is not in .*splits\.csv"):
        export(exported.run, tmp_path / "model.onnx", source=tmp_path / "other.npz")
