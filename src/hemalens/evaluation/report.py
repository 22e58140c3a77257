"""From runs to a report: one self-contained ``report.html`` and a ``model_card.md``, in words made of the runs' facts.

Reads only what earlier stages wrote. What was not measured is said to be missing and never made up. Needs neither torch
nor anything of training.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hemalens.core.artifacts import output_directory, write_table, write_text
from hemalens.core.charts import bar_counts, figure_svg
from hemalens.core.page import ABSENT, percent, render_page, thousands
from hemalens.core.provenance import version
from hemalens.evaluation.figures import learning_curves
from hemalens.evaluation.report_experiments import experiments_context, experiments_table
from hemalens.evaluation.report_inputs import ReportInputs, RunInputs, load_inputs
from hemalens.evaluation.report_method import method_facts, plain
from hemalens.evaluation.report_results import results_context

__all__ = ["report", "write_report"]

_PACKAGE = "hemalens.evaluation"
_ISSUE_WORDS = {
    "unreadable": "the file cannot be decoded",
    "converted": "the file was converted to 8-bit RGB from 16 bit, alpha, a palette or the like",
    "odd_size": "the picture has another size than the rest",
    "exact_duplicate": "the same pixels occur more than once",
    "near_duplicate": "almost the same picture occurs more than once",
    "label_conflict": "one picture carries several labels",
    "foreign": "the picture shows no cell",
    "outlier": "colours or texture lie far from the rest",
    "colour_cluster": "the picture belongs to a batch with another background",
    "blurry": "the picture is blurred",
    "dark": "the picture is too dark",
    "bright": "the picture is too bright",
    "label_issue": "the picture looks like another class than its label",
    "leakage": "the picture occurs on two sides of the split",
}


def report(
    runs: Sequence[Path], out: Path, *, evaluations: Sequence[Path] = (), overwrite: bool = False
) -> dict[str, Any]:
    """Write ``report.html``, ``model_card.md`` and ``experiments.csv`` about runs and return a summary.

    Args:
        runs: folders of ``hemalens run`` or ``hemalens train``; the first is described at length, several make the
            tables of experiments.
        out: the directory to write.
        evaluations: folders of ``hemalens evaluate`` that lie neither inside a run nor beside its training.
        overwrite: replace an earlier report.

    Raises:
        ArtifactError: a run is unfinished or damaged, one of several is not evaluated, or ``out`` holds files already
            and ``overwrite`` is not set.
    """
    inputs = load_inputs(runs, evaluations)
    with output_directory(out, "report", overwrite=overwrite, inputs=inputs.files):
        context = _context(inputs, out)
        write_text(out / "report.html", render_page("report.html", _PACKAGE, context))
        write_text(out / "model_card.md", render_page("model_card.md", _PACKAGE, context))
        write_table(out / "experiments.csv", experiments_table(inputs.runs))
    return _summary(inputs, ["report.html", "model_card.md", "experiments.csv"])


def write_report(out_html: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Write the report alone as one HTML file, atomically, replacing an earlier one, and return a summary."""
    inputs = load_inputs(runs)
    write_text(out_html, render_page("report.html", _PACKAGE, _context(inputs, out_html.parent)))
    return _summary(inputs, [out_html.name])


def _summary(inputs: ReportInputs, files: Sequence[str]) -> dict[str, Any]:
    evaluation = inputs.main.evaluation
    scores = evaluation.scores if evaluation else {}
    return {
        "runs": [run.name for run in inputs.runs],
        "evaluated": sum(run.evaluation is not None for run in inputs.runs),
        "accuracy": scores.get("accuracy"),
        "macro_f1": scores.get("macro_f1"),
        "files": list(files),
    }


def _context(inputs: ReportInputs, folder: Path) -> dict[str, Any]:
    """Collect what the templates speak of; ``folder`` is where the page will lie (links are relative to it)."""
    run = inputs.main
    history, best = run.history, run.model.get("best_epoch")
    curves = learning_curves(history, best_epoch=best) if history["epoch"] else None
    return {
        "title": f"Blood-cell classification: {run.name}",
        "version": version(),
        "run": run,
        "runs": inputs.runs,
        "method": method_facts(run),
        "data": _data_context(run, folder),
        "training": {
            "epochs": len(history["epoch"]),
            "best_epoch": best,
            "planned": run.config.get("epochs"),
            "curves": curves and figure_svg(curves, label=f"Loss and accuracy over {len(history['epoch'])} epochs"),
        },
        "experiments": experiments_context(inputs.runs),
        "results": results_context(run.evaluation) if run.evaluation else None,
        "reproduction": _reproduction_context(run, inputs),
    }


def _data_context(run: RunInputs, folder: Path) -> dict[str, Any]:
    audit, splits = run.audit, run.splits
    found: dict[str, Any] = {"audit": audit, "splits": splits, "audit_link": None}
    if audit is not None:
        before = {name: int(one["before"]) for name, one in audit["classes"].items()}
        after = {name: int(one["after"]) for name, one in audit["classes"].items()}
        counts = [(name, before[name], after[name]) for name in before]
        counts.append(("all", sum(before.values()), sum(after.values())))
        found["class_rows"] = [[name, *map(thousands, (old, new, old - new))] for name, old, new in counts]
        found["issue_rows"] = [
            [name, _ISSUE_WORDS.get(name, ABSENT), thousands(issue["samples"]), thousands(issue.get("groups"))]
            for name, issue in audit["issues"].items()
        ]
        label = "Samples of each class before and after cleaning; the table above has the numbers"
        found["class_figure"] = figure_svg(bar_counts(before, after), label=label) if before else None
        if run.audit_page is not None:
            relative = Path(os.path.relpath(run.audit_page.resolve(), folder.resolve())).as_posix()
            found["audit_link"] = quote(relative)
    if splits is not None:
        totals = {split: sum(counts.values()) for split, counts in splits.counts.items()}
        whole = max(sum(totals.values()), 1)
        labels = list(next(iter(splits.counts.values()), {}))
        found["split_names"] = list(totals)
        found["split_rows"] = [
            [label, *(thousands(splits.counts[split][label]) for split in totals)] for label in labels
        ] + [["all", *(f"{thousands(n)} ({percent(n / whole)})" for n in totals.values())]]
    return found


def _reproduction_context(run: RunInputs, inputs: ReportInputs) -> dict[str, Any]:
    facts = run.provenance
    hardware = facts.get("hardware", {})
    records = [("train", facts)] + ([("evaluate", run.evaluation.provenance)] if run.evaluation else [])
    state = " with uncommitted changes" if facts.get("dirty") else ""
    return {
        "commands": list(dict.fromkeys("hemalens " + shlex.join(map(str, one.get("argv", []))) for _, one in records)),
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
