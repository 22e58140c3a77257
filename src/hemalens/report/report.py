"""From runs to a report: ``report.html``, ``report.pdf`` and a ``model_card.md``, in words made of the runs' facts.

The report is written once, as a ``core.document``, and rendered as a page and as paper. Reads only what earlier stages
wrote. What was not measured is said to be missing and never made up. Needs neither torch nor anything of training.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hemalens.core.artifacts import output_directory, write_atomically, write_table, write_text
from hemalens.core.provenance import version
from hemalens.core.text import ABSENT, interval, percent, thousands
from hemalens.report.card import model_card
from hemalens.report.document.blocks import Block, Code, Document, Facts, Heading, Paragraph, Section, Table, paragraph
from hemalens.report.document.html import render_document
from hemalens.report.document.markdown import render_markdown
from hemalens.report.document.pdf import render_pdf
from hemalens.report.inputs import ReportInputs, RunInputs, load_inputs
from hemalens.report.sections.discussion import conclusions_section, discussion_section
from hemalens.report.sections.elsewhere import elsewhere_scores
from hemalens.report.sections.experiments import experiments_context, experiments_section, experiments_table
from hemalens.report.sections.method import method_section, plain
from hemalens.report.sections.problem import problem_section
from hemalens.report.sections.results import ResultsFacts, results_facts, results_section

__all__ = ["report", "write_report"]

_FILES = ("report.html", "report.pdf", "model_card.md", "experiments.csv")


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
    reproduction = _reproduction(run, inputs)
    document = _document(inputs, facts, reproduction, folder)
    pdf = render_pdf(document, time=_time(inputs))
    write_atomically(folder / "report.pdf", lambda file: file.write(pdf))
    write_text(folder / "model_card.md", render_markdown(model_card(run, facts, reproduction)))
    write_text(page, render_document(document))


def _document(
    inputs: ReportInputs, facts: ResultsFacts | None, reproduction: Mapping[str, Any], folder: Path
) -> Document:
    """Write the report as data; ``folder`` is where its files will lie (links are relative to it)."""
    run, found = inputs.main, experiments_context(inputs.runs)
    number = "one run" if len(inputs.runs) == 1 else f"{len(inputs.runs)} runs"
    return Document(
        f"Blood-cell classification: {run.name}",
        tuple(_lead(inputs, facts)),
        (
            problem_section(run, folder),
            method_section(run),
            experiments_section(inputs.runs, found),
            results_section(run, facts),
            discussion_section(run, facts),
            conclusions_section(run, facts, experiments=found),
            Section("reproduction", "How to reproduce", tuple(_reproduction_blocks(reproduction))),
        ),
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


def _lead(inputs: ReportInputs, facts: ResultsFacts | None) -> list[Paragraph]:
    """Say in a few sentences what the report says."""
    run = inputs.main
    model, audit = run.model, run.audit
    model_words = (
        f"The model {model['model']}, with {thousands(model['parameters'])} parameters, sorts images of single "
        f"blood cells into {len(model['classes'])} classes."
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
        f"{len(inputs.runs)} runs are compared; sections 1, 2 and 4 describe {run.name}, the first one named."
        if len(inputs.runs) > 1
        else None
    )
    return [paragraph(*sentences), paragraph("Brackets hold 95 % intervals.", several)]


def _reproduction(run: RunInputs, inputs: ReportInputs) -> dict[str, Any]:
    facts = run.provenance
    hardware = facts.get("hardware", {})
    records = [facts] + [one.provenance for one in (run.evaluation, *run.elsewhere, run.explanation) if one]
    state = " with uncommitted changes" if facts.get("dirty") else ""
    return {
        "commands": list(dict.fromkeys("hemalens " + shlex.join(map(str, one.get("argv", []))) for one in records)),
        "facts": [
            ("Version", f"hemalens {facts.get('version', ABSENT)}"),
            ("Commit", f"{facts['commit']}{state}" if facts.get("commit") else "not run from a checkout"),
            ("Time", facts.get("time", ABSENT)),
            ("Seed", ABSENT if facts.get("seed") is None else facts["seed"]),
            ("Processor", f"{hardware.get('cpu', ABSENT)}, {hardware.get('cores', ABSENT)} cores"),
            ("Platform", hardware.get("platform", ABSENT)),
            ("Device", run.model.get("device", run.config.get("device", ABSENT))),
            ("Libraries", ", ".join(f"{name} {found}" for name, found in facts.get("libraries", {}).items())),
        ],
        "config": [[key, plain(value)] for key, value in sorted(run.config.items())],
        "trained_on": list(facts.get("inputs", {}).items()),
        "made": [(name, digest) for name, digest in facts.get("outputs", {}).items() if "/" not in name],
        "read": list(inputs.files.items()),
    }


def _reproduction_blocks(found: Mapping[str, Any]) -> list[Block]:
    facts = [(term, str(value)) for term, value in found["facts"]]
    blocks: list[Block] = [
        paragraph("The arguments as they were recorded:"),
        *(Code(command) for command in found["commands"]),
        Facts(facts),
        Table("config", "The whole configuration (config.json).", ("key", "value"), found["config"], left=(1,)),
        Heading("Hashes (SHA-256)"),
    ]
    for name, key in (
        ("What the training read", "trained_on"),
        ("What the training wrote", "made"),
        ("What this report was made from", "read"),
    ):
        blocks += [Heading(name, 4), Facts(found[key], hashes=True)] if found[key] else []
    return blocks
