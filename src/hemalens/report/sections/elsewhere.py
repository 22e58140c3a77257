"""From evaluations on other laboratories' cells to what a report says of them: tables, and sentences for its limits.

Needs neither torch nor anything of training.
"""

from collections.abc import Sequence

from scipy.stats import binomtest

from hemalens.core.evaluation_summary import Evaluation
from hemalens.core.metrics import Interval
from hemalens.core.text import ABSENT, interval, listed, percent, thousands
from hemalens.report.document.blocks import Block, Cell, Heading, Paragraph, Table, paragraph, reference
from hemalens.report.extras import Elsewhere

__all__ = ["elsewhere_blocks", "elsewhere_scores", "elsewhere_tables", "one_source", "share"]


def share(count: int, of: int) -> Interval | None:
    """Return a share with its 95 % Wilson interval (Wilson 1927), None where it is of nothing."""
    if not of:
        return None
    low, high = binomtest(count, of).proportion_ci(method="wilson")
    return Interval(count / of, float(low), float(high))


def elsewhere_blocks(found: Sequence[Elsewhere], home: Evaluation | None) -> list[Block]:
    """Return the part of the results on other laboratories; ``home`` are the scores at home, None if not known."""
    if not found:
        return []
    return [
        Heading("Other laboratories"),
        paragraph(
            f"The model was also scored on cells from {listed(list(dict.fromkeys(one.name for one in found)))}. That "
            "these come from other laboratories was stated by the user; their contents show that they are not the "
            "source that the model was trained on.",
            (
                reference("elsewhere"),
                " has the scores, ",
                reference("elsewhere-classes"),
                " the recall of each class that occurs there.",
            ),
        ),
        *elsewhere_tables(found),
        *(paragraph(*_remarks(one, home)) for one in found),
    ]


def elsewhere_tables(found: Sequence[Elsewhere]) -> list[Table]:
    """Return the table of the scores elsewhere and that of the recall of each class."""
    headers = (
        "source",
        "cells",
        "accuracy",
        "abstained",
        "right where answered",
        "of unknown classes",
        "of these abstained",
    )
    caption = (
        "Scores on other laboratories' cells [95 % intervals: bootstrap for accuracy, Wilson for the others]. Accuracy "
        "counts every cell of a class that the model knows, answered or not."
    )
    rows = [
        [_source(one), thousands(one.scores.n), interval(one.scores.accuracy), *_abstained(one), *_strange(one)]
        for one in found
    ]
    recalls = "Recall of each class on other laboratories' cells [95 % Wilson intervals]."
    return [
        Table("elsewhere", caption, headers, rows, wide=True),
        Table("elsewhere-classes", recalls, ("class", "source", "cells", "recall"), _class_rows(found), left=(1,)),
    ]


def elsewhere_scores(found: Sequence[Elsewhere]) -> str:
    """Return the accuracy on each source in words, joined by semicolons.

    How often it abstained is said beside it: a model that is right and abstains is of little use there.
    """
    said = [
        f"{interval(one.scores.accuracy)} on {thousands(one.scores.n)} cells of {_called(one)}, of which it "
        f"abstains on {percent(one.abstained / one.scores.n)}"
        for one in found
    ]
    return "; ".join(dict.fromkeys(said))  # where another scale was sought and none taken, once


def one_source(found: Sequence[Elsewhere], classes: Sequence[str]) -> Paragraph:
    """Return the limit that a model of one source has elsewhere: not measured, or measured and still no promise."""
    if not found:
        return paragraph(
            "All images come from one source. Other laboratories have other stains, microscopes and cameras; how "
            "the model fares on theirs was not measured here, and accuracy there has to be measured before it is "
            "relied on."
        )
    absent = [name for name in classes if not any(_support(one, name) for one in found)]
    count = len({one.source for one in found})
    return paragraph(
        "The images that the model was made from come from one source. Elsewhere it was measured: accuracy "
        f"{elsewhere_scores(found)}.",
        f"Of {listed(absent)} nothing is known there: none was among the cells." if absent else None,
        f"{'One other laboratory is' if count == 1 else f'{count} other laboratories are'} not all: each has its own "
        "stain, microscope and camera, and accuracy at the next one has to be measured before it is relied on.",
    )


