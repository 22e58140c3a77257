"""A source to its audit: a manifest, statistics, one table of findings, a summary and a page to look at.

Nothing is changed and nothing dropped: every sample stays in the manifest, and each finding carries only a suggestion
that ``clean`` will follow unless a person edits it. Needs no torch.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from hemalens.core.artifacts import output_directory, write_table, write_text
from hemalens.core.audit_summary import (
    AuditSummary,
    ClassCount,
    FoundIssue,
    Ignored,
    LabelDoubts,
    LikenessMap,
    ShownImage,
    SwappedLabels,
)
from hemalens.core.decisions import findings_digest
from hemalens.core.provenance import sha256_file
from hemalens.core.types import CELL_CLASSES, Progress, Sample, no_progress
from hemalens.data.audit import issues
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.checks.labels import LabelCheck
from hemalens.data.audit.checks.leakage import Against
from hemalens.data.audit.checks.outliers import OutlierAnalysis
from hemalens.data.audit.checks.shortcuts import find_shortcuts
from hemalens.data.audit.findings import Inspection, find_all
from hemalens.data.audit.images import write_images
from hemalens.data.audit.measured import write_thumbnails
from hemalens.data.audit.page import AuditView, render_audit
from hemalens.data.audit.probabilities import read_probabilities
from hemalens.data.audit.statistics import Statistics, measure_source
from hemalens.data.reading.mapping import Engine
from hemalens.data.sources import Source, open_source
from hemalens.data.sources.entries import escape
from hemalens.data.split import read_splits

__all__ = ["audit"]

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
) -> AuditSummary:
    """Audit a source into a directory and return the summary that ``audit.json`` holds.

    Args:
        source: any SOURCE.
        out: directory to write; refused where it exists, unless ``overwrite``.
        against: another SOURCE that must share no image and no group with this one.
        splits: a ``splits.csv`` of this source, to look for what is in two splits; the source's own where None.
        classes: class names in label order, instead of the source's own.
        workers: processes that decode; None for one a core.
        probabilities: out-of-fold class probabilities (``read_probabilities``), by which labels are doubted.
        engine: "local", or "ray" to measure through Ray Data; the tables are the same.
        overwrite: replace an earlier audit.
        progress: called for the steps.

    Raises:
        ArtifactError: ``splits`` is not of this source, or ``out`` exists.
        MissingExtraError: ``engine`` is ray, and Ray is not installed.
    """
    started = time.monotonic()
    opened = open_source(source, classes=classes)
    other = open_source(against) if against is not None else None
    given_splits = read_splits(splits, opened.samples) if splits else None
    options = {"classes": list(classes) if classes else None}
    inputs = {"source": opened.fingerprint()}
    inputs |= ({"against": other.fingerprint()} if other else {}) | ({"splits": sha256_file(splits)} if splits else {})
    label_probabilities = None
    if probabilities is not None:
        label_probabilities = read_probabilities(probabilities, opened.samples, opened.classes)
        inputs |= {"probabilities": sha256_file(probabilities)}
    with output_directory(out, "audit", overwrite=overwrite, inputs=inputs, options=options):
        statistics = measure_source(opened, workers=workers, engine=engine, progress=progress)
        write_thumbnails(out, statistics)
        compared = None
        if other is not None:
            measured = measure_source(other, workers=workers, engine=engine, progress=progress)
            compared = Against(escape(other.spec), measured, other.samples)
        progress("looking for outliers and copies", 0, 1)
        seen = Inspection(statistics, opened.samples, given_splits, compared, opened.classes, label_probabilities)
        findings = find_all(seen)
        progress("looking for outliers and copies", 1, 1)
        view = AuditView(opened, statistics, seen.analysis, tuple(findings), other)
        summary = _summary(view, seen, *write_images(view, out))
        write_table(out / "manifest.csv", _manifest(opened, statistics))
        write_table(out / "statistics.csv", _statistics(opened, statistics, seen.analysis))
        issues = _issues(opened.samples, findings)
        write_table(out / "issues.csv", issues)
        write_text(out / "audit.html", render_audit(view, summary))
        summary = summary.model_copy(
            update={"findings_sha256": findings_digest(issues), "seconds": round(time.monotonic() - started, 2)}
        )
        summary.write(out / "audit.json")
    return summary


def _summary(
    view: AuditView, seen: Inspection, images: Mapping[str, tuple[ShownImage, ...]], likeness: LikenessMap
) -> AuditSummary:
    source, other = view.source, view.against
    # Files are sorted by path, and in class folders that holds the label.
    ordered = source.kind in _ORDERED
    return AuditSummary(
        source=escape(source.spec),  # a path may hold bytes that are no UTF-8
        kind=source.kind,
        n_samples=len(source),
        n_unreadable=int((~view.statistics.readable).sum()),
        n_ignored=len(source.ignored),
        ignored=tuple(Ignored(name=name, reason=reason) for name, reason in source.ignored),
        classes=_class_counts(source, seen.dropped),
        are_blood_cells=set(source.classes) <= set(CELL_CLASSES),
        issues=_issue_counts(view.findings),
        suggested_drops=len(seen.dropped),
        shortcuts=find_shortcuts(view.statistics, source.samples, ordered=ordered, without=seen.dropped),
        labels=None if seen.labels is None else _doubts(seen.labels),
        against=None if other is None else escape(other.spec),
        n_against=None if other is None else len(other),
        images=images,
        map=likeness,
        findings_sha256="",  # known at the end, as is the next
        seconds=0.0,
    )


def _doubts(checked: LabelCheck) -> LabelDoubts:
    pairs = (SwappedLabels(label=label, looks_like=other, samples=count) for label, other, count in checked.pairs)
    agreement, noise = round(checked.agreement, 4), round(checked.noise, 4)
    return LabelDoubts(checked=checked.samples, agreement=agreement, noise=noise, pairs=tuple(pairs))


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


def _class_counts(source: Source, dropped: set[int]) -> dict[str, ClassCount]:
    """Count the samples of each class, in the order of the classes; those without a label come last, under no name."""
    before = Counter(sample.label or "" for sample in source.samples)
    after = Counter(sample.label or "" for index, sample in enumerate(source.samples) if index not in dropped)
    names = source.classes or tuple(sorted(before))
    if "" in before and "" not in names:
        names = (*names, "")
    return {name: ClassCount(before=before[name], after=after[name]) for name in names}


def _issue_counts(findings: Sequence[Finding]) -> dict[str, FoundIssue]:
    counts = {}
    for issue in issues.ISSUES:
        rows = [finding for finding in findings if finding.issue == issue.name]
        if rows:
            samples, groups = {one.index for one in rows}, {one.group for one in rows if one.group}
            counts[issue.name] = FoundIssue(
                samples=len(samples), groups=len(groups), title=issue.title, words=issue.words
            )
    return counts
