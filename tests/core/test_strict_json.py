"""JSON is read as one thing only or refused by name."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core.errors import ArtifactError
from hemalens.core.strict_json import canonical_json, parse_json, read_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a":' * 100_000, "nested deeper"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper than 64 levels"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is too large a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is too large a number"),
        ('{"a": "ä"}'.encode("latin-1"), "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON"),
        (b'{"a": "\\ud800"}', "is not JSON"),
        (b"[]", "must hold a JSON object"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
    ],
)
def test_what_is_not_one_object_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=words) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_json_comes_back_and_has_one_way_to_be_written(value: dict[str, object]) -> None:
    read = parse_json(json.dumps(value, indent=2).encode(), "x")
    assert read == value
    assert canonical_json(read) == canonical_json(dict(reversed(list(value.items()))))


@given(st.binary(max_size=200))
def test_bytes_are_an_object_or_refused(data: bytes) -> None:
    with suppress(ArtifactError):
        assert isinstance(parse_json(data, "x"), dict)
