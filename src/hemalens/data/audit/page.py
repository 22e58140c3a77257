"""The audit to one self-contained page: class counts, a sample of each class, outliers, the map, galleries.

Needs Jinja2, matplotlib and Pillow; no torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from hemalens.core.audit_summary import AuditSummary, Shortcut
from hemalens.core.charts import bar_counts, figure_svg, house_style, scatter_map
from hemalens.core.errors import UserError
from hemalens.core.page import image_uri, render_page
from hemalens.core.text import ABSENT, interval, number, percent, spelled, thousands
from hemalens.core.types import IntArray
from hemalens.data.audit import issues
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.checks.outliers import OutlierAnalysis
from hemalens.data.audit.checks.shortcuts import ATTRIBUTES
from hemalens.data.audit.issues import Issue
from hemalens.data.audit.statistics import Statistics
from hemalens.data.sources import Source

__all__ = ["AuditView", "render_audit"]

_GALLERY = 12
_NAMED = 3  # classes given away that are named; audit.json has all
_RANKED = 48  # doubted labels are to be looked through, not only exemplified


@dataclass(frozen=True, slots=True)
class AuditView:
    """What the page draws: the source, its statistics, the outlier analysis and the findings.

    ``against`` is the source audited against, None where there is none.
    """

    source: Source
    statistics: Statistics
    analysis: OutlierAnalysis
    findings: tuple[Finding, ...]
    against: Source | None = None


def render_audit(view: AuditView, summary: AuditSummary) -> str:
    """Return the page ``audit.html`` of an audit."""
    by_issue = {issue.name: [f for f in view.findings if f.issue == issue.name] for issue in issues.ISSUES}
    classes = {name or "(no label)": counts for name, counts in summary.classes.items()}
    before = {name: counts.before for name, counts in classes.items()}
    after = {name: counts.after for name, counts in classes.items()}
    mapped = bool(view.analysis.threshold)  # a set too small for the analysis has no map
    context = {
        "title": f"Audit of {summary.source}",
        "summary": summary,
        "class_rows": _class_rows(before, after),
        "counts_figure": figure_svg(bar_counts(before, after), label="samples per class before and after cleaning"),
        "samples": _class_samples(view),
        "outliers": _items(view, _most_distant(view)),
        "map_figure": _map(view, _clusters(by_issue["background_batch"])) if mapped else None,
        "distance_figure": _distances(view.analysis, view.statistics) if mapped else None,
        "components": view.analysis.scores.shape[1],
        "explained": float(view.analysis.explained[:2].sum()),
        "threshold": view.analysis.threshold,
        "issue_rows": _issue_rows(summary, by_issue),
        "galleries": [_gallery(view, issue, by_issue[issue.name]) for issue in issues.ISSUES if by_issue[issue.name]],
        "shortcut_rows": [_shortcut_row(one) for one in summary.shortcuts],
        "doubt_rows": [
            [one.label, one.looks_like, thousands(one.samples)]
            for one in (summary.labels.pairs if summary.labels else ())
        ],
    }
    return render_page("audit.html", "hemalens.data.audit", context)


def _class_rows(before: Mapping[str, int], after: Mapping[str, int]) -> list[list[str]]:
    rows = [[spelled(n), *map(thousands, (before[n], after[n], before[n] - after[n]))] for n in before]
    total, kept = sum(before.values()), sum(after.values())
    return [*rows, ["all", thousands(total), thousands(kept), thousands(total - kept)]]


def _issue_rows(summary: AuditSummary, by_issue: Mapping[str, Sequence[Finding]]) -> list[list[str]]:
    rows = []
    for name, found in summary.issues.items():
        suggestions = [finding.suggestion for finding in by_issue[name]]
        shares = [thousands(suggestions.count(one)) for one in ("drop", "review", "keep")]
        rows.append([found.title, thousands(found.samples), thousands(found.groups), *shares])
    return rows


def _shortcut_row(found: Shortcut) -> list[Any]:
    """Return an attribute, how often it alone names the class, whom it gives away, and where."""
    named = _cell(interval(found.accuracy), f"chance {percent(found.chance)}")
    if not found.leaks:
        return [found.attribute, named, "none for certain", ABSENT]
    most = ", ".join(f"{leak.label} ({leak.auroc:.2f})" for leak in found.leaks[:_NAMED])
    more = [f"and {len(found.leaks) - _NAMED} more classes"] if len(found.leaks) > _NAMED else []
    given = _cell(most, *more, *(["depends on the cell itself, too"] if ATTRIBUTES[found.attribute] else []))
    shares = (f"{percent(one.share, 0)} are {one.label} ({percent(one.usual, 0)} of all)" for one in found.shares)
    where = _cell(found.where, f"of these {thousands(found.samples)} samples {', '.join(shares)}")
    return [found.attribute, named, given, where]


def _cell(*lines: str) -> dict[str, Any]:
    return {"lines": list(lines), "best": False}


def _gallery(view: AuditView, issue: Issue, rows: Sequence[Finding]) -> dict[str, Any]:
    """Show some findings of an issue as its row of the table says, one of each group first."""
    facts = {"anchor": issue.name, "title": issue.title, "count": len(rows)}
    facts |= {"meaning": issue.meaning, "suggestion": issue.suggestion}
    if issue.gallery == "pairs":
        pairs = _pairs(view, rows)
        return facts | {"shown": f"{len(pairs)} pairs, the least certain ones first", "items": pairs}
    first, more = _one_a_group(sorted(rows, key=lambda f: -f.score))
    if issue.gallery == "ranked":
        chosen = (first + more)[:_RANKED]
        return facts | {"shown": f"the first {len(chosen)}", "items": _items(view, chosen)}
    chosen = (first if issue.gallery == "copies" else first + more)[:_GALLERY]
    grouped = any(finding.group for finding in rows)
    shown = f"{len(chosen)} samples" + (", one of each group" if grouped else "")
    return facts | {
        "shown": shown + (" first" if grouped and issue.gallery == "each" else ""),
        "items": _items(view, chosen),
    }


def _one_a_group(rows: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return the first finding of each group and those without one, then all others."""
    seen: set[str] = set()
    first: list[Finding] = []
    more: list[Finding] = []
    for finding in rows:
        (more if finding.group in seen else first).append(finding)
        seen |= {finding.group} - {""}
    return first, more


