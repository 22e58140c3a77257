"""Networks by name: the report's plain CNN and ``compact``, a residual network of about a million parameters."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from hemalens.core.errors import ConfigError

__all__ = ["MODELS", "Baseline", "Compact", "Normalised", "build_model", "check_model", "count_parameters"]


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

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (N, C) of normalised pictures (N, 3, S, S)."""
        logits: Tensor = self.head(self.pool(self.features(pictures)))
        return logits


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
    """A small residual network: 0.87 million parameters, 24 million multiplications a picture at 64 px."""

    def __init__(self, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(
            _Residual(32, 64, 2), _Residual(64, 128, 2), _Residual(128, 192, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(192, n_classes))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (N, C) of normalised pictures (N, 3, S, S)."""
        logits: Tensor = self.head(self.stages(self.stem(pictures)))
        return logits


class Normalised(nn.Module):
    """A network behind its input normalisation: pictures (N, 3, S, S) float in [0, 1] to logits (N, C).

    Mean and standard deviation per channel, in [0, 1], are buffers, so they travel with the weights.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.network((pictures - self.mean) / self.std)
        return logits


MODELS: dict[str, Callable[[int, float], nn.Module]] = {"baseline": Baseline, "compact": Compact}


def check_model(name: str) -> None:
    """Raise ConfigError where no network has that name."""
    if name not in MODELS:
        raise ConfigError(f"model {name}", f"must be one of: {', '.join(MODELS)}", "change it with --set model=...")


def build_model(name: str, n_classes: int, *, dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """Return a network with weights drawn from the seed; the global random state is left as it was."""
    check_model(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[name](n_classes, dropout)


def count_parameters(model: nn.Module) -> int:
    """Return the number of learned values."""
    return sum(parameter.numel() for parameter in model.parameters())
