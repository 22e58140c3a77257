"""Submissions as they are packed: what is in the zip, what its Model says, what is refused."""

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemalens.core.artifacts import read_provenance
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.core.types import CELL_CLASSES
from hemalens.data.synthetic import synthetic_set
from hemalens.deployment import submission as module
from hemalens.deployment.classifier import Classifier
from hemalens.deployment.submission import package
from tests.deployment.conftest import Exported, Fp32, bind_again

PICTURES = synthetic_set(5, size=96, seed=3, contamination=False).images


@pytest.fixture(autouse=True)
def clean_modules():
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "hemalens_runtime"]:
        del sys.modules[name]


def unpacked(path: Path, folder: Path) -> Any:
    """Return the Model of a zip, from another working directory and without a search path."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    spec = importlib.util.spec_from_file_location("submitted_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made.Model()


@pytest.mark.parametrize("runtime", ["numpy", "onnx", "torch"])
def test_labels_are_the_models_in_the_challenges_order(runtime, fp32: Fp32, tmp_path, monkeypatch) -> None:
    summary = package([fp32.run], tmp_path / "submission.zip", runtime=runtime)
    assert all(found["labels_equal"] == found["n"] for found in summary["compared"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    labels = unpacked(tmp_path / "submission.zip", tmp_path / "out").predict(PICTURES)
    wanted = [CELL_CLASSES.index(str(name)) for name in Classifier.open(fp32.onnx, threads=1).predict(PICTURES)]
    assert (labels.shape, labels.dtype, labels.tolist()) == ((40,), np.int64, wanted)
    assert len(set(wanted)) > 1


def test_floats_lists_and_no_pictures_are_taken_and_other_shapes_refused(fp32: Fp32, tmp_path) -> None:
    package([fp32.run], tmp_path / "submission.zip")
    model = unpacked(tmp_path / "submission.zip", tmp_path / "out")
    wanted = model.predict(PICTURES[:4]).tolist()
    for given in (PICTURES[:4].astype(np.float32), PICTURES[:4] + 0.4, PICTURES[:4].tolist(), list(PICTURES[:4])):
        assert model.predict(given).tolist() == wanted
    assert model.predict(PICTURES[:0]).shape == (0,)
    for wrong in (PICTURES[0], PICTURES[..., :1], np.full((1, 4, 4, 3), "x")):
        with pytest.raises(ValueError, match="pictures must be"):
            model.predict(wrong)
    with pytest.raises(ValueError, match="not finite"):
        model.predict(np.full((1, 96, 96, 3), np.nan))


def test_several_runs_and_symmetries_are_averaged_as_calibrated_probabilities(fp32: Fp32, tmp_path) -> None:
    package([fp32.run, fp32.onnx], tmp_path / "submission.zip", tta=True)
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert {"model-1.npz", "model-2.npz"} <= set(archive.namelist())
        facts = json.loads(archive.read("submission.json"))
    assert (facts["symmetries"], len(facts["temperatures"]), facts["labels"]) == (8, 2, list(range(8)))
    found = unpacked(tmp_path / "submission.zip", tmp_path / "out")._probabilities(PICTURES)
    classifier = Classifier.open(fp32.onnx, threads=1)
    turned = [np.rot90(side, k, (1, 2)) for side in (PICTURES, PICTURES[:, :, ::-1]) for k in range(4)]
    assert len({side[0].tobytes() for side in turned}) == 8
    wanted = np.mean([classifier.predict_proba(np.ascontiguousarray(side)) for side in turned], axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_zip_holds_what_is_needed_and_is_the_same_each_time(fp32: Fp32, tmp_path) -> None:
    for name in ("one.zip", "two.zip"):
        package([fp32.run], tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        readme, licence = archive.read("README.txt").decode(), archive.read("LICENSE")
        code = b"".join(archive.read(name) for name in names if name.endswith(".py"))
    assert names[0] == "model.py"
    assert set(names) == {
        *("model.py", "model-1.npz", "submission.json", "README.txt", "LICENSE", "SHA256SUMS"),
        *("hemalens_runtime/numpy_runtime.py", "hemalens_runtime/numpy_operations.py"),
    }
    assert b"import hemalens" not in code
    assert b"from hemalens." not in code
    assert "Not for diagnosis" in readme
    assert "4 lymphocyte" in readme
    assert licence == (Path(__file__).parents[2] / "LICENSE").read_bytes()
    record = read_provenance(tmp_path / "one.zip")
    assert record is not None
    assert (record["command"], record["options"]) == ("package", {"runtime": "numpy", "tta": False})


def test_what_cannot_be_packed_is_refused(exported: Exported, fp32: Fp32, tmp_path, monkeypatch) -> None:
    out = tmp_path / "submission.zip"
    with pytest.raises(ConfigError, match=r"must be named \.zip"):
        package([fp32.run], tmp_path / "submission.tar")
    with pytest.raises(ConfigError, match="must be one of numpy, onnx, torch"):
        package([fp32.run], out, runtime="tensorflow")  # type: ignore[arg-type]  # what a user may type
    with pytest.raises(ConfigError, match="needs a RUN"):
        package([], out)
    with pytest.raises(ConfigError, match="which torch does not run; give its RUN"):
        package([fp32.onnx], out, runtime="torch")
    if exported.parity["precision"] == "int8":
        with pytest.raises(ConfigError, match=r"DequantizeLinear, QuantizeLinear.*; package it with --runtime onnx"):
            package([exported.onnx], out)
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(ArtifactError, match="off its export's in this runtime"):
        package([fp32.run], out)
    assert not out.exists()


def test_models_of_other_classes_are_not_averaged(fp32: Fp32, tmp_path, monkeypatch) -> None:
    other = tmp_path / "other.onnx"
    facts = json.loads(fp32.onnx.with_suffix(".json").read_text())
    bind_again(other, facts | {"classes": list("hgfedcba")}, fp32.onnx.read_bytes())
    with pytest.raises(
        ConfigError, match=r"other\.onnx: knows other classes than .*\(h, g, f, .*\); average models of"
    ):
        package([fp32.run, other], tmp_path / "submission.zip")
    summary = package([other], tmp_path / "submission.zip")
    assert summary["labels"] == list(range(8))
    assert Path(summary["out"]).stat().st_size == summary["bytes"]
