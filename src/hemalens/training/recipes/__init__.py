"""Named recipes: one TOML file each, holding the keys of a training configuration."""

from importlib import resources
from pathlib import Path
from typing import Any

from hemalens.core.config import read_recipe
from hemalens.core.errors import ConfigError

__all__ = ["find_recipe", "recipe_names"]


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with hemalens."""
    folder = resources.files(__name__)
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def find_recipe(name: str) -> dict[str, Any]:
    """Return the keys of a recipe that comes with hemalens, or of a TOML file.

    >>> find_recipe("compact")["model"]
    'compact'
    """
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    if name not in recipe_names():
        known = ", ".join(recipe_names())
        raise ConfigError(f"recipe {name}", f"must be one of: {known}", "or name a file that ends in .toml")
    with resources.as_file(resources.files(__name__) / f"{name}.toml") as path:
        return read_recipe(path)
