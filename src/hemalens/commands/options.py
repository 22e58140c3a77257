"""What several commands share: their options, how they find their stage, how they read names."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hemalens.core.errors import MissingExtraError

__all__ = [
    "AdaptOption",
    "ClassesOption",
    "JsonOption",
    "OutDirectory",
    "OverwriteOption",
    "RatiosOption",
    "RecipeOption",
    "SeedOption",
    "SetOption",
    "SourceArgument",
    "find_stage",
    "onnx_of",
    "split_names",
]

_TRAIN_PACKAGES = frozenset({"onnx", "onnxscript", "safetensors", "timm", "torch", "torchvision"})

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
    bool,
    typer.Option("--adapt", help="Rescale images until cells have the size of the training cells; prints the scale."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of all random draws.")]
RatiosOption = Annotated[str, typer.Option(help="Shares of train, val and test.")]


def find_stage(module: str, name: str, wanted: str = "") -> Callable[..., Any]:
    """Return a stage's function; say which extra is missing where its module needs one that is not installed."""
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in _TRAIN_PACKAGES:
            raise MissingExtraError(wanted or f"command {name}", "train") from None
        raise
    return function


def onnx_of(model: str) -> str | Path:
    """Return a MODEL as what predicts takes it: a RUN directory is exported into ``RUN/exported`` once."""
    if not Path(model).is_dir():
        return model
    export_once = find_stage("hemalens.export.export", "export_once", f"model {model}, a RUN to be exported first")
    path: Path = export_once(Path(model))
    return path


def split_names(classes: str | None) -> list[str] | None:
    """Return the class names of an option, None where there is none."""
    return [name.strip() for name in classes.split(",")] if classes else None
