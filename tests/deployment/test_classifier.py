"""Opened models: every kind of picture, the same answer; nothing of torch."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hemalens
from hemalens.core.errors import ArtifactError, DecodeError, MissingExtraError
from hemalens.core.metrics import softmax
from hemalens.deployment.classifier import Classifier, open_model
from tests.deployment.conftest import Exported, bind_again


@pytest.fixture(scope="module")
def classifier(exported: Exported) -> Classifier:
    return Classifier.open(exported.onnx, threads=1)


@pytest.fixture
def pictures(exported: Exported) -> np.ndarray:
    return np.load(exported.source)["images"][:5]


def test_arrays_images_and_paths_get_the_same_answer(
    classifier: Classifier, pictures: np.ndarray, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{place}.png" for place in range(5)]
    images = [Image.fromarray(picture) for picture in pictures]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    wanted = classifier.predict_proba(pictures)
    assert wanted.shape == (5, len(classifier.classes_))
    np.testing.assert_allclose(wanted.sum(axis=1), 1.0)
    for same in (list(pictures), images, paths, [str(path) for path in paths], pictures.astype(np.float64)):
        np.testing.assert_allclose(classifier.predict_proba(same), wanted, atol=1e-6)
    assert classifier.predict(pictures).tolist() == classifier.classes_[wanted.argmax(axis=1)].tolist()
    assert classifier.predict([pictures[0], images[1], paths[2]]).tolist() == classifier.predict(pictures)[:3].tolist()


def test_one_picture_is_a_set_of_one(classifier: Classifier, pictures: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(pictures[0])
    image.save(tmp_path / "one.png")
    for one in (pictures[0], image, tmp_path / "one.png", str(tmp_path / "one.png")):
        assert classifier.predict(one).shape == (1,)


def test_no_picture_is_no_row(classifier: Classifier) -> None:
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, len(classifier.classes_))


def test_many_pictures_are_cut_into_batches(classifier: Classifier, pictures: np.ndarray) -> None:
    many = np.concatenate([pictures] * 15)
    outputs = classifier.run(many)
    assert outputs.feature_map.shape[0] == 75
    np.testing.assert_allclose(outputs.logits, np.concatenate([classifier.run(pictures).logits] * 15), atol=1e-5)


def test_pictures_may_have_different_sizes(classifier: Classifier, pictures: np.ndarray) -> None:
    large = np.asarray(Image.fromarray(pictures[0]).resize((70, 33)))
    assert classifier.predict([large, pictures[1]]).shape == (2,)


def test_judging_calibrates_and_refuses_with_the_reason(classifier: Classifier, pictures: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    outputs = classifier.run([*pictures, *noise])
    judged = classifier.judge([*map(Image.fromarray, pictures), *noise])
    np.testing.assert_allclose(judged.probabilities, softmax(outputs.logits / classifier.sidecar.refusal.temperature))
    assert judged.abstained[5:].any()  # noise
    assert all(reason.startswith(("unlike any", "confidence")) for reason in judged.reasons if reason)
    assert all(bool(reason) == refused for reason, refused in zip(judged.reasons, judged.abstained, strict=True))


def test_the_head_draws_the_logits_from_the_map(
    exported: Exported, classifier: Classifier, pictures: np.ndarray
) -> None:
    assert classifier.sidecar.head is not None
    weight, bias = classifier.sidecar.head
    outputs = classifier.run(pictures)
    loose = 1e-4 if exported.parity["precision"] == "fp32" else 1.0
    np.testing.assert_allclose(outputs.feature_map.mean((2, 3)) @ weight.T + bias, outputs.logits, atol=loose)


def test_it_travels_to_another_process_as_its_path(classifier: Classifier, pictures: np.ndarray) -> None:
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(pictures), classifier.predict_proba(pictures))


def test_what_is_no_picture_is_refused_by_name(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(DecodeError, match=r"notes\.png"):
        classifier.predict(tmp_path / "notes.png")
    with pytest.raises(DecodeError, match=r"none\.png: cannot be read"):
        classifier.predict(tmp_path / "none.png")
    with pytest.raises(DecodeError, match="has the shape"):
        classifier.predict(np.zeros((4, 4, 7), np.uint8))
    with pytest.raises(DecodeError, match=r"must be \(N, H, W, 3\) uint8; use predict"):
        classifier.run(np.zeros((4, 4, 3), np.float32))


def test_a_file_that_is_no_model_is_refused(exported: Exported, tmp_path: Path) -> None:
    import hashlib
    import json

    facts = json.loads(exported.onnx.with_suffix(".json").read_text())
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    facts["onnx_sha256"] = hashlib.sha256(b"bad").hexdigest()
    (tmp_path / "bad.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match="is no ONNX file"):
        hemalens.load(tmp_path / "bad.onnx")
    facts = json.loads(exported.onnx.with_suffix(".json").read_text())
    bind_again(tmp_path / "few.onnx", facts | {"classes": ["one"]}, exported.onnx.read_bytes())
    with pytest.raises(ArtifactError, match=r"has limits for \d classes and names 1|another kind"):
        hemalens.load(tmp_path / "few.onnx")


def test_a_run_needs_torch_only_to_be_exported(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hemalens.deployment.export")
    monkeypatch.delitem(sys.modules, "hemalens.deployment.network")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match="a RUN to be exported first: needs the optional extra 'train'"):
        open_model(exported.run)


def test_predicting_imports_no_torch(exported: Exported) -> None:
    code = (
        "import sys, numpy as np, hemalens; loaded = len(sys.modules); c = hemalens.load(sys.argv[1]);"
        "c.judge(np.zeros((1, 20, 20, 3), np.uint8));"
        "print([name for name in ('torch', 'torchvision', 'timm', 'onnx', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, exported.onnx], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_hemalens_imports_nothing_else() -> None:
    code = "import sys, hemalens; print([name for name in ('numpy', 'PIL', 'onnxruntime') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
