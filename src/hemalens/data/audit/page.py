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

from hemalens.core.charts import bar_counts, figure_svg, house_style, scatter_map
from hemalens.core.errors import UserError
from hemalens.core.page import image_uri, render_page
from hemalens.core.text import ABSENT, interval, number, percent, thousands
from hemalens.core.types import IntArray
from hemalens.data.audit.checks.finding import ISSUES, Finding, Issue
from hemalens.data.audit.checks.outliers import OutlierAnalysis
from hemalens.data.audit.checks.shortcuts import ATTRIBUTES
from hemalens.data.audit.statistics import Statistics
from hemalens.data.sources import Source

__all__ = ["AuditView", "meaning", "render_audit"]

_GALLERY = 12
_NAMED = 3  # classes given away that are named; audit.json has all
_RANKED = 48  # doubted labels are to be looked through, not only exemplified
_MEANINGS: dict[Issue, tuple[str, str]] = {
    "unreadable": ("Unreadable", "Files that are no image, are damaged, or are refused by a rule of safety."),
    "converted": ("Converted while reading", "Read by a rule for their format; the rule is named for each."),
    "odd_size": ("Odd sizes", "Images whose shape or size departs from the usual. Size may give the class away."),
    "exact_duplicate": ("Exact duplicates", "Images with the same pixels. The first of each group is kept."),
    "near_duplicate": (
        "Near duplicates",
        "Copies encoded anew, resized, cropped by a hair, turned, mirrored, brighter, darker. The best of each stays.",
    ),
    "label_conflict": (
        "Label conflicts",
        "One image under several labels. No label can be believed: equal images all go, nearly equal ones wait.",
    ),
    "foreign": ("Foreign images", "Images that are no stained cell and resemble nothing else in the set."),
    "outlier": ("Outliers", "Far from the bulk by the robust Mahalanobis distance; often rare cells, so look first."),
    "background_batch": (
        "Background batches",
        "Images on another background: another microscope, camera or day. Kept.",
    ),
    "blurry": ("Blurry", "Far less sharp than the median image."),
    "dark": ("Dark", "Images without light."),
    "bright": ("Bright", "Washed-out images."),
    "label_issue": (
        "Doubted labels",
        "Labels that a model which never saw the sample contradicts, the surest first. It errs too: look, then decide.",
    ),
    "leakage": (
        "Leakage",
        "The same or nearly the same image, patient or slide in two splits or sources: scores would be too good.",
    ),
}


# In these findings a group is one image many times over.
_COPIES = frozenset({"exact_duplicate", "label_conflict", "foreign"})
# These are shown in pairs: the image and what it resembles.
_PAIRS = frozenset({"near_duplicate", "leakage"})


@dataclass(frozen=True, slots=True)
class AuditView:
    """What the page draws: the source, its statistics, the outlier analysis, the findings and the summary.

    ``against`` is the source audited against, None where there is none.
    """

    source: Source
    statistics: Statistics
    analysis: OutlierAnalysis
    findings: tuple[Finding, ...]
    summary: Mapping[str, Any]
    against: Source | None = None


def meaning(issue: Issue) -> tuple[str, str]:
    """Return what pages call an issue, and one sentence on what it is."""
    return _MEANINGS[issue]


def render_audit(view: AuditView) -> str:
    """Return the page ``audit.html`` of an audit."""
    by_issue = {issue: [f for f in view.findings if f.issue == issue] for issue in ISSUES}
    galleries = [_gallery(view, issue, rows) for issue, rows in by_issue.items() if rows]
    classes: dict[str, dict[str, int]] = view.summary["classes"]
    before = {name or "(unlabelled)": counts["before"] for name, counts in classes.items()}
    after = {name or "(unlabelled)": counts["after"] for name, counts in classes.items()}
    mapped = bool(view.analysis.threshold)  # a set too small for the analysis has no map
    context = {
        "title": f"Audit of {view.summary['source']}",
        "summary": view.summary,
        "class_rows": _class_rows(before, after),
        "counts_figure": figure_svg(bar_counts(before, after), label="samples per class before and after cleaning"),
        "samples": _class_samples(view),
        "outliers": _items(view, _most_distant(view)),
        "map_figure": _map(view, _clusters(by_issue["background_batch"])) if mapped else None,
        "distance_figure": _distances(view.analysis, view.statistics) if mapped else None,
        "components": view.analysis.scores.shape[1],
        "explained": float(view.analysis.explained[:2].sum()),
        "threshold": view.analysis.threshold,
        "issue_rows": _issue_rows(view.summary, by_issue),
        "galleries": galleries,
        "shortcut_rows": [_shortcut_row(one) for one in view.summary["shortcuts"]],
        "doubt_rows": [
            [one["label"], one["looks_like"], thousands(one["samples"])]
            for one in view.summary.get("labels", {}).get("pairs", ())
        ],
    }
    return render_page("audit.html", "hemalens.data.audit", context)