def _pairs(view: AuditView, rows: Sequence[Finding]) -> list[dict[str, Any]]:
    """Show up to six findings beside their counterparts, one of each group first, reviews before drops."""
    urgent = ("review", "drop", "keep")
    pairs: dict[frozenset[int | None], Finding] = {}
    for finding in sorted(rows, key=lambda f: (urgent.index(f.suggestion), f.score)):
        pairs.setdefault(frozenset({finding.index, finding.counterpart}), finding)
    first, more = _one_a_group(list(pairs.values()))
    chosen = (first + more)[: _GALLERY // 2]
    items = _items(view, chosen)
    for item, finding in zip(items, chosen, strict=True):
        assert finding.counterpart is not None  # these checks compare two images
        source, index = view.source, finding.counterpart
        if view.against is not None and index >= len(source):
            source, index = view.against, index - len(source)
        sample = source.samples[index]
        item["beside"] = {"uri": _uri(source, index), "alt": sample.sample_id}
        item["lines"].insert(2, f"right: {sample.sample_id} ({sample.label or 'no label'})")
    return items


def _items(view: AuditView, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    sizes = Counter((finding.issue, finding.group) for finding in view.findings)
    items = []
    for finding in findings:
        sample = view.source.samples[finding.index]
        lines = [sample.sample_id, sample.label or "no label", f"{finding.suggestion}: {finding.reason}"]
        if finding.group and (size := sizes[finding.issue, finding.group]) > 1:
            lines.append(f"group of {thousands(size)}")
        items.append({"uri": _uri(view.source, finding.index), "alt": f"{sample.sample_id}", "lines": lines})
    return items


def _uri(source: Source, index: int) -> str | None:
    try:
        return image_uri(source.image(index).pixels, max_side=128)
    except UserError:
        return None  # listed as unreadable, with its reason beside the empty frame


def _class_samples(view: AuditView) -> list[dict[str, Any]]:
    """Return one image a class: the readable sample nearest to its class's centre on the map, no suggested drop."""
    dropped = {finding.index for finding in view.findings if finding.suggestion == "drop"}
    labels = np.array([sample.label or "" for sample in view.source.samples], dtype=object)
    usable = view.statistics.readable & ~np.isin(np.arange(len(labels)), list(dropped))
    items = []
    for name in view.source.classes:
        members = np.flatnonzero((labels == name) & usable)
        if len(members):
            scores = view.analysis.scores[members]
            nearest = int(members[np.argmin(np.square(scores - np.median(scores, axis=0)).sum(axis=1))])
            items.append({"uri": _uri(view.source, nearest), "alt": f"one {name}", "lines": [name]})
    return items


def _most_distant(view: AuditView) -> list[Finding]:
    """Return the outliers farthest out, one of each image, those no other check explains away."""
    copies = {f.index for f in view.findings if f.issue == "exact_duplicate" and f.suggestion == "drop"}
    outliers = [f for f in view.findings if f.issue == "outlier" and f.index not in copies]
    return sorted(outliers, key=lambda f: -f.score)[:_GALLERY]


def _clusters(findings: Sequence[Finding]) -> dict[str, IntArray]:
    groups = sorted({finding.group for finding in findings})
    return {
        f"background batch {index}": np.array([f.index for f in findings if f.group == group], np.int64)
        for index, group in enumerate(groups, 1)
    }


def _map(view: AuditView, clusters: Mapping[str, IntArray]) -> str:
    points = np.where(view.statistics.readable[:, None], view.analysis.scores[:, :2], np.nan)
    foreign = np.array(sorted({f.index for f in view.findings if f.issue == "foreign"}), np.int64)
    groups = {**clusters, **({"foreign": foreign} if len(foreign) else {})}
    shares = [f"component {index + 1} ({100 * view.analysis.explained[index]:.0f} % of variance)" for index in (0, 1)]
    figure = scatter_map(points, groups, axes_labels=(shares[0], shares[1]))
    return figure_svg(figure, label="map of the samples by their first two principal components")


def _distances(analysis: OutlierAnalysis, statistics: Statistics) -> str:
    """Draw how many samples lie at which squared distance, with the chi-square limit."""
    distances = np.maximum(analysis.distances[statistics.readable], 1e-3)
    with house_style():
        figure = Figure(figsize=(6.6, 2.6))
        axes = figure.add_subplot()
        axes.hist(np.log10(distances), bins=80, color="#8a9097")
        axes.axvline(np.log10(analysis.threshold), color="#fc6018", lw=1.5)
        axes.annotate(
            f"limit {number(analysis.threshold)}",
            (np.log10(analysis.threshold), axes.get_ylim()[1]),
            (5, -10),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: thousands(round(count))))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("log10 of the squared robust Mahalanobis distance")
        axes.set_ylabel("samples")
        axes.grid(axis="y")
    return figure_svg(figure, label="histogram of the squared robust Mahalanobis distances with the chi-square limit")
