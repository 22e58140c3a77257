import re
from html import unescape

import numpy as np
import polars as pl
import pytest

from hemalens.core.artifacts import read_json, write_json
from hemalens.core.errors import ArtifactError
from hemalens.core.page import ABSENT
from hemalens.core.records import open_record
from hemalens.core.types import CELL_CLASSES
from hemalens.evaluation.report import report
from hemalens.evaluation.report_experiments import augmentation_words, experiments_context, experiments_table
from hemalens.evaluation.report_inputs import load_inputs
from tests.evaluation.factory import CONFIG, confusion, extras, make_evaluation, make_run, make_train, scores
from tests.recording import record_again

pytestmark = pytest.mark.usefixtures("undrawn")


def matrix_of(mistakes, per_class=100):
    """Make a matrix of eight classes in which ``mistakes`` of class 0 are taken for class 1."""
    matrix = np.diag([per_class] * 8)
    matrix[0, 0] -= mistakes
    matrix[0, 1] += mistakes
    return matrix


def experiment(folder, mistakes, *, answers=True, source="a", perturbed=None, **config):
    """Write a training with its evaluation inside."""
    train = make_train(folder, config=CONFIG | config)
    more = extras() | {"ece": mistakes / 1000}
    if perturbed is not None:
        more["perturbed"] = {"value": perturbed, "low": perturbed - 0.02, "high": perturbed + 0.02}
    make_evaluation(train / "evaluation", train, matrix=matrix_of(mistakes), answers=answers, source=source, **more)
    return train


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three runs on the same 800 pictures: 4, 6 and 40 mistakes; the second is best on perturbed ones."""
    base = tmp_path_factory.mktemp("three")
    return [
        experiment(base / "good", 4, perturbed=0.6),
        experiment(base / "near", 6, perturbed=0.9, weights="/models/wide_net.safetensors", balance="none"),
        experiment(base / "bad", 40, perturbed=0.88, augment=[], mix="both"),
    ]


def test_the_table_has_a_row_a_run_in_the_order_given(three):
    table = experiments_table(load_inputs([three[2], three[0], three[1]]).runs)
    assert table["run"].to_list() == ["bad", "good", "near"]
    assert table["weights"].to_list() == ["scratch", "scratch", "wide_net"]
    assert table["augmentation"].to_list() == ["mixup/CutMix", "flip, rotate, zoom", "flip, rotate, zoom"]
    assert table["balance"].to_list() == ["replicate 2000", "replicate 2000", "none"]
    assert table["train_minutes"].to_list() == pytest.approx([2.083] * 3)
    assert table["epochs"].to_list() == [12] * 3
    assert table["accuracy"].to_list() == pytest.approx([0.95, 0.995, 0.9925])
    assert table["f1_basophil"].to_list() == pytest.approx([2 * 60 / 160, 2 * 96 / 196, 2 * 94 / 194])
    assert table["ece"].to_list() == pytest.approx([0.04, 0.004, 0.006])


def test_runs_on_the_same_samples_are_compared_pair_by_pair(three):
    table = experiments_table(load_inputs(three).runs)
    assert table["accuracy_paired"].to_list() == [None, True, True]
    assert table["accuracy_less_best"].to_list()[1:] == pytest.approx([-2 / 800, -36 / 800])
    # Two samples that only the best one names rightly: 2 * (1/2) ** 2; thirty-six, times two comparisons.
    assert table["accuracy_p"].to_list()[1] == pytest.approx(0.5)
    assert table["accuracy_p"].to_list()[2] == pytest.approx(2 * 2 * 0.5**36)
    assert table["perturbed_paired"].to_list() == [False, None, False]


def test_differences_are_claimed_only_where_they_are_more_than_chance(three):
    clean, macro, perturbed = experiments_context(load_inputs(three).runs)["verdicts"]
    assert clean == (
        "The highest accuracy is that of good. No difference from it can be claimed for near. Worse than it is bad."
    )
    assert macro == clean.replace("accuracy", "macro-F1")
    assert perturbed == (
        "The highest accuracy on perturbed pictures is that of near. No difference from it can be claimed for bad. "
        "Worse than it is good."
    )


@pytest.mark.parametrize(
    ("answers", "source"), [(False, "a"), (True, "b")], ids=["no single answers", "another source"]
)
def test_runs_without_the_same_samples_are_compared_by_counts(tmp_path, answers, source):
    runs = [experiment(tmp_path / "one", 4), experiment(tmp_path / "two", 16, answers=answers, source=source)]
    loaded = load_inputs(runs).runs
    table = experiments_table(loaded)
    assert table["accuracy_paired"].to_list() == [None, False]
    assert 0.005 < table["accuracy_p"][1] < 0.05
    assert not experiments_context(loaded)["same_samples"]


def test_samples_under_other_labels_are_not_the_same(tmp_path):
    runs = [experiment(tmp_path / name, 4) for name in ("one", "two")]
    path = runs[1] / "evaluation" / "predictions.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("ig-0,ig,", "ig-0,monocyte,"), encoding="utf-8")
    record_again(path.parent)
    assert experiments_table(load_inputs(runs).runs)["accuracy_paired"].to_list() == [None, False]


def test_the_best_of_each_column_is_marked_and_ties_share_the_mark(tmp_path):
    runs = [experiment(tmp_path / name, mistakes) for name, mistakes in (("a", 4), ("b", 9), ("c", 4))]
    rows = experiments_context(load_inputs(runs).runs)["rows"]
    accuracy, perturbed, ece = ([row[place]["best"] for row in rows] for place in (3, 4, 6))
    assert accuracy == [True, False, True]
    assert perturbed == [False, False, False]  # all alike: there is no best
    assert ece == [True, False, True]  # the least


def test_one_run_alone_has_neither_marks_nor_differences(tmp_path):
    context = experiments_context(load_inputs([make_run(tmp_path / "a")]).runs)
    assert context["difference_rows"] == []
    assert context["verdicts"] == []
    assert not any(cell["best"] for cell in context["rows"][0] if not isinstance(cell, str))


def test_runs_of_other_classes_leave_gaps(tmp_path):
    runs = [experiment(tmp_path / "eight", 4), make_train(tmp_path / "two")]
    two = scores(np.array([[5, 1], [0, 6]]), ["ig", "other"])
    write_json(runs[1] / "model.json", read_json(runs[1] / "model.json") | {"classes": ["ig", "other"]})
    record_again(runs[1])
    make_evaluation(runs[1] / "evaluation", runs[1], **two)
    context = experiments_context(load_inputs(runs).runs)
    assert context["classes"] == [*CELL_CLASSES, "other"]
    assert context["class_rows"][0][-1] == context["class_rows"][1][1] == ABSENT
    assert context["sizes_differ"]


def test_the_report_of_several_runs_holds_its_tables_and_writes_them_as_csv(three, tmp_path):
    summary = report(three, tmp_path / "out")
    assert "experiments.csv" in summary["files"]
    assert "near/evaluate/predictions.csv" in open_record(tmp_path / "out", "report").facts["inputs"]
    written = pl.read_csv(tmp_path / "out" / "experiments.csv")
    assert written["run"].to_list() == ["good", "near", "bad"]
    assert written["accuracy_high"].is_not_null().all()
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    words = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))
    assert re.search(r"● 99\.50 % \[9\d\.\d, ", words)
    assert "No difference from it can be claimed for near." in words
    assert re.search(r"bad -4\.50 \[-\d\.\d, -\d\.\d\] < 0\.001", words.replace("\N{MINUS SIGN}", "-"))
    assert "compared sample by sample" in words
    for anchor in ("runs", "runs-by-class", "runs-apart"):
        assert f'<table id="{anchor}">' in html


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ABSENT),
        ({"augment": []}, "none"),
        ({"augment": [{"name": "flip"}, {"name": "flip"}, {"name": "blur"}], "mix": "none"}, "flip, blur"),
        ({"augment": ["flip"], "mix": "cutmix", "jsd": 12.0}, "flip, CutMix, consistency"),
    ],
)
def test_augmentation_is_told_in_a_few_words(config, words):
    assert augmentation_words(config) == words


# --- where an evaluation may lie


@pytest.mark.parametrize("place", ["train/evaluate", "train/evaluation", "evaluate", "evaluation"])
@pytest.mark.parametrize("named", ["", "train"])
def test_an_evaluation_is_found_inside_and_beside_the_training(tmp_path, place, named):
    train = make_train(tmp_path / "run" / "train")
    make_evaluation(tmp_path / "run" / place, train)
    found = load_inputs([tmp_path / "run" / named]).main.evaluation
    assert found is not None
    assert found.directory == tmp_path / "run" / place


def test_an_evaluation_from_elsewhere_goes_to_the_run_whose_model_it_scored(tmp_path):
    runs = [make_train(tmp_path / name) for name in ("one", "two")]
    passed = [make_evaluation(tmp_path / "scores" / name, run) for name, run in zip("ab", reversed(runs), strict=True)]
    make_evaluation(runs[0] / "evaluation", runs[0], matrix=confusion() * 2)  # the one that is passed wins
    first, second = load_inputs(runs, passed).runs
    assert first.evaluation.directory == passed[1]
    assert second.evaluation.directory == passed[0]


def test_an_evaluation_of_none_of_the_runs_is_refused(tmp_path):
    one, other = (make_train(tmp_path / name) for name in ("one", "other"))
    passed = make_evaluation(tmp_path / "scores", other)
    with pytest.raises(ArtifactError, match="is of a model of none of the runs"):
        load_inputs([one], [passed])
    with pytest.raises(ArtifactError, match="does not exist"):
        load_inputs([other], [tmp_path / "nowhere"])


def test_one_of_several_runs_without_an_evaluation_says_how_to_make_one(tmp_path):
    runs = [experiment(tmp_path / "one", 4), make_train(tmp_path / "two")]
    with pytest.raises(ArtifactError, match=r"two: has no evaluation .*; run: hemalens evaluate .*/two SOURCE --out"):
        report(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
