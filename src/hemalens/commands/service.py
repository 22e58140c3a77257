"""Commands that put a model into service: export, predict, serve, package."""

from pathlib import Path
from typing import Annotated

import typer

from hemalens.commands.options import AdaptOption, JsonOption, OverwriteOption, SourceArgument, find_stage, onnx_of
from hemalens.console import (
    adaptation_lines,
    announce_service,
    check_lines,
    package_lines,
    parity_lines,
    score_lines,
    show,
    watched,
)
from hemalens.core.errors import ConfigError

__all__ = ["export", "package", "predict", "serve"]


def export(
    run: Annotated[Path, typer.Argument(help="RUN directory.")],
    out: Annotated[Path, typer.Option("--out", help="The .onnx file to write; its sidecar goes beside it.")],
    source: Annotated[
        str | None, typer.Option(help="Source that the run was trained on; by default the recorded path.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Use 8-bit integers if they are faster here and as accurate.")
    ] = False,
    sign_key: Annotated[
        Path | None, typer.Option(help="Private key (PEM, elliptic curve) to sign the model with.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as ONNX with its preprocessing inside, and check that its answers equal those of torch.

    Example: `hemalens export runs/first --out model.onnx`
    """
    stage = find_stage("hemalens.export.export", "export")
    with watched() as progress:
        summary = stage(run, out, source=source, int8=int8, sign_key=sign_key, overwrite=overwrite, progress=progress)
    show(summary, as_json, [*parity_lines(summary), f"written to {out}"])


def predict(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="The .csv or .parquet to write.")],
    model: Annotated[str, typer.Option(help="RUN directory, .onnx file, or embedded.")] = "embedded",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode; one per core by default.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for the machines of a cluster.")] = "local",
    adapt: AdaptOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict the class of every image of a source. After an interruption, repeat the command to continue.

    Example: `hemalens predict cells/ --out predictions.csv --model model.onnx`
    """
    stage = find_stage("hemalens.inference.predict", "predict")
    with watched() as progress:
        summary = stage(
            source,
            out,
            model=onnx_of(model),
            workers=workers,
            engine=engine,
            adapt=adapt,
            overwrite=overwrite,
            progress=progress,
        )
    counts = f"{summary['n_samples']} samples, {summary['n_abstained']} abstained, {summary['n_unreadable']} unreadable"
    show(summary, as_json, [*adaptation_lines(summary), f"{counts} in {summary['out']}"])


def serve(
    model: Annotated[str, typer.Option(help="RUN directory, .onnx file, or embedded.")] = "embedded",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    allow_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", help="Name under which the server is reached, for example behind a proxy; may be repeated."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode and predict; one per core by default.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with a token that every request must send.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate for HTTPS (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Private key of the certificate (PEM).")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="Limit for each client; none by default.")
    ] = None,
    metrics_address: Annotated[
        str | None,
        typer.Option("--metrics-address", help="HOST:PORT that serves /metrics instead of the main address."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a web page that classifies images dropped on it, and an API; no image is stored.

    Example: `hemalens serve --model model.onnx --port 8000`
    """
    stage = find_stage("hemalens.inference.serve.serve", "serve")
    access = find_stage("hemalens.inference.serve.access", "Access")(
        host=host,
        port=port,
        allow_hosts=tuple(allow_hosts or ()),
        token_file=token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        requests_per_minute=requests_per_minute,
        metrics_address=metrics_address,
    )
    summary = stage(onnx_of(model), access, workers=workers, announce=announce_service)
    counts = f"{summary['images']} images in {summary['requests']} requests"
    show(summary, as_json, [f"{counts}, {summary['seconds']:.0f} s"])


def package(
    given: Annotated[list[str], typer.Argument(metavar="RUN...", help="RUN directories; with --check the SOURCE.")],
    out: Annotated[Path | None, typer.Option("--out", help="The .zip to write.")] = None,
    check: Annotated[Path | None, typer.Option(help="A zip to run on SOURCE as the competition would.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="numpy, onnx or torch; by default numpy, with --check what the zip asks for.")
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over the 8 symmetries of each image.")] = False,
    distorted: Annotated[bool, typer.Option("--distorted", help="With --check: also score distorted copies.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="With --check: time limit in seconds.")] = 600.0,
    memory_gb: Annotated[float, typer.Option(min=0.5, help="With --check: memory limit in GB.")] = 8.0,
    trust: Annotated[
        bool, typer.Option("--trust", help="With --check: if no sandbox works, run without one, with all your rights.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the competition's zip from a run, or from several runs to be averaged; or check such a zip on a source.

    Example: `hemalens package runs/first --out submission.zip`, `hemalens package --check submission.zip val_set.npz`
    """
    if check is not None:
        if len(given) != 1 or out is not None or tta:
            raise ConfigError(
                f"check of {check}", "takes one SOURCE, no --out and no --tta", "see hemalens package --help"
            )
        stage = find_stage("hemalens.export.submission.check", "check")
        limits = {"seconds": seconds, "memory_gb": memory_gb, "trust": trust}
        with watched() as progress:
            summary = stage(check, given[0], runtime=runtime, distorted=distorted, progress=progress, **limits)
        show(summary, as_json, [*score_lines(summary), *check_lines(summary)])
        return
    if out is None or distorted or trust:
        raise ConfigError(
            "package", "needs --out (and --distorted and --trust need --check)", "write --out submission.zip"
        )
    stage = find_stage("hemalens.export.submission.package", "package")
    with watched() as progress:
        summary = stage(given, out, runtime=runtime or "numpy", tta=tta, overwrite=overwrite, progress=progress)
    show(summary, as_json, package_lines(summary))
