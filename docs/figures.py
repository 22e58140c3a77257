"""From the records in benchmarks/results to the page of benchmarks: every figure is read from the record it names."""

import json
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TEMPLATE = "benchmarks.md.j2"
# Records stay as they were written; keys of before version 0.2 are read under today's names.
_RENAMED = (("perturbed", "distorted"), ("picture", "image"), ("refused", "abstained"), ("refusal", "abstention"))


def benchmarks(results: Path = RESULTS) -> str:
    """Return the page of benchmarks; raises UndefinedError where a record lacks a figure that the page states."""
    records = read_records(results)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown out of our own records
    )
    environment.filters |= {one.__name__: one for one in (percent, interval, spread, whole, many, fixed, of)}
    environment.globals["made"] = lambda *names: made(records, names)
    return environment.get_template(TEMPLATE).render(records=records, **records)


def read_records(results: Path) -> dict[str, Any]:
    """Return the records by name, oldest keys renamed."""
    return {path.stem: _renamed(json.loads(path.read_text("utf-8"))) for path in sorted(results.glob("*.json"))}


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(one) for one in value]
    if not isinstance(value, dict):
        return value
    made_anew = {}
    for key, inner in value.items():
        name = key
        for old, new in _RENAMED:
            name = re.sub(old, new, name)
        made_anew[name] = _renamed(inner)
    return made_anew


def made(records: dict[str, Any], names: Sequence[str]) -> str:
    """Return where the figures above come from: record, day, commit, cores, and that the tree was not clean."""
    return "; ".join(_made(name, records[name]) for name in names) + "."


def _made(name: str, record: dict[str, Any]) -> str:
    words = [f"`{name}.json`", record["time"][:10], f"commit {record['commit'][:10]}"]
    cores = record["hardware"]["cores"]
    words.append(f"{cores} core{'s' if cores != 1 else ''}")
    if load := record.get("load_at_start"):
        words.append(f"load {load[0]:g}")
    if record["dirty"]:
        words.append("**with uncommitted changes**")
    return ", ".join(words)


def of(runs: Sequence[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Return the runs of these names in this order; a record with other runs must not pass for them."""
    found = []
    for name in names:
        hits = [run for run in runs if name in Path(run["run"]).parts]
        if len(hits) != 1:
            raise LookupError(f"{len(hits)} runs are named {name}, there are {[run['run'] for run in runs]}")
        found += hits
    return found


def fixed(value: float, digits: int = 1) -> str:
    """Write a number with so many decimals, halves up: what was rounded for a record is not rounded down once more."""
    return f"{Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,}"


def percent(value: float | Sequence[float], digits: int = 1) -> str:
    """Write shares as per cent: one, or several with commas between."""
    values = [value] if isinstance(value, int | float) else list(value)
    return ", ".join(_percent(one, digits) for one in values) + " %"


def _percent(value: float, digits: int) -> str:
    return fixed(float(Decimal(repr(value)).scaleb(2)), digits)


def interval(value: dict[str, float], digits: int = 1) -> str:
    """Write a score with its interval."""
    low, high = (_percent(value[key], digits) for key in ("low", "high"))
    return f"{_percent(value['value'], digits)} % [{low}, {high}]"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Write the least and the greatest of some values, one where they read alike."""
    low, high = fixed(min(values), digits), fixed(max(values), digits)
    return low if low == high else f"{low} to {high}"


def whole(value: float) -> str:
    """Write a number without decimals, thousands apart."""
    return fixed(value, 0)


def many(values: Sequence[float], digits: int = 0) -> str:
    """Write several numbers with commas between."""
    return ", ".join(fixed(one, digits) for one in values)
