"""Commands on trained models: evaluate, explain, report."""

from pathlib import Path
from typing import Annotated

import typer

from hemalens.commands.options import AdaptOption, JsonOption, OutDirectory, OverwriteOption, SourceArgument, find_stage
from hemalens.console import abstention_lines, adaptation_lines, corruption_lines, score_lines, show, watched

__all__ = ["evaluate", "explain", "report"]

ModelArgument = Annotated[Path, typer.Argument(help="RUN directory, .onnx file, or embedded.")]
SplitsOption = Annotated[Path | None, typer.Option(help="splits.csv of this source.")]
SplitOption = Annotated[
    str | None, typer.Option(help="test, val, train or all; test where --splits is given, else all.")
]


def evaluate(
    model: ModelArgument,
    source: SourceArgument,
    out: OutDirectory,
    splits: SplitsOption = None,
    split: SplitOption = None,
    audit: Annotated[
        Path | None, typer.Option(help="Directory of an audit; scores its background batches separately.")
    ] = None,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also score corrupted copies of each image (MedMNIST-C).")
    ] = False,
    adapt: AdaptOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a model on a source: accuracy with intervals, calibration, abstention, and accuracy on distorted images.

    Example: `hemalens evaluate runs/first val_set.npz --out evaluation/`

    An exported model is scored the same way: `hemalens evaluate model.onnx val_set.npz --out evaluation/`
    """
    stage = find_stage("hemalens.evaluation.evaluate", "evaluate")
    with watched() as progress:
        summary = stage(
            model,
            source,
            out,
            splits=splits,
            split=split,
            audit=audit,
            corruptions=corruptions,
            adapt=adapt,
            overwrite=overwrite,
            progress=progress,
        )
    said = summary.to_json()
    lines = [*adaptation_lines(said), *score_lines(said), *abstention_lines(summary), *corruption_lines(summary)]
    show(said, as_json, [*lines, f"details in {out}"])


def explain(
    model: ModelArgument,
    source: SourceArgument,
    out: OutDirectory,
    splits: SplitsOption = None,
    split: SplitOption = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Largest number of samples to explain; the worst mistakes come first.")
    ] = 96,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw heat maps of the evidence for each prediction, and test whether they are better than random maps.

    Example: `hemalens explain runs/first val_set.npz --out explained/`
    """
    stage = find_stage("hemalens.evaluation.explain", "explain")
    with watched() as progress:
        summary = stage(
            model, source, out, splits=splits, split=split, limit=limit, overwrite=overwrite, progress=progress
        )
    lines = [f"{summary.n_explained} samples explained; compared with random maps: {summary.check.verdict}"]
    show(summary.to_json(), as_json, [*lines, f"look at {out / 'explain.html'}"])


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="RUN directories; several are compared in tables.")
    ],
    out: OutDirectory,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option("--evaluation", help="Directory that `hemalens evaluate` wrote outside the run; may be repeated."),
    ] = None,
    elsewhere: Annotated[
        list[Path] | None,
        typer.Option("--elsewhere", help="Evaluation of the first run on another laboratory's cells; may be repeated."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the report and the model card of one or more runs; several runs are compared in tables.

    Example: `hemalens report runs/baseline runs/compact --out report/`
    """
    stage = find_stage("hemalens.report.report", "report")
    summary = stage(runs, out, evaluations=evaluations or (), elsewhere=elsewhere or (), overwrite=overwrite)
    show(summary, as_json, [f"look at {out / 'report.html'}"])
