"""What the corpus says of each of its files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["sound", "converted", "unreadable", "ignored"]


@dataclass(frozen=True)
class Case:
    """One file and what an audit must say of it.

    Attributes:
        name: its name; for images below the folder ``ig``.
        data: its bytes.
        outcome: read as it is, read by a rule, listed as unreadable, or set aside as no sample.
        words: a part of the reason or of the rule.
    """

    name: str
    data: bytes
    outcome: Outcome
    words: str = ""


@dataclass(frozen=True)
class Pile:
    """One source on its own.

    Attributes:
        name: its file name.
        write: makes it at a path.
        error: a part of the one line that the command ends with; empty where it is audited.
        entries: id -> (outcome, a part of the reason) of everything in it, in any order.
    """

    name: str
    write: Callable[[Path], object]
    error: str = ""
    entries: dict[str, tuple[Outcome, str]] = field(default_factory=dict)


SOUND: tuple[Outcome, str] = ("sound", "")
