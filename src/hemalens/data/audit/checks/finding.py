"""The row that every check writes: which sample, what is wrong, how certain, what to do."""

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["SUGGESTIONS", "Finding", "Suggestion"]

Suggestion = Literal["keep", "drop", "review"]
SUGGESTIONS: tuple[Suggestion, ...] = get_args(Suggestion)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one sample.

    Attributes:
        index: of the sample in the source.
        issue: what was found: a name of the issue table.
        score: certainty in [0, 1].
        group: name shared by the members of one finding, "" where the sample stands alone.
        suggestion: ``drop`` (surely rubbish), ``review`` (a person should look) or ``keep`` (worth knowing).
        reason: one sentence with the numbers behind it.
        counterpart: index of the image it was compared with, None where there is none. Indices from the number of
            samples on are those of the source audited against.
        brief: a few words to stand under a small image, "" where there is nothing to say.
    """

    index: int
    issue: str
    score: float
    group: str
    suggestion: Suggestion
    reason: str
    counterpart: int | None = None
    brief: str = ""
