import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, ttest_ind

from hemalens.core.metrics import accuracy, bootstrap_interval, confusion_matrix, macro_f1
from hemalens.evaluation.compare import (
    bootstrap_scores,
    drawn_difference,
    holm,
    paired_difference,
    seeded_difference,
    unpaired_difference,
)


def answers(both, first, second, neither):
    """Make the right-or-wrong answers of two models from the four counts."""
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_weighs_only_the_samples_on_which_the_models_differ():
    found = paired_difference(*answers(900, 1, 9, 90))
    assert found.p == pytest.approx(22 / 1024)  # 2 * (1 + 10) of the 2 ** 10 ways in which ten coins fall
    assert found.p == paired_difference(*answers(9000, 1, 9, 0)).p
    assert found.value == pytest.approx(-0.008)
    assert found.low < -0.008 < found.high < 0
    assert found.paired


def test_a_difference_turns_its_sign_with_the_order():
    there, back = paired_difference(*answers(80, 3, 9, 8)), paired_difference(*answers(80, 9, 3, 8))
    assert there.value == -back.value
    assert there.p == back.p
    assert -1 <= there.low <= there.value <= there.high <= 1


def test_models_that_agree_on_every_sample_do_not_differ():
    found = paired_difference(*answers(95, 0, 0, 5))
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_pairs_see_a_difference_that_two_intervals_cannot():
    assert paired_difference(*answers(960, 15, 2, 23)).p < 0.01
    assert unpaired_difference((975, 1000), (962, 1000)).p > 0.05


def test_the_unpaired_interval_is_the_one_in_newcombes_table():
    found = unpaired_difference((56, 70), (48, 80))
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0524, abs=5e-5)
    assert found.high == pytest.approx(0.3339, abs=5e-5)
    assert not found.paired


def test_flawless_scores_on_few_samples_leave_room_for_doubt():
    found = unpaired_difference((20, 20), (19, 20))
    assert found.p == pytest.approx(1.0)
    assert found.low < 0 < found.high


def named(count=600, seed=0, wrong=0.05):
    """Make labels of four classes and answers of which a share is wrong."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(4, size=count)
    return labels, np.where(draw.random(count) < wrong, (labels + 1) % 4, labels)


@pytest.mark.parametrize("score", [accuracy, macro_f1])
def test_draws_of_samples_give_the_interval_that_draws_of_the_matrix_give(score):
    labels, answers = named()
    low, high = np.quantile(bootstrap_scores(labels, [answers], 4, score)[0], [0.025, 0.975])
    found = bootstrap_interval(confusion_matrix(labels, answers, 4), score)
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.004)


def test_models_are_drawn_on_the_same_samples():
    labels, answers = named()
    first, second, other = bootstrap_scores(labels, [answers, answers, labels], 4, macro_f1)
    np.testing.assert_array_equal(first, second)
    assert (other == 1).all()
    np.testing.assert_array_equal(first, bootstrap_scores(labels, [answers], 4, macro_f1)[0])


def test_large_sets_are_drawn_in_pieces(monkeypatch):
    labels, answers = named(50)
    whole = bootstrap_scores(labels, [answers], 4, accuracy, resamples=30)
    monkeypatch.setattr("hemalens.evaluation.compare._BLOCK", 7 * 50)
    pieces = bootstrap_scores(labels, [answers], 4, accuracy, resamples=30)
    assert pieces.shape == whole.shape == (1, 30)


def test_draws_around_zero_show_no_difference_and_draws_beyond_it_do():
    draws = np.linspace(-1, 3, 401)
    found = drawn_difference(1.0, draws)
    assert found.p == pytest.approx(2 * 102 / 402)
    assert found.low < 0 < found.high
    assert drawn_difference(1.0, draws + 2).p == pytest.approx(2 / 402)
    assert drawn_difference(0.0, np.zeros(9)).p == 1.0


def test_seeds_alone_are_compared_by_welchs_test():
    first, second = [0.91, 0.93, 0.92], [0.90, 0.89, 0.93, 0.88]
    found = seeded_difference(first, second, samples=0.0, paired=True)
    peer = ttest_ind(first, second, equal_var=False)
    assert found.p == pytest.approx(peer.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(peer.confidence_interval(0.95)))


def test_samples_add_their_doubt_to_that_of_the_seeds():
    seeds = [0.95, 0.951, 0.949], [0.93, 0.931, 0.929]
    sure, doubtful = (seeded_difference(*seeds, samples=samples, paired=True) for samples in (0.0, 0.0001))
    assert sure.p < 0.001
    assert doubtful.p > 0.04
    assert doubtful.low < sure.low


def test_a_recipe_trained_once_is_taken_to_spread_like_the_other():
    found = seeded_difference([0.95], [0.93, 0.94, 0.92], samples=0.0, paired=True)
    assert found.p > 0.1
    with pytest.raises(ValueError, match="once each"):
        seeded_difference([0.9], [0.8], samples=0.0, paired=True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers_a_p_value(p_values):
    found = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, found, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert found[order[0]] == min(1, len(p_values) * p_values[order[0]])
    assert all(q >= fdr - 1e-12 for q, fdr in zip(found, false_discovery_control(p_values), strict=True))


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (4,)), ((2, 2), (2, 2))])
def test_answers_of_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="one length"):
        paired_difference(*(np.ones(shape, bool) for shape in shapes))


@pytest.mark.parametrize("pair", [((1, 0), (1, 2)), ((3, 2), (1, 2)), ((1, 2), (-1, 2))])
def test_impossible_counts_are_refused(pair):
    with pytest.raises(ValueError, match="between none and all"):
        unpaired_difference(*pair)
