"""From runs to a report: ``report.html``, ``report.pdf`` and a ``model_card.md``, in words made of the runs' facts.

The report is written once, as a ``core.document``, and rendered as a page and as paper. Reads only what earlier stages
wrote. What was not measured is said to be missing and never made up. Needs neither torch nor anything of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hemalens.core.artifacts import output_directory, write_atomically, write_table, write_text
from hemalens.core.provenance import version
from hemalens.core.text import interval, listed, percent, thousands
from hemalens.report.card import model_card
from hemalens.report.document.blocks import Document, Paragraph, Section, paragraph
from hemalens.report.document.html import render_document
from hemalens.report.document.markdown import render_markdown
from hemalens.report.document.pdf import render_pdf
from hemalens.report.inputs import ReportInputs, RunInputs, load_inputs
from hemalens.report.sections.discussion import conclusions_section, discussion_section
from hemalens.report.sections.elsewhere import elsewhere_scores
from hemalens.report.sections.experiments import experiments_context, experiments_section, experiments_table
from hemalens.report.sections.method import method_section
from hemalens.report.sections.problem import problem_section
from hemalens.report.sections.reproduction import Reproduction, find_reproduction, reproduction_section
from hemalens.report.sections.results import ResultsFacts, results_facts, results_section

__all__ = ["SECTIONS", "Row", "Told", "report", "write_report"]

_FILES = ("report.html", "report.pdf", "model_card.md", "experiments.csv")


@dataclass(frozen=True, slots=True)
class Told:
    """What the sections of a report are made from.

    Attributes:
        inputs: what was read.
        facts: of the evaluation, None where there is none.
        experiments: what ``experiments_context`` says of the runs beside each other.
        reproduction: how the run is made again.
        folder: where the page will lie (links are relative to it).
    """

    inputs: ReportInputs
    facts: ResultsFacts | None
    experiments: dict[str, Any]
    reproduction: Reproduction
    folder: Path

    @property
    def run(self) -> RunInputs:
        """The run that the report describes at length."""
        return self.inputs.main


@dataclass(frozen=True, slots=True)
class Row:
    """A section of the report: what makes it, when it is there, whether it describes the first run alone."""

    make: Callable[[Told], Section]
    when: Callable[[Told], bool] = lambda _: True
    first_run: bool = False


SECTIONS: tuple[Row, ...] = (
    Row(lambda told: problem_section(told.run, told.folder), first_run=True),
    Row(lambda told: method_section(told.run), first_run=True),
    Row(lambda told: experiments_section(told.inputs.runs, told.experiments)),
    Row(lambda told: results_section(told.run, told.facts), first_run=True),
    Row(lambda told: discussion_section(told.run, told.facts)),
    Row(lambda told: conclusions_section(told.run, told.facts, experiments=told.experiments)),
    Row(lambda told: reproduction_section(told.reproduction)),
)
"""The sections in order: a new one is a module in ``sections`` and a row here; page and paper follow."""


def report(
    runs: Sequence[Path],
    out: Path,
    *,
    evaluations: Sequence[Path] = (),
    elsewhere: Sequence[Path] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``report.html``, ``report.pdf``, ``model_card.md`` and ``experiments.csv`` about runs; return a summary.

    Args:
        runs: folders of ``hemalens run`` or ``hemalens train``; the first is described at length, several make the
            tables of experiments, where seeds of one recipe share a row.
        out: the directory to write.
        evaluations: folders of ``hemalens evaluate`` that lie neither inside a run nor beside its training.
        elsewhere: folders of ``hemalens evaluate`` that scored the first run's model on other laboratories' cells.
        overwrite: replace an earlier report.

    Raises:
        ArtifactError: a run is unfinished or damaged, one of several is not evaluated, an evaluation is of another
            model or, from elsewhere, of the model's own source, or ``out`` holds files already and ``overwrite`` is not
            set.
    """
    inputs = load_inputs(runs, evaluations, elsewhere)
    with output_directory(out, "report", overwrite=overwrite, inputs=inputs.files):
        write_table(out / "experiments.csv", experiments_table(inputs.runs))
        _write(out, inputs, out / "report.html")
    return _summary(inputs, _FILES)


