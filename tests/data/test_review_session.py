"""A review in progress: every finding on exactly one page, decisions on samples, undo, and nothing lost on the way."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from hemalens.core.errors import ArtifactError, ConfigError, DecodeError
from hemalens.data.audit import audit
from hemalens.data.clean import clean
from hemalens.data.review_session import ReviewSession
from hemalens.data.sources import open_source
from tests.data.hostile import cell, encode
from tests.recording import record_again

FILES = {
    **{f"ig/copy-{number}.png": encode(cell(8, 1)) for number in range(5)},
    **{f"platelet/grey-{number}.png": encode(cell(8, 10 + number)[..., 0]) for number in range(4)},
    "platelet/bad.png": b"no picture",
    "platelet/sound.png": encode(cell(8, 99)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five copies of one picture, four grey ones, one file that is none and a sound one; audited into ``audit``."""
    for name, data in FILES.items():
        (tmp_path / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cells" / name).write_bytes(data)
    audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    return tmp_path


@pytest.fixture
def session(folder: Path) -> Iterator[ReviewSession]:
    opened = ReviewSession(open_source(folder / "cells"), folder / "audit")
    yield opened
    opened.close()


def place(session: ReviewSession, name: str) -> int:
    return next(at for at, sample in enumerate(session.source.samples) if sample.sample_id.endswith(name))


def ids(view: dict) -> list[str]:
    return [item["sample_id"] for item in view["items"]]


def reopened(session: ReviewSession) -> ReviewSession:
    session.close()
    return ReviewSession(open_source(session.source.spec), session.audit)


def test_pages_hold_every_finding_once_forwards_and_backwards(session: ReviewSession) -> None:
    rows, start = [], 0
    while start is not None:
        view = session.view(start=start, size=3)
        rows += [item["row"] for item in view["items"]]
        start = view["next"]
    assert rows == list(range(session.view()["total"])) == list(range(10))
    assert session.view(start=6, backwards=True, size=3)["items"][0]["row"] == 3
    assert session.view(start=3, backwards=True, size=3)["previous"] is None
    assert session.view(start=99)["items"] == []


def test_no_undecided_finding_is_skipped_when_decisions_shorten_the_list(session: ReviewSession) -> None:
    first = session.view(show="undecided", size=4)
    session.decide({item["place"]: "keep" if item["readable"] else "drop" for item in first["items"]})
    second = session.view(show="undecided", start=first["next"], size=4)
    assert [item["row"] for item in second["items"]] == [4, 5, 6, 7]


def test_filters_show_one_issue_and_what_is_decided(session: ReviewSession) -> None:
    assert ids(session.view("converted")) == [f"platelet/grey-{number}.png" for number in range(4)]
    session.decide({place(session, "grey-1.png"): "drop"})
    assert ids(session.view("converted", "decided")) == ["platelet/grey-1.png"]
    assert len(session.view("converted", "undecided")["items"]) == 3
    assert session.counts()["issues"]["converted"] == {"findings": 4, "decided": 1}
    assert (session.counts()["samples"], session.counts()["decided"]) == (10, 1)
    with pytest.raises(ConfigError, match="issue ugly: is not known"):
        session.view("ugly")


def test_members_of_a_group_stand_side_by_side(session: ReviewSession) -> None:
    view = session.view("exact_duplicate")
    assert {item["group"] for item in view["items"]} == {view["items"][0]["group"]} != {""}
    assert {item["group_size"] for item in view["items"]} == {5}


def test_a_decision_holds_for_all_findings_of_the_sample_and_undo_gives_each_row_back(folder: Path) -> None:
    table = pl.read_csv(folder / "audit" / "issues.csv", infer_schema=False)
    more = table.filter(pl.col("sample_id") == "ig/copy-1.png").with_columns(
        issue=pl.lit("blurry"), suggestion=pl.lit("review")
    )
    pl.concat([table, more]).write_csv(folder / "audit" / "issues.csv")
    record_again(folder / "audit")
    session = ReviewSession(open_source(folder / "cells"), folder / "audit")
    at = place(session, "copy-1.png")
    assert session.decide({at: "keep"})["decisions"] == {at: "keep"}
    items = [item for item in session.view()["items"] if item["place"] == at]
    assert [item["decision"] for item in items] == ["keep", "keep"]
    assert [item["suggestion"] for item in items] == ["drop", "review"]
    assert [item["others"] for item in items] == [["Blurry"], ["Exact duplicates"]]
    assert session.undo()["decisions"] == {at: ""}
    session.close()
    assert pl.read_csv(folder / "audit" / "issues.csv", infer_schema=False).equals(pl.concat([table, more]))


def test_undo_goes_back_through_every_act_and_then_does_nothing(session: ReviewSession) -> None:
    at = place(session, "grey-0.png")
    for decision in ("keep", "drop", "relabel:ig"):
        session.decide({at: decision})
    assert [session.undo()["decisions"].get(at) for _ in range(4)] == ["drop", "keep", "", None]


def test_decisions_and_undo_outlive_the_session(session: ReviewSession) -> None:
    at = place(session, "grey-0.png")
    session.decide({at: "keep"})
    session.decide({at: "relabel:ig"})
    again = reopened(session)
    assert again.view("converted", "decided")["items"][0]["decision"] == "relabel:ig"
    assert again.undo()["decisions"] == {at: "keep"}
    last = reopened(again)
    assert last.undo()["decisions"] == {at: ""}
    last.close()


def test_a_session_that_was_killed_is_gone_on_with(folder: Path) -> None:
    before = (folder / "audit" / "issues.csv").read_bytes()
    session = ReviewSession(open_source(folder / "cells"), folder / "audit")
    session.decide({place(session, "grey-3.png"): "drop"})
    session._journal.close()  # what a kill leaves: the journal, and a table that knows nothing of it
    assert (folder / "audit" / "issues.csv").read_bytes() == before
    again = ReviewSession(open_source(folder / "cells"), folder / "audit")
    assert ids(again.view(show="decided")) == ["platelet/grey-3.png"]
    again.close()
    assert (folder / "audit" / "issues.csv").read_bytes() != before


def test_a_sample_edited_by_hand_since_counts_as_undecided_and_keeps_the_edit(
    session: ReviewSession, folder: Path
) -> None:
    session.decide({place(session, "grey-0.png"): "drop", place(session, "grey-1.png"): "drop"})
    session.close()
    table = pl.read_csv(folder / "audit" / "issues.csv", infer_schema=False)
    mine = pl.when(pl.col("sample_id") == "platelet/grey-0.png").then(pl.lit("keep")).otherwise("suggestion")
    table.with_columns(mine.alias("suggestion")).write_csv(folder / "audit" / "issues.csv")
    again = ReviewSession(open_source(folder / "cells"), folder / "audit")
    assert ids(again.view(show="decided")) == ["platelet/grey-1.png"]
    again.undo()
    again.close()
    table = pl.read_csv(folder / "audit" / "issues.csv", infer_schema=False)
    assert dict(zip(table["sample_id"], table["suggestion"], strict=True))["platelet/grey-0.png"] == "keep"


def test_a_group_is_decided_at_once_and_undone_at_once(session: ReviewSession, folder: Path) -> None:
    group = session.view("exact_duplicate")["items"][0]["group"]
    kept = place(session, "copy-3.png")
    session.decide_group("exact_duplicate", group, "drop", only=kept)
    session.merge()
    clean(folder / "cells", folder / "clean", audit=folder / "audit")
    assert [path.name for path in (folder / "clean" / "ig").iterdir()] == ["copy-3.png"]
    assert session.counts()["decided"] == 5
    session.undo()
    assert session.counts()["decided"] == 0
    for name, only in (("", None), ("no such", None), (group, place(session, "sound.png"))):
        with pytest.raises(ConfigError, match="has no such member"):
            session.decide_group("exact_duplicate", name, "drop", only=only)


@pytest.mark.parametrize(
    ("name", "decision", "words"),
    [
        ("bad.png", "keep", "is unreadable and cannot be kept"),
        ("bad.png", "relabel:ig", "is unreadable and cannot be kept"),
        ("grey-0.png", "relabel:elephant", "class elephant: is none of the source's"),
        ("grey-0.png", "relabel:platelet", "is labelled platelet already"),
        ("grey-0.png", "review", "must be keep, drop or relabel:CLASS"),
        ("sound.png", "drop", "has no finding"),
    ],
)
def test_what_clean_could_not_follow_is_refused_and_nothing_of_the_act_stands(
    session: ReviewSession, name: str, decision: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        session.decide({place(session, "grey-2.png"): "drop", place(session, name): decision})
    assert session.counts()["decided"] == session.counts()["undoable"] == 0


def test_pictures_are_decoded_and_encoded_anew(session: ReviewSession) -> None:
    data, kind = session.thumbnail(place(session, "grey-0.png"))
    assert kind == "image/png"
    assert data != FILES["platelet/grey-0.png"]
    with pytest.raises(DecodeError, match="not a picture"):
        session.thumbnail(place(session, "bad.png"))
    with pytest.raises(ConfigError, match="is not in the source"):
        session.thumbnail(-1)


def test_the_outcome_is_what_clean_then_does(session: ReviewSession, folder: Path) -> None:
    session.decide({place(session, "grey-0.png"): "relabel:ig", place(session, "grey-1.png"): "drop"})
    told = session.outcome()
    session.merge()
    done = clean(folder / "cells", folder / "clean", audit=folder / "audit")
    assert {key: done[key] for key in ("kept", "dropped", "relabelled")} == {
        key: told[key] for key in ("kept", "dropped", "relabelled")
    }
    assert told["command"].startswith(f"hemalens clean {folder / 'cells'} --audit {folder / 'audit'} --out ")


def test_a_table_that_means_nothing_is_refused_and_the_audit_is_free_again(folder: Path) -> None:
    path = folder / "audit" / "issues.csv"
    whole = path.read_text()
    path.write_text(whole.replace(",keep,", ",kepe,"))
    with pytest.raises(ArtifactError, match="suggestion kepe"):
        ReviewSession(open_source(folder / "cells"), folder / "audit")
    path.write_text(whole)
    ReviewSession(open_source(folder / "cells"), folder / "audit").close()


def test_a_source_without_findings_has_an_empty_page(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.png").write_bytes(encode(cell(8)))
    audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    session = ReviewSession(open_source(tmp_path / "cells"), tmp_path / "audit")
    assert session.view()["items"] == []
    assert session.view()["counts"]["issues"] == {}
    session.close()
