"""The command that compares recorded hashes: verify."""

from pathlib import Path
from typing import Annotated

import typer

from hemalens.commands.options import JsonOption, find_stage
from hemalens.console import show, verify_lines, watched
from hemalens.core.errors import ArtifactError

__all__ = ["verify"]


def verify(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Directories, files, .onnx models, zips, or embedded.")
    ],
    public_key: Annotated[
        Path | None, typer.Option(help="Public key (PEM) of the signer, to verify the .onnx files with.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Record files that you changed on purpose as they are now.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that directories, files, models and zips are still as recorded, by their SHA-256 hashes.

    Example: `hemalens verify runs/first model.onnx submission.zip`
    """
    stage = find_stage("hemalens.export.verify", "verify")
    with watched() as progress:
        summary = stage(paths, public_key=public_key, accept=accept, progress=progress)
    show(summary, as_json, verify_lines(summary))
    if not summary["holds"]:
        wrong = summary["differs"] + summary["missing"]
        what = f"{wrong} of {wrong + summary['ok']} recorded files"
        rule = f"{'is' if wrong == 1 else 'are'} not there as recorded"
        raise ArtifactError(what, rule, "restore the files, or write them again with their stage")
