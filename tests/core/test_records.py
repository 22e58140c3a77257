import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from hemalens.core.artifacts import output_directory
from hemalens.core.errors import ArtifactError
from hemalens.core.metrics import Interval
from hemalens.core.recorded import open_record
from hemalens.core.records import Record


class Part(Record):
    name: str
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Old:
    count: int


class Whole(Record):
    written_by: ClassVar[str] = "audit"
    n: int
    score: Interval
    parts: Mapping[str, Part]
    kept: float | None
    kind: Literal["a", "b"] = "a"
    old: tuple[Old, ...] = ()
    note: Part | None = None
    named: int = Field(0, alias="json")


parts = st.builds(Part, name=st.text(), shares=st.lists(st.floats(0, 1)).map(tuple))
scores = st.builds(Interval, value=st.floats(0, 1), low=st.floats(0, 1), high=st.floats(0, 1))
wholes = st.builds(
    Whole,
    n=st.integers(),
    score=scores,
    parts=st.dictionaries(st.text(), parts),
    kept=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["a", "b"]),
    old=st.lists(st.builds(Old, count=st.integers())).map(tuple),
    note=st.none() | parts,
    named=st.integers(),
)
example = Whole(n=3, score=Interval(0.5, 0.25, 1.0), parts={"x": Part(name="one")}, kept=None)


@given(wholes)
def test_a_record_comes_back_from_its_file_as_it_was(whole: Whole) -> None:
    text = json.dumps(whole.to_json(), allow_nan=False)
    assert Whole.from_json(json.loads(text)) == whole


def test_a_file_holds_every_field_but_those_that_equal_their_default(tmp_path) -> None:
    example.write(tmp_path / "whole.json")
    said = json.loads((tmp_path / "whole.json").read_text())
    score = {"value": 0.5, "low": 0.25, "high": 1.0}
    assert said == {"n": 3, "score": score, "parts": {"x": {"name": "one"}}, "kept": None} == example.to_json()
    assert Whole.from_json(said) == example
    assert example.model_copy(update={"named": 2}).to_json()["json"] == 2


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"n": None}, "the key 'n' is wrong (input should be a valid integer)"),
        ({"n": "3"}, "the key 'n' is wrong (input should be a valid integer)"),
        ({"more": 1}, "has the key 'more', which this version of hemalens does not know"),
        ({"parts": {"x": {"name": "one", "more": 1}}}, "has the key 'parts.x.more', which"),
        ({"parts": {"x": {}}}, "lacks the key 'parts.x.name'"),
        ({"score": {"value": 0.5, "low": 0.25}}, "lacks the key 'score.high'"),
        ({"score": {"value": 0.5, "low": 0.25, "high": 1.0, "n": 3}}, "has the key 'score.n', which"),
        ({"old": [{"count": 1}, {}]}, "lacks the key 'old.1.count'"),
        ({"kind": "c"}, "the key 'kind' is wrong"),
    ],
)
def test_a_file_with_another_key_or_value_is_refused_by_its_name(tmp_path, change, rule) -> None:
    with output_directory(tmp_path / "out", "audit") as out:
        path = out / "whole.json"
        path.write_text(json.dumps(example.to_json() | change))
    with pytest.raises(ArtifactError) as refused:
        open_record(out).read("whole.json", Whole)
    assert str(refused.value).startswith(f"file {path}: {rule}")
    assert str(refused.value).endswith("; run the stage again: hemalens audit ... --overwrite")


def test_a_missing_key_is_named(tmp_path) -> None:
    for key in example.to_json():
        said = example.to_json()
        del said[key]
        with pytest.raises(ArtifactError, match=rf"^record: lacks the key '{key}'; run the stage again"):
            Whole.from_json(said)


def test_a_record_is_frozen_and_refuses_what_json_would_not_give_back() -> None:
    with pytest.raises(ValidationError):
        example.n = 4
    with pytest.raises(ValidationError):
        Part(name="one", shares=[0.5])
    with pytest.raises(ValidationError):
        Part(name="one", shares=(float("nan"),))
