"""Commands that go the whole way: run, demo."""

from typing import Annotated

import typer

from hemalens.commands.options import (
    JsonOption,
    OutDirectory,
    OverwriteOption,
    RatiosOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SourceArgument,
    find_stage,
)
from hemalens.console import score_lines, show, watched

__all__ = ["demo", "run"]


def run(
    source: SourceArgument,
    out: OutDirectory,
    recipe: RecipeOption = "compact",
    settings: SetOption = None,
    ratios: RatiosOption = "83:13:4",
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run all stages: audit, clean, split, train, evaluate, report. After an interruption, repeat the command.

    Example: `hemalens run training_set.npz --out out/`
    """
    stage = find_stage("hemalens.pipeline", "run")
    with watched() as progress:
        summary = stage(
            source,
            out,
            recipe=recipe,
            settings=settings or (),
            ratios=ratios,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    show(summary, as_json, [*score_lines(summary), f"look at {summary['report']}"])


def demo(
    out: OutDirectory,
    per_class: Annotated[int, typer.Option(min=20, help="Synthetic cells to render per class.")] = 200,
    settings: SetOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run all stages on synthetic cells that are rendered first. Needs no data and no network.

    Example: `hemalens demo --out demo/`
    """
    stage = find_stage("hemalens.pipeline", "demo")
    with watched() as progress:
        summary = stage(
            out, per_class=per_class, settings=settings or (), seed=seed, overwrite=overwrite, progress=progress
        )
    show(summary, as_json, ["synthetic cells only:", *score_lines(summary), f"look at {summary['report']}"])
