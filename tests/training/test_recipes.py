"""The recipes that come along: they are found by name and each is a whole, valid configuration."""

from pathlib import Path

import pytest

from hemalens.core.config import load_config
from hemalens.core.errors import ConfigError
from hemalens.training.recipes import find_recipe, recipe_names
from hemalens.training.train import DEFAULT_RECIPE, check_config


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_configuration_that_can_be_trained(name: str) -> None:
    check_config(load_config(find_recipe(name), ["device=cpu"]))


def test_the_default_and_the_demo_have_recipes() -> None:
    assert {DEFAULT_RECIPE, "demo", "baseline"} <= set(recipe_names())


def test_an_unknown_recipe_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"recipe nonesuch: must be one of: .*baseline.*compact"):
        find_recipe("nonesuch")


def test_a_name_that_ends_in_toml_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("epochs = 2\n")
    assert find_recipe(str(tmp_path / "mine.toml")) == {"epochs": 2}
    with pytest.raises(ConfigError, match="cannot be read"):
        find_recipe(str(tmp_path / "other.toml"))
