import csv
import io

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core.artifacts import read_table, write_table
from hemalens.core.spreadsheet import from_spreadsheet, to_spreadsheet

SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"
# Letters that the rule is about come often; everything else that UTF-8 can hold comes too.
TEXT = st.text(st.sampled_from("=+-@'\t\r\n;, \"a\uff1d") | st.characters(exclude_categories=["Cs"]), max_size=12)


def cells(text: str) -> list[str]:
    """Return where a spreadsheet may begin a cell in a text, by any of its separators."""
    for separator in ";\t\r\n":
        text = text.replace(separator, "\0")
    return text.split("\0")


@given(st.lists(TEXT, min_size=1))
def test_every_text_comes_back_and_none_is_a_formula(texts: list[str]) -> None:
    table = pl.DataFrame({"text": texts})
    written = to_spreadsheet(table)
    assert from_spreadsheet(written).equals(table)
    for text in written["text"]:
        assert not text.startswith(("\t", "\r", "\n"))
        assert not any(cell.startswith(tuple(SIGNS)) for cell in cells(text))


@given(TEXT.filter(lambda text: not any(cell.lstrip("'")[:1] in {*SIGNS} for cell in cells(text) if cell.lstrip("'"))))
def test_harmless_text_is_written_as_it_is(text: str) -> None:
    if text.lstrip("'")[:1] not in {*"\t\r\n"} or not text:
        assert to_spreadsheet(pl.DataFrame({"text": [text]}))["text"][0] == text


@given(names=st.lists(TEXT, min_size=1, max_size=4, unique=True))
def test_names_of_columns_come_back_too(names: list[str]) -> None:
    table = pl.DataFrame({name: ["a"] for name in names})
    written = to_spreadsheet(table)
    assert not any(cell.startswith(tuple(SIGNS)) for name in written.columns for cell in cells(name))
    assert from_spreadsheet(written).columns == names
    assert to_spreadsheet(table.lazy()).collect().equals(written)


@given(texts=st.lists(st.none() | TEXT, min_size=1), number=st.floats(allow_nan=False, allow_infinity=False))
def test_a_table_on_disk_is_the_same_to_us_and_harmless_to_others(tmp_path_factory, texts, number) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    table = pl.DataFrame(
        {"text": texts, "number": [number] * len(texts)}, schema={"text": pl.String, "number": pl.Float64}
    )
    write_table(path, table)
    assert read_table(path, {"text": pl.String, "number": pl.Float64}).equals(table)
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))[1:]
    assert not any(cell.startswith(tuple(SIGNS)) for text, _ in rows for cell in cells(text))
    assert [float(value) for _, value in rows] == [number] * len(texts), "numbers stay numbers"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1.png", "'=1+1.png"),
        ("-cell.png", "'-cell.png"),
        ("'=1", "''=1"),
        ("'tis.png", "'tis.png"),
        ("\t=1", "'\t'=1"),
        ("a;=1;b-c", "a;'=1;b-c"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_what_is_written_is_the_text_after_an_apostrophe(text: str, written: str) -> None:
    assert to_spreadsheet(pl.DataFrame({"text": [text]}))["text"].to_list() == [written]


def test_tables_without_apostrophes_are_read_as_they_stand(tmp_path) -> None:
    (tmp_path / "splits.csv").write_text("sample_id,split\n=1.png,train\n-a.png,val\n")
    assert read_table(tmp_path / "splits.csv", {})["sample_id"].to_list() == ["=1.png", "-a.png"]


def test_parquet_holds_the_text_itself(tmp_path) -> None:
    table = pl.DataFrame({"text": ["=1", "'=1", "-a"]})
    write_table(tmp_path / "t.parquet", table)
    assert pl.read_parquet(tmp_path / "t.parquet").equals(table)
    assert read_table(tmp_path / "t.parquet", {}).equals(table)
