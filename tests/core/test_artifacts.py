import json
import math
import os
import stat
from contextlib import suppress

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core import artifacts
from hemalens.core.artifacts import (
    PROVENANCE,
    find_table,
    is_complete,
    output_directory,
    output_file,
    provenance_path,
    read_json,
    read_provenance,
    read_table,
    text_digest,
    write_atomically,
    write_json,
    write_table,
    write_text,
)
from hemalens.core.errors import ArtifactError
from hemalens.core.provenance import sha256_file
from hemalens.core.records import open_record


class InterruptedStageError(Exception):
    """Stands for whatever ends a stage early."""


def write_directory(path, *names, **options):
    with output_directory(path, "audit", **options) as out:
        for name in names:
            (out / name).parent.mkdir(exist_ok=True, parents=True)
            (out / name).write_text(f"ours: {name}")


def interrupt_directory(path, *names, **options):
    with suppress(InterruptedStageError), output_directory(path, "audit", **options) as out:
        for name in names:
            (out / name).write_text("half")
        raise InterruptedStageError


def names_in(path):
    return sorted(file.name for file in path.iterdir())


# --- single files


def test_a_failing_writer_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(file):
        file.write(b"new, but not all of")
        raise InterruptedStageError

    with pytest.raises(InterruptedStageError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_line(tmp_path):
    def fail(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match="No space left on device"):
        write_atomically(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []


def test_writing_where_nothing_can_be_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_text(tmp_path / "missing" / "file", "x")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_text(tmp_path / "directory", "x")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_no_json_are_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": value})
    assert read_json(path) == {"loss": 1.0}


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers() | st.booleans() | st.none()))
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("content", "rule"), [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[1]", "must hold a JSON object")]
)
def test_a_damaged_json_file_is_named(tmp_path, content, rule):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=rule):
        read_json(tmp_path / "a.json")


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        read_json(tmp_path / "a.json")


def test_text_digest_takes_file_names_that_are_no_unicode():
    assert len(text_digest("a\udcff")) == 64
    assert text_digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- tables

NAMES = {"sample_id": pl.String, "label": pl.String, "score": pl.Float64}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_comes_back_with_its_texts_gaps_and_numbers(tmp_path, suffix):
    table = pl.DataFrame(
        {"sample_id": ['a,"b"\nc', "007", "  "], "label": ["ig", None, ""], "score": [0.1 + 0.2, None, 1e-300]},
        schema=NAMES,
    )
    path = write_table(tmp_path / f"t{suffix}", table)
    assert path == tmp_path / f"t{suffix}"
    assert read_table(path, NAMES).equals(table)


def test_a_column_that_lacks_or_holds_words_for_numbers_is_named(tmp_path):
    write_text(tmp_path / "t.csv", "sample_id,score\na,high\n")
    with pytest.raises(ArtifactError, match="lacks the column 'label'"):
        read_table(tmp_path / "t.csv", NAMES)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_table(tmp_path / "t.csv", {"score": pl.Float64})


@pytest.mark.parametrize(("name", "content"), [("t.csv", b""), ("t.parquet", b"PAR1 and not more")])
def test_a_damaged_table_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_table(tmp_path / name, NAMES)


