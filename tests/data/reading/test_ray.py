"""The audit through Ray Data: the same tables, also where an image takes its process down."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hemalens.core.errors import ConfigError, MissingExtraError
from hemalens.data.audit.audit import audit
from hemalens.data.audit.statistics import measure_source
from hemalens.data.reading.ray import map_chunks_by_ray
from hemalens.data.sources import open_source
from tests.data.hostile import cell, encode, write_tar
from tests.data.reading.test_parallel import halve, lost, squares

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")

# In a process of its own: Ray starts threads and leaves sockets and loops to the collector, and pytest would see them.
SCRIPT = """
import json, sys
from pathlib import Path
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
from hemalens.core.errors import HemalensError
from hemalens.data.audit.audit import audit
from hemalens.data.reading.ray import map_chunks_by_ray
from tests.data.reading.test_parallel import FAULTY, KILLER, halve, lost, squares
shards, folder, out = map(Path, sys.argv[1:])
said = {}
for name, source in (("shards", shards), ("folder", folder)):
    said[name] = audit(source, out / name, engine="ray").to_json()
tasks = iter([[1, 2], [3, KILLER], [6]])
said["killed"] = list(map_chunks_by_ray(squares, tasks, halve=halve, lost=lost))
try:
    list(map_chunks_by_ray(squares, iter([[1], [FAULTY]]), halve=halve, lost=lost))
except ArithmeticError as error:
    said["defect"] = str(error)
said["still running"] = ray.is_initialized()
(out / "said.json").write_text(json.dumps(said))  # Ray may still have something to say on stdout
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """300 images in three shards, and 70 in a folder; some of them bad."""
    root = tmp_path_factory.mktemp("cluster")
    for shard in range(3):
        numbers = range(100 * shard, 100 * shard + 100)
        members = [(f"{('ig', 'platelet')[n % 2]}/{n}.png", encode(cell(8, n % 290))) for n in numbers]
        (root / "shards").mkdir(exist_ok=True)
        write_tar(root / "shards" / f"{shard}.tar", [*members, (f"ig/bad-{shard}.png", b"no image")])
    (root / "shards" / "damaged.tar").write_bytes(b"no tar")
    (root / "folder" / "ig").mkdir(parents=True)
    for number in range(70):
        (root / "folder" / "ig" / f"{number}.png").write_bytes(encode(cell(8, number))[: 60 if number == 3 else None])
    return root / "shards", root / "folder"


@needs_ray
def test_ray_writes_the_tables_of_the_local_engine_and_loses_only_what_kills(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    command = [sys.executable, "-c", SCRIPT, *images, tmp_path / "ray"]
    surroundings = {**os.environ, "PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}
    (tmp_path / "ray").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "ray" / "said.json").read_text())
    for name, source in zip(("shards", "folder"), images, strict=True):
        here = audit(source, tmp_path / name, workers=0).to_json()
        assert {**said[name], "seconds": 0} == {**here, "seconds": 0}
        for table in ("manifest.csv", "statistics.csv", "issues.csv"):
            assert (tmp_path / "ray" / name / table).read_bytes() == (tmp_path / name / table).read_bytes()
    assert said["shards"]["n_unreadable"] == 4
    assert said["killed"] == [[1, 4], [9], ["lost"], [36]]
    assert said["defect"] == "a defect"
    assert said["still running"]


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encode(cell()))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtraError, match=r"engine ray: needs .*; install it with: pip install 'hemalens\[ray\]'"
    ):
        measure_source(open_source(tmp_path), engine="ray")


def test_arrays_are_not_handed_to_ray(tmp_path: Path) -> None:
    np.savez(tmp_path / "cells.npz", images=cell()[None], labels=[0])
    with pytest.raises(ConfigError, match="an array file is held in memory; leave --engine out"):
        measure_source(open_source(tmp_path / "cells.npz"), engine="ray")


def test_nothing_to_do_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(map_chunks_by_ray(squares, iter([]), halve=halve, lost=lost)) == []
