"""From one evaluation to what a report says of its confidence: calibration, abstention, sets of answers, corruptions.

Needs neither torch nor anything of training.
"""

from collections.abc import Mapping, Sequence

from hemalens.core.evaluation_summary import CorruptionFacts, Corruptions, Evaluation, Held
from hemalens.core.metrics import Interval
from hemalens.core.text import interval, number, percent, thousands
from hemalens.evaluation.figures import corruption_errors, reliability_diagram
from hemalens.evaluation.trust_figures import abstention_histogram, risk_coverage_curve
from hemalens.report.document.blocks import Block, Heading, Sentence, Table, paragraph, reference
from hemalens.report.parts import drawn

__all__ = ["mean_corruption_error", "trust_blocks"]

_METHODS = {
    "lac": "least ambiguous (LAC)",
    "lac_by_class": "LAC, by class",
    "aps": "adaptive (APS)",
    "aps_by_class": "APS, by class",
}


def mean_corruption_error(scores: Evaluation) -> float | None:
    """Return the mean balanced error over all corruptions and severities, None where none were measured."""
    found = scores.corruptions
    return (
        None
        if found is None
        else _mean([one.balanced_error for level in found.sets.values() for one in level.values()])
    )


def trust_blocks(scores: Evaluation) -> list[Block]:
    """Return the blocks on calibration, abstention, sets of answers and, where they were asked for, corruptions."""
    return [*_calibration(scores), *_abstention(scores), *_sets(scores), *_corruptions(scores)]


def _calibration(scores: Evaluation) -> list[Block]:
    before, after = scores.calibration.before, scores.calibration.after
    rows = [[name, f"{before.per_class[name].ece:.4f}", f"{one.ece:.4f}"] for name, one in after.per_class.items()]
    error = f"expected calibration error {number(scores.ece)}"
    caption = (
        f"Reliability diagram ({error}): accuracy in each bin of confidence, and below it how many samples fall there."
    )
    table = "Expected calibration error of each class's probability, before and after the temperature."
    return [
        Heading("Calibration"),
        paragraph(
            ("How far the model's confidence can be trusted is in ", reference("reliability"), "."),
            "Temperature scaling on the validation samples takes the expected calibration error from "
            f"{number(scores.ece_uncalibrated)} to {number(scores.ece)}.",
            (reference("ece-by-class"), " has the error of each class's own probability."),
        ),
        drawn(
            "reliability",
            caption,
            reliability_diagram(scores.reliability, before=before.reliability),
            "Accuracy against confidence",
            paper=(3.6, 3.6),
        ),
        Table("ece-by-class", table, ("class", "before", "after"), rows),
    ]


def _abstention(scores: Evaluation) -> list[Block]:
    found, curves = scores.abstention, scores.risk_coverage
    caption = (
        "Risk against coverage: the share of wrong answers among the samples still answered when the model abstains on "
        "the least trusted first."
    )
    chart = risk_coverage_curve(curves, abstention=found)
    blocks: list[Block] = [
        Heading("Abstention"),
        paragraph(*_abstention_words(scores)),
        drawn("risk-coverage", caption, chart, "Share of wrong answers against coverage", paper=(3.6, 2.6)),
    ]
    if found.distance_threshold is not None:
        caption = "How far samples lie from the training cells; beyond the line the model abstains."
        chart = abstention_histogram(found)
        chart.axes[-1].set_xlabel("distance")  # the caption says the rest, for which a column has no room
        height = 0.6 + 0.95 * len(chart.axes)
        blocks.append(drawn("distances", caption, chart, "Distances from the training cells", paper=(3.6, height)))
    return blocks


