"""Networks by name: the report's plain CNN, ``compact`` (a residual network) in three widths, all of timm's.

timm takes seconds to import, so it is imported only where a network of its own is asked for.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hemalens.core.errors import ConfigError

__all__ = [
    "MODELS",
    "Baseline",
    "Compact",
    "Normalised",
    "build_model",
    "check_model",
    "count_parameters",
    "head_parameters",
    "last_layers",
]

_LEAST_VARIANCE = 1e-3


class Baseline(nn.Module):
    """A plain CNN: three convolutions with pooling and two dense layers, for inputs (N, 3, S, S) float."""

    def __init__(self, n_classes: int, dropout: float) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(128 * 16, 128),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(128, n_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C) of normalised images (N, 3, S, S)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map before pooling (N, 128, S // 8, S // 8)."""
        found: Tensor = self.features(images)
        return found

    def forward_head(self, found: Tensor) -> Tensor:
        """Return logits (N, C) of the last map."""
        logits: Tensor = self.head(self.pool(found))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm's networks do."""
        return self.head[-1]


class _Residual(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation around a shortcut (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            pool: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
            self.shortcut = nn.Sequential(*pool, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Compact(nn.Module):
    """A small residual network: 0.87 million parameters, 39 million multiplications an image at 64 px.

    Half as wide (``compact-small``) it has 0.22 million parameters and 10 million multiplications, half as wide again
    (``compact-large``) 1.95 and 89 million.

    Args:
        n_classes: C.
        dropout: before the last layer.
        width: channels after the stem; those of the stages are 2, 4 and 6 times as many.
    """

    def __init__(self, n_classes: int, dropout: float, *, width: int = 32) -> None:
        super().__init__()
        stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        widths = (width, 2 * width, 4 * width, 6 * width)
        self.stages = nn.Sequential(*(_Residual(before, after, 2) for before, after in pairwise(widths)))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(widths[-1], n_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C) of normalised images (N, 3, S, S)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map before pooling (N, 6 width, S / 16, S / 16, rounded up)."""
        found: Tensor = self.stages(self.stem(images))
        return found

    def forward_head(self, found: Tensor) -> Tensor:
        """Return logits (N, C) of the last map."""
        logits: Tensor = self.head(self.pool(found))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm's networks do."""
        return self.head[-1]


class Normalised(nn.Module):
    """A network behind its input normalisation: images (N, 3, S, S) float in [0, 1] to logits (N, C).

    Mean and standard deviation per channel, in [0, 1], are buffers, so they travel with the weights. By image, each
    is then brought to a mean of 0 per channel and to a common spread of 1 by its own values: other light, white balance
    or exposure makes the same input.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, *, by_image: bool = False) -> None:
        super().__init__()
        self.network = network
        self.by_image = by_image
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.network(self.prepare(images))
        return logits

    def prepare(self, images: Tensor) -> Tensor:
        """Return what the network itself takes of images (N, 3, S, S) in [0, 1]."""
        return self.standardise((images - self.mean) / self.std)

    def standardise(self, normalised: Tensor) -> Tensor:
        """Return images (N, 3, S, S), normalised by mean and std, as the network takes them."""
        if not self.by_image:
            return normalised
        centred = normalised - normalised.mean(dim=(2, 3), keepdim=True)
        # A blank image stays blank.
        return centred / (centred.square().mean(dim=(1, 2, 3), keepdim=True) + _LEAST_VARIANCE).sqrt()


MODELS: dict[str, Callable[[int, float], nn.Module]] = {
    "baseline": Baseline,
    "compact": Compact,
    "compact-small": partial(Compact, width=16),
    "compact-large": partial(Compact, width=48),
}


def check_model(name: str) -> None:
    """Raise ConfigError where no network has that name, naming those that are spelled nearly so."""
    if name in MODELS:
        return
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, [*MODELS, *timm.list_models()], n=4)
        rule = f"must be one of: {', '.join(MODELS)}, or a network of timm"
        step = f"near it are: {', '.join(near)}" if near else "timm.list_models() names them"
        raise ConfigError(f"model {name}", rule, f"{step}; change it with --set model=...")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = f"use one of: {', '.join(tags)}" if tags else "leave it out"
        raise ConfigError(f"model {name}", f"timm knows no weights '{tag}' of {architecture}", known)


def build_model(name: str, n_classes: int, *, image_size: int = 224, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """Return a network with weights drawn from the seed; the global random state is left as it was.

    Args:
        name: a key of MODELS or a network of timm, with or without the tag of its weights.
        n_classes: C of the logits (N, C).
        image_size: pixels per side of the inputs; some of timm's networks are built for one size.
        dropout: before the last layer.
        seed: of the weights.

    Raises ConfigError where there is no such network or it cannot take images of that size.
    """
    check_model(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name in MODELS:
            return MODELS[name](n_classes, dropout)
        return _timm_network(name, n_classes, image_size, dropout)


def last_layers(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return what a network's ``get_classifier()`` names: one layer, of some of timm's networks two."""
    network = module.network if isinstance(module, Normalised) else module
    found = network.get_classifier()  # type: ignore[operator]  # torch types every attribute as a tensor or a module
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def head_parameters(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the last layer's parameters."""
    ids = {id(parameter) for head in last_layers(network) for parameter in head.parameters()}
    return tuple(name for name, parameter in network.named_parameters() if id(parameter) in ids)


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values."""
    return sum(parameter.numel() for parameter in model.parameters())


def _timm_network(name: str, n_classes: int, image_size: int, dropout: float) -> nn.Module:
    """Return a network of timm without weights from elsewhere, tried on one empty image of its size."""
    import timm

    described = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": image_size} if described is not None and described.fixed_input_size else {}
    try:
        network: nn.Module = timm.create_model(name, num_classes=n_classes, drop_rate=dropout, **sized)
        network = _without_dense_layers(network, n_classes, dropout)
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        rule = f"cannot be used for {n_classes} classes at {image_size} px ({str(error).splitlines()[0]})"
        raise ConfigError(f"model {name}", rule, "try another --set image_size=... or another model") from error
    return network.train()


def _without_dense_layers(network: nn.Module, n_classes: int, dropout: float) -> nn.Module:
    """Return a VGG with its last layer right after the mean over its last map; any other network as it is.

    Its two dense layers hold 119 of 134 million values and were made for maps of 7 x 7; images of 64 and 96 px end in
    2 x 2 and 3 x 3, so that timm would enlarge these to 7 x 7 first.
    """
    from timm.models.vgg import VGG

    if isinstance(network, VGG):
        network.add_module("pre_logits", nn.Identity())
        network.head_hidden_size = network.num_features
        network.head = type(network.head)(network.num_features, n_classes, drop_rate=dropout)
    return network
