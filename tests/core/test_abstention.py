"""Refusal: the share asked for is refused, strangers are refused with the reason, damage to the file is named."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from hemalens.core.abstention import Abstention, confidence_rule, fit_abstention, judge
from hemalens.core.errors import ArtifactError

WIDTH, CLASSES = 10, 3


def cells(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features around a centre a class, logits that are sometimes unsure, and labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, n)
    centres = 5 * np.eye(CLASSES, WIDTH)
    features = (draw.normal(size=(n, WIDTH)) + centres[labels]).astype(np.float32)
    return features, (2 * features[:, :CLASSES]).astype(np.float32), labels


@pytest.fixture(scope="module")
def abstention() -> Abstention:
    features, _, labels = cells(3000, 0)
    return fit_abstention(features, labels, *cells(2000, 1))


def test_the_share_asked_for_is_refused_of_validation_and_of_new_cells(abstention: Abstention) -> None:
    features, logits, _ = cells(2000, 1)
    assert judge(abstention, features, logits).abstained.mean() == pytest.approx(0.05, abs=0.002)
    features, logits, _ = cells(20_000, 2)
    judged = judge(abstention, features, logits)
    assert judged.abstained.mean() == pytest.approx(0.05, abs=0.015)
    unlike = np.array(["unlike" in reason for reason in judged.reasons])
    unsure = np.array(["confidence" in reason for reason in judged.reasons])
    assert unlike.mean() == pytest.approx(unsure.mean(), abs=0.015)  # neither criterion does it all


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_another_rate_may_be_asked_for(rate: float) -> None:
    features, _, labels = cells(3000, 0)
    known = cells(2000, 1)
    judged = judge(fit_abstention(features, labels, *known, rejection_rate=rate), *known[:2])
    assert judged.abstained.mean() == pytest.approx(rate, abs=0.003)


def test_a_stranger_that_the_network_is_sure_of_is_refused_for_its_distance(abstention: Abstention) -> None:
    features, _, _ = cells(1, 3)
    features[0, -1] = 60.0
    judged = judge(abstention, features, np.array([[40.0, 0.0, 0.0]]))
    assert judged.abstained.all()
    assert judged.confidence[0] > 0.999
    assert judged.reasons[0].startswith("unlike any training cell (distance ")
    assert f"over {abstention.distance_limit:.1f})" in judged.reasons[0]
    assert "confidence" not in judged.reasons[0]


def test_an_unsure_answer_is_refused_for_its_confidence(abstention: Abstention) -> None:
    features = 5 * np.eye(CLASSES, WIDTH, dtype=np.float32)[:1]
    judged = judge(abstention, features, np.zeros((1, CLASSES)))
    assert judged.reasons == (f"confidence 0.3333 under {abstention.confidence_limit:.4f}",)


def test_what_is_kept_has_no_reason(abstention: Abstention) -> None:
    judged = judge(abstention, *cells(500, 4)[:2])
    assert [bool(reason) for reason in judged.reasons] == judged.abstained.tolist()
    np.testing.assert_allclose(judged.probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(judged.probabilities.max(axis=1), judged.confidence)
    np.testing.assert_array_equal(judged.probabilities.argmax(axis=1), judged.predicted)


def test_an_empty_set_is_judged() -> None:
    features, logits, labels = cells(200, 0)
    found = judge(fit_abstention(features, labels, features, logits, labels), features[:0], logits[:0])
    assert found.reasons == ()
    assert found.abstained.shape == (0,)


def test_a_written_refusal_judges_just_the_same(abstention: Abstention) -> None:
    text = json.dumps(abstention.to_json(), allow_nan=False)
    again = Abstention.from_json(json.loads(text))
    features, logits, _ = cells(300, 5)
    one, other = judge(abstention, features, logits), judge(again, features, logits)
    np.testing.assert_array_equal(one.distance, other.distance)
    np.testing.assert_array_equal(one.abstained, other.abstained)
    assert one.reasons == other.reasons
    assert again.to_json() == abstention.to_json()


def test_what_was_varied_is_less_strange_and_the_undistorted_cells_are_kept_beside() -> None:
    features, _, labels = cells(3000, 0)
    shift = np.zeros(WIDTH, np.float32)
    shift[-1] = 8
    varied = features + np.random.default_rng(4).normal(size=(len(features), 1)).astype(np.float32) * shift
    plain = fit_abstention(features, labels, *cells(2000, 1))
    found = fit_abstention(features, labels, *cells(2000, 1), varied_features=varied)
    moved, logits, _ = cells(500, 6)
    assert judge(plain, moved + shift, logits).abstained.mean() > 0.9
    assert judge(found, moved + shift, logits).abstained.mean() < 0.2
    assert plain.home is None
    assert found.home is not None
    again = Abstention.from_json(json.loads(json.dumps(found.to_json())))
    assert again.home is not None
    np.testing.assert_array_equal(again.home.score(moved), found.home.score(moved))
    assert again.home.score(moved + shift).mean() > 2 * again.home.score(moved).mean()
    older = {name: part for name, part in found.to_json().items() if name != "home"}
    assert Abstention.from_json(older).home is None


def test_a_wide_network_keeps_its_leading_directions_and_a_small_file() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 2048)).astype(np.float32)
    labels = np.arange(60) % 3
    found = fit_abstention(features, labels, features, features[:, :3], labels)
    assert found.gaussians is not None
    assert found.gaussians.basis.shape[1] < 100
    assert len(json.dumps(found.to_json())) < 1_500_000


def test_without_training_features_confidence_alone_decides() -> None:
    features, logits, labels = cells(2000, 1)
    rule = confidence_rule(logits, labels)
    judged = judge(Abstention.from_json(rule.to_json()), features + 1000, logits)
    assert judged.abstained.mean() == pytest.approx(0.05, abs=0.002)
    assert all(reason.startswith("confidence") for reason in judged.reasons if reason)
    assert np.isnan(judged.distance).all()


def test_features_of_another_network_are_refused(abstention: Abstention) -> None:
    with pytest.raises(ArtifactError, match="features of width 11: must have width 10"):
        judge(abstention, np.zeros((2, 11), np.float32), np.zeros((2, CLASSES)))


def damaged(value: dict[str, Any], *path: str, to: object) -> dict[str, Any]:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return changed


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("schema_version",), 1),
        (("temperature",), None),
        (("temperature",), "hot"),
        (("distance_limit",), float("nan")),
        (("confidence_limit",), True),
        (("gaussians",), None),
        (("gaussians",), [1, 2]),
        (("gaussians", "rest"), None),
        (("gaussians", "means"), None),
        (("gaussians", "means", "base64"), "!!!!"),
        (("gaussians", "basis", "base64"), "AAAA"),
        (("gaussians", "means", "shape"), [3, 9]),
        (("gaussians", "precisions", "shape"), "ten"),
        (("gaussians", "means", "dtype"), "float64"),
        (("gaussians", "precisions"), {"dtype": "float32", "shape": [1], "base64": "AACAPw=="}),
        (("set_thresholds",), {"dtype": "float32", "shape": [1], "base64": "AADAfw=="}),
    ],
)
def test_damage_is_named(abstention: Abstention, path: tuple[str, ...], to: object) -> None:
    with pytest.raises(ArtifactError, match=r"abstention data.*; train the model again"):
        Abstention.from_json(damaged(abstention.to_json(), *path, to=to))
