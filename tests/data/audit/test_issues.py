"""The issue table: what it says is fit to be read, and a row is all that a new check needs to be seen everywhere."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hemalens.console import audit_lines
from hemalens.core.audit_summary import AuditSummary
from hemalens.core.recorded import open_record
from hemalens.core.types import Sample
from hemalens.data.audit import findings, issues
from hemalens.data.audit.audit import audit
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.issues import ISSUES, Issue, find_issue, issue_names
from hemalens.data.clean import clean
from hemalens.data.review.session import ReviewSession
from hemalens.data.sources import open_source
from hemalens.data.synthetic import synthetic_set

RED = Issue(
    "too_red",
    "Images that are too red",
    "The image is redder than its made-up neighbours.",
    "the image is too red",
    "review.",
    ("redness.find_too_red",),
    in_report=True,
)


def find_too_red(samples: Sequence[Sample], limit: float = 0.5) -> list[Finding]:
    return [
        Finding(index, "too_red", limit, "", "review", f"red beyond {limit}") for index in range(2, len(samples), 9)
    ]


@pytest.fixture
def with_a_new_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that exists and its row, nothing else."""
    find_check = findings._find_check
    monkeypatch.setattr(issues, "ISSUES", (*ISSUES[:3], RED, *ISSUES[3:]))
    monkeypatch.setattr(
        findings, "_find_check", lambda name: find_too_red if name == RED.checks[0] else find_check(name)
    )


def test_a_new_row_is_seen_in_the_files_the_page_the_review_and_on_the_command_line(
    with_a_new_row: None, tmp_path: Path
) -> None:
    cells = synthetic_set({"basophil": 30, "platelet": 30}, size=24, contamination=False)
    np.savez(tmp_path / "cells.npz", images=cells.images, labels=cells.labels)
    out = tmp_path / "audit"
    summary = audit(tmp_path / "cells.npz", out, workers=0)
    assert issue_names()[3] == "too_red"
    rows = pl.read_csv(out / "issues.csv").filter(pl.col("issue") == "too_red")
    assert rows["sample_id"].to_list() == [f"row-{row:06d}" for row in range(2, 60, 9)]
    assert set(rows["reason"]) == {"red beyond 0.5"}
    found = open_record(out, "audit").read("audit.json", AuditSummary)
    assert (found.issues["too_red"].samples, found.issues["too_red"].title) == (7, RED.title)
    assert len(found.images["too_red"]) == 7
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert f'<h3 id="too_red">{RED.title} (7)</h3>' in page
    assert f"{RED.meaning} Suggested: review." in page
    assert f'<th scope="row">{RED.title}</th>' in page
    assert any("7 samples: the image is too red" in line for line in audit_lines(summary))
    session = ReviewSession(open_source(tmp_path / "cells.npz"), out)
    try:
        view = session.view("too_red")
        assert [item["title"] for item in view["items"]] == [RED.title] * 7
        assert session.counts()["issues"]["too_red"] == {"findings": 7, "decided": 0}
        session.decide({2: "drop"})
    finally:
        session.close()
    clean(tmp_path / "cells.npz", tmp_path / "clean.npz", audit=out)
    assert pl.read_csv(tmp_path / "dropped.csv")["issue"].to_list() == ["too_red"]


def test_every_row_names_checks_that_exist_and_ask_only_for_what_there_is() -> None:
    offered = {name for name in dir(findings.Inspection) if not name.startswith("_")}
    offered |= set(findings.Inspection.__dataclass_fields__)
    for issue in ISSUES:
        assert issue.checks
        for name in issue.checks:
            wanted = findings.inspect.signature(findings._find_check(name)).parameters.values()
            assert {one.name for one in wanted if one.default is one.empty} <= offered, name


def test_a_finding_of_an_issue_that_the_table_lacks_is_our_own_mistake() -> None:
    with pytest.raises(StopIteration):
        find_issue("unheard_of")


@pytest.mark.parametrize("issue", ISSUES, ids=issue_names())
def test_a_row_has_sentences_for_people(issue: Issue) -> None:
    assert re.fullmatch(r"[a-z_]+", issue.name)
    assert issue.title[0].isupper()
    assert issue.meaning[0].isupper()
    assert issue.meaning.endswith(".")
    assert issue.words[0].islower()
    assert not issue.words.endswith(".")
    assert re.match(r"(keep|drop|review)\b.*\.$", issue.suggestion)
    assert issue.apart_from == "" or find_issue(issue.apart_from).in_report


def test_names_and_titles_are_told_apart() -> None:
    assert len({issue.name for issue in ISSUES}) == len({issue.title for issue in ISSUES}) == len(ISSUES)


def test_the_page_of_files_lists_every_issue_as_the_table_says_it() -> None:
    text = (Path(__file__).parents[3] / "docs" / "files.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `(\w+)`: (.*)$", text, re.MULTILINE)
    assert listed == [(issue.name, issue.words) for issue in ISSUES]
