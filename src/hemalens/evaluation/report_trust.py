"""From one evaluation to what a report says of its confidence: calibration, refusal, conformal sets, corruptions.

Every piece may be missing and is then left out. Needs neither torch nor anything of training.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hemalens.core.document import Block, Heading, Table, paragraph, reference
from hemalens.core.page import ABSENT, number, percent
from hemalens.evaluation.figures import corruption_curves, reliability_diagram, risk_coverage_curve
from hemalens.evaluation.report_parts import drawn

__all__ = ["abstention", "mean_corruption_error", "trust_blocks"]


def abstention(scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return ``coverage``, ``accuracy_kept`` and ``threshold`` of a model that may abstain, None where not measured."""
    found = (_refusal(scores).get("abstention") or scores.get("abstention")) or {}
    return found if {"coverage", "threshold"} <= found.keys() else None


def mean_corruption_error(scores: Mapping[str, Any]) -> float | None:
    """Return the mean balanced error over all corruptions and severities, None where none were measured."""
    _, rows = _levels(scores.get("corruptions") or {}, "balanced_error")
    values = [value for _, found in rows for value in found.values()]
    return sum(values) / len(values) if values else None


def trust_blocks(scores: Mapping[str, Any]) -> list[Block]:
    """Return the blocks on calibration, then those on refusal, conformal sets and corruptions that there are."""
    return [*_calibration(scores), *_risk_coverage(scores), *_conformal(scores), *_corruptions(scores)]