def _class_rows(before: Mapping[str, int], after: Mapping[str, int]) -> list[list[str]]:
    rows = [[n, thousands(before[n]), thousands(after[n]), thousands(before[n] - after[n])] for n in before]
    total, kept = sum(before.values()), sum(after.values())
    return [*rows, ["all", thousands(total), thousands(kept), thousands(total - kept)]]


def _issue_rows(summary: Mapping[str, Any], by_issue: Mapping[Issue, Sequence[Finding]]) -> list[list[str]]:
    rows = []
    for issue, counts in summary["issues"].items():
        suggestions = [finding.suggestion for finding in by_issue[issue]]
        shares = [thousands(suggestions.count(name)) for name in ("drop", "review", "keep")]
        rows.append([_MEANINGS[issue][0], thousands(counts["samples"]), thousands(counts["groups"]), *shares])
    return rows


def _shortcut_row(found: Mapping[str, Any]) -> list[Any]:
    """Return an attribute, how often it alone names the class, whom it gives away, and where."""
    name, leaks = found["attribute"], found["leaks"]
    named = _cell(interval(found["accuracy"]), f"chance {percent(found['chance'])}")
    if not leaks:
        return [name, named, "nothing certain", ABSENT]
    most = ", ".join(f"{leak['label']} ({leak['auroc']:.2f})" for leak in leaks[:_NAMED])
    more = [f"and {len(leaks) - _NAMED} more classes"] if len(leaks) > _NAMED else []
    given = _cell(most, *more, *(["depends on the cell itself, too"] if ATTRIBUTES[name] else []))
    shares = (
        f"{percent(one['share'], 0)} {one['label']} ({percent(one['usual'], 0)} of all)" for one in found["shares"]
    )
    where = _cell(found["where"], f"{thousands(found['samples'])} samples: {', '.join(shares)}")
    return [name, named, given, where]


def _cell(*lines: str) -> dict[str, Any]:
    return {"lines": list(lines), "best": False}


def _gallery(view: AuditView, issue: Issue, rows: Sequence[Finding]) -> dict[str, Any]:
    """Show up to 12 findings, one of each group first; where a group is one image, its copies are only counted."""
    seen: set[str] = set()
    first: list[Finding] = []
    more: list[Finding] = []
    for finding in sorted(rows, key=lambda f: -f.score):
        fresh = not finding.group or finding.group not in seen
        seen.add(finding.group)
        (first if fresh else more).append(finding)
    title, meaning = _MEANINGS[issue]
    if issue in _PAIRS:
        facts = {"anchor": issue, "title": title, "meaning": meaning, "count": len(rows)}
        pairs = _pairs(view, rows)
        return facts | {"shown": f"{len(pairs)} pairs, those for review and the least certain first", "items": pairs}
    chosen = (first if issue in _COPIES else first + more)[: _RANKED if issue == "label_issue" else _GALLERY]
    shown = f"{len(chosen)}, one of each group{'' if issue in _COPIES else ' first'}"
    shown = f"the first {len(chosen)}" if issue == "label_issue" else shown
    facts = {"anchor": issue, "title": title, "meaning": meaning, "count": len(rows), "shown": shown}
    return facts | {"items": _items(view, chosen)}


def _pairs(view: AuditView, rows: Sequence[Finding]) -> list[dict[str, Any]]:
    """Show up to six findings beside their counterparts, one of each group first, reviews before drops."""
    seen: set[str] = set()
    first: list[Finding] = []
    more: list[Finding] = []
    told: set[frozenset[int | None]] = set()
    urgent = ("review", "drop", "keep")
    for finding in sorted(rows, key=lambda f: (urgent.index(f.suggestion), f.score)):
        pair = frozenset({finding.index, finding.counterpart})
        if pair not in told:
            (more if finding.group in seen else first).append(finding)
            seen.add(finding.group)
            told.add(pair)
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
