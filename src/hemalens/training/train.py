"""Clean samples and their split to a trained model on disk."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import polars as pl

from hemalens.core.artifacts import is_complete, output_directory, read_json, text_digest, write_json, write_table
from hemalens.core.config import TrainConfig, load_config
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.core.recorded import open_record
from hemalens.core.run_summary import TrainedModel
from hemalens.core.types import Progress, no_progress
from hemalens.data.reading.parallel import available_cores
from hemalens.data.selection import choose_split, open_assigned
from hemalens.data.sources import Source
from hemalens.data.split import splits_table
from hemalens.training.abstaining import learn_abstention
from hemalens.training.augment.augment import check_steps
from hemalens.training.checkpoint import PLAN, save_model, save_validation
from hemalens.training.device import choose_device, torch_threads
from hemalens.training.distributed import World, world_from_environment
from hemalens.training.loop import Fitted, fit
from hemalens.training.models import check_model, count_parameters
from hemalens.training.probe import fit_probe
from hemalens.training.recipes import find_recipe
from hemalens.training.streaming import choose_window, open_feed
from hemalens.training.tensors import LabelledImages, load_images
from hemalens.training.tracking import Tracker, open_trackers
from hemalens.training.weights import find_weights

__all__ = ["DEFAULT_RECIPE", "check_config", "train"]

DEFAULT_RECIPE = "compact"


def train(
    source: str | Path | Source,
    out: Path,
    *,
    splits: Path | None = None,
    recipe: str = DEFAULT_RECIPE,
    settings: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train a model on a source's ``train`` samples, choose its epoch on ``val``, and return the run's summary.

    Args:
        source: any SOURCE with labels, or one that is open already.
        out: the RUN directory to write.
        splits: a ``splits.csv`` of this source; without it the source's own splits, or 83:13:4 drawn from the seed.
        recipe: name of a recipe or a TOML file.
        settings: ``key=value`` texts over the recipe.
        resume: go on after the last whole checkpoint in ``out``.
        overwrite: replace an earlier run; with ``resume`` one that was of another configuration or other data.
        progress: called for the steps.

    Raises:
        ConfigError: an unknown recipe, key or value.
        ArtifactError: ``out`` holds a run, or with ``resume`` one of another configuration or other data.
        SourceError: labels, classes or splits are missing.
    """
    config = load_config(find_recipe(recipe), settings)
    check_config(config)
    opened, assigned = open_assigned(source, splits, seed=config.seed, progress=progress)
    table = splits_table(opened.samples, assigned)
    options = {"recipe": recipe, "config": config.model_dump(mode="json")}
    weights = find_weights(config)
    inputs = {"source": opened.fingerprint(), "splits": text_digest(table.write_csv())}
    inputs |= {"weights": weights.sha256} if weights else {}
    plan = {"config": options["config"], "inputs": inputs}
    with world_from_environment(config.device) as world:
        if config.batch_size < 2 * world.size:
            rule = f"must be at least twice the {world.size} processes"
            raise ConfigError(f"batch_size {config.batch_size}", rule, "use --set batch_size=... or fewer processes")
        complete = resume and is_complete(out, options=options, inputs=inputs)
        resume = resume and not complete and _resumable(out / "checkpoints" / PLAN, plan, overwrite=overwrite)
        world.wait()  # nobody writes before all have looked
        if complete:
            return open_record(out, "train").json("model.json")
        directory = output_directory(
            out, "train", overwrite=overwrite, resume=resume, seed=config.seed, inputs=inputs, options=options
        )
        with directory if world.leads else nullcontext():
            if world.leads:
                _begin(out, config, table, None if resume else plan | {"window": _window(assigned, config, world)})
            world.wait()
            with closing(open_trackers(config, out, resume=resume) if world.leads else Tracker()) as tracker:
                card = _train(
                    opened, assigned, config, out, world, progress if world.leads else no_progress, tracker.log
                )
        world.wait()
    return card


def check_config(config: TrainConfig) -> None:
    """Raise ConfigError where a configuration names a network, weights, augmentation or device that there are not."""
    check_model(config.model)
    find_weights(config)
    check_steps(config.augment)
    choose_device(config.device)


def _begin(out: Path, config: TrainConfig, table: pl.DataFrame, plan: Mapping[str, Any] | None) -> None:
    """Write what is known before the first step; a new plan takes the place of earlier checkpoints."""
    if plan is not None:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        (out / "checkpoints").mkdir(exist_ok=True)
        write_json(out / "checkpoints" / PLAN, plan)
    write_json(out / "config.json", config.model_dump(mode="json"))
    write_table(out / "splits.csv", table)


