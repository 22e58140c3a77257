"""Cleaning obeys the decisions, accounts for every sample, and hands on what it keeps unchanged."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.core.artifacts import PROVENANCE
from hemalens.core.errors import ArtifactError, ConfigError, SourceError, UserError
from hemalens.core.types import Sample
from hemalens.data.audit import audit
from hemalens.data.clean import clean, decide
from hemalens.data.sources import open_source
from tests.data.conftest import Audited
from tests.data.hostile import cell, encode
from tests.recording import record_again

Files = dict[str, bytes]


def write_files(root: Path, files: Files) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def edit(audited: Path, change: Callable[[list[dict[str, str]]], Iterable[dict[str, str]]]) -> None:
    """Change the rows of issues.csv as a person with a spreadsheet would."""
    table = pl.read_csv(audited / "issues.csv", infer_schema=False)
    pl.DataFrame(list(change(table.to_dicts())), schema=table.schema).write_csv(audited / "issues.csv")
    record_again(audited)


def decisions(audited: Path) -> dict[tuple[str, str], str]:
    table = pl.read_csv(audited / "issues.csv", infer_schema=False)
    return {(row["sample_id"], row["issue"]): row["suggestion"] for row in table.iter_rows(named=True)}


def dropped_ids(folder: Path) -> list[str]:
    return pl.read_csv(folder / "dropped.csv", infer_schema=False)["sample_id"].to_list()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sound pictures, a copy, a grey one and a file that is none; audited into ``audit``."""
    files = {f"ig/{n}.png": encode(cell(8, n)) for n in range(2)}
    files |= {"platelet/copy of 0.png": encode(cell(8, 0)), "platelet/grey.png": encode(cell(8, 9)[..., 0])}
    write_files(tmp_path / "cells", files | {"platelet/bad.png": b"no picture"})
    audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    return tmp_path


def test_suggestions_are_followed_and_dropped_samples_listed(folder: Path) -> None:
    done = clean(folder / "cells", folder / "clean", audit=folder / "audit")
    assert done == {"n_samples": 5, "kept": 2, "dropped": 3, "relabelled": 0, "out": str(folder / "clean")}
    table = pl.read_csv(folder / "clean" / "dropped.csv", infer_schema=False)
    assert table.columns == ["sample_id", "label", "issue", "reason"]
    rows = {row[0]: row[1:] for row in table.iter_rows()}
    assert set(rows) == {"ig/0.png", "platelet/copy of 0.png", "platelet/bad.png"}
    assert rows["platelet/copy of 0.png"][:2] == ("platelet", "exact_duplicate; label_conflict")
    assert rows["platelet/bad.png"][1] == "unreadable"
    assert "not a picture" in rows["platelet/bad.png"][2]
    assert [sample.sample_id for sample in open_source(folder / "clean").samples] == ["ig/1.png", "platelet/grey.png"]


def test_edited_decisions_are_obeyed_both_ways(folder: Path) -> None:
    def change(rows: list[dict[str, str]]) -> Iterable[dict[str, str]]:
        for row in rows:
            turned = {"ig/0.png": "keep", "platelet/grey.png": "drop"}
            yield row | {"suggestion": turned.get(row["sample_id"], row["suggestion"])}
        yield dict(zip(rows[0], ["ig/1.png", "ig", "blurry", "0.5", "", "drop", "I do not like it"], strict=True))

    edit(folder / "audit", change)
    clean(folder / "cells", folder / "clean", audit=folder / "audit")
    assert dropped_ids(folder / "clean") == [
        "ig/1.png",
        "platelet/bad.png",
        "platelet/copy of 0.png",
        "platelet/grey.png",
    ]
    assert (folder / "clean" / "ig" / "0.png").exists()


def say(folder: Path, **decisions: str) -> None:
    """Write a decision into all rows of samples, which are named without folder and suffix."""
    edit(
        folder / "audit",
        lambda rows: [
            row | {"suggestion": decisions.get(Path(row["sample_id"]).stem, row["suggestion"])} for row in rows
        ],
    )


