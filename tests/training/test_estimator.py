"""Training after scikit-learn's conventions: a shell around ``train`` that its tools can clone, search and pickle."""

import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as checks

from hemalens import Classifier
from hemalens.core.artifacts import read_json, read_provenance, read_table
from hemalens.core.config import load_config
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.metrics import softmax
from hemalens.core.provenance import sha256_file
from hemalens.evaluation.evaluate import evaluate
from hemalens.export.export import export
from hemalens.training.checkpoint import load_model, read_validation
from hemalens.training.recipes import find_recipe
from hemalens.training.tensors import LabelledImages
from hemalens.training.train import train
from tests.recording import record_again

MakeSet = Callable[..., LabelledImages]
QUICK = (
    *("image_size=16", "epochs=2", "batch_size=12", "balance=none", "threads=1", "device=cpu", "precision=fp32"),
    *("supersample=1", "lr=0.02", "augment=[{name='flip'}]"),
)
NAMES = np.array(["basophil", "lymphocyte", "platelet"])


def quick(**parameters: Any) -> Classifier:
    return Classifier(**{"settings": QUICK, **parameters})


def drawn_from() -> tuple[Any, ...]:
    """The global random states."""
    numpy_state = np.random.get_state()  # noqa: NPY002  # it is looked at to see that nobody draws from it
    return numpy_state[1].tolist(), numpy_state[2], torch.get_rng_state().tolist(), random.getstate()


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    """60 images of three colours (N, 20, 20, 3), and the names of their classes."""
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    labels = np.tile(np.arange(3), 20)
    noise = np.random.default_rng(0).integers(-50, 51, (60, 20, 20, 3))
    return (colours[labels][:, None, None] + noise).astype(np.uint8), NAMES[labels]


@pytest.fixture(scope="module")
def fitted(cells: tuple[np.ndarray, np.ndarray]) -> Classifier:
    """Nobody may fit it anew."""
    return quick(seed=3).fit(*cells)


def test_it_learns_names_and_says_what_it_learned(fitted: Classifier, cells: Any) -> None:
    images, labels = cells
    assert fitted.classes_.tolist() == NAMES.tolist()
    assert fitted.score(images, labels) > 0.9
    assert set(fitted.predict(images[:5])) <= set(NAMES)
    assert (fitted.image_size_, fitted.card_["epochs"]) == (16, 2)
    assert [row["epoch"] for row in fitted.history_] == [1, 2]
    assert (fitted.card_["n_train"], fitted.card_["n_val"]) == (51, 9)


def test_its_repr_shows_parameters_as_scikit_learn_does_and_once_fitted_what_it_knows(fitted: Classifier) -> None:
    assert repr(Classifier()) == "Classifier()"
    assert repr(Classifier(recipe="robust", seed=2)) == "Classifier(recipe='robust', seed=2)"
    shown = repr(quick(seed=3))
    assert repr(fitted) == f"<{shown}, fitted: 3 classes (basophil, lymphocyte, platelet), 16 px>"
    assert repr(clone(fitted)) == shown, "a clone is not fitted"
    assert "Classifier(seed=4)" in repr(make_pipeline(Classifier(seed=4)))


def test_probabilities_are_the_logits_over_the_temperature(fitted: Classifier, cells: Any) -> None:
    images = cells[0][:6]
    probabilities, logits = fitted.predict_proba(images), fitted.decision_function(images)
    np.testing.assert_allclose(probabilities, softmax(logits), rtol=1e-6)
    assert fitted.predict(images).tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()
    judgement = fitted.judge(images)
    np.testing.assert_array_equal(judgement.probabilities, probabilities)
    assert fitted.abstention_.temperature != 1.0


def test_images_in_files_images_and_lists_are_predicted_alike(fitted: Classifier, cells: Any, tmp_path: Path) -> None:
    images = cells[0][:3]
    Image.fromarray(images[0]).save(tmp_path / "cell.png")
    mixed = [tmp_path / "cell.png", Image.fromarray(images[1]), images[2]]
    np.testing.assert_array_equal(fitted.predict_proba(mixed), fitted.predict_proba(images))


def test_equal_fits_give_equal_weights_and_touch_nothing(fitted: Classifier, cells: Any) -> None:
    images, labels = cells
    before, states = images.copy(), drawn_from()
    again, other = quick(seed=3).fit(images, labels), quick(seed=4).fit(images, labels)
    weights = [made._files["model.safetensors"] for made in (fitted, again, other)]
    assert weights[0] == weights[1] != weights[2]
    assert (images == before).all()
    assert drawn_from() == states