def _window(assigned: Sequence[str], config: TrainConfig, world: World) -> int:
    """Return how many images are held at a time; noted in the plan, since a resumed run may find another memory."""
    count = sum(split == "train" for split in assigned)
    return choose_window(count, config, choose_device(config.device), processes=world.local_size)


def _train(
    source: Source,
    assigned: Sequence[str],
    config: TrainConfig,
    out: Path,
    world: World,
    progress: Progress,
    note: Callable[[dict[str, float]], None],
) -> dict[str, Any]:
    """Load both splits, train, and let the leading process write the model; return its card."""
    device = choose_device(config.device, local_rank=world.local_rank)
    window = _planned_window(out / "checkpoints" / PLAN)
    with torch_threads(config.threads or max(1, available_cores() // world.local_size)):
        labels, chosen = choose_split(source, assigned, "train")
        with open_feed(source, chosen, labels, config, device, progress=progress, window=window) as training:
            labels, chosen = choose_split(source, assigned, "val")
            images = load_images(source, chosen, size=config.image_size, progress=progress)
            validation = LabelledImages(images, labels, tuple(source.samples[index].sample_id for index in chosen))
            learn = fit_probe if config.freeze == "features" else fit
            fitted = learn(
                training,
                validation,
                len(source.classes),
                config,
                checkpoints=out / "checkpoints",
                world=world,
                progress=progress,
                note=note,
            )
    card = _card(source, config, fitted, counts=(len(training.labels), len(validation)), processes=world.size)
    if world.leads:
        write_table(out / "history.csv", pl.DataFrame(fitted.history))
        save_validation(out, *fitted.validation)
        save_model(out, fitted.module, card.to_json())
        with torch_threads(config.threads or available_cores()):
            abstention = learn_abstention(
                fitted.module, source, assigned, validation, steps=config.augment, seed=config.seed, progress=progress
            )
        write_json(out / "abstention.json", abstention.to_json())
    return card.to_json()


def _planned_window(plan: Path) -> int:
    window = read_json(plan).get("window", 0)
    if not isinstance(window, int) or window < 0:
        raise ArtifactError(f"file {plan}", f"holds the window {window!r}", "add --overwrite to start again")
    return window


def _resumable(path: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Tell whether the checkpoints beside a plan are of this very plan; refuse others unless they may be replaced."""
    if not path.is_file():
        if not overwrite and any(path.parent.glob("epoch-*.safetensors")):
            step = "put it back, or add --overwrite to start again"
            raise ArtifactError(
                f"file {path}", "is missing beside checkpoints, so it is unknown what they belong to", step
            )
        return False
    try:
        begun = read_json(path)
    except ArtifactError:
        if overwrite:
            return False
        raise
    for part, wanted in plan.items():
        for key, now in wanted.items():
            before = found.get(key) if isinstance(found := begun.get(part), dict) else None
            if before == now:
                continue
            if overwrite:
                return False
            changed = f"was {before!r} in the run to resume, is {now!r}" if part == "config" else "has changed"
            rule = f"{changed}; checkpoints in {path.parent} are of the earlier one"
            raise ArtifactError(f"{key}", rule, "resume what was begun, add --overwrite, or choose another --out")
    return True


def _card(
    source: Source, config: TrainConfig, fitted: Fitted, *, counts: tuple[int, int], processes: int
) -> TrainedModel:
    """Return what ``model.json`` says; ``counts`` are of training and validation samples."""
    best = fitted.history[fitted.best_epoch - 1]
    return TrainedModel(
        schema_version=1,
        model=config.model,
        weights=config.weights,
        weights_sha256=weights.sha256 if (weights := find_weights(config)) else None,
        freeze=config.freeze,
        normalise=config.normalise,
        classes=tuple(source.classes),
        image_size=config.image_size,
        parameters=count_parameters(fitted.module),
        precision=config.precision,
        device=str(choose_device(config.device)),
        threads=config.threads or available_cores(),
        best_epoch=fitted.best_epoch,
        epochs=len(fitted.history),
        train_seconds=round(sum(row["seconds"] for row in fitted.history), 2),
        val_accuracy=best["val_accuracy"],
        val_distorted_accuracy=best["val_distorted_accuracy"],
        n_train=counts[0],
        n_val=counts[1],
        processes=processes,
    )
