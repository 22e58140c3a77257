"""Opened models: every kind of image, the same answer; nothing of torch."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hemalens
from hemalens.core.errors import ArtifactError, DecodeError
from hemalens.core.metrics import softmax
from hemalens.inference.model import Model
from tests.exported import Exported, bind_again


@pytest.fixture(scope="module")
def classifier(exported: Exported) -> Model:
    return Model.open(exported.onnx, threads=1)


@pytest.fixture
def images(exported: Exported) -> np.ndarray:
    return np.load(exported.source)["images"][:5]


def test_arrays_images_and_paths_get_the_same_answer(classifier: Model, images: np.ndarray, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    pillow = [Image.fromarray(image) for image in images]
    for opened, path in zip(pillow, paths, strict=True):
        opened.save(path)
    wanted = classifier.predict_proba(images)
    assert wanted.shape == (5, len(classifier.classes_))
    np.testing.assert_allclose(wanted.sum(axis=1), 1.0)
    for same in (list(images), pillow, paths, [str(path) for path in paths], images.astype(np.float64)):
        np.testing.assert_allclose(classifier.predict_proba(same), wanted, atol=1e-6)
    assert classifier.predict(images).tolist() == classifier.classes_[wanted.argmax(axis=1)].tolist()
    assert classifier.predict([images[0], pillow[1], paths[2]]).tolist() == classifier.predict(images)[:3].tolist()


def test_one_image_is_a_set_of_one(classifier: Model, images: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(images[0])
    image.save(tmp_path / "one.png")
    for one in (images[0], image, tmp_path / "one.png", str(tmp_path / "one.png")):
        assert classifier.predict(one).shape == (1,)


def test_no_image_is_no_row(classifier: Model) -> None:
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, len(classifier.classes_))


def test_many_images_are_cut_into_batches(classifier: Model, images: np.ndarray) -> None:
    many = np.concatenate([images] * 15)
    outputs = classifier.run(many)
    assert outputs.feature_map.shape[0] == 75
    np.testing.assert_allclose(outputs.logits, np.concatenate([classifier.run(images).logits] * 15), atol=1e-5)


def test_images_may_have_different_sizes(classifier: Model, images: np.ndarray) -> None:
    large = np.asarray(Image.fromarray(images[0]).resize((70, 33)))
    assert classifier.predict([large, images[1]]).shape == (2,)


def test_judging_calibrates_and_refuses_with_the_reason(classifier: Model, images: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    outputs = classifier.run([*images, *noise])
    judged = classifier.judge([*map(Image.fromarray, images), *noise])
    np.testing.assert_allclose(
        judged.probabilities, softmax(outputs.logits / classifier.sidecar.abstention.temperature)
    )
    assert judged.abstained[5:].any()  # noise
    assert all(reason.startswith(("unlike any", "confidence")) for reason in judged.reasons if reason)
    assert all(bool(reason) == refused for reason, refused in zip(judged.reasons, judged.abstained, strict=True))


def test_the_head_draws_the_logits_from_the_map(exported: Exported, classifier: Model, images: np.ndarray) -> None:
    assert classifier.sidecar.head is not None
    weight, bias = classifier.sidecar.head
    outputs = classifier.run(images)
    loose = 1e-4 if exported.parity["precision"] == "fp32" else 1.0
    np.testing.assert_allclose(outputs.feature_map.mean((2, 3)) @ weight.T + bias, outputs.logits, atol=loose)


def test_it_travels_to_another_process_as_its_path(classifier: Model, images: np.ndarray) -> None:
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(images), classifier.predict_proba(images))


def test_what_is_no_image_is_refused_by_name(classifier: Model, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
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


def test_its_repr_names_the_file_the_classes_the_size_and_who_made_it(classifier: Model) -> None:
    facts = classifier.sidecar.facts
    assert repr(classifier) == (
        f"<Model {classifier.path.name}: {len(facts['classes'])} classes ({', '.join(facts['classes'])}), "
        f"{facts['image_size']} px, made by {facts['exported_by']}>"
    )
    assert facts["exported_by"].startswith("hemalens ")
