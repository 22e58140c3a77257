"""Bad tables of paths."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from tests.data.corpus.case import SOUND, Pile
from tests.data.corpus.packing import OTHER, PNG


def _table(text: str | bytes) -> Callable[[Path], object]:
    """Return a writer of a table beside two images and a folder."""

    def write(path: Path) -> None:
        _images_beside(path.parent)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def _images_beside(folder: Path) -> None:
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").write_bytes(OTHER)
    (folder / "folder.png").mkdir(exist_ok=True)


def _parquet(**columns: object) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        _images_beside(path.parent)
        pl.DataFrame(columns).write_parquet(path)

    return write


def _damaged_parquet(path: Path) -> None:
    _parquet(path=["a.png", "b.png"], label=["ig", "ig"])(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + bytes(len(whole) - 60) + whole[-20:])


def tables() -> list[Pile]:
    """Return them all."""
    two = {"a.png": SOUND, "b.png": SOUND}
    return [
        Pile(
            "odd-paths.csv",
            _table("path,label\na.png,ig\ngone.png,ig\nfolder.png,ig\n../../../../etc/hostname.png,ig\n/dev/zero,ig\n"),
            entries={
                "a.png": SOUND,
                "gone.png": ("unreadable", "cannot be found"),
                "folder.png": ("unreadable", "is no regular file"),
                "../../../../etc/hostname.png": ("unreadable", "cannot be found"),
                "/dev/zero": ("unreadable", "is no regular file"),
            },
        ),
        Pile("byte-order-mark.csv", _table(b"\xef\xbb\xbfpath,label\na.png,ig\nb.png,ig\n"), entries=two),
        Pile(
            "repeated.csv",
            _table("path,label\na.png,ig\na.png,ig\nb.png,ig\n"),
            entries=two | {"a.png#2": ("unreadable", "duplicate id")},
        ),
        Pile(
            "huge-field.csv",
            _table("path,label\na.png,ig\n" + "x" * 3_000_000 + ",ig\n"),
            entries={"a.png": SOUND, "x" * 3_000_000: ("unreadable", "File name too long")},
        ),
        Pile("windows-lines.csv", _table("path,label\r\na.png,ig\r\nb.png,ig\r\n"), entries=two),
        Pile("quoted.csv", _table('path,label\n"a.png","ig"\n"b.png","i""g"\n'), entries=two),
        Pile(
            "nul.csv",
            _table(b"path,label\na.png,ig\nb\x00.png,ig\n"),
            entries={"a.png": SOUND, r"b\x00.png": ("unreadable", "null byte")},
        ),
        Pile("latin.csv", _table("path,label\na.png,ig\né.png,ig\n".encode("latin-1")), error="cannot be read"),
        Pile("wide.csv", _table("path,label\na.png,ig\n".encode("utf-16")), error="lacks the column 'path'"),
        Pile("ragged.csv", _table("path,label\na.png,ig,more,and,more\nb.png\n"), error="cannot be read"),
        Pile("semicolons.csv", _table("path;label\na.png;ig\n"), error="lacks the column 'path'"),
        Pile("empty.csv", _table(""), error="cannot be read"),
        Pile("header-alone.csv", _table("path,label\n"), error="lists no image"),
        Pile("no-path.csv", _table("path,label\na.png,ig\n,ig\n"), error="has no path"),
        Pile("unknown-split.csv", _table("path,split\na.png,train\nb.png,holdout\n"), error="none of train, val, test"),
        Pile("mixed-labels.csv", _table("path,label\na.png,3\nb.png,ig\n"), entries=two),
        Pile("open-quote.csv", _table('path,label\n"a.png,ig\nb.png,ig\n'), error="cannot be read"),
        Pile("damaged.parquet", _damaged_parquet, error="cannot be read"),
        Pile("text.parquet", _table("path,label\na.png,ig\n"), error="cannot be read"),
        Pile(
            "numbers-as-paths.parquet",
            _parquet(path=[1, 2]),
            entries=dict.fromkeys("12", ("unreadable", "cannot be found")),
        ),
        Pile(
            "lists-as-paths.parquet",
            _parquet(path=[["a.png"], ["b.png"]]),
            entries=dict.fromkeys(("['a.png']", "['b.png']"), ("unreadable", "cannot be found")),
        ),
        Pile("fractions.parquet", _parquet(path=["a.png", "b.png"], label=[0.5, 1.0]), error="is no class number"),
    ]