@pytest.mark.parametrize("out", ["clean", "clean.npz"])
def test_relabelled_samples_are_kept_under_the_new_label_and_listed(folder: Path, out: str) -> None:
    say(folder, grey="relabel:ig")
    done = clean(folder / "cells", folder / out, audit=folder / "audit")
    assert (done["kept"], done["dropped"], done["relabelled"]) == (2, 3, 1)
    written = open_source(folder / out)
    labels = {Path(sample.sample_id).name: sample.label for sample in written.samples}
    assert labels == {"1.png": "ig", "grey.png": "ig"}
    home = folder if out.endswith(".npz") else folder / out
    table = pl.read_csv(home / "relabelled.csv", infer_schema=False)
    assert table.columns == ["sample_id", "label", "new_label", "issue", "reason"]
    assert table.row(0)[:4] == ("platelet/grey.png", "platelet", "ig", "converted")
    assert (folder / "cells" / "platelet" / "grey.png").exists()


def test_one_drop_beats_a_relabel_of_the_same_sample(folder: Path) -> None:
    def change(rows: list[dict[str, str]]) -> Iterable[dict[str, str]]:
        yield from rows
        yield rows[0] | {"sample_id": "platelet/grey.png", "issue": "blurry", "suggestion": "relabel:ig"}
        yield rows[0] | {"sample_id": "platelet/grey.png", "issue": "dark", "suggestion": "drop"}

    edit(folder / "audit", change)
    assert clean(folder / "cells", folder / "clean", audit=folder / "audit")["relabelled"] == 0
    assert "platelet/grey.png" in dropped_ids(folder / "clean")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["neutrofil"], r"relabel:neutrofil: names no class of the source \(ig, platelet\)"),
        (["ig", "platelet"], r"contradicts an earlier line of the sample \(ig\)"),
    ],
)
def test_a_relabel_that_means_nothing_is_refused(folder: Path, labels: list[str], words: str) -> None:
    def change(rows: list[dict[str, str]]) -> Iterable[dict[str, str]]:
        return [*rows, *(rows[-1] | {"sample_id": "ig/1.png", "suggestion": f"relabel:{label}"} for label in labels)]

    edit(folder / "audit", change)
    with pytest.raises(ArtifactError, match=words):
        clean(folder / "cells", folder / "clean", audit=folder / "audit")


def test_restoring_gives_a_relabelled_sample_its_label_back(folder: Path) -> None:
    say(folder, grey="relabel:ig")
    clean(folder / "cells", folder / "clean.npz", audit=folder / "audit")
    again = clean(folder / "cells", folder / "clean.npz", audit=folder / "audit", restore=["platelet/grey.png"])
    assert again["relabelled"] == 0
    assert not (folder / "relabelled.csv").exists()
    assert [sample.label for sample in open_source(folder / "clean.npz").samples] == ["ig", "platelet"]


def test_review_keeps(folder: Path) -> None:
    edit(
        folder / "audit", lambda rows: [r | {"suggestion": "review"} if r["issue"] != "unreadable" else r for r in rows]
    )
    assert clean(folder / "cells", folder / "clean", audit=folder / "audit")["kept"] == 4


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("suggestion", "dorp", "line 4: suggestion dorp: must be one of keep, drop, review, relabel:CLASS"),
        ("suggestion", None, "line 4: suggestion None"),
        ("sample_id", "ig/9.png", "line 4: sample ig/9.png: is not in the source"),
        ("sample_id", None, "line 4: sample None"),
        ("issue", "ugly", "line 4: issue ugly: must be one of unreadable"),
        ("issue", None, "line 4: issue None"),
    ],
)
def test_a_row_that_means_nothing_is_refused_by_its_line(folder: Path, column: str, value: str, words: str) -> None:
    edit(folder / "audit", lambda rows: [row | ({column: value} if n == 2 else {}) for n, row in enumerate(rows)])
    with pytest.raises(ArtifactError, match=words):
        clean(folder / "cells", folder / "clean", audit=folder / "audit")
    assert not (folder / "clean").exists()


