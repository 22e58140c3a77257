"""A source to its audit: a manifest, statistics, one table of findings, a summary and a page to look at.

Nothing is changed and nothing dropped: every sample stays in the manifest, and each finding carries only a suggestion
that ``clean`` will follow unless a person edits it. Needs no torch.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from hemalens.core.artifacts import output_directory, write_json, write_table, write_text
from hemalens.core.provenance import sha256_file
from hemalens.core.types import CELL_CLASSES, Progress, Sample, no_progress
from hemalens.data.audit_page import AuditView, render_audit
from hemalens.data.audit_pictures import write_pictures
from hemalens.data.checks.finding import ISSUES, Finding
from hemalens.data.checks.labels import LabelCheck, check_labels
from hemalens.data.checks.leakage import Against
from hemalens.data.checks.near_pictures import check_scale
from hemalens.data.checks.outliers import OutlierAnalysis
from hemalens.data.checks.shortcuts import Shortcut, find_shortcuts
from hemalens.data.decisions import findings_digest
from hemalens.data.findings import arrange, find_all
from hemalens.data.probabilities import read_probabilities
from hemalens.data.sources import Source, open_source
from hemalens.data.sources.entries import escape
from hemalens.data.split import read_splits
from hemalens.data.statistics import Engine, Statistics, measure_source

__all__ = ["audit", "suggested_drops"]

_ORDERED = frozenset({"npz", "medmnist", "manifest"})
_MANIFEST = ("width", "height", "mode", "bytes", "sha256", "phash")
_STATISTICS = (
    "pixel_sha256",
    "brightness",
    "contrast",
    "dark_tail",
    "bright_tail",
    "sharpness",
    "background_red",
    "background_green",
    "background_blue",
    "conversions",
)


def audit(
    source: str | Path,
    out: Path,
    *,
    against: str | Path | None = None,
    splits: Path | None = None,
    classes: Sequence[str] | None = None,
    workers: int | None = None,
    probabilities: Path | None = None,
    engine: Engine = "local",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Audit a source into a directory and return the summary that ``audit.json`` holds.

    Args:
        source: any SOURCE.
        out: directory to write; refused where it exists, unless ``overwrite``.
        against: another SOURCE that must share no picture and no group with this one.
        splits: a ``splits.csv`` of this source, to look for what lies on two sides; the source's own splits where None.
        classes: class names in label order, instead of the source's own.
        workers: processes that decode; None for one a core.
        probabilities: out-of-fold class probabilities (``read_probabilities``), by which labels are doubted.
        engine: "local", or "ray" to measure through Ray Data; the tables are the same.
        overwrite: replace an earlier audit.
        progress: told about the steps.

    Raises:
        ArtifactError: ``splits`` is not of this source, or ``out`` exists.
        MissingExtraError: more than a million pictures, and faiss is not installed.
    """
    started = time.monotonic()
    opened = open_source(source, classes=classes)
    other = open_source(against) if against is not None else None
    check_scale(len(opened) + (len(other) if other else 0))
    sides = read_splits(splits, opened.samples) if splits else None
    options = {"classes": list(classes) if classes else None}
    inputs = {"source": opened.fingerprint()}
    inputs |= ({"against": other.fingerprint()} if other else {}) | ({"splits": sha256_file(splits)} if splits else {})
    chances = None
    if probabilities is not None:
        chances = read_probabilities(probabilities, opened.samples, opened.classes)
        inputs |= {"probabilities": sha256_file(probabilities)}
    with output_directory(out, "audit", overwrite=overwrite, inputs=inputs, options=options):
        statistics = measure_source(opened, workers=workers, engine=engine, progress=progress)
        compared = None
        if other is not None:
            measured = measure_source(other, workers=workers, engine=engine, progress=progress)
            compared = Against(escape(other.spec), measured, other.samples)
        progress("looking for outliers and copies", 0, 1)
        analysis, findings = find_all(statistics, opened.samples, sides=sides, against=compared)
        progress("looking for outliers and copies", 1, 1)
        drops = suggested_drops(findings)
        checked = None if chances is None else check_labels(opened.samples, opened.classes, chances, without=drops)
        findings = arrange([*findings, *checked.findings]) if checked else findings
        # Files are sorted by path, and in class folders that holds the label.
        shortcuts = find_shortcuts(statistics, opened.samples, ordered=opened.kind in _ORDERED, without=drops)
        write_table(out / "manifest.csv", _manifest(opened, statistics))
        write_table(out / "statistics.csv", _statistics(opened, statistics, analysis))
        issues = _issues(opened.samples, findings)
        write_table(out / "issues.csv", issues)
        summary = _summary(opened, statistics, findings) | {"shortcuts": [_told(one) for one in shortcuts]}
        summary |= {"labels": _doubts(checked)} if checked else {}
        summary["findings_sha256"] = findings_digest(issues)
        if other is not None:
            summary |= {"against": escape(other.spec), "n_against": len(other)}
        view = AuditView(opened, statistics, analysis, tuple(findings), summary, other)
        page = render_audit(view)
        summary |= write_pictures(view, out)
        summary["seconds"] = round(time.monotonic() - started, 2)
        write_json(out / "audit.json", summary)
        write_text(out / "audit.html", page)
    return summary


