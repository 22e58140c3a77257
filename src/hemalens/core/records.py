"""What a stage found out to a JSON file and back: frozen typed records, written and read whole.

How to make one (``AuditSummary`` in ``core.audit_summary`` shows all of it):

    class Score(Record):                              # a file of its own, or a part of another record
        written_by: ClassVar[str] = "evaluate"        # only the outermost: what an error tells the reader to run again
        n: int                                        # no default: always in the file, None as null
        accuracy: Interval                            # nested: records, frozen dataclasses, Literal, tuple, Mapping
        per_class: Mapping[str, ClassScore]
        note: str | None = None                       # a default: not in the file where the value equals it

``Score(n=3, ...)`` checks types strictly (no numpy scalars, no lists for tuples, no NaN); a wrong one is our defect.
``record.write(path)`` and ``open_record(directory).read(name, Score)``, which compares the file with its recorded hash,
are the only ways to disk and back; ``record.to_json()`` is the object that a command prints. A reader takes attributes
(``score.accuracy.low``), never keys; what may be missing has a default and is asked for with ``is None``. Where a name
is no good attribute: ``field: int = Field(alias="name")``. A file with an unknown or a missing key, or a value of
another type, is an ArtifactError that names file and key.
Needs pydantic; no torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hemalens.core.artifacts import write_json
from hemalens.core.errors import ArtifactError

__all__ = ["Record"]


class Record(BaseModel):
    """A frozen record with typed fields; ``written_by`` is the command that writes it.

    >>> class Count(Record):
    ...     n: int
    ...     note: str | None = None
    >>> Count(n=3).to_json(), Count.from_json({"n": 3, "note": "few"})
    ({'n': 3}, Count(n=3, note='few'))
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)
    written_by: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the file holds: lists and dicts, without the fields that equal their default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def write(self, path: Path) -> None:
        """Write the record as indented JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def from_json(cls, value: Mapping[str, Any], what: str = "record") -> Self:
        """Return the record of a JSON object; raise ArtifactError naming ``what`` and the first key that is wrong."""
        try:
            return cls.model_validate_json(json.dumps(value))  # as JSON, so that lists may become tuples
        except ValidationError as error:
            stage = f": hemalens {cls.written_by} ... --overwrite" if cls.written_by else ""
            raise ArtifactError(what, _rule(error), f"run the stage again{stage}") from None


def _rule(error: ValidationError) -> str:
    """Say what is wrong with the first key that is."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"].startswith("missing"):
        return f"lacks the key {key!r}"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"has the key {key!r}, which this version of hemalens does not know"
    return f"the key {key!r} is wrong ({first['msg'][0].lower()}{first['msg'][1:]})"