def test_an_issues_table_without_a_column_is_refused(folder: Path) -> None:
    path = folder / "audit" / "issues.csv"
    pl.read_csv(path, infer_schema=False).drop("suggestion").write_csv(path)
    with pytest.raises(ArtifactError, match="lacks the column 'suggestion'"):
        clean(folder / "cells", folder / "clean", audit=folder / "audit")


def test_restoring_takes_a_sample_back_writes_the_decision_and_the_output_anew(folder: Path) -> None:
    clean(folder / "cells", folder / "clean", audit=folder / "audit")
    again = clean(folder / "cells", folder / "clean", audit=folder / "audit", restore=["ig/0.png"])
    assert again["kept"] == 3
    assert dropped_ids(folder / "clean") == ["platelet/bad.png", "platelet/copy of 0.png"]
    assert (folder / "clean" / "ig" / "0.png").exists()
    found = decisions(folder / "audit")
    assert found["ig/0.png", "exact_duplicate"] == found["ig/0.png", "label_conflict"] == "keep"
    assert found["platelet/copy of 0.png", "label_conflict"] == "drop"
    clean(folder / "cells", folder / "clean.npz", audit=folder / "audit")  # the decision stays
    assert "ig/0.png" in [sample.sample_id for sample in open_source(folder / "clean.npz").samples]


@pytest.mark.parametrize(
    ("restore", "error", "words"),
    [
        ("ig/7.png", ConfigError, "is no sample of the source"),
        ("ig/1.png", ConfigError, "was not dropped"),
        ("platelet/bad.png", ArtifactError, "unreadable and cannot be kept"),
    ],
)
def test_a_restore_that_cannot_be_leaves_the_decisions_alone(
    folder: Path, restore: str, error: type[UserError], words: str
) -> None:
    before = (folder / "audit" / "issues.csv").read_bytes()
    with pytest.raises(error, match=words):
        clean(folder / "cells", folder / "clean", audit=folder / "audit", restore=[restore])
    assert (folder / "audit" / "issues.csv").read_bytes() == before
    assert clean(folder / "cells", folder / "clean", audit=folder / "audit")["kept"] == 2


def test_restoring_does_not_overwrite_what_clean_has_not_written(folder: Path) -> None:
    write_files(folder / "mine", {"thesis.txt": b"years of work"})
    with pytest.raises(ArtifactError, match="exists already"):
        clean(folder / "cells", folder / "mine", audit=folder / "audit", restore=["ig/0.png"])
    assert decisions(folder / "audit")["ig/0.png", "label_conflict"] == "drop"


def test_an_unreadable_sample_cannot_be_kept(folder: Path) -> None:
    edit(folder / "audit", lambda rows: [row | {"suggestion": "keep"} for row in rows])
    with pytest.raises(ArtifactError, match=r"bad\.png: is unreadable and cannot be kept; set it to drop"):
        clean(folder / "cells", folder / "clean", audit=folder / "audit")


def test_dropping_every_sample_is_refused(folder: Path) -> None:
    def change(rows: list[dict[str, str]]) -> Iterable[dict[str, str]]:
        names = ["ig/0.png", "ig/1.png", "platelet/bad.png", "platelet/copy of 0.png", "platelet/grey.png"]
        return [rows[0] | {"sample_id": name, "suggestion": "drop"} for name in names]

    edit(folder / "audit", change)
    with pytest.raises(ArtifactError, match="drop every sample"):
        clean(folder / "cells", folder / "clean", audit=folder / "audit")


