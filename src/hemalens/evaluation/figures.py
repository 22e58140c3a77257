"""From plain data (tables, counts, scores) to the figures of an evaluation and its report.

Needs neither torch nor anything of training.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from hemalens.core.charts import FALLBACK_COLOURS, INK, class_colours, house_style
from hemalens.core.evaluation_summary import ClassScores, Reliability
from hemalens.core.types import IntArray

__all__ = ["confusion_matrix_figure", "corruption_errors", "learning_curves", "per_class_f1", "reliability_diagram"]

_MAIN, _SECOND, _THIRD = FALLBACK_COLOURS[0], FALLBACK_COLOURS[1], "#858b92"
# From this share on a cell is so blue that white reads better than the page's ink (4.6 : 1 against 3.6 : 1 below it).
_WHITE_FROM = 0.85


def learning_curves(history: Mapping[str, Sequence[float | None]], *, best_epoch: int | None = None) -> Figure:
    """Draw loss and accuracy over the epochs, side by side.

    Args:
        history: columns ``epoch``, ``train_loss``, ``val_loss``, ``train_accuracy``, ``val_accuracy`` and, where it was
            measured, ``val_distorted_accuracy``; accuracies in [0, 1]. Columns that are missing are not drawn.
        best_epoch: the epoch whose weights were kept, marked by a line.
    """
    epochs = list(history["epoch"])
    losses = (("train_loss", "training", _THIRD), ("val_loss", "validation", _MAIN))
    accuracies = (
        ("train_accuracy", "training", _THIRD),
        ("val_accuracy", "validation", _MAIN),
        ("val_distorted_accuracy", "validation, distorted", _SECOND),
    )
    with house_style():
        figure = Figure(figsize=(8.4, 3.2))
        left, right = figure.subplots(1, 2)
        for axes, title, lines in ((left, "Loss (nats)", losses), (right, "Accuracy", accuracies)):
            for column, label, colour in lines:
                if column in history:
                    values = np.array(history[column], dtype=np.float64)  # None becomes NaN: a gap in the line
                    axes.plot(epochs, values, color=colour, label=label, marker="o" if len(epochs) < 3 else None)
            if best_epoch is not None:
                axes.axvline(best_epoch, color=INK, lw=0.8, ls=(0, (4, 3)), label="weights kept")
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.grid()
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    return figure


def confusion_matrix_figure(matrix: IntArray | Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts in the cells, each row coloured by its shares.

    Args:
        matrix: counts (C, C); rows are true classes, columns predicted ones.
        classes: the C names.
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(classes)
    with house_style():
        figure = Figure(figsize=(2.3 + 0.55 * size, 1.7 + 0.46 * size))
        axes = figure.add_subplot()
        cells = [Rectangle((column, row), 1, 1) for row in range(size) for column in range(size)]
        colours = [to_rgba(_MAIN, float(share)) for share in shares.flat]
        axes.add_collection(PatchCollection(cells, facecolors=colours, edgecolors=to_rgba(INK, 0.15), linewidths=0.5))
        for row in range(size):
            for column in range(size):
                _write_cell(axes, row, column, int(counts[row, column]), float(shares[row, column]))
        axes.set_xlim(0, size)
        axes.set_ylim(size, 0)
        middles = np.arange(size) + 0.5
        axes.set_xticks(middles, classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, classes)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    return figure


def reliability_diagram(bins: Reliability, *, before: Reliability | None = None) -> Figure:
    """Draw accuracy against confidence, bin by bin, above the number of samples in each bin.

    Args:
        bins: empty ones are left out.
        before: the same before the temperature, drawn as a line for comparison.
    """
    count, confidence, accuracy = (
        np.asarray(values, np.float64) for values in (bins.count, bins.confidence, bins.accuracy)
    )
    edges = np.linspace(0, 1, len(count) + 1)
    middles, width = (edges[:-1] + edges[1:]) / 2, 1 / max(len(count), 1)
    filled = count > 0
    with house_style():
        figure = Figure(figsize=(4.6, 4.9))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        top.bar(middles[filled], accuracy[filled], width * 0.92, color=_MAIN, alpha=0.35, label="accuracy in the bin")
        top.plot([0, 1], [0, 1], color=INK, lw=0.9, ls=(0, (4, 3)), label="perfect calibration")
        top.plot(confidence[filled], accuracy[filled], "o-", color=_MAIN, ms=4, lw=1, label="against mean confidence")
        if before is not None:
            taken = np.asarray(before.count) > 0
            x, y = (np.asarray(values, np.float64)[taken] for values in (before.confidence, before.accuracy))
            top.plot(x, y, "^:", color=_SECOND, ms=4, lw=1, label="before the temperature")
        top.set_xlim(0, 1)
        top.set_ylim(0, 1.02)
        top.set_ylabel("accuracy")
        figure.legend(loc="outside upper left", ncols=1)
        bottom.bar(middles[filled], count[filled], width * 0.92, color=_THIRD)
        bottom.set_yscale("symlog", linthresh=10)
        bottom.set_yticks([0, *(10**power for power in range(1, 10) if 10**power <= count.max(initial=10))])
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bottom.yaxis.set_minor_locator(NullLocator())
        bottom.set_ylabel("samples")
        bottom.set_xlabel("confidence")
        for axes in (top, bottom):
            axes.grid()
    return figure


def per_class_f1(per_class: Mapping[str, ClassScores]) -> Figure:
    """Draw the F1 score of each class as a bar, with the number of samples it rests on."""
    names = list(per_class)
    with house_style():
        figure = Figure(figsize=(6.6, 0.7 + 0.29 * max(len(names), 1)))
        axes = figure.add_subplot()
        rows = np.arange(len(names))
        axes.barh(rows, [one.f1 for one in per_class.values()], color=class_colours(names), height=0.66)
        for row, one in enumerate(per_class.values()):
            axes.annotate(f"{one.f1:.3f}", (one.f1, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set_yticks(rows, [f"{name} (n = {one.support})" for name, one in per_class.items()])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_xlabel("F1 score")
        axes.grid(axis="x")
    return figure


def corruption_errors(
    errors: Mapping[str, Sequence[float]], *, clean: float, peer: Mapping[str, float] | None = None
) -> Figure:
    """Draw the balanced error of each corruption by severity, side by side on one scale.

    Args:
        errors: corruption -> balanced error in [0, 1] at severity 1, 2, ...
        clean: the balanced error on the images as they are.
        peer: corruption -> mean balanced error of the AlexNet of MedMNIST-C, where the classes are those it knew.
    """
    columns = 4
    rows = -(-(len(errors) + 1) // columns)  # one place more, for the legend
    highest = max([clean, *(peer or {}).values(), *(value for found in errors.values() for value in found)])
    with house_style():
        figure = Figure(figsize=(8.4, 0.5 + 1.55 * rows))
        indices = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        for index, (name, found) in enumerate(errors.items()):
            axes = indices[index]
            steps = np.arange(1, len(found) + 1)
            axes.plot(steps, found, "o-", color=_MAIN, ms=3, label="this model")
            axes.axhline(clean, color=_THIRD, lw=0.9, label="this model, clean")
            if peer is not None:
                axes.axhline(peer[name], color=_SECOND, lw=1, ls=(0, (4, 3)), label="AlexNet, mean of 1 to 5")
            axes.set_title(name.replace("_", " "))
            axes.set_xticks(steps)
            axes.tick_params(labelbottom=index + columns >= len(errors))
            axes.set_ylim(0, max(1.06 * highest, 0.01))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
            axes.grid()
        for axes in indices[len(errors) :]:
            axes.set_axis_off()
        figure.supxlabel("severity", fontsize=9)
        figure.supylabel("balanced error", fontsize=9)
        indices[len(errors)].legend(*indices[0].get_legend_handles_labels(), loc="center left", borderpad=0)
    return figure


def _write_cell(axes: Axes, row: int, column: int, count: int, share: float) -> None:
    colour = "white" if share >= _WHITE_FROM else INK
    weight = 0.45 if count == 0 else 1.0
    axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", color=colour, alpha=weight, fontsize=8.5)
