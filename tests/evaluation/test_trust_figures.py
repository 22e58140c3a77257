"""Figures of trust: they draw what they are given, with empty bins, one class or none unknown."""

import numpy as np
import pytest

from hemalens.core.abstention import fit_abstention, judge
from hemalens.core.charts import figure_svg
from hemalens.core.evaluation_summary import TrustScores
from hemalens.evaluation.figures import reliability_diagram
from hemalens.evaluation.trust import Answers, trust_scores
from hemalens.evaluation.trust_figures import abstention_histogram, class_reliability, risk_coverage_curve

from .test_trust import CLASSES, answers


def scores(unknown: int) -> TrustScores:
    logits, labels = answers(400, 0)
    features = np.random.default_rng(0).normal(size=(400, 4)) + labels[:, None]
    abstention = fit_abstention(features, labels, features, *answers(400, 1))
    strange = np.arange(400) < unknown
    labels[strange] = -1
    judged = judge(abstention, features, logits)
    return trust_scores(Answers(logits, labels, strange), judged, abstention, answers(400, 1), CLASSES)


@pytest.fixture(scope="module")
def found() -> TrustScores:
    return scores(50)


def test_each_class_has_a_panel_with_its_error(found: TrustScores) -> None:
    svg = figure_svg(
        class_reliability(found.calibration.before.per_class, found.calibration.after.per_class), label="classes"
    )
    for name in CLASSES:
        error = found.calibration.after.per_class[name].ece
        assert f"{name}, ECE {100 * error:.2f} %" in svg


def test_the_curve_ends_at_the_error_of_all(found: TrustScores) -> None:
    figure = risk_coverage_curve(found.risk_coverage, abstention=found.abstention)
    lines = figure.axes[0].get_lines()
    assert lines[0].get_ydata()[-1] == pytest.approx(found.risk_coverage["confidence"].risk[-1])
    assert lines[-1].get_xdata()[0] == found.abstention.coverage
    svg = figure_svg(figure, label="risk")
    assert "abstained by distance (area" in svg
    assert "by the model" in svg


@pytest.mark.parametrize("unknown", [0, 50])
def test_unknown_classes_have_a_panel_where_there_are_any(unknown: int) -> None:
    figure = abstention_histogram(scores(unknown).abstention)
    assert len(figure.axes) == (3 if unknown else 2)
    assert ("unknown classes (n = 50" in figure_svg(figure, label="distance")) == bool(unknown)


def test_the_diagram_shows_what_was_before_the_temperature(found: TrustScores) -> None:
    parts = [one.reliability for one in (found.calibration.after, found.calibration.before)]
    assert "before the temperature" in figure_svg(reliability_diagram(parts[0], before=parts[1]), label="reliability")
    assert "before the temperature" not in figure_svg(reliability_diagram(parts[0]), label="reliability")
