"""A source to class probabilities of each sample by a network that was not trained on it: k-fold training.

What an audit would drop takes no part. Samples of one group and copies of one image lie in one fold, or a network
would have seen what it is asked about. Each fold's answers are kept as it ends, and its training goes on from its last
epoch, so that a run that was killed goes on where it was.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from hemalens.core.artifacts import (
    is_complete,
    output_directory,
    read_json,
    read_table,
    write_json,
    write_table,
)
from hemalens.core.config import TrainConfig, load_config
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.metrics import softmax
from hemalens.core.recorded import open_record
from hemalens.core.types import FloatArray, IntArray, Progress, encode_labels, no_progress
from hemalens.data.audit.checks.near_duplicates import copies
from hemalens.data.audit.findings import Inspection, find_all, suggested_drops
from hemalens.data.audit.statistics import measure_source
from hemalens.data.sources import Source, open_source
from hemalens.data.split import assign, linked_units
from hemalens.training.device import choose_device, torch_threads
from hemalens.training.loop import fit
from hemalens.training.predicting import predict_logits
from hemalens.training.probe import fit_probe
from hemalens.training.recipes import find_recipe
from hemalens.training.streaming import open_feed
from hemalens.training.tensors import LabelledImages, load_images
from hemalens.training.train import check_config

__all__ = ["OUT_OF_FOLD_RECIPE", "TABLE", "choose_folds", "out_of_fold"]

OUT_OF_FOLD_RECIPE = "out-of-fold"
TABLE = "out_of_fold.csv"
_SUMMARY = "out_of_fold.json"
_FOLDS = 4
_PLAN = "plan.json"
_SHARES = "shares.parquet"
# The epoch is chosen by images that are trained on: those of the held-out fold must not choose who judges them.
_WATCHED = 256


def out_of_fold(
    source: str | Path,
    out: Path,
    *,
    folds: int = _FOLDS,
    recipe: str = OUT_OF_FOLD_RECIPE,
    settings: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write ``out_of_fold.csv`` (sample_id, label, fold, p_CLASS) and return the summary in ``out_of_fold.json``.

    Where ``out`` holds the same already, nothing is done; where it was begun, it is gone on with.

    Args:
        source: any SOURCE with labels of two classes or more, as dirty as it comes.
        out: directory to write.
        folds: how many parts, each judged by a network that was trained on the others.
        recipe: name of a recipe or a TOML file.
        settings: ``key=value`` texts over the recipe.
        classes: class names in label order, instead of the source's own.
        workers: processes that measure the images; None for one a core.
        overwrite: replace what was made of another source or by another configuration.
        progress: called for the steps.

    Raises:
        ConfigError: fewer than two folds, or an unknown recipe, key or value.
        SourceError: fewer than two classes, or too few samples.
        ArtifactError: ``out`` holds something else.
        TrainingError: a loss is not finite.
    """
    if folds < 2:
        raise ConfigError(f"folds {folds}", "must be at least 2", "choose 4 or 5")
    config = load_config(find_recipe(recipe), settings)
    check_config(config)
    opened = open_source(source, classes=classes)
    options = {"recipe": recipe, "folds": folds, "config": config.model_dump(mode="json")}
    options |= {"classes": list(classes) if classes else None}
    inputs = {"source": opened.fingerprint()}
    if is_complete(out, options=options, inputs=inputs):
        return open_record(out, "out-of-fold").json(_SUMMARY)
    plan = {"options": options, "inputs": inputs}
    begun = _begun(out / "folds" / _PLAN, plan)
    directory = output_directory(
        out,
        "out-of-fold",
        overwrite=overwrite,
        resume=begun,
        seed=config.seed,
        inputs=inputs,
        options=options,
    )
    with directory, torch_threads(config.threads):
        if not begun:
            shutil.rmtree(out / "folds", ignore_errors=True)
            (out / "folds").mkdir()
            write_json(out / "folds" / _PLAN, plan)
        task = _prepare(opened, folds, config, out / "folds", workers=workers, progress=progress)
        probabilities = np.empty((len(task.indices), len(opened.classes)))
        for fold in range(folds):
            probabilities[task.folds == fold] = _judge_fold(task, fold, out / "folds", progress)
        write_table(out / TABLE, _table(task, probabilities))
        summary = _summary(task, probabilities)
        write_json(out / _SUMMARY, summary)
        shutil.rmtree(out / "folds")
    return summary


def choose_folds(labels: Sequence[str], units: IntArray, folds: int, *, seed: int = 0) -> IntArray:
    """Return a fold 0..folds-1 per sample (N,): stratified by label, no unit (N,) of linked samples torn apart."""
    return assign(labels, units, shares=[1 / folds] * folds, seed=seed)


@dataclass(frozen=True, slots=True)
class _Task:
    """What is judged: indices in the source (M,), their labels (M,) and folds (M,), and how to train."""

    source: Source
    indices: IntArray
    labels: IntArray
    folds: IntArray
    config: TrainConfig


