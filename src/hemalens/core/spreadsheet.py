"""Text in a table so written that no spreadsheet takes it for a formula, and read back as it was.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@``, whatever file it came from, so such text gets
an apostrophe before it. A cell begins behind a semicolon too, where semicolons separate cells (as in most of Europe).
Text that looks so already, with apostrophes of its own, gets one more: each text comes back exactly. Numbers are not
text and stay as they are.
Needs polars; no torch.
"""

from typing import TypeVar

import polars as pl
from polars import selectors

__all__ = ["from_spreadsheet", "to_spreadsheet"]

_Table = TypeVar("_Table", pl.DataFrame, pl.LazyFrame)

_SIGN = "[-=+@\uff0d\uff1d\uff0b\uff20]"  # the wide forms are formulas in East Asian spreadsheets
_BLANK = "[\t\r\n]"  # at the beginning: dropped by some spreadsheets, which then see what follows
# (what to find, what to write); no match of one makes or breaks a match of the other, so the order is free.
_WRITTEN = (f"(^|[;\t\r\n])('*{_SIGN})", "${1}'${2}"), (f"^('*{_BLANK})", "'${1}")
_READ = (f"(^|[;\t\r\n])'('*{_SIGN})", "${1}${2}"), (f"^'('*{_BLANK})", "${1}")
_Rules = tuple[tuple[str, str], ...]


def to_spreadsheet(table: _Table) -> _Table:
    """Set an apostrophe before whatever a spreadsheet would run, in names and text columns."""
    return _renamed(table.with_columns(_apply(selectors.string(), _WRITTEN)), _WRITTEN)


def from_spreadsheet(table: pl.DataFrame) -> pl.DataFrame:
    """Undo ``to_spreadsheet``: take one apostrophe from what it set one before."""
    # Most columns hold no apostrophe: a million rows of predictions take 10 s by the patterns alone.
    marked = [
        column.name for column in table if column.dtype == pl.String and column.str.contains("'", literal=True).any()
    ]
    return _renamed(table.with_columns(_apply(pl.col(marked), _READ)), _READ)


def _renamed(table: _Table, rules: _Rules) -> _Table:
    return table.rename(lambda name: str(pl.select(_apply(pl.lit(name), rules)).item()))


def _apply(text: pl.Expr, rules: _Rules) -> pl.Expr:
    for pattern, value in rules:
        text = text.str.replace_all(pattern, value)
    return text