def _refusal(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    found = scores.get("refusal")
    return found if isinstance(found, Mapping) else {}


def _field(scores: Mapping[str, Any], *names: str) -> object:
    """Return the first of some fields that is there, in the refusal or beside it."""
    return next((home[name] for home in (_refusal(scores), scores) for name in names if home.get(name)), None)


def _calibration(scores: Mapping[str, Any]) -> list[Block]:
    ece, before, bins = scores.get("ece"), scores.get("ece_uncalibrated"), scores.get("reliability")
    blocks: list[Block] = [Heading("Calibration")]
    if bins:
        error = f" (expected calibration error {number(ece)})" if ece is not None else ""
        blocks.append(
            paragraph(
                ("How far the model's confidence can be believed is in ", reference("reliability"), "."),
                "Temperature scaling on the validation samples takes the expected calibration error from "
                f"{number(before)} to {number(ece)}."
                if before is not None and ece is not None
                else None,
            )
        )
        caption = (
            f"Reliability diagram{error}: accuracy in each bin of confidence, and below it how many samples fall there."
        )
        chart = reliability_diagram(bins)
        blocks.append(drawn("reliability", caption, chart, "Accuracy against confidence", paper=(3.6, 3.4)))
    elif ece is not None:
        blocks.append(paragraph(f"The expected calibration error is {number(ece)}."))
    else:
        blocks.append(paragraph("Calibration was not measured."))
    by_class = _field(scores, "ece_per_class", "per_class_ece")
    if isinstance(by_class, Mapping):
        rows = [[name, number(_number(one, "ece", "after"))] for name, one in by_class.items()]
        caption = "Expected calibration error of the samples of each class."
        blocks.append(Table("ece-by-class", caption, ("class", "ECE"), rows))
    return blocks


def _number(value: object, *names: str) -> float | None:
    """Return a number that stands alone or under one of some names, None where there is none."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in (*names, "value") if name in value), None)
    return float(value) if isinstance(value, (int, float)) else None


def _risk_coverage(scores: Mapping[str, Any]) -> list[Block]:
    curve = _field(scores, "risk_coverage")
    coverage, risk = _curve(curve)
    if not coverage:
        return []
    area = _number(curve, "aurc") if isinstance(curve, Mapping) else None
    chart = risk_coverage_curve(coverage, risk)
    caption = "Risk against coverage: the share of wrong answers among the samples that the model is surest of."
    return [
        Heading("Refusal"),
        paragraph(
            "A model that may leave its least certain samples to a person makes fewer mistakes on the others.",
            (reference("risk-coverage"), " shows how many."),
            f"The area under the curve is {number(area)}; the smaller, the better." if area is not None else None,
        ),
        drawn("risk-coverage", caption, chart, "Share of wrong answers against coverage", paper=(3.6, 2.4)),
    ]


def _curve(curve: object) -> tuple[list[float], list[float]]:
    """Read coverage and risk from lists beside each other, or from rows that may hold the accuracy instead."""
    if isinstance(curve, Mapping):
        keys = {name: curve.get(name) or [] for name in ("coverage", "risk", "error", "accuracy")}
        risk = keys["risk"] or keys["error"] or [1 - one for one in keys["accuracy"]]
        return (list(keys["coverage"]), list(risk)) if len(keys["coverage"]) == len(risk) else ([], [])
    rows = [one for one in curve if isinstance(one, Mapping) and "coverage" in one] if isinstance(curve, list) else []
    risks = [_number(one, "risk", "error") for one in rows]
    risks = [
        1 - (_number(one, "accuracy") or 0) if risk is None else risk for one, risk in zip(rows, risks, strict=True)
    ]
    return [float(one["coverage"]) for one in rows], [risk for risk in risks if risk is not None]


def _conformal(scores: Mapping[str, Any]) -> list[Block]:
    """Return a table of conformal sets: whatever numbers each method has, coverages and shares as percentages."""
    found = _field(scores, "conformal")
    methods = (
        {name: one for name, one in found.items() if isinstance(one, Mapping)} if isinstance(found, Mapping) else {}
    )
    columns = list(
        dict.fromkeys(key for one in methods.values() for key, value in one.items() if isinstance(value, (int, float)))
    )
    if not columns:
        return []
    rows = [[name, *(_measure(column, one.get(column)) for column in columns)] for name, one in methods.items()]
    asked = _number(found, "level", "target")
    caption = "Conformal sets: how often the set of answers holds the true class, and how large it is."
    return [
        Heading("Sets of answers"),
        paragraph(
            "Instead of one answer the model can give a set that holds the true class with a stated probability"
            + (f", here {percent(asked, 0)}." if asked is not None else ".")
        ),
        Table("conformal", caption, ("method", *(column.replace("_", " ") for column in columns)), rows),
    ]


def _measure(column: str, value: object) -> str:
    if not isinstance(value, (int, float)):
        return ABSENT
    return percent(value) if any(word in column for word in ("cover", "share", "level", "target")) else number(value)


def _levels(corruptions: Mapping[str, Any], key: str) -> tuple[list[str], list[tuple[str, dict[str, float]]]]:
    """Turn name -> severity -> {balanced_error, ece} into severities and, for each name, its value at each."""
    rows = [
        (name, {str(level): float(one[key]) for level, one in found.items() if isinstance(one, Mapping) and key in one})
        for name, found in corruptions.items()
        if isinstance(found, Mapping)
    ]
    rows = [(name, found) for name, found in rows if found]
    return list(dict.fromkeys(level for _, found in rows for level in found)), rows


def _corruptions(scores: Mapping[str, Any]) -> list[Block]:
    corruptions = scores.get("corruptions") or {}
    levels, rows = _levels(corruptions, "balanced_error")
    if not rows:
        return []
    table = [
        [name.replace("_", " "), *(percent(found.get(level)) for level in levels), percent(_mean(found.values()))]
        for name, found in rows
    ]
    ratios = [
        f"{words} is {number(value)}"
        for key, words in (("be", "the balanced error (BE)"), ("rbe", "its growth over the clean one (rBE)"))
        if (value := _number(scores.get(key, corruptions.get(key)), "mean")) is not None
    ]
    worst = max(rows, key=lambda row: _mean(row[1].values()) or 0.0)[0].replace("_", " ")
    caption = "Balanced error at each severity, mildest first, and its mean."
    names = [name.replace("_", " ") for name, _ in rows]
    chart = corruption_curves(levels, dict(zip(names, (found for _, found in rows), strict=True)))
    return [
        Heading("Corruptions"),
        paragraph(
            f"Under {len(rows)} corruptions of {len(levels)} severities the mean balanced error is "
            f"{percent(mean_corruption_error(scores))}; {worst} costs most.",
            f"Beside that of AlexNet, {' and '.join(ratios)}; below 1 is better than it." if ratios else None,
            (reference("corruptions"), " and ", reference("severities"), " have all of them."),
        ),
        Table("corruptions", caption, ("corruption", *levels, "mean"), table),
        drawn(
            "severities",
            "Balanced error against the severity of each corruption.",
            chart,
            "Balanced error against severity",
            paper=(3.6, 3.0),
        ),
        *_corruption_ece(corruptions),
    ]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _corruption_ece(corruptions: Mapping[str, Any]) -> list[Block]:
    levels, rows = _levels(corruptions, "ece")
    if not rows:
        return []
    means = [_mean([found[level] for _, found in rows if level in found]) for level in levels]
    words = ", ".join(f"{number(value, 2)} at {level}" for level, value in zip(levels, means, strict=True))
    return [paragraph(f"The mean expected calibration error over the corruptions is, by severity, {words}.")]
