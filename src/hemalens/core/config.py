"""The frozen configuration of a training run: recipes in TOML, single keys by ``--set``, unknown keys refused.

Needs pydantic; no torch.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemalens.core.errors import ConfigError

__all__ = ["AugmentStep", "TrainConfig", "load_config", "parse_settings", "read_recipe"]

Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_RENAMED = {"oversample": "supersample"}
_RENAMED_VALUES = {("select_on", "perturbed"): "distorted", ("normalise", "picture"): "image"}


class AugmentStep(_Frozen):
    """One augmentation: its name, how often it is applied, how strongly."""

    name: str
    probability: Share = 1.0
    strength: Annotated[float, Field(ge=0, le=10)] = 1.0


class TrainConfig(_Frozen):
    """Everything that shapes a training run; the defaults are the recipe ``compact``'s frame."""

    model: str = Field("compact", description="baseline, compact, compact-small, compact-large, or any network of timm")
    weights: str = Field("none", description="to start from: none, hub (timm's own), or a .safetensors file")
    freeze: Literal["none", "features", "gradual"] = Field(
        "none", description="train all; only the head; or the head first and deeper layers from epoch to epoch"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="each layer group's learning rate over that of the group after it"
    )
    image_size: Annotated[int, Field(ge=16, le=1024)] = Field(64, description="pixels per side the network sees")
    normalise: Literal["set", "image"] = Field(
        "set", description="inputs by the training set's mean and spread per channel, or further by each image's own"
    )
    # Bilinear sampling reads four neighbours: from more than twice the size it would skip pixels.
    supersample: Annotated[float, Field(ge=1, le=2)] = Field(
        1.0, description="training images are kept so many times image_size, to be turned and zoomed without blur"
    )
    epochs: Annotated[int, Field(ge=1)] = Field(12, description="passes over the (balanced) training set, at most")
    batch_size: Annotated[int, Field(ge=2)] = Field(64, description="images a step")
    optimizer: Literal["sgd", "adamw", "muon"] = Field(
        "sgd", description="SGD with Nesterov momentum 0.9, AdamW, or Muon with SGD for first, last and 1-D weights"
    )
    lr: Annotated[float, Field(gt=0)] = Field(0.1, description="highest learning rate")
    schedule: Literal["onecycle", "cosine", "trapezoid", "constant"] = Field(
        "onecycle", description="course of the learning rate"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(5e-4, description="not on biases and normalisation")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="of the cross-entropy")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="before the last layer")
    balance: Literal["none", "replicate", "weights", "sampler"] = Field(
        "replicate", description="replicate to per_class, weight the loss, draw classes evenly, or nothing"
    )
    per_class: Annotated[int, Field(ge=1)] = Field(2000, description="images a class and epoch under replicate")
    augment: tuple[AugmentStep, ...] = Field((), description="augmentations in order")
    mix: Literal["none", "mixup", "cutmix", "both"] = Field(
        "none", description="blend images or paste a part of another one, labels in proportion"
    )
    mix_probability: Share = Field(0.5, description="share of the images that are mixed")
    jsd: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the Jensen-Shannon consistency between three views of an image (12 in AugMix)"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the forward pass (autocast)")
    clip: Annotated[float, Field(ge=0)] = Field(0.0, description="largest norm of the gradient; 0: not clipped")
    compile: bool = Field(False, description="torch.compile the network; needs a C++ compiler on CPUs")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of averaged weights a step; 0 for none")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs without a better score before stopping; 0: never"
    )
    select_on: Literal["clean", "distorted"] = Field("clean", description="validation score that picks the checkpoint")
    # Dropout draws from (seed << 32) + step, which has to fit into 64 bits.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="of weights, batch order and augmentation")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads; 0 for one a core")
    memory_gb: Annotated[float, Field(ge=0)] = Field(
        0.0, description="10^9 bytes for decoded training images, a larger set is streamed; 0: half of what is free"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    track: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        (), description="where to log scores besides history.csv"
    )

    @property
    def stored(self) -> int:
        """Return the pixels per side that training images are kept at."""
        return round(self.image_size * self.supersample)


def load_config(recipe: Mapping[str, Any], settings: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration of a recipe's keys, with ``key=value`` settings over them.

    Raises ConfigError naming the key, its value and the rule.
    """
    merged = dict(recipe) | parse_settings(settings)
    _check_names(merged)
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            owner = TrainConfig if len(first["loc"]) == 1 else AugmentStep
            known = ", ".join(owner.model_fields)
            raise ConfigError(f"key {key}", "is not a key of the configuration", f"use one of: {known}") from None
        rule = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{key} {first['input']!r}", rule, f"change it with --set {key}=...") from None


def _check_names(keys: Mapping[str, Any]) -> None:
    """Refuse names of version 0.1 by the name that each has now."""
    for old, new in _RENAMED.items():
        if old in keys:
            raise ConfigError(f"key {old}", f"is named {new} since version 0.2", f"write {new} in its place")
    for (key, old), new in _RENAMED_VALUES.items():
        if keys.get(key) == old:
            raise ConfigError(f"{key} {old!r}", f"is named {new!r} since version 0.2", f"write {key} = {new!r}")


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return the keys and values of ``key=value`` texts; a value is read as TOML, else taken as text.

    >>> parse_settings(["lr=0.05", "model=baseline", "augment=[{name='flip'}]"])
    {'lr': 0.05, 'model': 'baseline', 'augment': [{'name': 'flip'}]}
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"setting {setting}", "must have the form key=value", "write for example --set epochs=5")
        try:
            parsed[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed[key.strip()] = value
    return parsed


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the keys of a TOML recipe file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"recipe {path}", f"cannot be read ({error.strerror})", "name a recipe or a TOML file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}", f"is not TOML ({error})", "correct the file") from None
