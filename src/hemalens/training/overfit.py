"""From a few training samples of each class to the answer whether the network can learn them by heart at all.

It is the first step before any regularisation: what cannot even be memorised is not a question of generalisation.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hemalens.core.artifacts import output_directory, text_digest, write_text
from hemalens.core.charts import FALLBACK_COLOURS, figure_svg, house_style
from hemalens.core.config import TrainConfig, load_config
from hemalens.core.errors import ConfigError
from hemalens.core.run_summary import NeverLearned, OverfitCheck, OverfitEpoch
from hemalens.core.types import IntArray, Progress, no_progress
from hemalens.data.selection import choose_split, open_assigned
from hemalens.data.split import splits_table
from hemalens.training.device import choose_device, torch_threads
from hemalens.training.feed import MemoryFeed
from hemalens.training.loop import fit
from hemalens.training.recipes import find_recipe
from hemalens.training.tensors import LabelledImages, load_images
from hemalens.training.train import check_config

__all__ = ["OVERFIT_RECIPE", "memorise", "overfit_check", "stratified"]

OVERFIT_RECIPE = "overfit-check"


class _LearnedError(Exception):
    """Everything is learned: leaves the training before its last epoch."""


def overfit_check(
    source: str | Path,
    out: Path,
    *,
    splits: Path | None = None,
    recipe: str = OVERFIT_RECIPE,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train on ``per_class`` training samples of each class until all are learned; write and return what came of it.

    Args:
        source: any SOURCE with labels.
        out: directory for ``overfit.json`` and ``overfit.svg``.
        splits: a ``splits.csv`` of this source; without it as in training.
        recipe: name of a recipe or a TOML file; the one of this name keeps nothing from being memorised.
        settings: ``key=value`` texts over the recipe, for example another ``model``.
        overwrite: replace an earlier output.
        progress: called for the steps.

    Raises:
        ConfigError: an unknown recipe, key or value.
        SourceError: labels, classes or splits are missing.
        TrainingError: a loss is not finite.
    """
    config = load_config(find_recipe(recipe), settings)
    check_config(config)
    if config.freeze == "features":
        raise ConfigError(
            "freeze features", "leaves only the last layer to memorise the samples", "use --set freeze=none"
        )
    opened, assigned = open_assigned(source, splits, seed=config.seed, progress=progress)
    labels, chosen = choose_split(opened, assigned, "train")
    taken = stratified(labels, config.per_class, seed=config.seed)
    indices = [chosen[index] for index in taken]
    options = {"recipe": recipe, "config": config.model_dump(mode="json")}
    inputs = {
        "source": opened.fingerprint(),
        "splits": text_digest(splits_table(opened.samples, assigned).write_csv()),
    }
    with (
        output_directory(out, "overfit-check", overwrite=overwrite, seed=config.seed, inputs=inputs, options=options),
        torch_threads(config.threads),
    ):
        images = load_images(opened, indices, size=config.image_size, progress=progress)
        subset = LabelledImages(images, labels[taken], tuple(opened.samples[index].sample_id for index in indices))
        found = memorise(subset, opened.classes, config, progress=progress)
        found.write(out / "overfit.json")
        write_text(out / "overfit.svg", figure_svg(_curves(found.history), label=found.meaning) + "\n")
    return found.to_json()


def memorise(
    subset: LabelledImages, classes: Sequence[str], config: TrainConfig, *, progress: Progress = no_progress
) -> OverfitCheck:
    """Train on a set and score it on the same images after each epoch, until all are right or the epochs are over."""
    config = config.model_copy(update={"supersample": 1.0})  # the images that are trained on are those that are scored
    rows: list[OverfitEpoch] = []

    def note(row: Mapping[str, float]) -> None:
        rows.append(OverfitEpoch(epoch=int(row["epoch"]), train_loss=row["train_loss"], accuracy=row["val_accuracy"]))
        if row["val_accuracy"] == 1.0:
            raise _LearnedError

    wrong: list[NeverLearned] = []
    feed = MemoryFeed(subset, config, choose_device(config.device))
    with tempfile.TemporaryDirectory(prefix="hemalens-") as folder:
        try:
            fitted = fit(feed, subset, len(classes), config, checkpoints=Path(folder), progress=progress, note=note)
        except _LearnedError:
            pass
        else:
            predicted = fitted.validation[0].argmax(axis=1)
            for index in np.flatnonzero(predicted != subset.labels):
                said = {"label": classes[subset.labels[index]], "predicted": classes[predicted[index]]}
                wrong.append(NeverLearned(sample_id=subset.sample_ids[index], **said))
    best = max(row.accuracy for row in rows)
    return OverfitCheck(
        reached=best == 1.0,
        epoch=len(rows),
        n_samples=len(subset),
        accuracy=best,
        model=config.model,
        history=tuple(rows),
        never_learned=tuple(wrong),
        meaning=_meaning(len(subset), len(wrong), len(rows)),
    )


def stratified(labels: IntArray, per_class: int, *, seed: int = 0) -> IntArray:
    """Return indices (M,), rising, of ``per_class`` samples of each class, or all it has, drawn from the seed."""
    generator = np.random.default_rng(seed)
    parts = [generator.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(parts))


def _meaning(total: int, wrong: int, epochs: int) -> str:
    if not wrong:
        return (
            f"all {total} samples are learned after {epochs} epochs: labels, loss and network fit together; what is "
            "missing on validation samples is generalisation (more data, augmentation, regularisation)"
        )
    return (
        f"{wrong} of {total} samples are not learned after {epochs} epochs; the usual causes are a learning rate "
        "that is too high or too low (hemalens find-lr suggests one), wrong labels (look at the samples listed as "
        "never learned), a network that is too small, or too few epochs"
    )


def _curves(history: Sequence[OverfitEpoch]) -> Figure:
    """Draw loss and accuracy on the samples that are trained on, over the epochs."""
    epochs = [row.epoch for row in history]
    with house_style():
        figure = Figure(figsize=(8.4, 3.0))
        for axes, column, title in zip(
            figure.subplots(1, 2),
            ("train_loss", "accuracy"),
            ("Training loss (nats)", "Training accuracy"),
            strict=True,
        ):
            marker = "o" if len(epochs) < 3 else None
            axes.plot(epochs, [getattr(row, column) for row in history], color=FALLBACK_COLOURS[0], marker=marker)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.grid()
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    return figure
