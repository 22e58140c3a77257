"""JSON that says one thing only: an object without repeated keys, NaN, endless numbers or endless nesting.

The standard reader takes more than the standard allows, and its errors have many kinds; here every refusal is one
ArtifactError that names the file. Needs the standard library only.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from hemalens.core.errors import ArtifactError

__all__ = ["canonical_json", "parse_json", "read_json"]

_STEP = "write it again with its stage"
_DEEPEST = 64  # what we write has at most 8 levels; Python's own limit is met near 1,000 and ends as a RecursionError
_MOST_DIGITS = 300  # more overflow wherever they become a float
_LARGEST_FILE = 1 << 30


def read_json(path: Path, *, step: str = _STEP) -> dict[str, Any]:
    """Read a file that no record vouches for as a JSON object; raise ArtifactError where it is missing or damaged.

    What a stage wrote to its end is read by its record: ``records.Recorded.json``.
    """
    what = f"file {path}"
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ArtifactError(what, f"is larger than {_LARGEST_FILE:,} bytes", step)
        data = path.read_bytes()
    except OSError as error:
        rule = f"cannot be read ({error.strerror or error})"
        raise ArtifactError(what, rule, "run the stage that writes it") from error
    return parse_json(data, what, step=step)


def parse_json(data: bytes, what: str, *, step: str = _STEP) -> dict[str, Any]:
    """Return the JSON object that UTF-8 bytes hold; raise ArtifactError naming ``what`` where they hold none."""
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_float, parse_int=_integer
        )
        _check_depth(value)
        if "\\u" in text:  # only an escape can bring half a character, which no file and no terminal takes
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ArtifactError(what, f"is nested deeper than {_DEEPEST} levels", step) from None
    except ValueError as error:
        raise ArtifactError(what, f"is not JSON ({error})", step) from error
    if not isinstance(value, dict):
        raise ArtifactError(what, "must hold a JSON object", step)
    return value


def canonical_json(value: object) -> bytes:
    """Return the one way to write a value, to take a digest of: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:20]}... is too large a number")
    return int(text)


def _check_depth(value: object) -> None:
    """Raise RecursionError where lists and objects lie in each other too deep."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise RecursionError
        nested = [part for part in level if isinstance(part, (dict, list))]
        level = [one for part in nested for one in (part.values() if isinstance(part, dict) else part)]