def _abstention_words(scores: Evaluation) -> list[Sentence]:
    """Say by what the model abstains, what that gains, and how cells of other classes fare."""
    found = scores.abstention
    distance, strange = found.distance_threshold, found.unknown_classes
    limits = f"a confidence under {number(found.threshold)}"
    limits += f" or a distance from the training cells over {number(distance)}" if distance is not None else ""
    areas = ", ".join(f"{percent(one.aurc, 2)} by {name}" for name, one in scores.risk_coverage.items())
    rate = f"limits that abstain on {percent(found.rejection_rate, 0)} of the validation cells"
    return [
        f"The model abstains on an image with {limits}, {rate}.",
        f"It would have named {percent(found.accuracy_abstained)} of the images that it abstained on rightly."
        if found.accuracy_abstained is not None
        else None,
        f"Of {thousands(strange.n)} cells of classes that it does not know it abstained on "
        f"{interval(strange.abstained)}."
        if strange
        else None,
        (
            reference("risk-coverage"),
            " shows what abstaining gains: the area under the curve (the mean share of wrong answers) is ",
            areas,
            ".",
        ),
    ]


def _sets(scores: Evaluation) -> list[Block]:
    """Return a table of conformal sets."""
    rows = [
        [
            _METHODS[name],
            interval(Interval(one.coverage, one.low, one.high)),
            number(one.mean_size),
            _least(one.per_class),
        ]
        for name, one in scores.conformal.methods().items()
    ]
    caption = (
        "How often the sets hold the true class (95 % Wilson interval), their mean size, the class they miss most."
    )
    return [
        Heading("Sets of answers"),
        paragraph(
            "Instead of one answer the model can give a set that holds the true class for "
            f"{percent(scores.conformal.wanted, 0)} of the samples (conformal prediction, limits from the validation "
            "samples).",
            (reference("conformal"), " has how often it does."),
        ),
        Table("conformal", caption, ("method", "coverage", "size", "least covered"), rows, left=(3,)),
    ]


def _least(per_class: Mapping[str, Held]) -> str:
    name = min(per_class, key=lambda one: per_class[one].coverage)
    return f"{name} {percent(per_class[name].coverage, 0)}"


def _corruptions(scores: Evaluation) -> list[Block]:
    found, facts = scores.corruptions, scores.corruption_facts
    if found is None or facts is None:
        return []
    errors = {name: [one.balanced_error for one in levels.values()] for name, levels in found.sets.items()}
    severities = list(next(iter(found.sets.values())))
    rows = [[name.replace("_", " "), *map(percent, levels), percent(_mean(levels))] for name, levels in errors.items()]
    peer = facts.alexnet_errors if found.be is not None else None
    chart = corruption_errors(errors, clean=1 - scores.balanced_accuracy.value, peer=peer)
    height = 0.4 + 1.3 * -(-(len(errors) + 1) // 4)
    caption = "Balanced error at each severity, mildest first, and its mean."
    drawing = "Balanced error of each corruption by severity"
    return [
        Heading("Corruptions"),
        paragraph(*_corruption_words(found, facts, severities)),
        Table("corruptions", caption, ("corruption", *severities, "mean"), rows),
        drawn("severities", f"{drawing}.", chart, drawing, paper=(7.2, height), wide=True),
    ]


def _corruption_words(found: Corruptions, facts: CorruptionFacts, severities: Sequence[str]) -> list[Sentence]:
    """Say what corruptions cost, which costs most, how that is beside AlexNet's, and what becomes of calibration."""
    means = found.mean_errors()
    worst = max(means, key=lambda name: means[name]).replace("_", " ")
    errors = [_mean([levels[level].ece for levels in found.sets.values()]) for level in severities]
    calibrated = ", ".join(f"{number(value, 2)} at {level}" for level, value in zip(severities, errors, strict=True))
    sets = f"{len(means)} corruptions of {len(severities)} severities"
    both = percent(facts.mean_balanced_error)
    both += f", the AlexNet's of the benchmark {percent(facts.alexnet_mean_balanced_error)}"
    return [
        f"The images were corrupted as in {facts.benchmark}.",
        f"Under {sets} the mean balanced error is {both}; {worst} costs most.",
        f"Relative to the AlexNet's error (BE) that is {number(found.be)}, relative to its loss from clean images "
        f"(rBE) {number(found.rbe)}; 1 is as good, less is better."
        if found.be is not None
        else None,
        (reference("corruptions"), " and ", reference("severities"), " have all of them."),
        f"The mean expected calibration error is, by severity, {calibrated}.",
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
