"""Tracking: every epoch once in every store, however often the run was killed, and nothing left of an earlier run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hemalens.core.config import TrainConfig
from hemalens.core.errors import MissingExtraError
from hemalens.training.tracking import FOLDERS, open_trackers

MakeConfig = Callable[..., TrainConfig]
Points = dict[str, list[tuple[int, float]]]
BOTH = ["tensorboard", "mlflow"]


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "train_loss": 1 / epoch, "val_accuracy": 1 - 0.5**epoch}


def tensorboard_points(run: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def mlflow_points(run: Path) -> Points:
    """Read the files as they lie: a line of time, value and step a point."""
    points = {}
    for file in (run / "mlruns").glob("*/*/metrics/*"):
        lines = [line.split() for line in file.read_text().splitlines()]
        points[file.name] = [(int(step), float(value)) for _, value, step in lines]
    return points


READ = {"tensorboard": tensorboard_points, "mlflow": mlflow_points}


def expected(epochs: range) -> Points:
    return {name: [(epoch, row(epoch)[name]) for epoch in epochs] for name in ("train_loss", "val_accuracy")}


def check(run: Path, kind: str, epochs: range) -> None:
    found, wanted = READ[kind](run), expected(epochs)
    assert found.keys() == wanted.keys()
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6)


@pytest.mark.parametrize("kind", BOTH)
def test_every_score_of_every_epoch_is_logged_below_the_run(kind: str, tmp_path: Path, quick: MakeConfig) -> None:
    tracker = open_trackers(quick(track=[kind]), tmp_path)
    for epoch in (1, 2, 3):
        tracker.log(row(epoch))
    check(tmp_path, kind, range(1, 4))  # on disk before it is closed: a killed run loses nothing
    tracker.close()
    check(tmp_path, kind, range(1, 4))
    assert [file.name for file in tmp_path.iterdir()] == [FOLDERS[kind]]


@pytest.mark.parametrize("kind", BOTH)
def test_a_resumed_run_logs_no_epoch_twice_and_leaves_none_out(kind: str, tmp_path: Path, quick: MakeConfig) -> None:
    config = quick(track=[kind])
    first = open_trackers(config, tmp_path)
    first.log(row(1))
    first.log({"epoch": 2, "train_loss": row(2)["train_loss"]})  # killed in the middle of an epoch's scores
    for _ in range(2):
        resumed = open_trackers(config, tmp_path, resume=True)
        for epoch in (1, 2, 3):
            resumed.log(row(epoch))
        resumed.close()
        check(tmp_path, kind, range(1, 4))
    first.close()


@pytest.mark.parametrize("kind", BOTH)
def test_a_run_begun_anew_has_nothing_of_the_earlier_one(kind: str, tmp_path: Path, quick: MakeConfig) -> None:
    config = quick(track=[kind])
    for epoch in (5, 1):
        tracker = open_trackers(config, tmp_path)
        tracker.log(row(epoch))
        tracker.close()
    check(tmp_path, kind, range(1, 2))
    (tmp_path / "history.csv").write_text("mine")
    open_trackers(quick(), tmp_path).close()
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_an_event_file_that_was_cut_off_costs_only_what_was_cut(tmp_path: Path, quick: MakeConfig) -> None:
    config = quick(track=["tensorboard"])
    tracker = open_trackers(config, tmp_path)
    for epoch in (1, 2):
        tracker.log(row(epoch))
    tracker.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    resumed = open_trackers(config, tmp_path, resume=True)
    for epoch in (1, 2):
        resumed.log(row(epoch))
    resumed.close()
    check(tmp_path, "tensorboard", range(1, 3))


def test_mlflow_gets_the_configuration_and_the_name_of_the_run(tmp_path: Path, quick: MakeConfig) -> None:
    config = quick(track=["mlflow"], lr=0.025, augment=[{"name": "flip"}, {"name": "noise", "probability": 0.5}])
    open_trackers(config, tmp_path / "first").close()
    (run,) = [file.parent for file in (tmp_path / "first" / "mlruns").glob("*/*/meta.yaml")]
    assert (run / "params" / "lr").read_text() == "0.025"
    assert (run / "params" / "augment").read_text() == "flip x 1 (1), noise x 1 (0.5)"
    assert {file.name for file in (run / "params").iterdir()} == set(TrainConfig.model_fields)
    assert "run_name: first" in (run / "meta.yaml").read_text()
    assert "status: 3" in (run / "meta.yaml").read_text()  # finished


def test_both_at_once_and_neither(tmp_path: Path, quick: MakeConfig) -> None:
    tracker = open_trackers(quick(track=BOTH), tmp_path / "both")
    tracker.log(row(1))
    tracker.close()
    for kind in BOTH:
        check(tmp_path / "both", kind, range(1, 2))
    tracker = open_trackers(quick(), tmp_path / "none")
    tracker.log(row(1))
    tracker.close()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", BOTH)
def test_a_package_that_is_missing_is_named_by_its_extra(
    kind: str, tmp_path: Path, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*filter(lambda name: name.partition(".")[0] == kind, sys.modules), kind]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"track {kind}: needs the optional extra 'track'"):
        open_trackers(quick(track=[kind]), tmp_path)


def test_the_environment_is_left_as_it_was_and_mlflow_tells_nobody(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib\n"
        "from hemalens.core.config import load_config\n"
        "from hemalens.training.tracking import open_trackers\n"
        "before = dict(os.environ)\n"
        "open_trackers(load_config({'track': ['mlflow']}), pathlib.Path(sys.argv[1])).close()\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
        "changed = {name for name, _ in os.environ.items() ^ before.items() if 'MLFLOW' in name}\n"
        "assert not changed, changed\n"
    )
    # MLflow keeps silent in tests and on CI machines by itself: here it must believe to be somewhere else.
    hidden = ("CI", "PYTEST_CURRENT_TEST", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE")
    surroundings = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "run"], capture_output=True, env=surroundings, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    shutil.rmtree(tmp_path / "run")
