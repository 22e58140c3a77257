"""The command line: one thin command a stage. It parses, calls the stage's function and prints its summary.

Imports of the stages happen inside the commands, so that ``--help`` and torch-free commands start at once.
"""

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.exceptions import TyperException

from hemalens.console import (
    SHOWN,
    adaptation_lines,
    announce,
    announce_service,
    audit_lines,
    check_lines,
    clean_lines,
    corruption_lines,
    package_lines,
    parity_lines,
    rate_lines,
    review_lines,
    score_lines,
    show,
    watched,
)
from hemalens.core.errors import ConfigError, MissingExtraError, UserError
from hemalens.core.provenance import version

__all__ = ["app", "main"]

_INTERRUPTED = 130
_TRAIN_PACKAGES = frozenset({"onnx", "onnxscript", "safetensors", "timm", "torch", "torchvision"})

app = typer.Typer(
    name="hemalens",
    help="From dirty blood-cell pictures to a classifier one can trust. Not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

SourceArgument = Annotated[
    str, typer.Argument(help="Folder, .npz, .zip, .tar, shards, .csv/.parquet manifest, or bloodmnist[:SIZE].")
]
OutDirectory = Annotated[Path, typer.Option("--out", help="Directory to write.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")]
ClassesOption = Annotated[str | None, typer.Option(help="Class names in label order, separated by commas.")]
RecipeOption = Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated.")]
AdaptOption = Annotated[
    bool, typer.Option("--adapt", help="First bring the pictures to the size of the training cells; says how.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]
RatiosOption = Annotated[str, typer.Option(help="Shares of train, val and test.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version())
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    show_version: Annotated[  # noqa: ARG001  # its callback acts before a command is looked for
        bool, typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Set up what all commands share."""
    handler = RichHandler(console=Console(stderr=True), show_path=debug, show_time=False)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s", handlers=[handler])


@app.command()
def audit(
    source: SourceArgument,
    out: OutDirectory,
    against: Annotated[
        str | None, typer.Option(help="Another source: report pictures and groups that both have as leakage.")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="splits.csv of this source: report what lies on two sides as leakage.")
    ] = None,
    classes: ClassesOption = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode; one a core by default.")] = None,
    label_issues: Annotated[
        bool, typer.Option("--label-issues", help="Train on parts of the set to find wrong labels; takes minutes.")
    ] = False,
    probabilities: Annotated[
        Path | None, typer.Option(help="Out-of-fold probabilities to doubt labels by: sample_id and p_CLASS, or .npy.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Measure here or through Ray Data (files and shards).")
    ] = "local",
    overwrite: OverwriteOption = False,
    review: Annotated[
        bool, typer.Option("--review", help="Then decide on the findings in a page; a finished audit is not repeated.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page on this machine; 0 for a free one.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Inspect a source and list what is wrong with it; nothing is changed.

    Example: `hemalens audit cells/ --out audit/ --review`
    """
    summary = _stage("hemalens.data.review", "finished_audit")(out) if review and not overwrite else None
    if summary is None or ((label_issues or probabilities) and "labels" not in summary):
        stage = _stage("hemalens.data.audit", "audit")
        with watched() as progress:
            if label_issues:
                options = {"classes": _names(classes), "workers": workers, "overwrite": overwrite, "progress": progress}
                probabilities = _out_of_fold(source, out, probabilities, options)
            summary = stage(
                source,
                out,
                against=against,
                splits=splits,
                classes=_names(classes),
                workers=workers,
                probabilities=probabilities,
                engine=engine,
                overwrite=overwrite,
                progress=progress,
            )
    lines = [*audit_lines(summary), f"look at {out / 'audit.html'}"]
    if review:
        if not as_json:
            show(summary, as_json, lines)
        stage = _stage("hemalens.data.review", "review")
        decided = stage(source, out, classes=_names(classes), port=port, announce=announce)
        summary, lines = {**summary, "review": decided}, review_lines(decided)
    show(summary, as_json, lines)


@app.command()
def clean(
    source: SourceArgument,
    audit: Annotated[Path, typer.Option(help="Directory that `hemalens audit` wrote; edit its issues.csv first.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.npz, or a directory of class folders.")],
    restore: Annotated[
        list[str] | None, typer.Option(help="Id of a dropped or relabelled sample to take back; repeatable.")
    ] = None,
    classes: ClassesOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the samples that the decisions in issues.csv keep, and list the dropped and relabelled ones.

    Example: `hemalens clean cells/ --audit audit/ --out clean/`
    """
    stage = _stage("hemalens.data.clean", "clean")
    with watched() as progress:
        summary = stage(
            source,
            out,
            audit=audit,
            restore=restore or (),
            classes=_names(classes),
            overwrite=overwrite,
            progress=progress,
        )
    show(summary, as_json, clean_lines(summary))


@app.command()
def split(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="The splits.csv to write.")],
    ratios: RatiosOption = "83:13:4",
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Share samples out among train, val and test: stratified, copies of a picture and groups on one side.

    Example: `hemalens split clean/ --out splits.csv --ratios 83:13:4`
    """
    stage = _stage("hemalens.data.split", "split")
    with watched() as progress:
        summary = stage(source, out, ratios=ratios, seed=seed, overwrite=overwrite, progress=progress)
    counts = ", ".join(f"{side} {sum(classes.values())}" for side, classes in summary["splits"].items())
    show(summary, as_json, [f"{counts} in {out}"])


@app.command("find-lr")
def find_lr(
    source: SourceArgument,
    out: Annotated[Path | None, typer.Option("--out", help="Directory for lr.csv and lr.svg; none by default.")] = None,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of this source; drawn 83:13:4 by default.")] = None,
    recipe: RecipeOption = "compact",
    settings: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search a learning rate by a range test on the training samples; no model is kept.

    Example: `hemalens find-lr clean/ --splits splits.csv --set model=baseline`
    """
    stage = _stage("hemalens.training.finder", "find_lr")
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


@app.command("overfit-check")
def overfit_check(
    source: SourceArgument,
    out: OutDirectory,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of this source; drawn 83:13:4 by default.")] = None,
    recipe: RecipeOption = "overfit-check",
    settings: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show whether the network can learn a few samples of each class by heart: the first step before regularising.

    Example: `hemalens overfit-check clean/ --splits splits.csv --out overfit/`
    """
    stage = _stage("hemalens.training.overfit", "overfit_check")
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


@app.command()
def train(
    source: SourceArgument,
    out: OutDirectory,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of this source; drawn 83:13:4 by default.")] = None,
    recipe: RecipeOption = "compact",
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last whole checkpoint.")] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model and keep the epoch that is best on the validation samples.

    Example: `hemalens train clean/ --splits splits.csv --out runs/first --set epochs=5`
    """
    stage = _stage("hemalens.training.train", "train")
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
    show(summary, as_json, [f"{line}, distorted {100 * summary['val_perturbed_accuracy']:.2f} %, in {out}"])


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="RUN directory.")],
    source: SourceArgument,
    out: OutDirectory,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of this source.")] = None,
    split: Annotated[str | None, typer.Option(help="test, val, train or all.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Audit whose background batches are scored apart.")] = None,
    corruptions: Annotated[bool, typer.Option("--corruptions", help="Also score 55 corrupted copies of each.")] = False,
    adapt: AdaptOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a model on a source, with intervals, calibration and distortions.

    Example: `hemalens evaluate runs/first val_set.npz --out evaluation/`
    """
    stage = _stage("hemalens.evaluation.evaluate", "evaluate")
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
    lines = [*adaptation_lines(summary), *score_lines(summary), *corruption_lines(summary)]
    show(summary, as_json, [*lines, f"details in {out}"])


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="RUN directory, .onnx file, or embedded.")],
    source: SourceArgument,
    out: OutDirectory,
    limit: Annotated[int, typer.Option(min=1, help="Samples to explain at most; the worst mistakes come first.")] = 96,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw what in each picture speaks for the predicted class, and check whether that means something.

    Example: `hemalens explain runs/first val_set.npz --out explained/`
    """
    stage = _stage("hemalens.evaluation.explain", "explain")
    with watched() as progress:
        summary = stage(model, source, out, limit=limit, overwrite=overwrite, progress=progress)
    lines = [f"{summary['n_explained']} samples explained; against random maps: {summary['check']['verdict']}"]
    show(summary, as_json, [*lines, f"look at {out / 'explain.html'}"])


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="RUN directories; several make a table.")],
    out: OutDirectory,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option("--evaluation", help="Directory of `hemalens evaluate` that lies elsewhere; may be repeated."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the report and the model card of one or more runs; several make the tables of experiments.

    Example: `hemalens report runs/baseline runs/compact --out report/`
    """
    stage = _stage("hemalens.evaluation.report", "report")
    summary = stage(runs, out, evaluations=evaluations or (), overwrite=overwrite)
    show(summary, as_json, [f"look at {out / 'report.html'}"])


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="RUN directory.")],
    out: Annotated[Path, typer.Option("--out", help="The .onnx file to write; its sidecar goes beside it.")],
    source: Annotated[
        str | None, typer.Option(help="What the run was trained on; looked for where it was by default.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers, if faster here and as good.")] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as ONNX with its preprocessing inside, and prove that it says what torch says.

    Example: `hemalens export runs/first --out model.onnx`
    """
    stage = _stage("hemalens.deployment.export", "export")
    with watched() as progress:
        summary = stage(run, out, source=source, int8=int8, overwrite=overwrite, progress=progress)
    show(summary, as_json, [*parity_lines(summary), f"written to {out}"])


@app.command()
def predict(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="The .csv or .parquet to write.")],
    model: Annotated[str, typer.Option(help="RUN directory, .onnx file, or embedded.")] = "embedded",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode; one a core by default.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for the machines of a cluster.")] = "local",
    adapt: AdaptOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict a class for every picture of a source, however many. Give it again to go on after a stop.

    Example: `hemalens predict cells/ --out predictions.csv --model model.onnx`
    """
    stage = _stage("hemalens.deployment.predict", "predict")
    with watched() as progress:
        summary = stage(
            source,
            out,
            model=model,
            workers=workers,
            engine=engine,
            adapt=adapt,
            overwrite=overwrite,
            progress=progress,
        )
    counts = f"{summary['n_samples']} samples, {summary['n_abstained']} refused, {summary['n_unreadable']} unreadable"
    show(summary, as_json, [*adaptation_lines(summary), f"{counts} in {summary['out']}"])


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="RUN directory, .onnx file, or embedded.")] = "embedded",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    allow_hosts: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Name under which the server is reached, behind a proxy say; repeatable."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that decode and infer; one a core.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a page to drop pictures on, and an API; nothing that is sent is kept.

    Example: `hemalens serve --model model.onnx --port 8000`
    """
    stage = _stage("hemalens.deployment.serve", "serve")
    summary = stage(
        model, host=host, port=port, allow_hosts=allow_hosts or (), workers=workers, announce=announce_service
    )
    counts = f"{summary['pictures']} pictures in {summary['requests']} requests"
    show(summary, as_json, [f"{counts}, {summary['seconds']:.0f} s"])


@app.command()
def package(
    given: Annotated[list[str], typer.Argument(metavar="RUN...", help="RUN directories; with --check the SOURCE.")],
    out: Annotated[Path | None, typer.Option("--out", help="The .zip to write.")] = None,
    check: Annotated[Path | None, typer.Option(help="A zip to run on SOURCE as the competition would.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="numpy, onnx or torch; numpy by default, with --check what the zip names.")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over the 8 symmetries of each picture.")] = False,
    perturbed: Annotated[bool, typer.Option("--perturbed", help="With --check: score distorted copies too.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="With --check: limit of time.")] = 600.0,
    memory_gb: Annotated[float, typer.Option(min=0.5, help="With --check: limit of memory.")] = 8.0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the competition's zip of a run, of several their average; or check such a zip on a source.

    Example: `hemalens package runs/first --out submission.zip`, `hemalens package --check submission.zip val_set.npz`
    """
    if check is not None:
        if len(given) != 1 or out is not None or tta:
            raise ConfigError(
                f"check of {check}", "takes one SOURCE, no --out and no --tta", "see hemalens package --help"
            )
        stage = _stage("hemalens.deployment.submission_check", "check")
        limits = {"seconds": seconds, "memory_gb": memory_gb}
        with watched() as progress:
            summary = stage(check, given[0], runtime=runtime, perturbed=perturbed, progress=progress, **limits)
        show(summary, as_json, [*score_lines(summary), *check_lines(summary)])
        return
    if out is None or perturbed:
        raise ConfigError("package", "needs --out (and --perturbed needs --check)", "write --out submission.zip")
    stage = _stage("hemalens.deployment.submission", "package")
    with watched() as progress:
        summary = stage(given, out, runtime=runtime or "numpy", tta=tta, overwrite=overwrite, progress=progress)
    show(summary, as_json, package_lines(summary))


@app.command()
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
    """Take a source the whole way: audit, clean, split, train, evaluate, report. Give it again to go on after a stop.

    Example: `hemalens run training_set.npz --out out/`
    """
    stage = _stage("hemalens.pipeline", "run")
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


@app.command()
def demo(
    out: OutDirectory,
    per_class: Annotated[int, typer.Option(min=20, help="Synthetic cells to render per class.")] = 200,
    settings: SetOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Render the embedded synthetic set and take it the whole way. Needs no data and no network.

    Example: `hemalens demo --out demo/`
    """
    stage = _stage("hemalens.pipeline", "demo")
    with watched() as progress:
        summary = stage(
            out, per_class=per_class, settings=settings or (), seed=seed, overwrite=overwrite, progress=progress
        )
    show(summary, as_json, ["synthetic cells only:", *score_lines(summary), f"look at {summary['report']}"])


def main() -> None:
    """Run the command line; exit 0 when done, 2 where the user can mend it (one line on stderr), 1 for a defect."""
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        code = _fail(str(error), 2, debug=debug)
    except TyperException as error:
        text = " ".join(error.format_message().split()).rstrip(".")
        code = _fail(f"{text or 'no command given'}; see: hemalens --help", 2, debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the outermost frame: a defect is one line too, --debug shows the rest
        code = _fail(
            f"defect: {type(error).__name__}: {error}; please report it with the output of --debug", 1, debug=debug
        )
    if code == _INTERRUPTED:  # typer makes it of a KeyboardInterrupt inside a command, without a word
        _fail("stopped; give the same command again to go on (train: add --resume)", code, debug=False)
    sys.exit(code or 0)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        raise  # noqa: PLE0704  # called from an except block only
    plain = "".join(sign if sign.isprintable() else " " for sign in message)  # one line, whatever a library says
    print(f"error: {plain}", file=sys.stderr)
    return code


def _stage(module: str, name: str, wanted: str = "") -> Callable[..., dict[str, Any]]:
    """Return a stage's function; say which extra is missing where its module needs one that is not installed."""
    try:
        function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in _TRAIN_PACKAGES:
            raise MissingExtraError(wanted or f"command {name}", "train") from None
        raise
    return function


def _out_of_fold(source: str, out: Path, given: Path | None, options: dict[str, Any]) -> Path:
    """Return the table of out-of-fold probabilities beside an audit, trained for where it is not there yet."""
    from hemalens.core.artifacts import check_vacant, find_table

    if given is not None:
        raise ConfigError("option --label-issues", "trains for what --probabilities brings", "leave one of them out")
    check_vacant(out, overwrite=options["overwrite"])  # before the minutes of training, not after them
    stage = _stage("hemalens.training.out_of_fold", "out_of_fold", "option --label-issues")
    folder = out.resolve().with_name(f"{out.resolve().name}-out-of-fold")
    stage(source, folder, **options)
    table = folder / "out_of_fold.csv"
    return find_table(table) or table


def _names(classes: str | None) -> list[str] | None:
    return [name.strip() for name in classes.split(",")] if classes else None


if __name__ == "__main__":
    main()
