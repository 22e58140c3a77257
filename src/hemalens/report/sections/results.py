"""From one evaluation to what a report says about it: rows of text, figures, images of mistakes.

Needs neither torch nor anything of training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hemalens.core.metrics import Interval
from hemalens.core.text import interval, number, percent, thousands
from hemalens.core.types import IntArray
from hemalens.evaluation.figures import confusion_matrix_figure, per_class_f1
from hemalens.report.document.blocks import Block, Figure, Heading, Section, Table, code, paragraph, reference
from hemalens.report.inputs import Evaluation, RunInputs
from hemalens.report.parts import drawn
from hemalens.report.sections.elsewhere import elsewhere_blocks, share
from hemalens.report.sections.mistakes import mistakes_blocks
from hemalens.report.sections.trust import abstention, trust_blocks

__all__ = ["classes_table", "distorted_accuracy", "results_facts", "results_section", "scores_table"]

_SCORES = (
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy (mean recall of the classes)"),
    ("macro_f1", "Macro-F1 (mean F1 of the classes)"),
)
_SPLIT_WORDS = {
    "test": "the test split",
    "val": "the validation split",
    "train": "the training split",
    "all": "all samples of the source",
}


def results_facts(evaluation: Evaluation) -> dict[str, Any]:
    """Return what several sections say about one evaluation: rows of text, the smallest class, the worst confusion."""
    scores = evaluation.scores
    matrix, classes = np.asarray(scores["confusion_matrix"], dtype=np.int64), scores["classes"]
    distorted = distorted_accuracy(scores)
    table = [[label, interval(scores[key])] for key, label in _SCORES]
    table.append(["Accuracy on distorted images", interval(distorted) if distorted else "not measured"])
    table += [
        [label, number(scores.get(key))]
        for key, label in (
            ("loss", "Cross-entropy (nats)"),
            ("ece", "Expected calibration error, 15 bins"),
            ("ece_uncalibrated", "The same before temperature scaling"),
            ("temperature", "Temperature"),
        )
    ]
    support = {name: int(one["support"]) for name, one in scores["per_class"].items()}
    smallest = min(support, key=lambda name: support[name]) if support else None
    return {
        "scores": scores,
        "scored_on": _SPLIT_WORDS.get(str(evaluation.split), "the samples given to it"),
        "split": evaluation.split,
        "score_rows": table,
        "distorted": distorted,
        "abstention": abstention(scores),
        "flawless": int(np.trace(matrix)) == int(matrix.sum()) > 0,
        "class_rows": [_class_row(name, one) for name, one in scores["per_class"].items()],
        "smallest": smallest,
        "smallest_support": support.get(smallest) if smallest else None,
        "smallest_recall": _recall(scores["per_class"][smallest]) if smallest else None,
        "worst_pair": _worst_pair(matrix, classes),
    }


def results_section(run: RunInputs, facts: Mapping[str, Any] | None) -> Section:
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
                f" has the scores on {facts['scored_on']}, ",
                reference("by-class"),
                " those of each class, ",
                reference("confusion"),
                " what was taken for what.",
            )
        ),
        *_remarks(facts),
        Heading("By class"),
        classes_table(facts),
        drawn(
            "f1",
            "F1 score of each class.",
            per_class_f1(scores["per_class"]),
            "F1 of each class, as in the table above",
            paper=(3.6, 0.7 + 0.2 * max(len(scores["classes"]), 1)),
        ),
        _confusion(scores),
    ]
    if pair := facts["worst_pair"]:
        taken = f"{pair['true']} taken for {pair['predicted']}"
        often = f"The most frequent confusion is {taken}: {pair['count']} of all {pair['all']} mistakes."
        found.append(paragraph(often if pair["all"] > 1 else f"The one mistake is {taken}."))
    found += [*trust_blocks(scores), *_background(scores), *elsewhere_blocks(run.elsewhere, scores)]
    found += mistakes_blocks(run, flawless=facts["flawless"])
    return Section("results", "Results", tuple(found))


def scores_table(facts: Mapping[str, Any]) -> Table:
    """Return the table of the scores of all samples."""
    caption = f"Scores on {facts['scored_on']} (n = {thousands(facts['scores']['n'])})."
    return Table("scores", caption, ("score", "value [95 % interval]"), facts["score_rows"])


def classes_table(facts: Mapping[str, Any]) -> Table:
    """Return the table of the scores of each class."""
    caption = "Scores of each class. Recall has a 95 % Wilson interval: the support says how many samples it rests on."
    return Table("by-class", caption, ("class", "precision", "recall", "F1", "support"), facts["class_rows"])


def _remarks(facts: Mapping[str, Any]) -> list[Block]:
    """Return sentences on samples without a known label, on perfection, distortions and abstaining."""
    scores, distorted = facts["scores"], facts["distorted"]
    unknown, kept = scores.get("n_unknown_label"), facts["abstention"]
    words = (scores.get("distorted") or {}).get("description")
    cost = scores["accuracy"]["value"] - distorted["value"] if distorted else 0
    found = [
        f"{thousands(unknown)} more samples have no label that the model knows and take no part in the scores."
        if unknown
        else None,
        f"No mistake was made among the {thousands(scores['n'])} samples. A bootstrap cannot see what did not occur, "
        f"so the interval has no width; with 95 % confidence the error is below {percent(3 / scores['n'])} (three "
        "divided by the number of samples)."
        if facts["flawless"]
        else None,
        "The distorted images are the same ones under distortions like those of the field"
        + (f": {words}." if words else ".")
        + (f" They cost {number(100 * cost)} points of accuracy." if cost > 0 else "")
        if distorted
        else "How the model fares on distorted images was not measured.",
        f"Where it answers only above a confidence of {number(kept['threshold'])}, the model answers for "
        f"{percent(kept['coverage'])} of the samples{_kept_words(kept)}; the others it leaves to a person."
        if kept
        else None,
    ]
    return [paragraph(sentence) for sentence in found if sentence]


def _kept_words(kept: Mapping[str, Any]) -> str:
    right = kept.get("accuracy_kept")
    return "" if right is None else f" and is right in {percent(right)} of those"


def _confusion(scores: Mapping[str, Any]) -> Figure:
    matrix, classes = np.asarray(scores["confusion_matrix"], dtype=np.int64), scores["classes"]
    caption = "Confusion matrix: counts, each row coloured by its shares."
    chart, words = confusion_matrix_figure(matrix, classes), _confusion_words(matrix, classes)
    wide = len(classes) > 10
    size = (7.2, 6.4) if wide else (3.6, 3.4)
    return drawn("confusion", caption, chart, words, paper=size, wide=wide)


def _background(scores: Mapping[str, Any]) -> list[Block]:
    """Tell grey-background images from the others, where both were scored."""
    groups = scores.get("groups")
    heading = Heading("Grey background")
    if not groups or any(not groups.get(name, {}).get("n") for name in ("grey_background", "other")):
        words = "Images with a grey background, a mark of their batch, were not scored apart from the others."
        return [heading, paragraph(words)]
    grey, other = groups["grey_background"], groups["other"]
    a, b = grey["accuracy"], other["accuracy"]
    overlap = a["low"] <= b["high"] and b["low"] <= a["high"]
    worse, points = "worse" if a["value"] < b["value"] else "better", abs(a["value"] - b["value"]) * 100
    return [
        heading,
        paragraph(
            "Some images come from a batch with a grey background, which can give a class away.",
            f"On the {thousands(grey['n'])} of them the accuracy is {interval(a)}, on the {thousands(other['n'])} "
            f"others {interval(b)}; on both together {interval(scores['accuracy'])}.",
            "The intervals overlap: this test set does not support a difference between the two."
            if overlap
            else f"The intervals do not overlap: the model is {worse} on the grey ones, by {number(points)} points.",
        ),
    ]


def distorted_accuracy(scores: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Return the accuracy on distorted images with its interval, None where it was not measured."""
    distorted = scores.get("distorted") or {}
    found: Mapping[str, float] | None = distorted.get("accuracy", distorted if "value" in distorted else None)
    return found


def _recall(scores: Mapping[str, float]) -> Interval | None:
    """Return recall with an interval that is honest for few samples, where a bootstrap is not."""
    support = int(scores["support"])
    return share(round(scores["recall"] * support), support)


def _class_row(name: str, scores: Mapping[str, float]) -> list[str]:
    return [
        name,
        percent(scores["precision"]),
        interval(_recall(scores)),
        f"{scores['f1']:.3f}",
        thousands(int(scores["support"])),
    ]


def _worst_pair(matrix: IntArray, classes: Sequence[str]) -> dict[str, Any] | None:
    wrong = matrix - np.diag(np.diag(matrix))
    if wrong.size == 0 or wrong.max() == 0:
        return None
    true, predicted = divmod(int(wrong.argmax()), wrong.shape[1])
    return {"true": classes[true], "predicted": classes[predicted], "count": int(wrong.max()), "all": int(wrong.sum())}


def _confusion_words(matrix: IntArray, classes: Sequence[str]) -> str:
    right = ", ".join(f"{name} {matrix[i, i]} of {matrix[i].sum()}" for i, name in enumerate(classes))
    return f"Confusion matrix; right predictions: {right}"
