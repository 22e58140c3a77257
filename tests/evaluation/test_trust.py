"""What is said of trust: calibration helps where it should, sets and abstention are counted as they are."""

import numpy as np
import pytest

from hemalens.console import abstention_lines
from hemalens.core.abstention import confidence_rule, fit_abstention, judge
from hemalens.core.metrics import softmax
from hemalens.evaluation.trust import Answers, calibration_scores, conformal_scores, distance_histogram, trust_scores
from tests.evaluation.factory import evaluation

CLASSES = ("a", "b", "c")


def answers(n: int, seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax, without the scale, is the probability of each label."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, (n, 3))
    labels = (draw.random((n, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1).clip(0, 2)
    return (logits * scale).astype(np.float32), labels


def test_the_right_temperature_mends_the_error_of_all_and_of_each_class() -> None:
    logits, labels = answers(5000, 0, scale=4)
    found = calibration_scores(logits, labels, 4.0, CLASSES).to_json()
    assert found["before"]["ece"] > 0.08 > 0.03 > found["after"]["ece"]
    for name in CLASSES:
        assert found["before"]["per_class"][name]["ece"] > 2 * found["after"]["per_class"][name]["ece"]
    assert sum(found["after"]["per_class"]["a"]["reliability"]["count"]) == 5000


def test_classwise_error_is_the_mean_gap_of_a_class() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1]] * 10))
    found = calibration_scores(logits, np.array([0] * 5 + [1] * 5), 1.0, CLASSES).to_json()["after"]["per_class"]
    assert [found[name]["ece"] for name in CLASSES] == pytest.approx([0.2, 0.3, 0.1])


def test_sets_hold_the_truth_and_their_sizes_are_counted() -> None:
    found = conformal_scores(
        *(((softmax(logits), labels)) for logits, labels in (answers(3000, 1), answers(3000, 2))), CLASSES
    ).to_json()
    for name in ("lac", "lac_by_class", "aps", "aps_by_class"):
        assert found[name]["low"] <= found[name]["coverage"] <= found[name]["high"]
        assert found[name]["coverage"] == pytest.approx(0.9, abs=0.03)
        assert sum(one["n"] for one in found[name]["per_class"].values()) == found[name]["n"] == 3000
        assert 1 <= found[name]["mean_size"] <= 3
    for name in ("lac_by_class", "aps_by_class"):
        assert all(one["coverage"] == pytest.approx(0.9, abs=0.04) for one in found[name]["per_class"].values())
    assert found["lac"]["mean_size"] <= found["aps"]["mean_size"]  # smallest sets is what LAC is for


def test_without_validation_samples_sets_are_those_of_the_thresholds_that_a_model_carries() -> None:
    own, (logits, labels) = answers(3000, 1), answers(3000, 2)
    rule = confidence_rule(*own)
    judged, nobody = judge(rule, np.zeros((3000, 4)), logits), np.zeros(3000, bool)
    with_them, without = (
        trust_scores(Answers(logits, labels, nobody), judged, rule, given, CLASSES).to_json() for given in (own, None)
    )
    assert without["conformal"]["wanted"] == with_them["conformal"]["wanted"]
    assert without["conformal"].keys() == {"wanted", "lac_by_class"}
    found, wanted = (one["conformal"]["lac_by_class"] for one in (without, with_them))
    assert found["coverage"] == pytest.approx(wanted["coverage"], abs=1e-3)
    assert found["mean_size"] == pytest.approx(wanted["mean_size"], abs=1e-3)
    for name in ("abstention", "calibration", "risk_coverage"):
        assert without[name] == with_them[name]


def test_abstention_is_scored_as_it_is_done_and_shown() -> None:
    logits, labels = answers(2000, 3)
    rule = confidence_rule(*answers(2000, 4))
    unknown = np.arange(2000) < 100
    labels[unknown] = -1
    judged = judge(rule, np.zeros((2000, 4)), logits)
    found = trust_scores(Answers(logits, labels, unknown), judged, rule, answers(2000, 4), CLASSES).to_json()
    abstention = found["abstention"]
    right, kept = judged.predicted == labels, ~judged.abstained & ~unknown
    assert abstention["coverage"] == pytest.approx(1 - judged.abstained[~unknown].mean())
    assert abstention["accuracy_kept"] == pytest.approx(right[kept].mean())
    assert abstention["accuracy_abstained"] < abstention["accuracy_kept"]
    assert abstention["unknown_classes"]["n"] == 100
    assert abstention["unknown_classes"]["abstained"]["value"] == judged.abstained[unknown].mean()
    assert abstention["unknown_classes"]["auroc"]["confidence"]["value"] == pytest.approx(0.5, abs=0.1)
    shown = abstention_lines(evaluation(n=1900, abstention=abstention))
    assert shown[1].endswith("of 100 samples of classes that it does not know")
    assert abstention["threshold"] == rule.confidence_limit
    curve = found["risk_coverage"]["confidence"]
    assert curve["least_aurc"] < curve["aurc"] < 1 - right[~unknown].mean()
    assert curve["coverage"][-1] == 1.0
    assert curve["risk"][-1] == pytest.approx(1 - right[~unknown].mean())


def test_distances_are_counted_by_what_the_answer_was() -> None:
    logits, labels = answers(500, 5)
    features = np.random.default_rng(0).normal(size=(500, 4)) + labels[:, None]
    abstention = fit_abstention(features, labels, features, logits, labels)
    judged = judge(abstention, features, logits)
    unknown = np.arange(500) < 40
    labels[unknown] = -1
    found = distance_histogram(judged, Answers(logits, labels, unknown)).to_json()
    right = judged.predicted == labels
    assert [sum(found[name]) for name in ("right", "wrong", "unknown")] == [right.sum(), 460 - right.sum(), 40]
    assert found["edges"][0] == pytest.approx(judged.distance.min())
    assert found["edges"][-1] == pytest.approx(judged.distance.max())
