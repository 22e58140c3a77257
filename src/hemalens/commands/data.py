"""Commands on images: audit, clean, split."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hemalens.commands.options import (
    ClassesOption,
    JsonOption,
    OutDirectory,
    OverwriteOption,
    RatiosOption,
    SeedOption,
    SourceArgument,
    find_stage,
    split_names,
)
from hemalens.console import announce, audit_lines, clean_lines, review_lines, show, watched
from hemalens.core.errors import ConfigError

__all__ = ["audit", "clean", "split"]


def audit(
    source: SourceArgument,
    out: OutDirectory,
    against: Annotated[
        str | None, typer.Option(help="Another source, for example a test set: images in both are reported as leakage.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="splits.csv of this source: images in two splits are reported as leakage.")
    ] = None,
    classes: ClassesOption = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images; one per core by default.")
    ] = None,
    label_issues: Annotated[
        bool,
        typer.Option(
            "--label-issues",
            help="Find labels that may be wrong, by models trained on parts of the set; takes minutes.",
        ),
    ] = False,
    probabilities: Annotated[
        Path | None,
        typer.Option(
            help="Class probabilities to check labels with, by models not trained on the same image; .csv or .npy."
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Measure images in processes of this machine, or through Ray Data (files and shards only)."),
    ] = "local",
    overwrite: OverwriteOption = False,
    review: Annotated[
        bool,
        typer.Option(
            "--review",
            help="Then open a page to decide on each finding; an existing audit is not repeated.",
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of that page on this machine; 0 for a free one.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Find copies, foreign images, wrong labels and other faults in a source and list them; the source is not changed.

    Example: `hemalens audit cells/ --out audit/ --review`
    """
    summary = find_stage("hemalens.data.review.review", "finished_audit")(out) if review and not overwrite else None
    if summary is None or ((label_issues or probabilities) and summary.labels is None):
        stage = find_stage("hemalens.data.audit.audit", "audit")
        with watched() as progress:
            if label_issues:
                options = {
                    "classes": split_names(classes),
                    "workers": workers,
                    "overwrite": overwrite,
                    "progress": progress,
                }
                probabilities = _out_of_fold(source, out, probabilities, options)
            summary = stage(
                source,
                out,
                against=against,
                splits=splits,
                classes=split_names(classes),
                workers=workers,
                probabilities=probabilities,
                engine=engine,
                overwrite=overwrite,
                progress=progress,
            )
    said, lines = summary.to_json(), [*audit_lines(summary), f"look at {out / 'audit.html'}"]
    if review:
        if not as_json:
            show(said, as_json, lines)
        stage = find_stage("hemalens.data.review.review", "review")
        decided = stage(source, out, classes=split_names(classes), port=port, announce=announce)
        said, lines = said | {"review": decided}, review_lines(decided)
    show(said, as_json, lines)


def clean(
    source: SourceArgument,
    audit: Annotated[
        Path, typer.Option(help="Directory that `hemalens audit` wrote; its issues.csv holds the decisions.")
    ],
    out: Annotated[Path, typer.Option("--out", help="FILE.npz, or a directory of class folders.")],
    restore: Annotated[
        list[str] | None,
        typer.Option(help="sample_id of a dropped or relabelled sample to restore; may be repeated."),
    ] = None,
    classes: ClassesOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the samples that the decisions in issues.csv keep, and list those dropped or relabelled.

    Example: `hemalens clean cells/ --audit audit/ --out clean/`
    """
    stage = find_stage("hemalens.data.clean", "clean")
    with watched() as progress:
        summary = stage(
            source,
            out,
            audit=audit,
            restore=restore or (),
            classes=split_names(classes),
            overwrite=overwrite,
            progress=progress,
        )
    show(summary, as_json, clean_lines(summary))


def split(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="The splits.csv to write.")],
    ratios: RatiosOption = "83:13:4",
    seed: SeedOption = 0,
    audit: Annotated[
        Path | None, typer.Option(help="Audit of the same images: what it measured is not measured again.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Divide samples into train, val and test: classes in proportion, copies of an image and groups kept together.

    Example: `hemalens split clean/ --out splits.csv --ratios 83:13:4`
    """
    stage = find_stage("hemalens.data.split", "split")
    with watched() as progress:
        summary = stage(source, out, ratios=ratios, seed=seed, audit=audit, overwrite=overwrite, progress=progress)
    counts = ", ".join(f"{name} {sum(classes.values())}" for name, classes in summary["splits"].items())
    show(summary, as_json, [f"{counts} in {out}"])


def _out_of_fold(source: str, out: Path, given: Path | None, options: dict[str, Any]) -> Path:
    """Return the table of out-of-fold probabilities beside an audit, trained for where it is not there yet."""
    from hemalens.core.artifacts import check_vacant, find_table

    if given is not None:
        raise ConfigError("option --label-issues", "computes what --probabilities would give", "use one of them")
    check_vacant(out, overwrite=options["overwrite"])  # before the minutes of training, not after them
    stage = find_stage("hemalens.training.out_of_fold", "out_of_fold", "option --label-issues")
    folder = out.resolve().with_name(f"{out.resolve().name}-out-of-fold")
    stage(source, folder, **options)
    table = folder / "out_of_fold.csv"
    return find_table(table) or table