def test_weights_are_those_of_the_command_on_the_same_split(fitted: Classifier, cells: Any, tmp_path: Path) -> None:
    images, labels = cells
    saved = fitted.save(tmp_path / "saved")
    sides = read_table(saved / "splits.csv", {})["split"].to_numpy().astype(str)
    source = tmp_path / "cells.npz"
    np.savez(source, images=images, labels=labels, splits=sides)
    train(source, tmp_path / "run", settings=(*QUICK, "seed=3"))
    assert sha256_file(tmp_path / "run" / "model.safetensors") == sha256_file(saved / "model.safetensors")
    assert read_json(tmp_path / "run" / "abstention.json") == read_json(saved / "abstention.json")


def test_a_saved_run_is_taken_by_the_commands_and_back(
    fitted: Classifier, cells: Any, tmp_path: Path, undrawn: None
) -> None:
    images, labels = cells
    np.savez(tmp_path / "cells.npz", images=images, labels=labels)
    run = fitted.save(tmp_path / "run")
    scores = evaluate(run, tmp_path / "cells.npz", tmp_path / "evaluation")
    assert scores.accuracy.value == fitted.score(images, labels)
    assert export(run, tmp_path / "cells.onnx")["n"] > 0
    record = read_provenance(run)
    assert record is not None
    assert record["outputs"]["model.json"] == sha256_file(run / "model.json")
    back = Classifier.from_run(run)
    np.testing.assert_array_equal(back.predict_proba(images), fitted.predict_proba(images))
    assert back.classes_.tolist() == NAMES.tolist()
    assert load_config(find_recipe(back.recipe), [*back.settings, f"seed={back.seed}"]).model_dump(
        mode="json"
    ) == read_json(run / "config.json")
    with pytest.raises(ArtifactError, match="exists already"):
        fitted.save(run)
    fitted.save(run, overwrite=True)
    assert load_model(run).classes == tuple(NAMES)


def test_a_run_without_refusal_data_is_taken_with_confidence_alone(fitted: Classifier, tmp_path: Path) -> None:
    run = fitted.save(tmp_path / "run")
    (run / "abstention.json").unlink()
    record_again(run)
    back = Classifier.from_run(run)
    assert back.abstention_.gaussians is None
    logits, _ = read_validation(run)
    assert back.abstention_.temperature == pytest.approx(fitted.abstention_.temperature)
    assert len(logits) == 9


def test_a_pickle_predicts_the_same(fitted: Classifier, cells: Any) -> None:
    back = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(back.predict_proba(cells[0]), fitted.predict_proba(cells[0]))
    assert (back.history_, back.get_params()) == (fitted.history_, fitted.get_params())


def test_a_clone_is_unfitted_and_equal_in_its_parameters(fitted: Classifier, cells: Any) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(cells[0])


def test_searches_folds_and_pipelines_take_it(cells: Any) -> None:
    images, labels = cells
    short = (*QUICK, "epochs=1")
    search = GridSearchCV(quick(), {"settings": [short, (*short, "lr=0.0001")]}, cv=2, error_score="raise")
    search.fit(images, labels)
    assert search.best_params_["settings"] in (short, (*short, "lr=0.0001"))
    assert search.predict(images).shape == (60,)
    assert cross_val_score(quick(settings=short), list(images), labels, cv=2, scoring="neg_log_loss").shape == (2,)
    pipe = make_pipeline(FunctionTransformer(lambda batch: batch[:, 2:-2, 2:-2]), quick()).fit(images, labels)
    assert pipe.score(images, labels) > 0.5


def test_no_process_is_started_however_many_images(fitted: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.data.reading.parallel.ProcessPoolExecutor", None)
    monkeypatch.setattr("hemalens.data.reading.parallel.available_cores", lambda: 2)
    assert fitted.predict(np.zeros((900, 16, 16, 3), np.uint8)).shape == (900,)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 7], ("basophil", "platelet")),
        ([3, 12], ("class-03", "class-12")),
        ([-1, 1], ("-1", "1")),
        ([False, True], ("basophil", "eosinophil")),
        (["Platelets", "sick"], ("platelet", "sick")),
    ],
)
def test_labels_come_back_as_they_were_and_have_names_in_a_run(
    labels: list[Any], names: tuple[str, ...], cells: Any
) -> None:
    images = cells[0][np.arange(60) % 3 < 2]
    y = np.array(labels)[np.arange(len(images)) % 2]
    made = quick(settings=(*QUICK, "epochs=1")).fit(images, y.reshape(-1, 1))
    assert made.classes_.tolist() == labels
    assert made.predict(images).dtype == y.dtype
    assert made.card_["classes"] == list(names)
    lead = made.decision_function(images)
    assert lead.shape == (len(images),)
    assert made.predict(images).tolist() == np.where(lead > 0, labels[1], labels[0]).tolist()


def test_a_group_is_never_on_both_sides(cells: Any, tmp_path: Path) -> None:
    images, labels = cells
    patients = np.arange(60) // 6
    run = (
        quick(settings=(*QUICK, "epochs=1"), validation_share=0.3).fit(images, labels, patients).save(tmp_path / "run")
    )
    table = read_table(run / "splits.csv", {})
    assert table.group_by("group").n_unique()["split"].max() == 1
    assert set(table["split"]) == {"train", "val"}