def _called(one: Elsewhere) -> str:
    zoom = _zoom(one)
    return one.name if zoom in (None, 1.0) else f"{one.name} zoomed by {zoom:g}"


def _zoom(one: Elsewhere) -> float | None:
    """Return by how much the images were enlarged to meet the training cells, None where that was not asked for."""
    return one.scores.adaptation.zoom if one.scores.adaptation else None


def _source(one: Elsewhere) -> Cell:
    zoom = _zoom(one)
    scale = "as they are" if zoom is None else "scale sought, none taken" if zoom == 1 else f"zoomed by {zoom:g}"
    return _two_lines(one.name, scale)


def _abstained(one: Elsewhere) -> list[Cell]:
    known, kept = one.scores.n, one.scores.n - one.abstained
    return [_counted(one.abstained, known), _counted(one.kept_right, kept)]


def _strange(one: Elsewhere) -> list[Cell]:
    total, abstained = (sum(pair[index] for pair in one.strangers.values()) for index in (0, 1))
    if not total:
        return ["none", ABSENT]
    kinds = [f"{name} {thousands(count)}" for name, (count, _) in one.strangers.items()]
    named = kinds[:3] + ([f"and {len(kinds) - 3} more classes"] if len(kinds) > 3 else [])
    words = ", ".join(named) if len(kinds) > 1 else next(iter(one.strangers))
    return [_two_lines(thousands(total), words), _counted(abstained, total)]


def _counted(count: int, of: int) -> Cell:
    """Return a share with its interval, and under it what it is a share of."""
    return _two_lines(interval(share(count, of)), f"{thousands(count)} of {thousands(of)}") if of else ABSENT


def _two_lines(first: str, second: str) -> Cell:
    return {"lines": [first, second], "best": False}


def _support(one: Elsewhere, name: str) -> int:
    return one.scores.per_class[name].support if name in one.scores.per_class else 0


def _class_rows(found: Sequence[Elsewhere]) -> list[list[Cell]]:
    """Return a row for each class that occurs in each source, classes together."""
    classes = list(dict.fromkeys(name for one in found for name in one.scores.classes))
    rows: list[list[Cell]] = []
    for name in classes:
        for one in found:
            if support := _support(one, name):
                right = round(one.scores.per_class[name].recall * support)
                rows.append([name, _source(one), thousands(support), interval(share(right, support))])
    return rows


def _remarks(one: Elsewhere, home: Evaluation | None) -> list[str | None]:
    """Say how a source compares with home, how its scale was found, and what was answered for unknown classes."""
    words = one.scores.adaptation.words if one.scores.adaptation else None
    return [
        f"{_called(one)}: {_comparison(one, home)}",
        f"The scale was sought without a look at the labels ({words})." if words else None,
        f"The model answered for {thousands(sum(one.named.values()))} cells of classes that it does not know, and "
        f"every one of these answers is wrong: {', '.join(f'{name} {count}' for name, count in one.named.items())}."
        if one.named
        else None,
    ]


def _comparison(one: Elsewhere, home: Evaluation | None) -> str:
    """Say which classes occur, and how they are recalled there and at home: accuracies over other mixtures mislead."""
    classes = one.scores.classes
    present = [name for name in classes if _support(one, name)]
    every = len(present) == len(classes)
    which = "all classes of the model occur" if every else f"of the model's {len(classes)} classes"
    which += "" if every else f" only {listed(present)} {'occurs' if len(present) == 1 else 'occur'}"
    own = home.per_class if home else {}
    if not all(name in own and own[name].support for name in present):
        return f"{which}."
    there, here = (sum(each[name].recall for name in present) / len(present) for each in (one.scores.per_class, own))
    recall = "recall" if len(present) == 1 else "mean recall"
    return f"{which}, with a {recall} of {percent(there)}; at home it is {percent(here)}."
