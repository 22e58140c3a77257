"""A learning rate from the data: the range test of Smith 2017, on a network of its own that is thrown away after it.

The rate grows by the same factor from step to step. The highest one to train with is where the loss stops falling.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure

from hemalens.core.artifacts import output_directory, text_digest, write_table, write_text
from hemalens.core.charts import FALLBACK_COLOURS, INK, figure_svg, house_style
from hemalens.core.config import TrainConfig, load_config
from hemalens.core.errors import ConfigError, TrainingError
from hemalens.core.types import FloatArray, Progress, no_progress
from hemalens.data.selection import choose_split, open_assigned
from hemalens.data.split import splits_table
from hemalens.training.augment.views import make_views, views_loss
from hemalens.training.device import autocast, choose_device, drawn_from, torch_threads
from hemalens.training.feed import Batch, Feed
from hemalens.training.loop import NORMALISED_BY
from hemalens.training.recipes import find_recipe
from hemalens.training.schedule import class_weights
from hemalens.training.state import start
from hemalens.training.streaming import open_feed
from hemalens.training.train import DEFAULT_RECIPE, check_config

__all__ = ["LrCurve", "find_lr", "range_test", "suggest_rate"]

_MEMORY = 0.9  # share of the past in the smoothed loss
_DELAY = 9  # steps that the smoothed loss comes late: the mean age of what is in it, 0.9 / 0.1
_DIVERGED = 3.0  # times the lowest smoothed loss
_FALLEN = 0.95  # times the loss at the start: above that it has not fallen, only wavered


@dataclass(frozen=True, slots=True)
class LrCurve:
    """What a range test found.

    Attributes:
        rates: learning rate of each step that was taken, rising.
        losses: smoothed training loss under it, in nats; where the test stopped early, up to there.
        suggestion: the rate to train with as the highest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_lr(
    source: str | Path,
    out: Path | None = None,
    *,
    splits: Path | None = None,
    recipe: str = DEFAULT_RECIPE,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Run a range test on a source's ``train`` samples; return suggestion and curve, write them where ``out`` is given.

    Args:
        source: any SOURCE with labels.
        out: directory for ``lr.csv`` and ``lr.svg``; None writes nothing.
        splits: a ``splits.csv`` of this source; without it as in training.
        recipe: name of a recipe or a TOML file; its ``lr`` and ``schedule`` do not matter here.
        settings: ``key=value`` texts over the recipe.
        overwrite: replace an earlier output.
        progress: called for the steps.

    Raises:
        ConfigError: an unknown recipe, key or value.
        SourceError: labels, classes or splits are missing.
        TrainingError: the loss falls under no rate.
    """
    config = load_config(find_recipe(recipe), settings)
    check_config(config)
    if config.freeze == "features":
        raise ConfigError("freeze features", "fits the last layer without a learning rate", "use --set freeze=none")
    opened, assigned = open_assigned(source, splits, seed=config.seed, progress=progress)
    labels, chosen = choose_split(opened, assigned, "train")
    device = choose_device(config.device)
    with (
        torch_threads(config.threads),
        open_feed(opened, chosen, labels, config, device, progress=progress) as training,
    ):
        curve = range_test(training, len(opened.classes), config, progress=progress)
    if out is not None:
        options = {"recipe": recipe, "config": config.model_dump(mode="json")}
        table = splits_table(opened.samples, assigned)
        inputs = {"source": opened.fingerprint(), "splits": text_digest(table.write_csv())}
        with output_directory(out, "find-lr", overwrite=overwrite, seed=config.seed, inputs=inputs, options=options):
            write_table(out / "lr.csv", pl.DataFrame({"lr": curve.rates, "loss": curve.losses}))
            label = f"Training loss against the learning rate; suggested is {curve.suggestion:.2g}."
            write_text(out / "lr.svg", figure_svg(_curve_figure(curve), label=label) + "\n")
    return {
        "suggestion": curve.suggestion,
        "configured": config.lr,
        "steps": len(curve.rates),
        "curve": [{"lr": rate, "loss": loss} for rate, loss in zip(curve.rates, curve.losses, strict=True)],
    }


def range_test(
    train: Feed,
    n_classes: int,
    config: TrainConfig,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 100,
    progress: Progress = no_progress,
) -> LrCurve:
    """Train a fresh network for some steps while the learning rate rises from ``lowest`` to ``highest``.

    Network, optimizer, augmentation and loss are those of ``config``; with ``freeze = "gradual"`` all layers learn from
    the first step, as they do at the end of such a training. Nothing is left behind: random state, threads and files
    are as before. The test stops where the smoothed loss is three times its lowest or no number.

    Args:
        train: batches of images with labels 0..C-1; as many epochs are begun as the steps take.
        n_classes: C.
        config: everything else.
        lowest: rate of the first step.
        highest: rate of the last step.
        steps: how many at most.
        progress: called after each step.

    Raises:
        TrainingError: the loss falls under no rate.
    """
    device = choose_device(config.device)
    state = start(train.sample(NORMALISED_BY), n_classes, config, device)
    weights = None
    if config.balance == "weights":
        weights = torch.from_numpy(class_weights(train.labels, n_classes)).float().to(device)
    rates = np.geomspace(lowest, highest, steps)
    smoothed: list[float] = []
    mean = 0.0
    state.module.train()
    for step, (epoch, batch) in zip(range(steps), _endless(train), strict=False):
        progress("searching a learning rate", step, steps)
        for group in state.optimizer.param_groups:
            group["lr"] = float(rates[step]) * group["lr_scale"]
        views = make_views(batch, train, config, epoch=epoch)
        with drawn_from(config.seed, step), autocast(device, config.precision):
            logits = state.module(views.images).float()
        loss = views_loss(logits, views, config, weights)
        mean = _MEMORY * mean + (1.0 - _MEMORY) * loss.item()
        # The average starts at 0: what it lacks after so few steps is put in (as in Adam, Kingma and Ba 2015).
        now = mean / (1.0 - _MEMORY ** (step + 1))
        if not math.isfinite(now) or now > _DIVERGED * min(smoothed, default=math.inf):
            break
        smoothed.append(now)
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        if config.clip:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.module.parameters(), config.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
    progress("searching a learning rate", steps, steps)
    rates = rates[: len(smoothed)]
    return LrCurve(tuple(rates.tolist()), tuple(smoothed), suggest_rate(rates, np.array(smoothed)))


def suggest_rate(rates: FloatArray, losses: FloatArray) -> float:
    """Return the rate from which on the loss falls no more: that of the lowest loss, less the delay of the smoothing.

    The steepest fall, the other usual choice, came fifty times too early on a set that is easy to learn.

    Args:
        rates: (N,), rising.
        losses: (N,), smoothed as by ``range_test``.

    Raises:
        TrainingError: the loss does not fall, or there are too few steps.
    """
    low = int(np.argmin(losses)) if len(losses) else 0
    if low <= _DELAY or losses[low] >= _FALLEN * losses[_DELAY]:
        reached = f"{rates[-1]:.1g}" if len(rates) else "of the first step"
        step = "check labels and classes, or search with another network or batch_size"
        raise TrainingError(f"loss up to learning rate {reached}", "must fall under some rate", step)
    return float(rates[low - _DELAY])


def _curve_figure(curve: LrCurve) -> Figure:
    """Draw the smoothed loss against the learning rate, the suggested one marked."""
    with house_style():
        figure = Figure(figsize=(6.6, 3.4))
        axes = figure.add_subplot()
        axes.plot(curve.rates, curve.losses, color=FALLBACK_COLOURS[0])
        label = f"suggested: {curve.suggestion:.2g}"
        axes.axvline(curve.suggestion, color=INK, lw=0.8, ls=(0, (4, 3)), label=label)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss, smoothed (nats)")
        axes.grid()
        axes.legend()
    return figure


def _endless(train: Feed) -> Iterator[tuple[int, Batch]]:
    """Yield the batches of one epoch after the other with its number."""
    epoch = 0
    while True:
        epoch += 1
        for batch in train.epoch(epoch):
            yield epoch, batch
