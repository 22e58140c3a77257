"""Robustness: the figures of medmnistc's own evaluator from the same answers, and what an evaluation keeps of them."""

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import balanced_accuracy_score

from hemalens.core.charts import figure_svg
from hemalens.core.metrics import expected_calibration_error, softmax
from hemalens.core.types import CELL_CLASSES, FloatArray, Images
from hemalens.data.sources import open_source
from hemalens.evaluation.corrupting import SETS
from hemalens.evaluation.corruptions import CORRUPTIONS
from hemalens.evaluation.figures import corruption_errors
from hemalens.evaluation.robustness import (
    ALEXNET_CLEAN,
    ALEXNET_ERRORS,
    Scored,
    corrupted_logits,
    measure_robustness,
    score_corruptions,
    write_robustness,
)


def brightness(images: Images) -> FloatArray:
    """Answer by brightness alone: (N, 8) logits."""
    level = images.mean(axis=(1, 2, 3)) / 32
    return -((level[:, None] - np.arange(8)) ** 2).astype(np.float32)


def scored(labels: np.ndarray, **changes: object) -> Scored:
    facts = {"classes": CELL_CLASSES, "size": 16, "predict": brightness, "temperature": 1.5, "clean_error": 0.02}
    return Scored(indices=range(len(labels)), labels=labels, **(facts | changes))


@pytest.fixture
def answers() -> tuple[FloatArray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(160) % 8
    logits = generator.normal(0, 1, (55, 160, 8)).astype(np.float32)
    logits[:, np.arange(160), labels] += generator.uniform(0.5, 4, (55, 1)).astype(np.float32)
    return logits, labels


def test_the_figures_of_the_alexnet_are_those_of_the_package() -> None:
    found = pytest.importorskip("medmnistc.utils.baselines").BASELINES["bloodmnist"]
    assert pytest.approx(found["raw_scores"], abs=6e-6) == dict(ALEXNET_ERRORS)
    assert pytest.approx(found["clean_score"], abs=6e-6) == ALEXNET_CLEAN
    assert np.mean(list(ALEXNET_ERRORS.values())) == pytest.approx(0.1125, abs=5e-5)


def test_be_and_rbe_are_those_of_the_packages_evaluator(answers: tuple[FloatArray, np.ndarray]) -> None:
    evaluator_class = pytest.importorskip("medmnistc.eval").Evaluator
    logits, labels = answers
    evaluator = evaluator_class("bloodmnist", labels[:, None], list(CORRUPTIONS), "", "", "multi-class")
    evaluator.evaluate_clean(logits[-1])
    for index, name in enumerate(CORRUPTIONS):
        evaluator.evaluate(softmax(np.concatenate(logits[5 * index : 5 * index + 5])), name)
    evaluator.output_log = {}
    evaluator.populate_summary()
    found = score_corruptions(logits, scored(labels, clean_error=evaluator.clean_score))
    assert found.be == pytest.approx(evaluator.output_log["metrics"]["be"], rel=1e-3)
    assert found.rbe == pytest.approx(evaluator.output_log["metrics"]["rbe"], rel=1e-3)
    assert found.mean_errors() == pytest.approx(evaluator.output_log["raw_scores"])


def test_every_set_has_its_balanced_error_and_its_calibrated_ece(answers: tuple[FloatArray, np.ndarray]) -> None:
    logits, labels = answers
    found = score_corruptions(logits, scored(labels))
    for (name, severity), one in zip(SETS, logits, strict=True):
        entry = found.sets[name][str(severity)]
        assert entry.balanced_error == pytest.approx(1 - balanced_accuracy_score(labels, one.argmax(axis=1)))
        assert entry.ece == pytest.approx(expected_calibration_error(softmax(one / 1.5), labels))


def test_other_classes_are_not_compared_with_the_alexnet(answers: tuple[FloatArray, np.ndarray]) -> None:
    logits, labels = answers
    found = score_corruptions(logits, scored(labels, classes=[f"kind {number}" for number in range(8)]))
    assert (found.be, found.rbe) == (None, None)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    images = np.arange(16, 256, 32, np.uint8)[:, None, None, None] + np.zeros((8, 24, 24, 3), np.uint8)
    np.savez(tmp_path / "cells.npz", images=images, labels=np.arange(8))
    return tmp_path / "cells.npz"


def test_logits_stand_in_the_order_of_sets_and_samples(cells: Path) -> None:
    told = []
    logits = corrupted_logits(
        open_source(cells), scored(np.arange(8)), workers=0, progress=lambda *state: told.append(state)
    )
    assert logits.shape == (55, 8, 8)
    assert (told[0], told[-1]) == (("corrupting", 0, 8), ("corrupting", 8, 8))
    predicted = dict(zip(SETS, logits.argmax(axis=2).tolist(), strict=True))
    assert predicted["pixelate", 5] == predicted["contrast_down", 1] == list(range(8))
    assert predicted["brightness_down", 5] == [0, 1, 1, 2, 2, 3, 3, 4]


def test_an_evaluation_keeps_json_table_and_figure(cells: Path, tmp_path: Path) -> None:
    found, facts = measure_robustness(open_source(cells), scored(np.arange(8), clean_error=0.0), workers=0)
    means = found.mean_errors()
    assert (means["pixelate"], means["brightness_down"] > 0.3) == (0, True)
    assert facts.mean_balanced_error == pytest.approx(np.mean(list(means.values())))
    assert (facts.n, facts.corrupted_at) == (8, 224)
    write_robustness(tmp_path, found, facts)
    table = pl.read_csv(tmp_path / "corruptions.csv")
    assert table.columns == ["corruption", "severity", "balanced_error", "ece"]
    assert table.select("corruption", "severity").rows() == list(SETS)
    assert (tmp_path / "corruptions.svg").read_text().startswith("<svg")


def test_the_figure_has_a_panel_a_corruption_on_one_scale() -> None:
    errors = {name: [0.01 * step for step in range(1, 6)] for name in CORRUPTIONS}
    figure = corruption_errors(errors, clean=0.005, peer=ALEXNET_ERRORS)
    panels = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title(loc="left") for axes in panels] == [name.replace("_", " ") for name in CORRUPTIONS]
    for axes, name in zip(panels, CORRUPTIONS, strict=True):
        line, clean, peer = axes.lines
        assert list(line.get_ydata()) == errors[name]
        assert (clean.get_ydata()[0], peer.get_ydata()[0]) == (0.005, ALEXNET_ERRORS[name])
    assert all(left.get_ylim() == right.get_ylim() for left, right in itertools.pairwise(panels))
    assert "AlexNet" in figure_svg(figure, label="errors")
    assert "AlexNet" not in figure_svg(corruption_errors(errors, clean=0.005), label="errors")