def test_a_source_that_changed_since_its_audit_is_refused(folder: Path) -> None:
    (folder / "cells" / "ig" / "2.png").write_bytes(encode(cell(8, 2)))
    with pytest.raises(ArtifactError, match="has changed since; audit it again"):
        clean(folder / "cells", folder / "clean", audit=folder / "audit")


def test_an_audit_that_was_not_finished_is_refused(folder: Path) -> None:
    (folder / "audit" / PROVENANCE).unlink()
    with pytest.raises(ArtifactError, match="not written to its end"):
        clean(folder / "cells", folder / "clean", audit=folder / "audit")


def test_existing_outputs_are_refused_unless_overwritten(folder: Path) -> None:
    for out in (folder / "clean", folder / "clean.npz"):
        clean(folder / "cells", out, audit=folder / "audit")
        with pytest.raises(ArtifactError, match="--overwrite"):
            clean(folder / "cells", out, audit=folder / "audit")
        clean(folder / "cells", out, audit=folder / "audit", overwrite=True)
    with pytest.raises(ArtifactError, match=r"dropped\.csv: exists already"):
        clean(folder / "cells", folder / "second.npz", audit=folder / "audit")


def test_the_source_is_never_written_to(folder: Path) -> None:
    for out in (folder / "cells", folder / "cells" / "clean", folder / "audit" / ".." / "cells" / "x.npz"):
        with pytest.raises(ArtifactError, match="lies in the source"):
            clean(folder / "cells", out, audit=folder / "audit", overwrite=True)
    np.savez(folder / "rows.npz", images=[cell(8, n) for n in range(3)], labels=[0, 1, 2])
    audit(folder / "rows.npz", folder / "audit of rows", workers=0)
    with pytest.raises(ArtifactError, match="lies in the source"):
        clean(folder / "rows.npz", folder / "rows.npz", audit=folder / "audit of rows", overwrite=True)


def test_an_array_file_keeps_ids_labels_classes_and_pixels(audited: Audited, tmp_path: Path) -> None:
    done = clean(audited.source, tmp_path / "clean.npz", audit=audited.out)
    with np.load(tmp_path / "clean.npz", allow_pickle=False) as held:
        assert held["labels"].shape == (done["kept"], 1)
        assert held["labels"].dtype == held["images"].dtype == np.uint8
        assert held["classes"].tolist() == list(audited.made.classes)
        ids, images, labels = held["ids"].tolist(), held["images"], held["labels"][:, 0]
    rows = [int(name.removeprefix("row-")) for name in ids]
    assert np.array_equal(images, audited.made.images[rows])
    assert np.array_equal(labels, audited.made.labels[rows])
    assert sorted([*ids, *dropped_ids(tmp_path)]) == [f"row-{row:06d}" for row in range(len(audited.made.labels))]
    source, reopened = open_source(audited.source), open_source(tmp_path / "clean.npz")
    assert reopened.classes == source.classes
    assert list(reopened.samples) == [source.samples[row] for row in rows]


def test_the_same_decisions_give_the_same_bytes(folder: Path) -> None:
    written = []
    for name in ("a", "b"):
        (folder / name).mkdir()
        clean(folder / "cells", folder / name / "clean.npz", audit=folder / "audit")
        written.append((folder / name / "clean.npz").read_bytes())
    assert written[0] == written[1]


def test_a_folder_gets_the_very_bytes_of_the_files(folder: Path) -> None:
    clean(folder / "cells", folder / "clean", audit=folder / "audit")
    for name in ("ig/1.png", "platelet/grey.png"):
        assert (folder / "clean" / name).read_bytes() == (folder / "cells" / name).read_bytes()
    record = json.loads((folder / "clean" / PROVENANCE).read_text())
    assert set(record["outputs"]) == {"ig/1.png", "platelet/grey.png", "dropped.csv"}


