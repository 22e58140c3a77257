"""From a run's facts to what they mean and what they do not show, and to the conclusions.

Needs neither torch nor anything of training.
"""

from typing import Any

from hemalens.core.text import interval, number, percent, thousands
from hemalens.report.document.blocks import Block, Bullets, Heading, Paragraph, Section, paragraph
from hemalens.report.inputs import RunInputs
from hemalens.report.sections.elsewhere import one_source
from hemalens.report.sections.results import ResultsFacts
from hemalens.report.sections.trust import mean_corruption_error

__all__ = ["conclusions_section", "discussion_section", "limits"]

_SEEN = ("val", "train", "all")


def discussion_section(run: RunInputs, facts: ResultsFacts | None) -> Section:
    """Return the section on what the results mean and on their limits; ``facts`` are those of the evaluation."""
    blocks: list[Block] = [paragraph(*_meaning(facts))] if facts else []
    blocks += [Heading("Limits"), Bullets(tuple(limits(run, facts)))]
    return Section("discussion", "Discussion", tuple(blocks))


def limits(run: RunInputs, facts: ResultsFacts | None) -> list[Paragraph]:
    """Return what the scores do not show, one paragraph a limit."""
    classes = len(run.model.classes)
    found: list[Paragraph] = [_grouping(run)]
    if facts and facts.split in _SEEN and not _of_another_source(run):
        words = "which had a part in making the model: they are optimistic."
        found.append(paragraph(f"The scores were taken on {facts.scored_on}, {words}"))
    found.append(
        paragraph(
            "Clean accuracy does not predict accuracy in the field: in a public challenge on such cells, models with "
            "97 to 99 % on images from their own source scored 20 to 97 % on a hidden, distorted test set.",
            None
            if not facts
            else "The distorted score is the better guess, and still a guess: its distortions are synthetic and were "
            "chosen by us."
            if facts.scores.distorted
            else "Without a distorted score this report can say nothing about it.",
        )
    )
    found.append(one_source(run.elsewhere, run.model.classes))
    if facts and facts.smallest_recall:
        found.append(
            paragraph(
                f"Classes with few samples have wide intervals: {facts.smallest} rests on "
                f"{facts.smallest_support} samples, its recall is {interval(facts.smallest_recall)}."
            )
        )
    found.append(
        paragraph(
            f"The model knows {classes} classes. A cell of any other class, or something that is no cell, is named as "
            "one of them unless the model abstains."
        )
    )
    found.append(
        paragraph(
            "It is a work of research and teaching, not a medical device: it must not be used for diagnosis.",
        )
    )
    return found


def conclusions_section(run: RunInputs, facts: ResultsFacts | None, *, experiments: dict[str, Any]) -> Section:
    """Return the conclusions: what was reached, what the comparison showed, what to do next."""
    classes, parameters = len(run.model.classes), thousands(run.model.parameters)
    if facts is None:
        words = "was trained and not evaluated: nothing can be concluded about it."
        return Section("conclusions", "Conclusions", (paragraph(f"A model of {parameters} parameters {words}"),))
    scores, distorted = facts.scores, facts.scores.distorted
    cleaned = run.audit.suggested_drops if run.audit else 0
    blocks = [
        paragraph(
            f"The audit suggested dropping {thousands(cleaned)} images that would have taught the model wrongly "
            "or made its score too good."
            if cleaned
            else None,
            f"A network of {parameters} parameters sorts cells into {classes} classes with an accuracy of "
            f"{interval(scores.accuracy)} on {facts.scored_on}.",
            f"Under distortions like those of the field {percent(distorted.value)} remain"
            + (
                ", so a model for the field needs distortions in its training rather than more accuracy on clean "
                "images."
                if scores.accuracy.value - distorted.value > 0.05
                else ", close to the clean score."
            )
            if distorted
            else "How it fares under distortions remains to be measured.",
            *experiments["spreads"],
        )
    ]
    if verdicts := experiments["verdicts"]:
        blocks.append(paragraph(*verdicts))
    blocks.append(
        paragraph(
            "Before anything depends on it, the model has to be scored on cells of other patients and "
            f"{'the laboratory where it is to be used' if run.elsewhere else 'another laboratory'}, named by several "
            "experts.",
        )
    )
    return Section("conclusions", "Conclusions", tuple(blocks))


def _of_another_source(run: RunInputs) -> bool:
    """Tell whether the scores were taken on another source than the one that the model was trained on."""
    if run.evaluation is None:
        return False
    scored, trained = (record.get("inputs", {}).get("source") for record in (run.evaluation.provenance, run.provenance))
    return None not in (scored, trained) and scored != trained


def _grouping(run: RunInputs) -> Paragraph:
    if run.splits is not None and run.splits.groups:
        return paragraph(
            "The split keeps groups whole. If the groups are patients or slides, the score speaks for unseen ones; "
            "if they are anything less, images of one patient may lie in two splits and the score is an upper "
            "bound."
        )
    if run.splits is None:
        return paragraph(
            "How the samples were split is not known here. Unless the patients were kept apart, every score is an "
            "upper bound on what to expect from new ones."
        )
    return paragraph(
        "The data name neither patients nor slides. Cells of one patient may lie in training and test alike, so "
        "every score here is an upper bound on what to expect from new patients."
    )


def _meaning(facts: ResultsFacts) -> list[str | None]:
    """Say what the scores mean beside each other."""
    scores, distorted, kept = facts.scores, facts.scores.distorted, facts.scores.abstention
    clean, pair = scores.accuracy, facts.confusion
    wide = clean.high - clean.low
    gap = clean.value - distorted.value if distorted else None
    damaged = mean_corruption_error(scores)
    return [
        f"With {thousands(scores.n)} samples the accuracy is known to {number(100 * wide, 2)} points: the intervals "
        "cannot tell apart two models whose scores differ by less; only a comparison sample by sample can."
        if not facts.flawless
        else None,
        f"Mistakes concentrate: {pair.true} taken for {pair.predicted} makes "
        f"{percent(pair.count / pair.all, 0)} of them, and these two classes are close in looks or in "
        "maturation, or share doubtful labels."
        if pair and pair.count > 2 and pair.count / pair.all >= 0.3
        else None,
        f"The distance of {number(100 * gap)} points between clean and distorted images says that the model relies "
        "on details that distortions destroy."
        if gap is not None and gap > 0.05
        else f"Distorted images cost only {number(100 * gap, 2)} points, so the model does not rely much on "
        "details that distortions destroy."
        if gap is not None and gap >= 0
        else None,
        f"Over all corruptions and severities it errs on {percent(damaged)} of the samples, classes weighted alike."
        if damaged is not None
        else None,
        f"Leaving {percent(1 - kept.coverage)} of the samples to a person raises the accuracy of the others to "
        f"{percent(kept.accuracy_kept)}."
        if kept.accuracy_kept is not None and kept.accuracy_kept > clean.value
        else None,
    ]