def suggested_drops(findings: Sequence[Finding]) -> set[int]:
    """Return the places of the samples that at least one finding suggests to drop."""
    return {finding.index for finding in findings if finding.suggestion == "drop"}


def _doubts(checked: LabelCheck) -> dict[str, Any]:
    pairs = [{"label": label, "looks_like": other, "samples": count} for label, other, count in checked.pairs]
    noise = round(checked.noise, 4)
    return {"checked": checked.samples, "agreement": round(checked.agreement, 4), "noise": noise, "pairs": pairs}


def _told(shortcut: Shortcut) -> dict[str, Any]:
    shares = [{"label": label, "share": share, "usual": usual} for label, share, usual in shortcut.shares]
    return asdict(shortcut) | {"leaks": [asdict(leak) for leak in shortcut.leaks], "shares": shares}


def _manifest(source: Source, statistics: Statistics) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {
        "sample_id": [sample.sample_id for sample in source.samples],
        "label": [sample.label for sample in source.samples],
        "group": [sample.group for sample in source.samples],
    }
    schema: dict[str, type[pl.DataType]] = dict.fromkeys(("sample_id", "label", "group"), pl.String)
    for name in _MANIFEST:
        columns[name] = statistics.column(name)
        schema[name] = pl.Int64 if name in ("width", "height", "bytes") else pl.String
    return pl.DataFrame(columns, schema=schema)


def _statistics(source: Source, statistics: Statistics, analysis: OutlierAnalysis) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {"sample_id": [sample.sample_id for sample in source.samples]}
    schema: dict[str, type[pl.DataType]] = {"sample_id": pl.String}
    for name in _STATISTICS:
        columns[name] = statistics.column(name)
        schema[name] = pl.String if name in ("pixel_sha256", "conversions") else pl.Float64
    columns |= {
        "pc1": analysis.scores[:, 0].round(3).tolist(),
        "pc2": analysis.scores[:, 1].round(3).tolist(),
        "squared_mahalanobis": analysis.distances.round(3).tolist(),
    }
    schema |= dict.fromkeys(("pc1", "pc2", "squared_mahalanobis"), pl.Float64)
    return pl.DataFrame(columns, schema=schema)


def _issues(samples: Sequence[Sample], findings: Sequence[Finding]) -> pl.DataFrame:
    rows = [
        (samples[f.index].sample_id, samples[f.index].label, f.issue, f.score, f.group, f.suggestion, f.reason)
        for f in findings
    ]
    text = pl.String
    schema = {"sample_id": text, "label": text, "issue": text, "score": pl.Float64, "group": text}
    return pl.DataFrame(rows, schema=schema | {"suggestion": text, "reason": text}, orient="row")


def _summary(source: Source, statistics: Statistics, findings: Sequence[Finding]) -> dict[str, Any]:
    drops = suggested_drops(findings)
    before = Counter(sample.label or "" for sample in source.samples)
    after = Counter(sample.label or "" for index, sample in enumerate(source.samples) if index not in drops)
    names = source.classes or tuple(sorted(before))
    if "" in before and "" not in names:
        names = (*names, "")
    issues = {}
    for issue in ISSUES:
        rows = [finding for finding in findings if finding.issue == issue]
        if rows:
            groups = {finding.group for finding in rows if finding.group}
            issues[issue] = {"samples": len({finding.index for finding in rows}), "groups": len(groups)}
    return {
        "source": escape(source.spec),  # a path may hold bytes that are no UTF-8
        "kind": source.kind,
        "n_samples": len(source),
        "n_unreadable": int((~statistics.readable).sum()),
        "n_ignored": len(source.ignored),
        "ignored": [{"name": name, "reason": reason} for name, reason in source.ignored],
        "classes": {name: {"before": before[name], "after": after[name]} for name in names},
        "are_blood_cells": set(source.classes) <= set(CELL_CLASSES),
        "issues": issues,
        "suggested_drops": len(drops),
    }
