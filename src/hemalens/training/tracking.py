"""The scores of a run to TensorBoard and MLflow, an epoch at a time; what a killed run has logged is not logged twice.

Both are of the extra ``track`` and write below the RUN directory: nothing is sent anywhere.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from hemalens.core.config import TrainConfig
from hemalens.core.errors import MissingExtraError

__all__ = ["FOLDERS", "Tracker", "open_trackers"]

FOLDERS: Mapping[str, str] = {"tensorboard": "tensorboard", "mlflow": "mlruns"}
"""Where each kind of tracking writes, below the RUN directory."""

# MLflow calls its store of files "maintenance mode" and refuses it unless asked; a data base needs more packages.
# Without a word against it, it reports its use to its makers from the import on.
_MLFLOW_SURROUNDINGS = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


class _Store(Protocol):
    """One place that scores are logged to; ``logged`` says for each score the last epoch that is in it."""

    logged: dict[str, int]

    def write(self, epoch: int, scores: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Where a run's scores go besides its history: any number of stores, none included."""

    def __init__(self, stores: tuple[_Store, ...] = ()) -> None:
        self._stores = stores

    def log(self, row: Mapping[str, float]) -> None:
        """Log the scores of one epoch, ``row["epoch"]``; a store passes over what it holds already."""
        epoch = int(row["epoch"])
        for store in self._stores:
            new = {name: float(value) for name, value in row.items() if name != "epoch" and epoch > _last(store, name)}
            if new:
                store.write(epoch, new)
                store.logged.update(dict.fromkeys(new, epoch))

    def close(self) -> None:
        """Put everything on disk; the tracker is not used after this."""
        for store in self._stores:
            store.close()


def open_trackers(config: TrainConfig, out: Path, *, resume: bool = False) -> Tracker:
    """Return a tracker that logs to what ``config.track`` names, below the RUN directory ``out``.

    Args:
        config: its ``track`` chooses the stores; MLflow gets all of it as parameters.
        out: holds ``tensorboard/`` and ``mlruns/``.
        resume: go on with what an earlier part of this run has logged; without it that is removed first.

    Raises:
        MissingExtraError: TensorBoard or MLflow is not installed.
    """
    make: dict[str, Callable[[Path, TrainConfig], _Store]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}
    if not resume:
        for folder in FOLDERS.values():
            shutil.rmtree(out / folder, ignore_errors=True)
    stores: list[_Store] = []
    for name in dict.fromkeys(config.track):
        try:
            stores.append(make[name](out / FOLDERS[name], config))
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"track {name}", "track") from error
    return Tracker(tuple(stores))


def _last(store: _Store, name: str) -> int:
    return store.logged.get(name, 0)


class _TensorBoard:
    """Event files; each part of a resumed run has one of its own, TensorBoard reads them as one."""

    def __init__(self, folder: Path, _config: TrainConfig) -> None:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        self.logged: dict[str, int] = {}
        if folder.is_dir():
            found = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # 0: all, not a sample of them
            found.Reload()
            for name in found.Tags()[SCALARS]:
                self.logged[name] = max(event.step for event in found.Scalars(name))
        self._writer = SummaryWriter(str(folder))

    def write(self, epoch: int, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """One run in a store of files of its own, named like the RUN directory."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        with _surroundings(_MLFLOW_SURROUNDINGS):
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient

            self._metric = Metric
            (folder / ".trash").mkdir(parents=True, exist_ok=True)  # MLflow makes it once a process, not once removed
            self._client = MlflowClient(tracking_uri=folder.absolute().as_uri())
            experiment = self._client.get_experiment_by_name("hemalens")
            number = experiment.experiment_id if experiment else self._client.create_experiment("hemalens")
            found = self._client.search_runs([number], max_results=1)
        self.logged: dict[str, int] = {}
        if found:
            self._run = found[0].info.run_id
            for name in found[0].data.metrics:
                history = self._client.get_metric_history(self._run, name)
                self.logged[name] = max(metric.step for metric in history)
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._run = self._client.create_run(number, run_name=folder.absolute().parent.name).info.run_id
        # Said again on every start: a run that was killed before this has none, the same value twice is no mistake.
        self._client.log_batch(self._run, params=[Param(name, value) for name, value in _parameters(config).items()])

    def write(self, epoch: int, scores: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [self._metric(name, value, now, epoch) for name, value in scores.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _parameters(config: TrainConfig) -> dict[str, str]:
    """Return the keys of a configuration as text, the augmentations by name; MLflow takes 500 signs and more."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    plain["augment"] = ", ".join(f"{step.name} x {step.strength:g} ({step.probability:g})" for step in config.augment)
    return {name: str(value)[:500] for name, value in plain.items()}


@contextlib.contextmanager
def _surroundings(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment inside, where nobody has set them to something else."""
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