def test_rows_become_png_files_that_hold_the_same_pixels(audited: Audited, tmp_path: Path) -> None:
    clean(audited.source, tmp_path / "clean", audit=audited.out)
    reopened = open_source(tmp_path / "clean")
    for place, sample in list(enumerate(reopened.samples))[::20]:
        row = int(Path(sample.sample_id).stem.removeprefix("row-"))
        assert np.array_equal(reopened.picture(place).pixels, audited.made.images[row])
        assert sample.label == audited.made.classes[audited.made.labels[row]]


def test_pictures_of_several_sizes_go_to_a_folder_not_to_an_array(tmp_path: Path) -> None:
    files = {"ig/a.png": encode(cell(8)), "ig/b.png": encode(cell(9))}
    audit(write_files(tmp_path / "cells", files), tmp_path / "audit", workers=0)
    with pytest.raises(SourceError, match=r"b\.png: is 9 x 9 pixels where the first is 8 x 8; write to a directory"):
        clean(tmp_path / "cells", tmp_path / "clean.npz", audit=tmp_path / "audit")
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "audit"}
    assert clean(tmp_path / "cells", tmp_path / "clean", audit=tmp_path / "audit")["kept"] == 2


@pytest.mark.parametrize("files", [{"a.png": b"", "b.png": b""}, {"ig/a.png": b"", "b.png": b""}])
def test_unlabelled_pictures_go_to_a_folder_not_to_an_array(tmp_path: Path, files: Files) -> None:
    write_files(tmp_path / "cells", {name: encode(cell(8, n)) for n, name in enumerate(files)})
    audit(tmp_path / "cells", tmp_path / "audit", workers=0)
    with pytest.raises(SourceError, match=r"has no label, which an \.npz cannot say; write to a directory"):
        clean(tmp_path / "cells", tmp_path / "clean.npz", audit=tmp_path / "audit")
    clean(tmp_path / "cells", tmp_path / "clean", audit=tmp_path / "audit")
    before, after = open_source(tmp_path / "cells"), open_source(tmp_path / "clean")
    assert [(s.sample_id, s.label) for s in after.samples] == [(s.sample_id, s.label) for s in before.samples]


NAMES = ["a.png", "x/a.png", "y/A.PNG", "a-2.png", "so: what?.png", "..hidden.png", "ünï.png", "a b.c.png"]


def manifest(root: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """A table of pictures, each of another seed, with label, group and split."""
    write_files(root, {row[0]: encode(cell(8, n)) for n, row in enumerate(rows)})
    table = pl.DataFrame(rows, schema=["path", "label", "group", "split"], orient="row")
    table.write_csv(root / "table.csv")
    return root / "table.csv"


def test_colliding_and_odd_names_lose_no_picture(tmp_path: Path) -> None:
    source = manifest(tmp_path / "cells", [(name, "ig", "", "") for name in NAMES])
    audit(source, tmp_path / "audit", workers=0)
    clean(source, tmp_path / "clean", audit=tmp_path / "audit")
    written = list((tmp_path / "clean" / "ig").iterdir())
    assert {path.read_bytes() for path in written} == {encode(cell(8, n)) for n in range(len(NAMES))}
    assert len({path.name.casefold() for path in written}) == len(NAMES)
    assert len(open_source(tmp_path / "clean")) == len(NAMES)  # none is hidden


@pytest.mark.parametrize("label", ["..", ".", "../../out", "a/b", ".hidden", "c:d"])
def test_a_label_cannot_lead_out_of_the_folder_and_comes_back_as_it_was(tmp_path: Path, label: str) -> None:
    source = manifest(tmp_path / "cells", [("one.png", label, "", ""), ("two.png", "other", "", "")])
    audit(source, tmp_path / "audit", workers=0)
    clean(source, tmp_path / "out" / "clean", audit=tmp_path / "audit")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clean"]
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "audit", "out"}
    assert {sample.label for sample in open_source(tmp_path / "out" / "clean").samples} == {label, "other"}


