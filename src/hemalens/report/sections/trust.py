"""From one evaluation to what a report says of its confidence: calibration, abstention, sets of answers, corruptions.

Every piece may be missing and is then left out. Needs neither torch nor anything of training.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hemalens.core.text import ABSENT, interval, number, percent, thousands
from hemalens.evaluation.figures import corruption_errors, reliability_diagram
from hemalens.evaluation.robustness import ALEXNET_ERRORS
from hemalens.evaluation.trust_figures import abstention_histogram, risk_coverage_curve
from hemalens.report.document.blocks import Block, Heading, Sentence, Table, paragraph, reference
from hemalens.report.parts import drawn

__all__ = ["abstention", "mean_corruption_error", "trust_blocks"]

_METHODS = {
    "lac": "least ambiguous (LAC)",
    "lac_by_class": "LAC, by class",
    "aps": "adaptive (APS)",
    "aps_by_class": "APS, by class",
}


def abstention(scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return ``coverage``, ``accuracy_kept`` and ``threshold`` of a model that may abstain, None where not measured."""
    found = scores.get("abstention") or {}
    return found if {"coverage", "threshold"} <= found.keys() else None


def mean_corruption_error(scores: Mapping[str, Any]) -> float | None:
    """Return the mean balanced error over all corruptions and severities, None where none were measured."""
    return _mean(value for found in _levels(scores, "balanced_error").values() for value in found.values())


def trust_blocks(scores: Mapping[str, Any]) -> list[Block]:
    """Return the blocks on calibration, then those on abstention, sets of answers and corruptions that there are."""
    return [*_calibration(scores), *_abstention(scores), *_sets(scores), *_corruptions(scores)]


def _calibration(scores: Mapping[str, Any]) -> list[Block]:
    ece, uncalibrated, bins = scores.get("ece"), scores.get("ece_uncalibrated"), scores.get("reliability")
    found = scores.get("calibration") or {}
    before, by_class = (found.get("before") or {}).get("reliability"), _class_errors(found)
    blocks: list[Block] = [Heading("Calibration")]
    if bins:
        taken = (
            "Temperature scaling on the validation samples takes the expected calibration error from "
            f"{number(uncalibrated)} to {number(ece)}."
        )
        error = f" (expected calibration error {number(ece)})" if ece is not None else ""
        caption = f"Reliability diagram{error}: accuracy in each bin of confidence, and below it how many samples fall "
        blocks += [
            paragraph(
                ("How far the model's confidence can be believed is in ", reference("reliability"), "."),
                taken if uncalibrated is not None and ece is not None else None,
                (reference("ece-by-class"), " has the error of each class's own probability.") if by_class else None,
            ),
            drawn(
                "reliability",
                f"{caption}there.",
                reliability_diagram(bins, before=before),
                "Accuracy against confidence",
                paper=(3.6, 3.6),
            ),
        ]
    elif ece is not None:
        blocks.append(paragraph(f"The expected calibration error is {number(ece)}."))
    else:
        blocks.append(paragraph("Calibration was not measured."))
    if by_class:
        caption = "Expected calibration error of each class's probability, before and after the temperature."
        blocks.append(Table("ece-by-class", caption, ("class", "before", "after"), by_class))
    return blocks


