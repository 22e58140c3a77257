"""Manifests: tables of paths with what is known of them."""

import os

import polars as pl
import pytest

from hemalens.core.errors import DecodeError, SourceError
from hemalens.data.sources import open_source
from tests.data import hostile

PNG = hostile.encode(hostile.cell())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lists").mkdir()
    for name in ("lists/a.png", "lists/b.png", "c.png"):
        (tmp_path / name).write_bytes(PNG)
    return tmp_path / "lists"


def write(folder, text):
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return folder / "list.csv"


def test_rows_keep_their_order_and_facts(folder):
    text = f"label,path,group,split,remark\nplatelets,b.png,p1,train,x\n,../c.png,,,\nig,{folder}/a.png,7,validation,\n"
    source = open_source(write(folder, text))
    assert [(s.sample_id, s.label, s.group, s.split) for s in source.samples] == [
        ("b.png", "platelet", "p1", "train"),
        ("../c.png", None, None, None),
        (f"{folder}/a.png", "ig", "7", "val"),
    ]
    assert source.classes == ("ig", "platelet")
    assert [source.read(index) for index in range(3)] == [PNG] * 3


def test_a_byte_order_mark_does_not_hide_the_first_column(folder):
    assert len(open_source(write(folder, "\ufeffpath\na.png\n"))) == 1


def test_paths_alone_are_unlabelled(folder):
    assert open_source(write(folder, "path\na.png\n")).classes == ()


def test_class_numbers_are_understood(folder):
    source = open_source(write(folder, "path,label\na.png,3\nb.png,\n"))
    assert [sample.label for sample in source.samples] == ["ig", None]


@pytest.mark.parametrize("labels", [[3, None], [3.0, None], [3.0, float("nan")], ["ig", None]])
def test_parquet_is_read(folder, labels):
    pl.DataFrame({"path": ["a.png", "b.png"], "label": labels}).write_parquet(folder / "list.parquet")
    source = open_source(folder / "list.parquet")
    assert [sample.label for sample in source.samples] == ["ig", None]
    assert source.kind == "manifest"


def test_files_that_are_not_there_or_no_files_are_unreadable_samples(folder):
    os.mkfifo(folder / "pipe.png")
    source = open_source(write(folder, "path\na.png\ngone.png\n.\npipe.png\na.png\n"))
    assert [sample.unreadable for sample in source.samples] == [
        None,
        "cannot be found (No such file or directory)",
        "is no regular file",
        "is no regular file",
        "has the path of an earlier row (duplicate id)",
    ]
    assert source.samples[4].sample_id == "a.png#2"
    with pytest.raises(DecodeError, match=r"'gone.png': cannot be found"):
        source.image(1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,split\na.png,train\nb.png,dev\n", "split 'dev' in row 2"),
        ("path,label\na.png,ig\n,ig\n", "row 2 of"),
        ("file,label\na.png,ig\n", "lacks the column 'path' (it has file, label)"),
        ("path;label\na.png;ig\n", "separate columns by commas"),
        ("path\n", "lists no image"),
        ("", "cannot be read"),
        ("path,label\na.png,3\nb.png,ig\n", None),
    ],
)
def test_tables_that_do_not_fit_are_named(folder, text, words):
    if words is None:
        assert open_source(write(folder, text)).classes == ("3", "ig")
        return
    with pytest.raises(SourceError) as caught:
        open_source(write(folder, text))
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_damaged_tables_are_an_error(folder, name):
    (folder / name).write_bytes(b'path\n\xff\xfe\x00,,,\n"')
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(folder / name)


def test_a_fraction_is_no_class_number(folder):
    pl.DataFrame({"path": ["a.png"], "label": [1.5]}).write_parquet(folder / "list.parquet")
    with pytest.raises(SourceError, match=r"label 1.5 in row 1 .* is no class number"):
        open_source(folder / "list.parquet")