@pytest.mark.parametrize("out", ["clean", "clean.npz"])
def test_groups_and_splits_survive(tmp_path: Path, out: str) -> None:
    rows = [("1/a.png", "ig", "p1", "train"), ("2/a.png", "ig", "p2", "val"), ("2/a.jpg", "ig", "", "val")]
    rows += [("3/a.b.png", "platelet", "p1", "train"), ("3/a.png", "platelet", "p3", "train")]
    source = manifest(tmp_path / "cells", rows)
    audit(source, tmp_path / "audit", workers=0)
    clean(source, tmp_path / out, audit=tmp_path / "audit")
    before, after = open_source(source), open_source(tmp_path / out)
    facts = [
        sorted(
            (s.label, s.group or "", s.split, opened.picture(n).pixels.tobytes()) for n, s in enumerate(opened.samples)
        )
        for opened in (before, after)
    ]
    assert facts[0] == facts[1]


def test_a_name_too_long_for_the_disk_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "long.npz", images=[cell()], labels=[0], ids=["n" * 300])
    audit(tmp_path / "long.npz", tmp_path / "audit", workers=0)
    with pytest.raises(ArtifactError, match=r"cannot be written .*\.npz"):
        clean(tmp_path / "long.npz", tmp_path / "clean", audit=tmp_path / "audit")
    assert clean(tmp_path / "long.npz", tmp_path / "clean.npz", audit=tmp_path / "audit")["kept"] == 1


ROW = st.tuples(
    st.integers(0, 11), st.sampled_from(["dark", "outlier", "foreign"]), st.sampled_from(["keep", "drop", "review"])
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROW, max_size=30))
def test_exactly_the_samples_with_a_drop_among_their_rows_are_dropped(rows: list[tuple[int, str, str]]) -> None:
    samples = [Sample(f"s{n}") for n in range(12)]
    columns = {
        "sample_id": [f"s{place}" for place, _, _ in rows],
        "issue": [issue for _, issue, _ in rows],
        "suggestion": [suggestion for _, _, suggestion in rows],
        "reason": [None for _ in rows],
    }
    dropped = decide(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)), samples)
    assert set(dropped) == {place for place, _, suggestion in rows if suggestion == "drop"}
    for place, (issues, _) in dropped.items():
        assert issues.split("; ") == [issue for index, issue, what in rows if index == place and what == "drop"]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("six")
    np.savez(root / "six.npz", images=[cell(2, n) for n in range(6)], labels=[0, 1, 2, 0, 1, 2])
    audit(root / "six.npz", root / "audit", workers=0)
    return root


@settings(max_examples=15, deadline=None)
@given(drops=st.sets(st.integers(0, 5), max_size=5))
def test_every_sample_is_either_kept_or_listed_as_dropped(six: Path, drops: set[int]) -> None:
    rows = [(f"row-{n:06d}", None, "dark", 1.0, "", "drop", "by chance") for n in sorted(drops)]
    names = pl.read_csv(six / "audit" / "issues.csv").columns
    pl.DataFrame(rows, schema=names, orient="row").write_csv(six / "audit" / "issues.csv")
    record_again(six / "audit")
    clean(six / "six.npz", six / "clean.npz", audit=six / "audit", overwrite=True)
    kept = [sample.sample_id for sample in open_source(six / "clean.npz").samples]
    assert dropped_ids(six) == [row[0] for row in rows]
    assert sorted([*kept, *dropped_ids(six)]) == [f"row-{n:06d}" for n in range(6)]


def test_a_kept_file_that_vanishes_after_the_check_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(what: str, done: int, total: int) -> None:
        if done == 0:
            (folder / "cells" / "ig" / "1.png").unlink()

    with pytest.raises(UserError, match=r"ig/1\.png"):
        clean(folder / "cells", folder / "clean", audit=folder / "audit", progress=vanish)
    assert not (folder / "clean" / PROVENANCE).exists()
    assert [path.name for path in (folder / "cells" / "ig").iterdir()] == ["0.png"]