def _prepare(
    source: Source, folds: int, config: TrainConfig, folder: Path, *, workers: int | None, progress: Progress
) -> _Task:
    """Share the samples out among the folds, or read how an earlier start of this run did."""
    labels = encode_labels([sample.label for sample in source.samples], source.classes)
    kept = folder / _SHARES
    if not kept.is_file():
        indices, drawn = _share_out(source, labels, folds, seed=config.seed, workers=workers, progress=progress)
        write_table(kept, pl.DataFrame({"index": indices, "fold": drawn}))
    table = read_table(kept, {"index": pl.Int64, "fold": pl.Int64})
    indices = table["index"].to_numpy()
    return _Task(source, indices, labels[indices], table["fold"].to_numpy(), config)


def _share_out(
    source: Source, labels: IntArray, folds: int, *, seed: int, workers: int | None, progress: Progress
) -> tuple[IntArray, IntArray]:
    """Return indices (M,) and folds (M,), without what an audit would drop and what has no label (-1)."""
    statistics = measure_source(source, workers=workers, progress=progress)
    inspection = Inspection(statistics, source.samples)
    drops = suggested_drops(find_all(inspection))
    indices = np.array([index for index in range(len(source)) if labels[index] >= 0 and index not in drops], np.int64)
    present = len(np.unique(labels[indices]))
    units = linked_units(source.samples, copies(inspection.near, statistics))[indices]
    drawn = choose_folds([source.classes[label] for label in labels[indices]], units, folds, seed=seed)
    if present < 2 or len(indices) < 2 * folds or not np.bincount(drawn, minlength=folds).all():
        rule = f"has {len(indices)} usable labelled samples of {present} classes, too few for {folds} folds"
        raise SourceError(f"source {source.spec}", rule, "use more samples, or another source")
    return indices, drawn


def _judge_fold(task: _Task, fold: int, folder: Path, progress: Progress) -> FloatArray:
    """Return the probabilities (M_fold, C) of one fold under a network trained on the others, kept once they exist."""
    kept = folder / f"fold-{fold + 1}.parquet"
    columns = [f"p_{number}" for number in range(len(task.source.classes))]
    if kept.is_file():
        return read_table(kept, dict.fromkeys(columns, pl.Float64)).select(columns).to_numpy()

    def tell(what: str, done: int, total: int) -> None:
        progress(f"fold {fold + 1} of {int(task.folds.max()) + 1}: {what}", done, total)

    config, device = task.config, choose_device(task.config.device)
    inside, outside = np.flatnonzero(task.folds != fold), np.flatnonzero(task.folds == fold)
    watched = _load(task, np.sort(np.random.default_rng(config.seed).permutation(inside)[:_WATCHED]), tell)
    with open_feed(
        task.source, task.indices[inside].tolist(), task.labels[inside], config, device, progress=tell
    ) as feed:
        checkpoints = folder / f"fold-{fold + 1}"
        checkpoints.mkdir(exist_ok=True)
        learn = fit_probe if config.freeze == "features" else fit
        fitted = learn(feed, watched, len(task.source.classes), config, checkpoints=checkpoints, progress=tell)
    probabilities = _mean_of_views(fitted.module.to(device), _load(task, outside, tell))
    write_table(kept, pl.DataFrame(probabilities, schema=columns))
    shutil.rmtree(checkpoints)
    return probabilities


def _load(task: _Task, rows: IntArray, progress: Progress) -> LabelledImages:
    indices = task.indices[rows].tolist()
    images = load_images(task.source, indices, size=task.config.image_size, progress=progress)
    return LabelledImages(images, task.labels[rows], tuple(task.source.samples[index].sample_id for index in indices))


def _mean_of_views(module: nn.Module, held: LabelledImages) -> FloatArray:
    """Return the mean probabilities (M, C) over an image and its flips: exact, and steadier than a single look."""
    images = torch.from_numpy(held.images)
    views = (images, images.flip(1), images.flip(2), images.flip(1, 2))
    return np.asarray(np.mean([softmax(predict_logits(module, view)) for view in views], axis=0))


def _begun(path: Path, plan: Mapping[str, Any]) -> bool:
    """Tell whether a plan that was begun is this one; a damaged one is not."""
    try:
        return path.is_file() and read_json(path) == plan
    except ArtifactError:
        return False


def _table(task: _Task, probabilities: FloatArray) -> pl.DataFrame:
    samples = [task.source.samples[index] for index in task.indices.tolist()]
    columns: dict[str, Any] = {
        "sample_id": [sample.sample_id for sample in samples],
        "label": [sample.label for sample in samples],
        "fold": task.folds + 1,
    }
    columns |= {f"p_{name}": probabilities[:, index].round(6) for index, name in enumerate(task.source.classes)}
    return pl.DataFrame(columns)


def _summary(task: _Task, probabilities: FloatArray) -> dict[str, Any]:
    right = probabilities.argmax(axis=1) == task.labels
    return {
        "n_samples": len(task.source),
        "judged": len(task.indices),
        "folds": int(task.folds.max()) + 1,
        "epochs": task.config.epochs,
        "accuracy": float(right.mean()),
        "accuracy_per_fold": [float(right[task.folds == fold].mean()) for fold in range(int(task.folds.max()) + 1)],
    }