@pytest.mark.parametrize(
    ("parameters", "error", "rule"),
    [
        ({"recipe": "nonesuch"}, ConfigError, "recipe nonesuch"),
        ({"settings": ("epoch=1",)}, ConfigError, "key epoch"),
        ({"settings": "epochs=1"}, ConfigError, "must be a sequence of texts"),
        ({"seed": -1}, ConfigError, "seed -1"),
        ({"validation_share": 1.0}, ConfigError, "validation_share 1.0: must lie between 0 and 1"),
        ({"validation_share": 0.001}, SourceError, "leaves none to validate on"),
    ],
)
def test_wrong_parameters_are_named_by_fit(
    parameters: dict[str, Any], error: type[Exception], rule: str, cells: Any
) -> None:
    with pytest.raises(error, match=rule):
        quick(**parameters).fit(*cells)


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        (["a"] * 59, r"y \(59,\): must be one label for each of 60 images"),
        (np.eye(60), r"y \(60, 60\)"),
        (np.linspace(0, 1, 60), "y of float64"),
        ([None, "a"] * 30, "y of object"),
        (["ig", "IG"] * 30, r"labels \['IG', 'ig'\] of y: mean one class, 'ig'"),
        (["a"] * 60, "needs at least two classes to train on, it has a"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, rule: str, cells: Any) -> None:
    with pytest.raises(SourceError, match=rule):
        quick().fit(cells[0], labels)


def test_groups_that_do_not_fit_are_refused(cells: Any) -> None:
    with pytest.raises(SourceError, match="groups of 2: must be 60"):
        quick().fit(*cells, groups=[1, 2])


def test_torch_is_asked_for_by_fit_and_predict_alone(fitted: Classifier, tmp_path: Path) -> None:
    (tmp_path / "classifier.pickle").write_bytes(pickle.dumps(fitted))
    code = """
import pickle, sys, numpy, hemalens
back = pickle.load(open(sys.argv[1], "rb"))
print(hemalens.Classifier(), hasattr(hemalens, "Klassifier"), "torch" in sys.modules)
sys.modules["torch"] = None
for act in (lambda: hemalens.Classifier().fit(numpy.zeros((2, 8, 8, 3), "u1"), [0, 1]), lambda: back.predict([])):
    try:
        act()
    except hemalens.core.errors.MissingExtraError as error:
        print(error)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "classifier.pickle")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    refused = "hemalens.Classifier: needs the optional extra 'train'; install it with: pip install 'hemalens[train]'"
    assert done.stdout.splitlines() == ["Classifier() False False", refused, refused]


class OfTables(Classifier):
    """Rows of a table drawn as images of stripes, so that scikit-learn's own checks have something to train on."""

    def __init__(self, settings: Any = (*QUICK, "epochs=1", "balance=sampler"), seed: Any = 0) -> None:
        super().__init__(settings=settings, seed=seed)

    def fit(self, X: Any, y: Any) -> "OfTables":  # noqa: N803  # as scikit-learn calls it
        return super().fit(drawn(X), y)

    def _outputs(self, images: Any) -> Any:
        return super()._outputs(drawn(images))


def drawn(table: Any) -> np.ndarray:
    values = (np.asarray(table, float) * 12).astype(int).astype(np.uint8)
    stripes = np.repeat(values, -(-16 // values.shape[1]), axis=1)[:, :16]
    return np.repeat(np.repeat(stripes[:, None, :, None], 16, axis=1), 3, axis=3)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_parameters_default_constructible,
        checks.check_no_attributes_set_in_init,
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_estimator_repr,
        checks.check_estimator_cloneable,
        checks.check_estimator_tags_renamed,
        checks.check_valid_tag_types,
        checks.check_mixin_order,
    ],
    ids=lambda check: check.__name__,
)
def test_it_passes_the_checks_of_scikit_learn_that_need_no_data(check: Any) -> None:
    check("Classifier", Classifier())


@pytest.mark.parametrize(
    "check",
    [
        checks.check_fit_score_takes_y,
        checks.check_estimators_overwrite_params,
        checks.check_dont_overwrite_parameters,
        checks.check_estimators_fit_returns_self,
        checks.check_readonly_memmap_input,
        checks.check_estimators_unfitted,
        checks.check_pipeline_consistency,
        checks.check_estimators_pickle,
        checks.check_f_contiguous_array_estimator,
        checks.check_classifiers_classes,
        checks.check_decision_proba_consistency,
        checks.check_methods_sample_order_invariance,
        checks.check_methods_subset_invariance,
        checks.check_dict_unchanged,
        checks.check_fit_idempotent,
        checks.check_fit_check_is_fitted,
    ],
    ids=lambda check: check.__name__,
)
def test_it_passes_the_checks_of_scikit_learn_that_images_can_be_made_for(check: Any) -> None:
    check("OfTables", OfTables())
