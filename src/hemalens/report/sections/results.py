"""From one evaluation to what a report says about it: rows of text, figures, images of mistakes.

Needs neither torch nor anything of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemalens.core.evaluation_summary import AbstentionScores, ClassScores, Evaluation
from hemalens.core.metrics import Interval
from hemalens.core.text import interval, number, percent, thousands
from hemalens.core.types import IntArray
from hemalens.evaluation.figures import confusion_matrix_figure, per_class_f1
from hemalens.report.document.blocks import Block, Figure, Heading, Section, Table, code, paragraph, reference
from hemalens.report.inputs import Evaluated, RunInputs
from hemalens.report.parts import drawn
from hemalens.report.sections.elsewhere import elsewhere_blocks, share
from hemalens.report.sections.mistakes import mistakes_blocks
from hemalens.report.sections.trust import trust_blocks

__all__ = ["Confusion", "ResultsFacts", "classes_table", "results_facts", "results_section", "scores_table"]

_SPLIT_WORDS = {
    "test": "the test split",
    "val": "the validation split",
    "train": "the training split",
    "all": "all samples of the source",
}


@dataclass(frozen=True, slots=True)
class Confusion:
    """The most frequent confusion: its classes, how often it was made, and how many mistakes there are in all."""

    true: str
    predicted: str
    count: int
    all: int


@dataclass(frozen=True, slots=True)
class ResultsFacts:
    """What several sections say about one evaluation.

    Attributes:
        scores: of the evaluation.
        split: that was scored.
        scored_on: the same in words.
        flawless: whether no mistake was made.
        smallest: class of the fewest samples.
        smallest_support: how many these are.
        smallest_recall: None where there are none.
        confusion: the most frequent one, None where there is none.
    """

    scores: Evaluation
    split: str
    scored_on: str
    flawless: bool
    smallest: str
    smallest_support: int
    smallest_recall: Interval | None
    confusion: Confusion | None


def results_facts(evaluation: Evaluated) -> ResultsFacts:
    """Return what several sections say about one evaluation."""
    scores = evaluation.scores
    matrix = np.asarray(scores.confusion_matrix, dtype=np.int64)
    smallest = min(scores.per_class, key=lambda name: scores.per_class[name].support)
    return ResultsFacts(
        scores=scores,
        split=scores.split,
        scored_on=_SPLIT_WORDS.get(scores.split, "the samples given to it"),
        flawless=int(np.trace(matrix)) == int(matrix.sum()) > 0,
        smallest=smallest,
        smallest_support=scores.per_class[smallest].support,
        smallest_recall=_recall(scores.per_class[smallest]),
        confusion=_confusion(matrix, scores.classes),
    )


def results_section(run: RunInputs, facts: ResultsFacts | None) -> Section:
    """Return the section on what a run's model scored, at home and elsewhere, and where it is wrong.

    ``facts`` are the ``results_facts`` of its evaluation, None where it has none.
    """
    evaluation = run.evaluation
    if evaluation is None or facts is None:
        words = ("Not evaluated: run ", code("hemalens evaluate RUN SOURCE --out DIR"), " and write the report anew.")
        explained = mistakes_blocks(run, flawless=False) if run.explanation else []
        blocks = (paragraph(words, note=True), *elsewhere_blocks(run.elsewhere, None), *explained)
        return Section("results", "Results", blocks)
    scores = evaluation.scores
    found: list[Block] = [
        scores_table(facts),
        paragraph(
            (
                reference("scores"),
                f" has the scores on {facts.scored_on}, ",
                reference("by-class"),
                " those of each class, ",
                reference("confusion"),
                " which class was taken for which.",
            )
        ),
        *_remarks(facts),
        Heading("By class"),
        classes_table(facts),
        drawn(
            "f1",
            "F1 score of each class.",
            per_class_f1(scores.per_class),
            "F1 of each class, as in the table above",
            paper=(3.6, 0.7 + 0.2 * max(len(scores.classes), 1)),
        ),
        _confusion_figure(scores),
    ]
    if pair := facts.confusion:
        taken = f"{pair.true} taken for {pair.predicted}"
        often = f"The most frequent confusion is {taken}: {pair.count} of all {pair.all} mistakes."
        found.append(paragraph(often if pair.all > 1 else f"The one mistake is {taken}."))
    found += [*trust_blocks(scores), *_background(scores), *elsewhere_blocks(run.elsewhere, scores)]
    found += mistakes_blocks(run, flawless=facts.flawless)
    return Section("results", "Results", tuple(found))


def scores_table(facts: ResultsFacts) -> Table:
    """Return the table of the scores of all samples."""
    scores = facts.scores
    rows = [
        ["Accuracy", interval(scores.accuracy)],
        ["Balanced accuracy (mean recall of the classes)", interval(scores.balanced_accuracy)],
        ["Macro-F1 (mean F1 of the classes)", interval(scores.macro_f1)],
        ["Accuracy on distorted images", interval(scores.distorted) if scores.distorted else "not measured"],
        ["Cross-entropy (nats)", number(scores.loss)],
        ["Expected calibration error, 15 bins", number(scores.ece)],
        ["The same before temperature scaling", number(scores.ece_uncalibrated)],
        ["Temperature", number(scores.temperature)],
    ]
    caption = f"Scores on {facts.scored_on} (n = {thousands(scores.n)})."
    return Table("scores", caption, ("score", "value [95 % interval]"), rows)


def classes_table(facts: ResultsFacts) -> Table:
    """Return the table of the scores of each class."""
    caption = "Scores of each class. Recall has a 95 % Wilson interval: the support says how many samples it rests on."
    rows = [_class_row(name, one) for name, one in facts.scores.per_class.items()]
    return Table("by-class", caption, ("class", "precision", "recall", "F1", "support"), rows)


def _remarks(facts: ResultsFacts) -> list[Block]:
    """Return sentences on samples without a known label, on perfection, distortions and abstaining."""
    scores, distorted, kept = facts.scores, facts.scores.distorted, facts.scores.abstention
    cost = scores.accuracy.value - distorted.value if distorted else 0
    answered = f"{percent(kept.coverage)} of the samples{_kept_words(kept)}; the others it leaves to a person."
    found = [
        f"{thousands(scores.n_unknown_label)} more samples have no label that the model knows and take no part in the "
        "scores."
        if scores.n_unknown_label
        else None,
        f"No mistake was made among the {thousands(scores.n)} samples. A bootstrap only repeats what occurred, "
        f"so the interval has no width; with 95 % confidence the error is below {percent(3 / scores.n)} (three "
        "divided by the number of samples)."
        if facts.flawless
        else None,
        "The distorted images are the same ones under distortions like those of the field: "
        f"{distorted.description}." + (f" They cost {number(100 * cost)} points of accuracy." if cost > 0 else "")
        if distorted
        else "How the model fares on distorted images was not measured.",
        f"Where it answers only above a confidence of {number(kept.threshold)}, the model answers for {answered}",
    ]
    return [paragraph(sentence) for sentence in found if sentence]


def _kept_words(kept: AbstentionScores) -> str:
    right = kept.accuracy_kept
    return "" if right is None else f" and is right in {percent(right)} of those"


def _confusion_figure(scores: Evaluation) -> Figure:
    matrix, classes = np.asarray(scores.confusion_matrix, dtype=np.int64), scores.classes
    caption = "Confusion matrix: counts, each row coloured by its shares."
    chart, words = confusion_matrix_figure(matrix, classes), _confusion_words(matrix, classes)
    wide = len(classes) > 10
    size = (7.2, 6.4) if wide else (3.6, 3.4)
    return drawn("confusion", caption, chart, words, paper=size, wide=wide)


def _background(scores: Evaluation) -> list[Block]:
    """Tell grey-background images from the others, where both were scored."""
    groups, heading = scores.groups, Heading("Grey background")
    if groups is None:
        words = "Images with a grey background, a mark of their batch, were not scored apart from the others."
        return [heading, paragraph(words)]
    a, b = groups.grey_background.accuracy, groups.other.accuracy
    overlap = a.low <= b.high and b.low <= a.high
    worse, points = "worse" if a.value < b.value else "better", abs(a.value - b.value) * 100
    return [
        heading,
        paragraph(
            "Some images come from a batch with a grey background, which can give a class away.",
            f"On the {thousands(groups.grey_background.n)} of them the accuracy is {interval(a)}, on the "
            f"{thousands(groups.other.n)} others {interval(b)}; on both together {interval(scores.accuracy)}.",
            "The intervals overlap: this test set does not support a difference between the two."
            if overlap
            else f"The intervals do not overlap: the model is {worse} on the grey ones, by {number(points)} points.",
        ),
    ]


def _recall(scores: ClassScores) -> Interval | None:
    """Return recall with an interval that is honest for few samples, where a bootstrap is not."""
    return share(round(scores.recall * scores.support), scores.support)


def _class_row(name: str, scores: ClassScores) -> list[str]:
    recall = interval(_recall(scores))
    return [name, percent(scores.precision), recall, f"{scores.f1:.3f}", thousands(scores.support)]


def _confusion(matrix: IntArray, classes: Sequence[str]) -> Confusion | None:
    wrong = matrix - np.diag(np.diag(matrix))
    if wrong.size == 0 or wrong.max() == 0:
        return None
    true, predicted = divmod(int(wrong.argmax()), wrong.shape[1])
    return Confusion(classes[true], classes[predicted], int(wrong.max()), int(wrong.sum()))


def _confusion_words(matrix: IntArray, classes: Sequence[str]) -> str:
    right = ", ".join(f"{name} {matrix[i, i]} of {matrix[i].sum()}" for i, name in enumerate(classes))
    return f"Confusion matrix; right predictions: {right}"
