"""The row that every check writes: which sample, what is wrong, how certain, what to do."""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["ISSUES", "SUGGESTIONS", "Finding", "Issue", "Suggestion"]

Issue = Literal[
    "unreadable",
    "converted",
    "odd_size",
    "exact_duplicate",
    "near_duplicate",
    "label_conflict",
    "foreign",
    "outlier",
    "background_batch",
    "blurry",
    "dark",
    "bright",
    "label_issue",
    "leakage",
]
Suggestion = Literal["keep", "drop", "review"]
ISSUES: tuple[Issue, ...] = get_args(Issue)
SUGGESTIONS: tuple[Suggestion, ...] = get_args(Suggestion)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one sample.

    Attributes:
        index: the sample's place in the source.
        issue: what was found.
        score: certainty in [0, 1].
        group: name shared by the members of one finding, "" where the sample stands alone.
        suggestion: ``drop`` (surely rubbish), ``review`` (a person should look) or ``keep`` (worth knowing).
        reason: one sentence with the numbers behind it.
        counterpart: place of the image it was compared with, None where there is none. Places from the number of
            samples on are those of the source audited against.
    """

    index: int
    issue: Issue
    score: float
    group: str
    suggestion: Suggestion
    reason: str
    counterpart: int | None = None