def test_a_missing_table_says_what_to_do(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist; run the stage that writes it"):
        read_table(tmp_path / "t.csv", NAMES)
    assert find_table(tmp_path / "t.csv") is None


def test_a_large_table_becomes_parquet_takes_the_place_of_its_csv_and_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_PARQUET_ROWS", 3)
    path = tmp_path / "t.csv"
    assert write_table(path, pl.DataFrame({"a": ["1", "2"]})) == path
    assert write_table(path, pl.DataFrame({"a": ["1", "2", "3"]})) == tmp_path / "t.parquet"
    assert not path.exists()
    assert read_table(path, {"a": pl.Int64})["a"].to_list() == [1, 2, 3]
    assert find_table(path) == tmp_path / "t.parquet"


# --- output directories


def test_provenance_is_written_last_and_lists_the_files_with_their_hashes(tmp_path):
    out = tmp_path / "deep" / "out"
    with output_directory(out, "audit", seed=1, inputs={"s": "00"}, options={"k": [1]}) as path:
        (path / "sub").mkdir()
        (path / "sub" / "a.txt").write_text("a")
        assert not (path / PROVENANCE).exists()
    record = open_record(out, "audit").facts
    assert record["outputs"] == {"sub/a.txt": sha256_file(out / "sub" / "a.txt")}
    assert (record["seed"], record["inputs"], record["options"]) == (1, {"s": "00"}, {"k": [1]})
    assert sorted(file.name for file in out.iterdir()) == [PROVENANCE, "sub"]


def test_an_interrupted_directory_is_incomplete_and_may_be_written_again(tmp_path):
    interrupt_directory(tmp_path / "out", "a")
    assert read_provenance(tmp_path / "out") is None
    with pytest.raises(ArtifactError, match="was not written to its end"):
        open_record(tmp_path / "out", "audit")
    write_directory(tmp_path / "out", "a")
    assert set(open_record(tmp_path / "out", "audit").facts["outputs"]) == {"a"}


def test_a_finished_or_foreign_directory_is_refused_untouched(tmp_path):
    write_directory(tmp_path / "done", "a")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes").write_text("mine")
    for name in ("done", "foreign"):
        before = names_in(tmp_path / name)
        with pytest.raises(ArtifactError, match="exists already and is not empty"):
            write_directory(tmp_path / name, "b")
        assert names_in(tmp_path / name) == before
    assert open_record(tmp_path / "done", "audit").facts


def test_an_empty_directory_may_be_written(tmp_path):
    write_directory(tmp_path, "a")
    assert open_record(tmp_path, "audit").facts


def test_overwriting_removes_our_files_and_nothing_else(tmp_path):
    write_directory(tmp_path / "out", "old", "both")
    (tmp_path / "out" / "notes").write_text("mine")
    write_directory(tmp_path / "out", "both", "new", overwrite=True)
    assert names_in(tmp_path / "out") == ["both", "new", "notes", PROVENANCE]


def test_foreign_files_never_become_ours_however_often_it_is_overwritten_or_interrupted(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes").write_text("mine")
    write_directory(out, "a", overwrite=True)
    interrupt_directory(out, "a", overwrite=True)
    write_directory(out, "a")
    assert set(read_provenance(out)["outputs"]) == {"a"}
    write_directory(out, "b", overwrite=True)
    assert names_in(out) == ["b", "notes", PROVENANCE]
    assert (out / "notes").read_text() == "mine"


def test_a_foreign_file_that_the_stage_replaces_is_ours_from_then_on(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with output_directory(tmp_path, "audit", overwrite=True) as out:
        write_json(out / "a.json", {})
    assert set(read_provenance(tmp_path)["outputs"]) == {"a.json"}


def test_overwriting_takes_a_nested_output_with_its_provenance_away(tmp_path):
    with output_directory(tmp_path / "run", "run") as out:
        write_directory(out / "audit", "a")
    with output_directory(tmp_path / "run", "run", overwrite=True) as out:
        assert not (out / "audit" / "a").exists()
        assert read_provenance(out / "audit") is None


def test_a_provenance_that_lists_files_elsewhere_removes_nothing_there(tmp_path):
    (tmp_path / "precious").write_text("mine")
    write_directory(tmp_path / "out", "a")
    record = read_json(tmp_path / "out" / PROVENANCE)
    record["outputs"] |= {"../precious": "00", str(tmp_path / "precious"): "00"}
    write_json(tmp_path / "out" / PROVENANCE, record)
    write_directory(tmp_path / "out", "b", overwrite=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out" / "a").exists()


def test_a_damaged_provenance_can_be_overwritten(tmp_path):
    write_directory(tmp_path, "a")
    (tmp_path / PROVENANCE).write_text("{")
    write_directory(tmp_path, "a", overwrite=True)
    assert open_record(tmp_path, "audit").facts


def test_resuming_keeps_earlier_files_and_lists_them(tmp_path):
    interrupt_directory(tmp_path / "out", "checkpoint")
    write_directory(tmp_path / "out", "model", resume=True)
    assert set(read_provenance(tmp_path / "out")["outputs"]) == {"checkpoint", "model"}
    write_directory(tmp_path / "out", "more", resume=True, overwrite=True)
    assert set(read_provenance(tmp_path / "out")["outputs"]) == {"checkpoint", "model", "more"}


def test_an_output_directory_that_is_a_file_or_lies_in_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, rule in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "out", "cannot be written")):
        with pytest.raises(ArtifactError, match=rule):
            write_directory(path, "a", overwrite=True)


def test_a_directory_of_another_stage_or_none_at_all_is_not_accepted(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist; run: hemalens train"):
        open_record(tmp_path / "nowhere", "train")
    write_directory(tmp_path / "out", "a")
    with pytest.raises(ArtifactError, match="was written by 'audit', not by 'train'"):
        open_record(tmp_path / "out", "train")


# --- output files


def test_a_single_file_gets_its_provenance_beside_it_last(tmp_path):
    path = tmp_path / "deep" / "splits.csv"
    with output_file(path, "split", seed=2) as out:
        write_text(out, "a")
        assert not provenance_path(path).exists()
    assert provenance_path(path) == tmp_path / "deep" / "splits.csv.provenance.json"
    record = read_provenance(path)
    assert (record["command"], record["seed"]) == ("split", 2)
    assert record["outputs"] == {"splits.csv": sha256_file(path)}


def test_an_existing_file_is_refused_unless_overwritten(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("mine")
    with pytest.raises(ArtifactError, match="was not written to its end by hemalens"), output_file(path, "split"):
        pass
    with output_file(path, "split", overwrite=True):
        write_text(path, "ours")
    with pytest.raises(ArtifactError, match="exists already; add --overwrite"), output_file(path, "split"):
        pass
    assert path.read_text() == "ours"


def test_an_interrupted_file_has_no_provenance(tmp_path):
    path = tmp_path / "splits.csv"
    with output_file(path, "split"):
        write_text(path, "first")
    with pytest.raises(InterruptedStageError), output_file(path, "split", overwrite=True):
        raise InterruptedStageError
    assert read_provenance(path) is None
    assert path.read_text() == "first"


def test_a_table_that_grew_into_parquet_is_vouched_for_and_guarded(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_PARQUET_ROWS", 2)
    path = tmp_path / "splits.csv"
    with output_file(path, "split"):
        write_table(path, pl.DataFrame({"a": [1, 2]}))
    assert set(read_provenance(path)["outputs"]) == {"splits.parquet"}
    assert is_complete(path, options={}, inputs={})
    with pytest.raises(ArtifactError, match="exists already"), output_file(path, "split"):
        pass


def test_an_output_file_that_is_a_directory_or_lies_in_a_file_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is a directory"), output_file(tmp_path, "split"):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot be written"), output_file(tmp_path / "file" / "a.csv", "split"):
        pass


# --- completeness


def test_complete_means_same_inputs_same_options_and_still_there(tmp_path):
    out = tmp_path / "out"
    inputs, options = {"source": "00"}, {"ratios": (83, 13, 4)}
    assert not is_complete(out, options=options, inputs=inputs)
    write_directory(out, "a", inputs=inputs, options=options)
    assert is_complete(out, options=options, inputs=inputs)
    assert not is_complete(out, options=options, inputs={"source": "01"})
    assert not is_complete(out, options={"ratios": (80, 10, 10)}, inputs=inputs)
    (out / "a").unlink()
    assert not is_complete(out, options=options, inputs=inputs)


def test_an_unfinished_output_is_not_complete(tmp_path):
    interrupt_directory(tmp_path / "out", "a")
    assert not is_complete(tmp_path / "out", options={}, inputs={})


def test_the_provenance_of_a_directory_is_plain_json_of_this_schema(tmp_path):
    write_directory(tmp_path, "a")
    record = json.loads((tmp_path / PROVENANCE).read_text())
    assert record["schema_version"] == 1
    assert {"command", "version", "commit", "dirty", "time", "hardware", "libraries", "seed", "inputs"} <= set(record)


def test_what_a_killed_process_left_is_removed_and_other_hidden_files_stay(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "..hemalens-started.a1b2_c3d.tmp").write_text("{")  # killed while it wrote the marker
    write_directory(out, "a")
    assert names_in(out) == ["a", PROVENANCE]
    interrupt_directory(out, "a", overwrite=True)
    (out / ".a.a1b2_c3d.tmp").write_text("part")
    write_directory(out, "a")
    assert names_in(out) == ["a", PROVENANCE]
    for name in (".t[1].csv.a1b2_c3d.tmp", ".t[1].csv.mine.tmp", ".t1.csv.a1b2_c3d.tmp"):
        (tmp_path / name).write_text("part")
    with output_file(tmp_path / "t[1].csv", "split"):
        (tmp_path / "t[1].csv").write_text("whole")
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".t1.csv.a1b2_c3d.tmp", ".t[1].csv.mine.tmp"]


def test_a_table_of_parquet_on_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(table, file):
        raise pl.exceptions.ComputeError("No space left on device (os error 28)")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(ArtifactError, match=r"t.parquet: cannot be written \(No space left"):
        write_table(tmp_path / "t.parquet", pl.DataFrame({"a": [1]}))
    assert list(tmp_path.iterdir()) == []
