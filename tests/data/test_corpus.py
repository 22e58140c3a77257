"""The corpus of bad files: every scan completes, each file is listed exactly once with the right reason."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hemalens.core.errors import SourceError
from hemalens.core.recorded import open_record
from hemalens.data.audit.audit import audit
from hemalens.data.audit.statistics import measure_source
from hemalens.data.sources import open_source
from tests.data.corpus import Outcome, Pile, images, piles, plant, plant_things
from tests.data.hostile import write_tar, write_zip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes, /dev and audit by /proc")

TABLES = ("manifest.csv", "statistics.csv", "issues.csv")
Expected = dict[str, tuple[Outcome, str]]


@dataclass(frozen=True)
class Scan:
    """One audit of the heap, in a process of its own under guard."""

    out: Path
    told: dict[str, Any]
    expected: Expected

    def found(self) -> Expected:
        """Return name -> (outcome, reason) as the written tables say it."""
        return found_in(self.out, self.told["summary"])


def found_in(out: Path, summary: dict[str, Any]) -> Expected:
    manifest = pl.read_csv(out / "manifest.csv", infer_schema=False)
    issues = pl.read_csv(out / "issues.csv", infer_schema=False)
    found: Expected = dict.fromkeys(manifest["sample_id"].to_list(), ("sound", ""))
    assert len(found) == manifest.height == summary["n_samples"]
    for name, issue, reason in issues.select("sample_id", "issue", "reason").iter_rows():
        if issue in ("unreadable", "converted"):
            assert found[name] == ("sound", ""), "said twice"
            found[name] = ("unreadable" if issue == "unreadable" else "converted", reason)
    for entry in summary["ignored"]:
        assert entry["name"] not in found
        found[entry["name"]] = ("ignored", entry["reason"])
    outcomes = [outcome for outcome, _ in found.values()]
    assert summary["n_ignored"] == outcomes.count("ignored") == len(summary["ignored"])
    assert summary["n_unreadable"] == outcomes.count("unreadable")
    assert sum(counts["before"] for counts in summary["classes"].values()) == summary["n_samples"]
    kept = sum(counts["after"] for counts in summary["classes"].values())
    assert kept == summary["n_samples"] - summary["suggested_drops"]
    return found


def differences(found: Expected, expected: Expected) -> list[str]:
    """Say of each name what is wrong with it."""
    wrong = [f"{name[:80]} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name[:80]} is listed and should not be" for name in found.keys() - expected.keys()]
    for name in found.keys() & expected.keys():
        (outcome, words), (got, reason) = expected[name], found[name]
        if outcome != got or words not in reason or (outcome != "sound" and not reason):
            wrong.append(f"{name[:80]}: {outcome} ({words}) expected, found {got} ({reason})")
    return wrong


def expected_of_images() -> Expected:
    """Return what must be said of the images of the corpus below the folder ig."""
    return {f"ig/{case.name}": (case.outcome, case.words) for case in images()}


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    """A folder with every image and everything that only a file system can hold."""
    root = tmp_path_factory.mktemp("heap") / "cells"
    plant(root / "ig", images())
    things = plant_things(root / "ig")
    return root, expected_of_images() | {f"ig/{name}": outcome for name, outcome in things.items()}


@pytest.fixture(scope="module", params=[0, 2], ids=["here", "in workers"])
def scan(request: pytest.FixtureRequest, heap: tuple[Path, Expected], tmp_path_factory: pytest.TempPathFactory) -> Scan:
    out = tmp_path_factory.mktemp("scan") / "audit"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    command = [sys.executable, "-B", "-m", "tests.data.guarded", str(heap[0]), str(out), str(request.param)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.stderr == ""
    return Scan(out, json.loads(done.stdout), heap[1])


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(images()) >= 100
    assert len(piles()) >= 90


def test_everything_in_the_heap_is_listed_once_with_the_right_reason(scan: Scan) -> None:
    assert differences(scan.found(), scan.expected) == []
    open_record(scan.out, "audit")


def test_the_scan_writes_nowhere_else_asks_no_network_and_leaves_no_process(scan: Scan) -> None:
    assert scan.told["seen"] == []
    assert scan.told["children"] == 0


def test_the_scan_takes_no_more_memory_than_any(scan: Scan) -> None:
    # The libraries take 250 MiB of it; decoding one of the bombs would take 540 to 30,000.
    assert scan.told["mib"] < 450


@pytest.mark.parametrize("kind", ["tar", "zip", "shards"])
def test_in_archives_the_same_is_said_of_each_image(kind: str, tmp_path: Path) -> None:
    members = [(f"ig/{case.name}", case.data) for case in images()]
    expected, prefix = expected_of_images(), ""
    if kind == "shards":
        (tmp_path / "shards").mkdir()
        write_tar(tmp_path / "shards" / "0.tar", members)
        path, prefix = tmp_path / "shards", "0.tar/"
    else:
        path = (write_tar if kind == "tar" else write_zip)(tmp_path / f"cells.{kind}", members)
    source = open_source(path)
    statistics = measure_source(source, workers=0)
    found: Expected = {name: ("ignored", reason) for name, reason in source.ignored}
    for sample, row, reason in zip(source.samples, statistics.measurements, statistics.reasons, strict=True):
        outcome: Outcome = "converted" if row is not None and row.conversions else "sound"
        said = row.conversions if row is not None else reason
        found[sample.sample_id] = ("unreadable", said) if reason else (outcome, said)
    assert len(found) == len(source) + len(source.ignored)
    assert differences(found, {prefix + name: outcome for name, outcome in expected.items()}) == []


@pytest.mark.parametrize("pile", piles(), ids=lambda pile: pile.name)
def test_each_pile_ends_in_one_line_or_audited_to_its_end(
    pile: Pile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hemalens.data.audit.audit.render_audit", lambda view, summary: "<html></html>"
    )  # 0.3 s for each otherwise
    home = tmp_path / "home"
    home.mkdir()
    path = home / pile.name
    pile.write(path)
    before = sorted(home.rglob("*"))
    if pile.error:
        with pytest.raises(SourceError) as caught:
            audit(path, tmp_path / "audit", workers=0)
        assert pile.error in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "audit").exists()
    else:
        summary = audit(path, tmp_path / "audit", workers=0)
        assert differences(found_in(tmp_path / "audit", summary.to_json()), pile.entries) == []
        open_record(tmp_path / "audit", "audit")
    assert sorted(home.rglob("*")) == before
    assert sorted(tmp_path.iterdir()) == ([home] if pile.error else [tmp_path / "audit", home])


def test_all_tars_as_shards_are_one_source_in_which_the_damaged_ones_are_unreadable(tmp_path: Path) -> None:
    expected: Expected = {}
    for pile in piles():
        if not pile.name.endswith(".tar"):
            continue
        pile.write(tmp_path / pile.name)
        if "no file that could be" in pile.error:
            continue  # as a shard among others it is merely empty
        if pile.error:
            expected[pile.name] = ("unreadable", "shard cannot be opened: ")
        expected |= {f"{pile.name}/{name}": outcome for name, outcome in pile.entries.items()}
    source = open_source(tmp_path)
    statistics = measure_source(source, workers=0)
    found: Expected = {name: ("ignored", reason) for name, reason in source.ignored}
    for sample, reason in zip(source.samples, statistics.reasons, strict=True):
        found[sample.sample_id] = ("unreadable", reason) if reason else ("sound", "")
    assert differences(found, expected) == []


def test_all_files_of_the_corpus_in_one_flat_folder_are_told_by_what_they_are(tmp_path: Path) -> None:
    """Archives, arrays and tables among images are no samples that can be read, and none is opened."""
    for pile in piles():
        pile.write(tmp_path / pile.name)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    source = open_source(tmp_path)
    statistics = measure_source(source, workers=0)
    assert {sample.sample_id for sample in source.samples} | {name for name, _ in source.ignored} == files
    read = [sample.sample_id for sample, row in zip(source.samples, statistics.measurements, strict=True) if row]
    assert read == ["a.png", "b.png", "behind-a-image.zip"], "the last one is an image too"