def write_report(out_html: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Write the report as one HTML file, last, with ``report.pdf`` and ``model_card.md`` beside it; return a summary.

    Each is written atomically and replaces an earlier one.
    """
    inputs = load_inputs(runs)
    _write(out_html.parent, inputs, out_html)
    return _summary(inputs, ["report.pdf", "model_card.md", out_html.name])


def _summary(inputs: ReportInputs, files: Sequence[str]) -> dict[str, Any]:
    evaluation = inputs.main.evaluation
    return {
        "runs": [run.name for run in inputs.runs],
        "evaluated": sum(run.evaluation is not None for run in inputs.runs),
        "accuracy": asdict(evaluation.scores.accuracy) if evaluation else None,
        "macro_f1": asdict(evaluation.scores.macro_f1) if evaluation else None,
        "files": list(files),
    }


def _write(folder: Path, inputs: ReportInputs, page: Path) -> None:
    """Write the PDF and the card into a folder and the page, last, where it is wanted."""
    run = inputs.main
    facts = results_facts(run.evaluation) if run.evaluation else None
    told = Told(inputs, facts, experiments_context(inputs.runs), find_reproduction(inputs), folder)
    document = _document(told)
    pdf = render_pdf(document, time=_time(inputs))
    write_atomically(folder / "report.pdf", lambda file: file.write(pdf))
    write_text(folder / "model_card.md", render_markdown(model_card(run, facts, told.reproduction)))
    write_text(page, render_document(document))


def _document(told: Told) -> Document:
    """Write the report as data."""
    rows = [row for row in SECTIONS if row.when(told)]
    number = "one run" if len(told.inputs.runs) == 1 else f"{len(told.inputs.runs)} runs"
    return Document(
        f"Blood-cell classification: {told.run.name}",
        tuple(_lead(told.inputs, told.facts, [index for index, row in enumerate(rows, 1) if row.first_run])),
        tuple(row.make(told) for row in rows),
        f"Written by hemalens {version()} from the files of {number}; complete in itself, it loads nothing. Not for "
        "diagnosis.",
    )


def _time(inputs: ReportInputs) -> datetime | None:
    """Return when the newest of the files that the report is made from was written, None where none says."""
    records = [
        record for run in inputs.runs for record in (run.provenance, run.evaluation and run.evaluation.provenance)
    ]
    records += [one.provenance for one in inputs.main.elsewhere]
    records += [inputs.main.explanation.provenance] if inputs.main.explanation else []
    times = []
    for record in records:
        try:
            times.append(datetime.fromisoformat(str((record or {}).get("time"))))
        except ValueError:
            continue
    aware = [time for time in times if time.tzinfo is not None]
    return max(aware).astimezone(UTC) if aware else None


def _lead(inputs: ReportInputs, facts: ResultsFacts | None, described: Sequence[int]) -> list[Paragraph]:
    """Say in a few sentences what the report says."""
    run = inputs.main
    model, audit = run.model, run.audit
    model_words = (
        f"The model {model.model}, with {thousands(model.parameters)} parameters, sorts images of single "
        f"blood cells into {len(model.classes)} classes."
    )
    sentences = [
        model_words,
        f"It was made from a source of {thousands(audit.n_samples)} images, of which the audit suggested "
        f"dropping {thousands(audit.suggested_drops)}."
        if audit
        else None,
    ]
    there = (
        f"On other laboratories' cells its accuracy is {elsewhere_scores(run.elsewhere)}." if run.elsewhere else None
    )
    if facts is None:
        words = "It has not been evaluated, so nothing is known about its accuracy"
        return [paragraph(*sentences, f"{words} at home." if there else f"{words}.", there)]
    scores, distorted, kept = facts.scores, facts.scores.distorted, facts.scores.abstention
    field = "; on the same images, distorted to look like the field, its accuracy is "
    score_words = (
        f"On {facts.scored_on} ({thousands(scores.n)} images) its accuracy is {interval(scores.accuracy)} "
        f"and its macro-F1 {interval(scores.macro_f1)}{f'{field}{interval(distorted)}' if distorted else ''}."
    )
    sentences += [
        score_words,
        f"Allowed to abstain, it answers for {percent(kept.coverage)} of them and is right in "
        f"{percent(kept.accuracy_kept)} of those answers."
        if kept.accuracy_kept is not None
        else None,
        there,
    ]
    several = (
        f"{len(inputs.runs)} runs are compared; sections {listed(described)} describe {run.name}, the first one named."
        if len(inputs.runs) > 1
        else None
    )
    return [paragraph(*sentences), paragraph("Brackets hold 95 % intervals.", several)]
