"""Training configurations: recipes and settings become frozen values; what is wrong is named with its rule."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hemalens.core.config import AugmentStep, TrainConfig, load_config, parse_settings, read_recipe
from hemalens.core.errors import ConfigError


def test_settings_go_over_the_recipe() -> None:
    config = load_config({"lr": 0.5, "epochs": 3}, ["epochs=7", "optimizer=adamw"])
    assert (config.lr, config.epochs, config.optimizer) == (0.5, 7, "adamw")


def test_the_last_of_two_settings_of_one_key_counts() -> None:
    assert load_config({}, ["epochs=7", "epochs=8"]).epochs == 8


def test_augmentations_are_read_with_their_defaults() -> None:
    config = load_config({}, ["augment=[{name='flip'}, {name='blur', probability=0.5, strength=2}]"])
    assert config.augment == (AugmentStep(name="flip"), AugmentStep(name="blur", probability=0.5, strength=2.0))


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_a_configuration_survives_json() -> None:
    config = load_config({"augment": [{"name": "flip"}], "lr": 0.25})
    assert load_config(config.model_dump(mode="json")) == config


def test_every_key_says_what_it_means() -> None:
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_an_unknown_key_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"key learning_rate: is not a key.*use one of: model, .*lr,"):
        load_config({}, ["learning_rate=0.1"])


def test_an_unknown_key_of_an_augmentation_lists_that_of_an_augmentation() -> None:
    with pytest.raises(ConfigError, match=r"key augment\.0\.power: .* use one of: name, probability, strength$"):
        load_config({}, ["augment=[{name='flip', power=2}]"])


@pytest.mark.parametrize(
    "setting",
    [
        *("epochs=0", "epochs=2.5", "epochs=many", "lr=0", "lr=-1", "lr=nan", "lr=inf", "lr="),
        *("image_size=8", "image_size=5000", "batch_size=1", "per_class=0", "weight_decay=-1", "weight_decay=inf"),
        *("optimizer=adam", "schedule=linear", "balance=maybe", "precision=int8", "select_on=test"),
        *("label_smoothing=1", "dropout=1", "ema=1", "patience=-1", "threads=-1", "seed=-1", "seed=4294967296"),
        *("augment=flip", "augment=[{}]", "augment=[{name='flip', probability=1.5}]"),
        "augment=[{name='flip', strength=nan}]",
    ],
)
def test_a_value_out_of_its_range_is_refused_in_one_line_that_names_its_key(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({}, [setting])
    key = setting.partition("=")[0]
    assert str(caught.value).startswith(key)
    assert f"--set {key}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["epochs", "=5", " =5", ""])
def test_a_setting_without_key_or_equals_sign_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="must have the form key=value"):
        parse_settings([setting])


@given(st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_plain_values_are_read_as_what_they_are(value: float) -> None:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    parsed = parse_settings([f"key={text}"])["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_what_is_not_toml_is_text_and_may_hold_equals_signs() -> None:
    assert parse_settings(["model=a=b", "device=cuda:0"]) == {"model": "a=b", "device": "cuda:0"}


def test_a_recipe_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("lr = 0.5\naugment = [{ name = 'flip' }]\n")
    assert read_recipe(path) == {"lr": 0.5, "augment": [{"name": "flip"}]}


def test_a_recipe_that_is_missing_or_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        read_recipe(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path)
    for wrong in (b"lr = ", b"\xff\xfe"):
        (tmp_path / "wrong.toml").write_bytes(wrong)
        with pytest.raises(ConfigError, match=r"wrong\.toml: is not TOML"):
            read_recipe(tmp_path / "wrong.toml")


def test_images_are_kept_at_the_size_the_network_sees_unless_told_otherwise() -> None:
    assert load_config({"image_size": 48}).stored == 48
    assert load_config({"image_size": 33, "supersample": 1.5}).stored == 50
    with pytest.raises(ConfigError, match=r"supersample 2.5: .*less than or equal to 2"):
        load_config({"supersample": 2.5})
