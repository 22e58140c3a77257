"""From a run's audit to the section on the problem: counts, cells of each class, what was found, the map.

Needs neither torch nor anything of training.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl

from hemalens.core.charts import scatter_map
from hemalens.core.document import (
    Block,
    Gallery,
    Heading,
    Section,
    Sentence,
    Span,
    Table,
    Words,
    code,
    paragraph,
    reference,
)
from hemalens.core.page import ABSENT, number, percent, thousands
from hemalens.core.records import open_record
from hemalens.core.types import FloatArray, IntArray
from hemalens.data.decisions import read_issues
from hemalens.evaluation.report_inputs import RunInputs
from hemalens.evaluation.report_parts import drawn, stored_picture

__all__ = ["class_counts", "problem_section"]

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
_POINTS = 1800  # drawn on the map: under the number from which the chart becomes a picture of points


def problem_section(run: RunInputs, folder: Path) -> Section:
    """Return the section on the task and its data; ``folder`` is where the page will lie (links are relative to it)."""
    task = paragraph(
        "The task is to name the kind of cell in a small picture cut from a stained blood smear.",
        f"The classes are {', '.join(run.model['classes'])}.",
        "Such data sets arrive dirty: copies, pictures of something else and contradicting labels teach a model the "
        "wrong thing, and, where they also sit in the test set, make its score a fiction.",
    )
    if run.audit is None:
        missing = paragraph(
            ("The data of this run were not audited here: run ", code("hemalens audit SOURCE --out DIR"), "."),
            "How many copies, foreign pictures or wrong labels they hold is not known.",
            note=True,
        )
        return Section("problem", "Problem analysis", (task, missing))
    return Section("problem", "Problem analysis", (task, *_audit_blocks(run, run.audit, folder)))


def class_counts(audit: Mapping[str, Any]) -> Table:
    """Return the table of samples of each class before and after the drops that the audit suggests."""
    counts = [(name, int(one["before"]), int(one["after"])) for name, one in audit["classes"].items()]
    counts.append(("all", sum(old for _, old, _ in counts), sum(new for _, _, new in counts)))
    rows = [[name, *map(thousands, (old, new, old - new))] for name, old, new in counts]
    caption = "Samples of each class before and after the drops that the audit suggests."
    return Table("class-counts", caption, ("class", "before", "after", "dropped"), rows)


def _audit_blocks(run: RunInputs, audit: Mapping[str, Any], folder: Path) -> list[Block]:
    drops, total, lost = audit["suggested_drops"], audit["n_samples"], audit["n_unreadable"]
    origin: list[Words] = [" ", code(str(audit["source"]))] if audit.get("source") else []
    summary = paragraph(
        (
            "The source",
            *origin,
            f" holds {thousands(total)} samples; ",
            f"{thousands(lost)} of them cannot be read." if lost else "all of them can be read.",
        ),
        f"The audit suggested dropping {thousands(drops)}{f' ({percent(drops / total)})' if total else ''}.",
        (reference("class-counts"), f" counts the classes: {_balance(audit)}."),
        _link(run, folder),
    )
    blocks: list[Block] = [summary, class_counts(audit)]
    pictures = audit.get("pictures") or {}
    if items := _items(run, pictures.get("classes"), by_class=True):
        each = "two cells, one near the middle of its class and one half way out" if len(items) > 8 else "cells"
        caption = f"Of each class {each}, as the audit picked them by their first principal components."
        columns = len(run.model["classes"]) if len(run.model["classes"]) <= 10 else 8
        blocks.append(Gallery("samples", caption, _by_rows(items, columns), columns, wide=True))
    blocks.append(Heading("What the audit found"))
    if audit["issues"]:
        rows = [
            [name, _ISSUE_WORDS.get(name, ABSENT), thousands(one["samples"]), thousands(one.get("groups"))]
            for name, one in audit["issues"].items()
        ]
        caption = "Findings. A sample may have several; not every finding is a reason to drop it."
        blocks.append(Table("issues", caption, ("finding", "meaning", "samples", "groups"), rows, left=(1,)))
    else:
        blocks.append(paragraph("Nothing was found."))
    return blocks + _outlier_blocks(run, audit, pictures) + _background_blocks(run, audit, pictures)


def _balance(audit: Mapping[str, Any]) -> str:
    """Say how uneven the classes are after cleaning."""
    after = {name: int(one["after"]) for name, one in audit["classes"].items() if one["after"]}
    if len(after) < 2:
        return "there is nothing to balance"
    most, least = max(after, key=lambda name: after[name]), min(after, key=lambda name: after[name])
    return (
        f"the largest after cleaning ({most}, {thousands(after[most])}) has {number(after[most] / after[least], 2)} "
        f"times the samples of the smallest ({least}, {thousands(after[least])})"
    )


def _link(run: RunInputs, folder: Path) -> Sentence:
    page = run.audit_folder / "audit.html" if run.audit_folder else None
    if page is None or not page.is_file():
        return None
    relative = quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())
    return ("Every finding, with its pictures, is in the ", Span("audit's own page", "link", relative), ".")


def _items(
    run: RunInputs, entries: Sequence[Mapping[str, str]] | None, *, by_class: bool = False
) -> list[dict[str, Any]]:
    items = []
    for entry in entries or ():
        if run.audit_folder is None:
            continue
        label, words = entry.get("label") or "no label", entry.get("words") or ""
        lines = [label] if by_class else [label, *([words] if words else []), entry["sample_id"]]
        alt = f"{entry['sample_id']}: {label}"
        items.append({"uri": stored_picture(run.audit_folder, entry["file"]), "alt": alt, "lines": lines})
    return items


def _by_rows(items: Sequence[dict[str, Any]], columns: int) -> list[dict[str, Any]]:
    """Order pictures that come class by class so that each row shows every class once, where that fills whole rows."""
    if len(items) % columns:
        return list(items)
    each = len(items) // columns
    return [items[column * each + row] for row in range(each) for column in range(columns)]


def _outlier_blocks(run: RunInputs, audit: Mapping[str, Any], pictures: Mapping[str, Any]) -> list[Block]:
    issues = audit["issues"]
    foreign, outlier = (_count(issues, name) for name in ("foreign", "outlier"))
    if not foreign and not outlier:
        return []
    items = _items(run, pictures.get("foreign")) + _items(run, pictures.get("outlier"))
    limit = (audit.get("map") or {}).get("limit")
    beyond = f" ({number(limit)})" if limit else ""
    text = paragraph(
        f"{thousands(foreign)} samples show something that is no cell." if foreign else None,
        f"By principal components of the pictures and a robust Mahalanobis distance {thousands(outlier)} samples lie "
        f"beyond the limit of the squared distance{beyond} and are outliers: rare cells as often as bad pictures, so "
        "they are for a person to look at and not dropped."
        if outlier
        else None,
        (reference("outliers"), " shows them.") if items else None,
    )
    caption = "Foreign pictures, each once, and the outliers farthest out with the squared distance of each."
    return [text, Gallery("outliers", caption, items, 4)] if items else [text]


def _background_blocks(run: RunInputs, audit: Mapping[str, Any], pictures: Mapping[str, Any]) -> list[Block]:
    grey = _count(audit["issues"], "colour_cluster")
    found, items = _map(run), _items(run, pictures.get("colour_cluster"))
    if not grey and found is None:
        return []
    blocks: list[Block] = [
        paragraph(
            f"{thousands(grey)} pictures lie on another background than the rest, most often a bluish grey: a batch "
            "from another microscope, camera or day. They are kept, since they are cells; where such a batch holds "
            "more of one class than of others, its background gives the class away."
            if grey
            else "No batch with another background was found.",
            ("On the map of ", reference("map"), " the batches are marked.") if found else None,
            (reference("backgrounds"), " shows some of them.") if items else None,
        )
    ]
    if found is not None:
        shares = (audit.get("map") or {}).get("explained") or (None, None)
        axes = tuple(
            f"component {place}" + (f" ({100 * share:.0f} % of variance)" if share else "")
            for place, share in enumerate(shares, 1)
        )
        chart = scatter_map(found.points, found.groups, axes_labels=(axes[0], axes[1]))
        thinned = f" {thousands(len(found.points))} of {thousands(found.total)} pictures are drawn."
        caption = (
            "The pictures by their first two principal components; background batches and foreign ones are marked."
        )
        caption += thinned if found.total > len(found.points) else ""
        label = "map of the pictures by their first two principal components"
        blocks.append(drawn("map", caption, chart, label, paper=(7.2, 3.3), wide=True))
    if items:
        blocks.append(Gallery("backgrounds", "Pictures from the batch on another background.", items, 4))
    return blocks


def _count(issues: Mapping[str, Any], name: str) -> int:
    return int(issues.get(name, {}).get("samples", 0))


@dataclass(frozen=True, slots=True)
class _Map:
    """Points (N, 2) to draw, the rows of each marked group, and how many pictures there are."""

    points: FloatArray
    groups: Mapping[str, IntArray]
    total: int


def _map(run: RunInputs) -> _Map | None:
    """Read the map from the audit's tables: copies once, the marked groups whole and every so many of the rest."""
    record = open_record(run.audit_folder, "audit") if run.audit_folder else None
    if record is None or not all(record.has(name) for name in ("statistics.csv", "issues.csv")):
        return None
    text = pl.String
    columns: dict[str, type[pl.DataType]] = {
        "sample_id": text,
        "pixel_sha256": text,
        "pc1": pl.Float64,
        "pc2": pl.Float64,
    }
    statistics = record.table("statistics.csv", columns)
    issues = read_issues(record.home).select("sample_id", "issue", "group")
    distinct = statistics.drop_nulls(["pixel_sha256", "pc1", "pc2"]).unique(
        "pixel_sha256", keep="first", maintain_order=True
    )
    if distinct.height < 2 or distinct["pc1"].n_unique() < 2:
        return None
    marks = {
        row["sample_id"]: row
        for name in ("colour_cluster", "foreign")
        for row in issues.filter(pl.col("issue") == name).iter_rows(named=True)
    }
    batches = sorted({row["group"] or "" for row in marks.values() if row["issue"] == "colour_cluster"})
    names: list[str | None] = []
    for sample in distinct["sample_id"].to_list():
        row = marks.get(sample)
        batch = row is not None and row["issue"] == "colour_cluster"
        names.append(
            None if row is None else f"background batch {batches.index(row['group'] or '') + 1}" if batch else "foreign"
        )
    marked, rest = ([place for place, name in enumerate(names) if bool(name) is side] for side in (True, False))
    chosen = [*_thinned(rest, max(_POINTS - len(marked), 0)), *_thinned(marked, _POINTS)]
    points = distinct.select("pc1", "pc2").to_numpy()[chosen]
    order = [f"background batch {place}" for place in range(1, len(batches) + 1)] + ["foreign"]
    groups = {
        name: np.array([row for row, place in enumerate(chosen) if names[place] == name], np.int64) for name in order
    }
    return _Map(points, {name: rows for name, rows in groups.items() if len(rows)}, distinct.height)


def _thinned(places: Sequence[int], most: int) -> list[int]:
    return [places[step * len(places) // most] for step in range(most)] if len(places) > most else list(places)
