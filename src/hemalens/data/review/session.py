"""An audit to a review in progress: its findings in pages, decisions on them, undo, images to look at.

Knows nothing of the web: ``review_app`` puts it behind addresses. Every method may be called from several threads.
Needs polars, numpy and Pillow; no torch.
"""

import shlex
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from hemalens.core.decisions import RELABEL, Act, Journal, new_labels, read_history, read_issues
from hemalens.core.errors import ConfigError
from hemalens.core.page import encode_image
from hemalens.data.audit.issues import find_issue, issue_names
from hemalens.data.clean import decide
from hemalens.data.sources import Source

__all__ = ["LARGE", "PAGE", "THUMBNAIL", "ReviewSession", "Show"]

Show = Literal["all", "undecided", "decided"]
PAGE = 48
"""Findings on a page: divides by 2, 3, 4 and 6 cards in a row."""
THUMBNAIL = 256
"""Pixels of a thumbnail's longer side: sharp at 11 rem on a screen of two pixels a point."""
LARGE = 1024
"""Pixels of an enlarged image's longer side."""
_CACHED = 2000  # thumbnails, about 10 KB each
_AT_ONCE = threading.BoundedSemaphore(3)  # images unpacked at a time: each may take 75 MB and a few times that


class ReviewSession:
    """The findings of one audit and what a person decides on them; holds the audit's journal until it is closed.

    Decisions are on samples: one that appears under several findings is decided in all of them at once. Raises
    ArtifactError where another review is open or a row of ``issues.csv`` means nothing. ``classes`` are those that the
    source was opened with, where they were given: ``clean`` must be given them too.
    """

    def __init__(self, source: Source, audit: Path, *, classes: Sequence[str] | None = None) -> None:
        self.source, self.audit, self._classes = source, audit, classes
        self._lock = threading.RLock()
        self._journal = Journal(audit)  # first, so that nobody else writes what is read next
        with ExitStack() as otherwise:
            otherwise.callback(self._journal.close)
            self._issues = read_issues(audit)
            decide(self._issues, source.samples)
            new_labels(self._issues, source.samples, source.classes)
            otherwise.pop_all()
        self._known = issue_names()
        self._names = [sample.sample_id for sample in source.samples]
        self._numbers = {name: index for index, name in enumerate(self._names)}
        self._indices = np.array([self._numbers[name] for name in self._issues["sample_id"]], np.int64)
        self._codes = np.array([self._known.index(one) for one in self._issues["issue"]], np.int64)
        self._groups: list[str] = [group or "" for group in self._issues["group"]]
        self._sizes = Counter(zip(self._codes.tolist(), self._groups, strict=True))
        self._rows: dict[int, list[int]] = {}
        for row, index in enumerate(self._indices.tolist()):
            self._rows.setdefault(index, []).append(row)
        self._unreadable = set(self._indices[self._codes == self._known.index("unreadable")].tolist())
        self._suggestions: list[str] = self._issues["suggestion"].to_list()
        self._acts: list[dict[int, Sequence[str]]] = []  # of each act standing: place -> what its rows said before
        self._standing = np.zeros(len(source), np.int64)  # acts standing on each sample
        self._first: dict[int, Sequence[str]] = {}  # place -> what its rows said before the first of them
        history = read_history(audit)
        self._merged = not history.pending
        last = {name: said for act in history.standing for name, said in act.decisions.items()}
        for act in history.standing:  # a sample edited by hand since its decision counts as undecided
            names = (name for name, before in act.before.items() if self._says(name, last[name], len(before)))
            self._remember({self._numbers[name]: act.before[name] for name in names})
        self.thumbnail = lru_cache(maxsize=_CACHED)(self._thumbnail)

    # ------------------------------------------------------------------ looking

    def view(
        self, issue: str = "", show: Show = "all", *, start: int = 0, backwards: bool = False, size: int = PAGE
    ) -> dict[str, Any]:
        """Return one page of findings as plain values, with the counts.

        Pages are cut by rows, not by numbers, so that none is skipped when decisions shorten the list.

        Args:
            issue: findings of this issue only; "" for all.
            show: all of them, or those decided or not.
            start: the row from which on findings are shown, or with ``backwards`` the row before which.
            backwards: show the last ones before ``start``.
            size: findings on the page.
        """
        if issue and issue not in self._known:
            raise ConfigError(f"issue {issue}", "is not known", f"choose one of {', '.join(self._known)}")
        if show not in get_args(Show):
            raise ConfigError(f"show {show}", f"must be one of {', '.join(get_args(Show))}")
        with self._lock:
            chosen = self._codes == self._known.index(issue) if issue else np.ones(len(self._indices), bool)
            if show != "all":
                chosen &= (self._standing[self._indices] > 0) == (show == "decided")
            rows = np.flatnonzero(chosen)
            cut = int(np.searchsorted(rows, start))
            first, last = (max(cut - size, 0), cut) if backwards else (cut, cut + size)
            shown = rows[first:last].tolist()
            return {
                "items": [self.item(row) for row in shown],
                "total": len(rows),
                "first": first,
                "previous": shown[0] if shown and first > 0 else None,
                "next": int(rows[last]) if last < len(rows) else None,
                "counts": self.counts(),
            }

    def item(self, row: int) -> dict[str, Any]:
        """Return one finding, its sample and what was decided on it, as plain values."""
        index = int(self._indices[row])
        sample, group, code = self.source.samples[index], self._groups[row], int(self._codes[row])
        before = self._first.get(index)
        others = sorted({int(self._codes[one]) for one in self._rows[index]} - {code})
        return {
            "row": row,
            "index": index,
            "sample_id": sample.sample_id,
            "label": sample.label,
            "issue": self._known[code],
            "title": find_issue(self._known[code]).title,
            "others": [find_issue(self._known[other]).title for other in others],
            "group": group,
            "group_size": self._sizes[code, group] if group else 1,
            "suggestion": before[self._rows[index].index(row)] if before else self._suggestions[row],
            "reason": self._issues["reason"][row] or "",
            "decision": self._suggestions[row] if before else "",
            "readable": index not in self._unreadable,
        }

    def counts(self) -> dict[str, Any]:
        """Return samples with findings and samples decided, and findings and those decided of each issue."""
        with self._lock:
            findings = np.bincount(self._codes, minlength=len(self._known)).tolist()
            decided = np.bincount(self._codes[self._standing[self._indices] > 0], minlength=len(self._known)).tolist()
            return {
                "samples": len(self._rows),
                "decided": int((self._standing > 0).sum()),
                "undoable": len(self._acts),
                "issues": {
                    issue: {"findings": findings[code], "decided": decided[code]}
                    for code, issue in enumerate(self._known)
                    if findings[code]
                },
            }

    def outcome(self) -> dict[str, Any]:
        """Return what ``clean`` will do with the decisions as they are, and the command that does it."""
        with self._lock:
            issues = self._table()
        samples = self.source.samples
        dropped = len(decide(issues, samples))
        relabelled = len(new_labels(issues, samples, self.source.classes))
        words = ["hemalens", "clean", self.source.spec, "--audit", str(self.audit), "--out", "clean/"]
        words += ["--classes", ",".join(self._classes)] if self._classes else []
        return {
            "kept": len(samples) - dropped,
            "dropped": dropped,
            "relabelled": relabelled,
            "command": shlex.join(words),
        }

    def _thumbnail(self, index: int, side: int = THUMBNAIL) -> tuple[bytes, str]:
        """Return a sample decoded and encoded anew, at most ``side`` pixels long, and its media type."""
        if not 0 <= index < len(self.source):
            raise ConfigError(f"image {index}", "is not in the source")
        with _AT_ONCE:
            return encode_image(self.source.image(index).pixels, max_side=side)

    # ------------------------------------------------------------------ deciding

    def decide(self, decisions: Mapping[int, str]) -> dict[str, Any]:
        """Decide on samples by their places, all in one act; on the disk when this returns.

        Args:
            decisions: place -> ``keep``, ``drop`` or ``relabel:CLASS``.

        Raises:
            ConfigError: a decision that means nothing or cannot be followed; none of them stands then.
            ArtifactError: the disk refuses.
        """
        for index, said in decisions.items():
            self._check(index, said)
        with self._lock:
            if decisions:
                before = {index: [self._suggestions[row] for row in self._rows[index]] for index in decisions}
                names = self._names
                self._journal.decide(
                    Act(
                        {names[index]: said for index, said in decisions.items()},
                        {names[index]: said for index, said in before.items()},
                    )
                )
                self._put(decisions)
                self._remember(before)
            return self._changed(decisions)

    def decide_group(self, issue: str, group: str, decision: str, *, only: int | None = None) -> dict[str, Any]:
        """Decide on all members of a finding's group in one act; with ``only`` that one is kept.

        Members that cannot be read are dropped, whatever is decided on the group.
        """
        code = next((code for code, one in enumerate(self._known) if one == issue and group), -1)
        rows = np.flatnonzero(self._codes == code).tolist()
        members = list(dict.fromkeys(int(self._indices[row]) for row in rows if self._groups[row] == group))
        if not members or (only is not None and only not in members):
            raise ConfigError(f"group {group} of {issue}", "has no such member", "load the page anew")
        return self.decide(
            {index: "drop" if index in self._unreadable else "keep" if index == only else decision for index in members}
        )

    def undo(self) -> dict[str, Any]:
        """Take the last act back; on the disk when this returns. What was edited by hand since stays."""
        with self._lock:
            if not self._acts:
                return self._changed([])
            before = self._acts[-1]
            self._journal.undo({self._names[index]: said for index, said in before.items()})
            self._acts.pop()
            self._put(before)
            for index in before:
                self._standing[index] -= 1
                if not self._standing[index]:
                    del self._first[index]
            return self._changed(before)

    def merge(self) -> None:
        """Write what was decided into ``issues.csv``."""
        with self._lock:
            if not self._merged:
                self._issues = self._table()
                self._journal.merge(self._issues)
                self._merged = True

    def close(self) -> None:
        """Write what was decided into ``issues.csv`` and let the audit go."""
        try:
            self.merge()
        finally:
            self._journal.close()

    def _check(self, index: int, said: str) -> None:
        """Raise where a decision on a sample could not be followed by ``clean``."""
        if index not in self._rows:
            raise ConfigError(f"sample {index}", "has no finding", "load the page anew")
        name, label = self._names[index], said.removeprefix(RELABEL)
        if said == "drop":
            return
        if index in self._unreadable:
            raise ConfigError(f"sample {name}", "is unreadable and cannot be kept", "drop it")
        if said.startswith(RELABEL):
            if label not in self.source.classes:
                raise ConfigError(f"class {label}", "is none of the source's", "choose one of the list")
            if label == self.source.samples[index].label:
                raise ConfigError(f"sample {name}", f"is labelled {label} already", "keep it if that is right")
        elif said != "keep":
            raise ConfigError(f"decision {said}", f"must be keep, drop or {RELABEL}CLASS")

    def _put(self, said: Mapping[int, str | Sequence[str]]) -> None:
        """Set what the rows of samples say: one text for all of them, or one each."""
        for index, texts in said.items():
            rows = self._rows[index]
            for row, text in zip(rows, [texts] * len(rows) if isinstance(texts, str) else texts, strict=True):
                self._suggestions[row] = text
        self._merged = False

    def _remember(self, before: Mapping[int, Sequence[str]]) -> None:
        """Count an act as standing."""
        self._acts.append(dict(before))
        for index, said in before.items():
            self._standing[index] += 1
            self._first.setdefault(index, said)

    def _says(self, name: str, decision: str, count: int) -> bool:
        """Tell whether a sample still has so many rows and all say what was decided on it."""
        rows = self._rows.get(self._numbers.get(name, -1), [])
        return len(rows) == count and all(self._suggestions[row] == decision for row in rows)

    def _changed(self, indices: Iterable[int]) -> dict[str, Any]:
        """Return the samples an act changed, what holds of them now, and the counts."""
        states = {index: self._suggestions[self._rows[index][0]] if index in self._first else "" for index in indices}
        return {"decisions": states, "names": [self._names[index] for index in states][:3], "counts": self.counts()}

    def _table(self) -> pl.DataFrame:
        return self._issues.with_columns(pl.Series("suggestion", self._suggestions, pl.String))
