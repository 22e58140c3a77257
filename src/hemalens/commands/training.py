"""Commands that train: find-lr, overfit-check, train."""

from pathlib import Path
from typing import Annotated

import typer

from hemalens.commands.options import (
    JsonOption,
    OutDirectory,
    OverwriteOption,
    RecipeOption,
    SetOption,
    SourceArgument,
    find_stage,
)
from hemalens.console import SHOWN, rate_lines, show, watched

__all__ = ["find_lr", "overfit_check", "train"]


def find_lr(
    source: SourceArgument,
    out: Annotated[Path | None, typer.Option("--out", help="Directory for lr.csv and lr.svg; none by default.")] = None,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of this source; drawn 83:13:4 by default.")] = None,
    recipe: RecipeOption = "compact",
    settings: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find a learning rate by a range test on the training samples; no model is kept.

    Example: `hemalens find-lr clean/ --splits splits.csv --set model=baseline`
    """
    stage = find_stage("hemalens.training.finder", "find_lr")
    with watched() as progress:
        summary = stage(
            source,
            out,
            splits=splits,
            recipe=recipe,
            settings=settings or (),
            overwrite=overwrite,
            progress=progress,
        )
    show(summary, as_json, rate_lines(summary))


def overfit_check(
    source: SourceArgument,
    out: OutDirectory,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of this source; drawn 83:13:4 by default.")] = None,
    recipe: RecipeOption = "overfit-check",
    settings: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check that the network can memorise a few samples of each class: the first step before regularising.

    Example: `hemalens overfit-check clean/ --splits splits.csv --out overfit/`
    """
    stage = find_stage("hemalens.training.overfit", "overfit_check")
    with watched() as progress:
        summary = stage(
            source,
            out,
            splits=splits,
            recipe=recipe,
            settings=settings or (),
            overwrite=overwrite,
            progress=progress,
        )
    wrong = [
        f"  {one['sample_id']}: labelled {one['label']}, predicted {one['predicted']}"
        for one in summary["never_learned"]
    ]
    shown = [*wrong[:SHOWN], f"  ... {len(wrong)} in all"] if len(wrong) > SHOWN else wrong
    show(summary, as_json, [summary["meaning"], *shown, f"details in {out}"])


def train(
    source: SourceArgument,
    out: OutDirectory,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of this source; drawn 83:13:4 by default.")] = None,
    recipe: RecipeOption = "compact",
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last complete checkpoint.")] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model and keep the epoch with the best validation score.

    Example: `hemalens train clean/ --splits splits.csv --out runs/first --set epochs=5`
    """
    stage = find_stage("hemalens.training.train", "train")
    with watched() as progress:
        summary = stage(
            source,
            out,
            splits=splits,
            recipe=recipe,
            settings=settings or (),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
    line = (
        f"best epoch {summary['best_epoch']} of {summary['epochs']}: validation {100 * summary['val_accuracy']:.2f} %"
    )
    show(summary, as_json, [f"{line}, distorted {100 * summary['val_distorted_accuracy']:.2f} %, in {out}"])
