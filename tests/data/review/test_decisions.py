"""The journal of decisions: on the disk before it is confirmed, undone by a further line, folded in by every reader."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from hemalens.core.artifacts import PROVENANCE
from hemalens.core.decisions import (
    JOURNAL,
    Act,
    Journal,
    decisions_digest,
    fold,
    read_history,
    read_issues,
    write_issues,
)
from hemalens.core.errors import ArtifactError
from hemalens.data.audit.audit import audit
from hemalens.data.clean import clean
from tests.data.hostile import cell, encode


@pytest.fixture
def audited(tmp_path: Path) -> Path:
    """Three grey images, one of them twice: rows ``converted`` of all, ``exact_duplicate`` of two."""
    for name, seed in {"ig/a": 0, "ig/b": 0, "platelet/c": 1, "platelet/d": 2}.items():
        (tmp_path / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cells" / f"{name}.png").write_bytes(encode(cell(8, seed)[..., 0]))
    audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    return tmp_path / "audit"


def said(table: pl.DataFrame, name: str) -> list[str]:
    return table.filter(pl.col("sample_id") == name)["suggestion"].to_list()


def act(audited: Path, **decisions: str) -> Act:
    names = {sample_id.split("/")[1][0]: sample_id for sample_id in read_issues(audited)["sample_id"]}
    issues = read_issues(audited)
    chosen = {names[key]: decision for key, decision in decisions.items()}
    return Act(chosen, {name: said(issues, name) for name in chosen})


def decide(audited: Path, *acts: Act) -> None:
    """Decide as a review does that is killed before it writes the table."""
    journal = Journal(audited)
    for one in acts:
        journal.decide(one)
    journal.close()


def test_a_decision_in_the_journal_alone_is_read_and_obeyed(audited: Path) -> None:
    before = (audited / "issues.csv").read_bytes()
    digest = decisions_digest(audited)
    decide(audited, act(audited, b="keep", c="drop", d="relabel:ig"))
    assert (audited / "issues.csv").read_bytes() == before
    assert decisions_digest(audited) != digest
    assert said(read_issues(audited), "ig/b.png") == ["keep", "keep"]
    done = clean(audited.parent / "cells", audited.parent / "clean", audit=audited)
    assert (done["kept"], done["dropped"], done["relabelled"]) == (3, 1, 1)


def test_undoing_gives_each_row_back_what_it_said(audited: Path) -> None:
    first, issues = act(audited, b="keep"), read_issues(audited)
    assert said(issues, "ig/b.png") == ["keep", "drop"]
    decide(audited, first)
    journal = Journal(audited)
    journal.undo(first.before)
    journal.close()
    assert read_issues(audited).equals(issues)
    assert read_history(audited).standing == ()


def test_merging_writes_the_table_and_leaves_nothing_pending(audited: Path) -> None:
    decide(audited, act(audited, c="drop"))
    issues = read_issues(audited)
    write_issues(audited, issues)
    assert said(pl.read_csv(audited / "issues.csv", infer_schema=False), "platelet/c.png") == ["drop"]
    history = read_history(audited)
    assert (len(history.standing), history.pending) == (1, {})


def test_what_is_edited_by_hand_after_the_merge_stands(audited: Path) -> None:
    decide(audited, act(audited, c="drop"))
    write_issues(audited, read_issues(audited))
    edited = pl.read_csv(audited / "issues.csv", infer_schema=False).with_columns(suggestion=pl.lit("review"))
    edited.write_csv(audited / "issues.csv")
    assert set(read_issues(audited)["suggestion"]) == {"review"}


@pytest.mark.parametrize("torn", [b'{"at": "2026-', b'{"decisions": {"ig/a.png": "drop"}, "before": {}}'])
def test_a_line_cut_short_by_a_kill_does_not_count_and_spoils_no_later_one(audited: Path, torn: bytes) -> None:
    decide(audited, act(audited, c="drop"))
    with (audited / JOURNAL).open("ab") as file:
        file.write(torn)
    assert len(read_history(audited).standing) == 1
    decide(audited, act(audited, d="drop"))
    assert [list(one.decisions) for one in read_history(audited).standing] == [["platelet/c.png"], ["platelet/d.png"]]


@pytest.mark.parametrize("line", ["no JSON", "3", "{}", '{"decisions": {"a": "keep"}}', '{"undo": {}}'])
def test_a_damaged_line_is_named(audited: Path, line: str) -> None:
    decide(audited)
    with (audited / JOURNAL).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ArtifactError, match=r"decisions\.jsonl line 2: is no act of a review"):
        read_issues(audited)


def test_a_file_of_another_kind_is_not_taken_for_a_journal(audited: Path) -> None:
    (audited / JOURNAL).write_text("my notes\nof today\n")
    for reading in (read_issues, Journal):
        with pytest.raises(ArtifactError, match="does not begin like one; move it elsewhere"):
            reading(audited)
    assert (audited / JOURNAL).read_text() == "my notes\nof today\n"


def test_decisions_on_an_earlier_audit_are_not_followed_but_kept_aside(audited: Path) -> None:
    decide(audited, act(audited, c="drop"))
    record = json.loads((audited / PROVENANCE).read_text())
    (audited / PROVENANCE).write_text(json.dumps(record | {"time": "another day"}))
    assert read_history(audited).standing == ()
    decide(audited, act(audited, d="drop"))
    assert len(list(audited.glob("decisions-*.jsonl"))) == 1
    assert said(read_issues(audited), "platelet/c.png") == ["keep"]


@pytest.mark.skipif(os.name != "posix", reason="needs the locks of POSIX")
def test_one_review_at_a_time_and_no_restore_meanwhile(audited: Path) -> None:
    journal = Journal(audited)
    with pytest.raises(ArtifactError, match="is being reviewed by another process; finish that review first"):
        Journal(audited)
    with pytest.raises(ArtifactError, match="is being reviewed"):
        clean(audited.parent / "cells", audited.parent / "clean", audit=audited, restore=["ig/b.png"])
    assert not (audited.parent / "clean").exists()
    journal.close()
    clean(audited.parent / "cells", audited.parent / "clean", audit=audited, restore=["ig/b.png"])
    assert said(read_issues(audited), "ig/b.png") == ["keep", "keep"]


def test_a_decision_that_the_disk_refuses_does_not_stand(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(audited)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(ArtifactError, match=r"No space left on device.*the decision does not stand"):
            journal.decide(act(audited, b="keep", c="drop"))
    journal.decide(act(audited, d="drop"))
    journal.close()
    assert [list(one.decisions) for one in read_history(audited).standing] == [["platelet/d.png"]]


def test_rows_added_by_hand_fall_back_to_review_when_an_older_act_is_undone() -> None:
    table = pl.DataFrame({"sample_id": ["a", "a", "b"], "suggestion": ["drop", "drop", "drop"]})
    assert fold(table, {"a": ["keep"], "b": ["keep"]})["suggestion"].to_list() == ["review", "review", "keep"]
