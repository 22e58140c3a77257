"""From plain scores of ``evaluation.json`` to figures of how far a model can be trusted.

Needs neither torch nor anything of training.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hemalens.core.charts import FALLBACK_COLOURS, INK, class_colours, house_style
from hemalens.core.evaluation_summary import AbstentionScores, ClassCalibration, RiskCoverage

__all__ = ["abstention_histogram", "class_reliability", "risk_coverage_curve"]

_MAIN, _SECOND, _THIRD = FALLBACK_COLOURS[0], FALLBACK_COLOURS[1], "#858b92"
_COLUMNS = 4


def class_reliability(before: Mapping[str, ClassCalibration], after: Mapping[str, ClassCalibration]) -> Figure:
    """Draw for each class how often it is right against its own probability, before and after the temperature."""
    names = list(after)
    rows = -(-len(names) // _COLUMNS)
    with house_style():
        figure = Figure(figsize=(8.4, 2.25 * rows))
        grid = figure.subplots(rows, min(_COLUMNS, len(names)), squeeze=False, sharex=True, sharey=True)
        for axes, name, colour in zip(grid.flat, names, class_colours(names), strict=False):
            axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=(0, (4, 3)))
            for bins, shade, marker in ((before[name], _THIRD, "o"), (after[name], colour, "s")):
                found = bins.reliability
                count, x, y = map(np.asarray, (found.count, found.confidence, found.accuracy))
                x, y, count = x[count > 0], y[count > 0], count[count > 0]
                axes.plot(x, y, lw=0.8, color=shade)
                axes.scatter(x, y, 4 + 8 * np.log10(count), color=shade, marker=marker, zorder=3)
            axes.set_title(f"{name}, ECE {100 * after[name].ece:.2f} %", fontsize=9)
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
            axes.grid()
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        figure.supxlabel(
            "probability of the class (grey: before the temperature; large marks: many samples)", fontsize=9
        )
        figure.supylabel("share that is of the class", fontsize=9)
    return figure


def risk_coverage_curve(curves: Mapping[str, RiskCoverage], *, abstention: AbstentionScores) -> Figure:
    """Draw the error among the answers that are kept against the share of samples that are answered.

    Args:
        curves: criterion by which samples get no answer -> its curve.
        abstention: coverage and accuracy at the model's limits are marked by a point.
    """
    with house_style():
        figure = Figure(figsize=(5.4, 3.4))
        axes = figure.add_subplot()
        for (name, curve), colour in zip(curves.items(), (_MAIN, _SECOND, _THIRD), strict=False):
            label = f"abstained by {name} (area {100 * curve.aurc:.2g} %)"
            axes.plot(curve.coverage, curve.risk, color=colour, label=label)
        if abstention.accuracy_kept is not None:
            point = abstention.coverage, 1.0 - abstention.accuracy_kept
            axes.plot(*point, "o", color=INK, ms=5, label="by the model's limits")
        axes.set_xlim(0, 1.01)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.set_xlabel("samples answered")
        axes.set_ylabel("wrong among them")
        axes.grid()
        figure.legend(loc="outside upper left", ncols=1)  # inside, it hides the end of the curves
    return figure


def abstention_histogram(abstention: AbstentionScores) -> Figure:
    """Draw how far samples are from the training cells, right and wrong answers and unknown classes apart."""
    histogram, limit = abstention.histogram, abstention.distance_threshold
    assert limit is not None, "a model that abstains by distance has a limit of it"
    groups = (
        (histogram.right, "right answers", _MAIN),
        (histogram.wrong, "wrong answers", _SECOND),
        (histogram.unknown, "cells of unknown classes", "#9c3ca8"),
    )
    shown = [group for group in groups if sum(group[0]) > 0]
    with house_style():
        figure = Figure(figsize=(5.8, 0.6 + 1.2 * max(len(shown), 1)))
        grid = figure.subplots(max(len(shown), 1), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (found, label, colour) in zip(grid, shown, strict=False):
            counts = np.asarray(found)
            axes.stairs(counts / counts.sum(), histogram.edges, fill=True, color=colour, alpha=0.55)
            axes.axvline(limit, color=INK, lw=0.8, ls=(0, (4, 3)))
            axes.set_title(f"{label} (n = {int(counts.sum())})")
            axes.set_xscale("log")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
            axes.grid()
        grid[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        grid[-1].xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if _leads(value) else ""))
        grid[-1].set_xlabel("distance from the nearest class of training cells; no answer beyond the line")
    return figure


def _leads(value: float) -> bool:
    """Tell whether a value is worth a number on a logarithmic axis: 2 or 5 times a power of ten."""
    return round(value / 10 ** np.floor(np.log10(value)), 6) in (2.0, 5.0)