def _class_errors(calibration: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a class: its name, its calibration error before and after."""
    before, after = ((calibration.get(when) or {}).get("per_class") or {} for when in ("before", "after"))
    return [[name, _error(before.get(name)), _error(one)] for name, one in after.items()]


def _error(found: Mapping[str, Any] | None) -> str:
    return ABSENT if not found or found.get("ece") is None else f"{found['ece']:.4f}"


def _abstention(scores: Mapping[str, Any]) -> list[Block]:
    curves = {
        name: one
        for name, one in (scores.get("risk_coverage") or {}).items()
        if isinstance(one, Mapping) and {"aurc", "coverage", "risk"} <= one.keys()
    }
    found = abstention(scores)
    histogram = (found or {}).get("histogram") or {}
    drawable = bool(histogram.get("edges")) and (found or {}).get("distance_threshold") is not None
    if found is None or not (curves or drawable):
        return []
    blocks: list[Block] = [Heading("Abstention"), paragraph(*_abstention_words(found, curves))]
    if curves:
        caption = (
            "Risk against coverage: wrong answers among the samples that are left when it abstains on the strangest."
        )
        chart = risk_coverage_curve(curves, abstention={"accuracy_kept": None} | dict(found))
        blocks.append(
            drawn("risk-coverage", caption, chart, "Share of wrong answers against coverage", paper=(3.6, 2.6))
        )
    if drawable:
        caption = "How far samples lie from the training cells; beyond the line the model abstains."
        chart = abstention_histogram(found)
        chart.axes[-1].set_xlabel("distance")  # the caption says the rest, for which a column has no room
        height = 0.6 + 0.95 * len(chart.axes)
        blocks.append(drawn("distances", caption, chart, "Distances from the training cells", paper=(3.6, height)))
    return blocks


def _abstention_words(found: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> list[Sentence]:
    """Say by what the model abstains, what that gains, and how cells of other classes fare."""
    distance, abstained = found.get("distance_threshold"), found.get("accuracy_abstained")
    limits = f"a confidence under {number(found['threshold'])}"
    limits += f" or a distance from the training cells over {number(distance)}" if distance is not None else ""
    rate, strange = found.get("rejection_rate"), found.get("unknown_classes")
    areas = ", ".join(f"{percent(one['aurc'], 2)} by {name}" for name, one in curves.items())
    return [
        f"The model abstains on an image with {limits}"
        + (f", limits that abstain on {percent(rate, 0)} of the validation cells." if rate is not None else "."),
        f"Of what it abstained on it would have named {percent(abstained)} rightly." if abstained is not None else None,
        f"Of {thousands(strange['n'])} cells of classes that it does not know it abstained on "
        f"{interval(strange['abstained'])}."
        if strange
        else None,
        (
            reference("risk-coverage"),
            " shows what abstaining gains: the area under the curve, the mean risk, is ",
            areas,
            ".",
        )
        if areas
        else None,
    ]


def _sets(scores: Mapping[str, Any]) -> list[Block]:
    """Return a table of conformal sets, where they were measured."""
    found = scores.get("conformal") or {}
    methods = {name: one for name, one in found.items() if isinstance(one, Mapping) and "coverage" in one}
    if not methods:
        return []
    rows = [
        [
            _METHODS.get(name, name.replace("_", " ")),
            interval({"value": one["coverage"], "low": one["low"], "high": one["high"]})
            if "low" in one
            else percent(one["coverage"]),
            number(one.get("mean_size")),
            _least(one.get("per_class")),
        ]
        for name, one in methods.items()
    ]
    wanted = found.get("wanted")
    promised = f"{percent(wanted, 0)}" if wanted is not None else "a stated share"
    caption = (
        "How often the sets hold the true class (95 % Wilson interval), their mean size, the class they miss most."
    )
    return [
        Heading("Sets of answers"),
        paragraph(
            f"Instead of one answer the model can give a set that holds the true class for {promised} of the samples "
            "(conformal prediction, limits from the validation samples).",
            (reference("conformal"), " has how often it does."),
        ),
        Table("conformal", caption, ("method", "coverage", "size", "least covered"), rows, left=(3,)),
    ]


def _least(per_class: Mapping[str, Any] | None) -> str:
    if not per_class:
        return ABSENT
    name = min(per_class, key=lambda one: per_class[one]["coverage"])
    return f"{name} {percent(per_class[name]['coverage'], 0)}"


def _levels(scores: Mapping[str, Any], key: str) -> dict[str, dict[str, float]]:
    """Return name -> severity -> value of the corruptions that were measured."""
    found = {
        name: {str(level): float(one[key]) for level, one in levels.items() if isinstance(one, Mapping) and key in one}
        for name, levels in (scores.get("corruptions") or {}).items()
        if isinstance(levels, Mapping)
    }
    return {name: levels for name, levels in found.items() if levels}


def _corruptions(scores: Mapping[str, Any]) -> list[Block]:
    errors = _levels(scores, "balanced_error")
    if not errors:
        return []
    severities = list(dict.fromkeys(level for found in errors.values() for level in found))
    names = {name: name.replace("_", " ") for name in errors}
    rows = [
        [names[name], *(percent(found.get(level)) for level in severities), percent(_mean(found.values()))]
        for name, found in errors.items()
    ]
    clean = 1 - scores["balanced_accuracy"]["value"]
    peer = ALEXNET_ERRORS if errors.keys() <= ALEXNET_ERRORS.keys() and _ratio(scores, "be") is not None else None
    chart = corruption_errors({name: list(found.values()) for name, found in errors.items()}, clean=clean, peer=peer)
    height = 0.4 + 1.3 * -(-(len(errors) + 1) // 4)
    caption = "Balanced error at each severity, mildest first, and its mean."
    drawing = "Balanced error of each corruption by severity"
    return [
        Heading("Corruptions"),
        paragraph(*_corruption_words(scores, errors, severities)),
        Table("corruptions", caption, ("corruption", *severities, "mean"), rows),
        drawn("severities", f"{drawing}.", chart, drawing, paper=(7.2, height), wide=True),
    ]


def _corruption_words(
    scores: Mapping[str, Any], errors: Mapping[str, Mapping[str, float]], severities: list[str]
) -> list[Sentence]:
    """Say what corruptions cost, which costs most, how that is beside AlexNet's, and what becomes of calibration."""
    facts, mean = scores.get("corruption_facts") or {}, mean_corruption_error(scores)
    worst = max(errors, key=lambda name: _mean(errors[name].values()) or 0.0).replace("_", " ")
    be, rbe, ece = _ratio(scores, "be"), _ratio(scores, "rbe"), _levels(scores, "ece")
    means = [_mean(found[level] for found in ece.values() if level in found) for level in severities]
    calibrated = ", ".join(f"{number(value, 2)} at {level}" for level, value in zip(severities, means, strict=True))
    peer = facts.get("alexnet_mean_balanced_error")
    return [
        f"The images were corrupted as in {facts['benchmark']}." if facts.get("benchmark") else None,
        f"Under {len(errors)} corruptions of {len(severities)} severities the mean balanced error is {percent(mean)}"
        + (f", the AlexNet's of the benchmark {percent(peer)}; " if peer is not None else "; ")
        + f"{worst} costs most.",
        f"Relative to the AlexNet's error (BE) that is {number(be)}"
        + (f", relative to its loss from clean images (rBE) {number(rbe)}" if rbe is not None else "")
        + "; 1 is as good, less is better."
        if be is not None
        else None,
        (reference("corruptions"), " and ", reference("severities"), " have all of them."),
        f"The mean expected calibration error is, by severity, {calibrated}." if ece else None,
    ]


def _ratio(scores: Mapping[str, Any], key: str) -> float | None:
    found: float | None = (scores.get("corruptions") or {}).get(key, scores.get(key))
    return found


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
