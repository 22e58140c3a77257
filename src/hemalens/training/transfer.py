"""Transfer learning: which layers learn, from which epoch and how fast; and weights made ready to be trained on.

All is a function of the network, the configuration and the epoch, so a resumed run goes on as it would have.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemalens.core.config import TrainConfig
from hemalens.core.types import Images, Progress, no_progress
from hemalens.training.heads import train_head
from hemalens.training.models import Normalised, head_parameters
from hemalens.training.tensors import LabelledImages, to_batch
from hemalens.training.weights import is_folded

__all__ = ["layer_groups", "parameter_groups", "prepare", "thaw", "unfold_batchnorm"]

_MEASURED = 512
_BATCH = 128


def layer_groups(network: nn.Module) -> list[list[str]]:
    """Return the parameters' names in groups from the input to the output; the last group is the last layer.

    timm's networks say themselves which layers belong together (``group_matcher``, by stages). In others a group is a
    child of the network, or a child of that where it is a sequence of blocks.
    """
    head = head_parameters(network)
    if hasattr(network, "group_matcher"):
        from timm.models import group_parameters

        found = group_parameters(network, network.group_matcher(coarse=True))  # type: ignore[operator]  # as above
        groups = [found[number] for number in sorted(found)]
    else:
        names = [name for name, _ in network.named_parameters()]
        groups = [list(members) for _, members in groupby(names, lambda name: _block(network, name))]
    bodies = [[name for name in group if name not in head] for group in groups]
    return [*(body for body in bodies if body), list(head)]


def parameter_groups(module: Normalised, config: TrainConfig) -> list[dict[str, Any]]:
    """Return a network's parameters as groups for an optimizer of torch.

    Each has ``params``, ``weight_decay`` (0 for biases and normalisation), ``lr_scale`` (``layer_decay`` to the power
    of the group's distance from the last layer) and ``first_epoch`` from which it learns: 1 for all under freeze none;
    never but for the last layer under features; from the last layer group backwards over the first half of the epochs
    under gradual.
    """
    parameters = dict(module.network.named_parameters())
    layers = layer_groups(module.network)
    merged: dict[tuple[float, int, float], list[nn.Parameter]] = {}
    for distance, names in enumerate(reversed(layers)):
        first_epoch = _first_epoch(distance, len(layers) - 1, config)
        for name in names:
            decay = config.weight_decay if parameters[name].ndim > 1 else 0.0
            merged.setdefault((config.layer_decay**distance, first_epoch, decay), []).append(parameters[name])
    return [
        {"params": members, "weight_decay": decay, "lr_scale": lr_scale, "first_epoch": first_epoch}
        for (lr_scale, first_epoch, decay), members in merged.items()
    ]


def thaw(module: nn.Module, groups: list[dict[str, Any]], epoch: int) -> None:
    """Let exactly the groups learn whose first epoch has come, after ``module.train()`` at the start of each epoch.

    Parts of which nothing learns work as in evaluation: batch statistics stay, no dropout.
    """
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(group["first_epoch"] <= epoch)
    for part in module.modules():
        own = list(part.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            part.eval()


def unfold_batchnorm(module: Normalised, images: Images) -> None:
    """Give batch normalisation the statistics of pictures (N, S, S, 3) uint8, and the scale and shift that undo them.

    Folded weights hold means 0 and variances 1, which no batch has: a first step with batch statistics would compute
    another function. Afterwards the network computes what it did before in evaluation mode, and nearly that in
    training.
    """
    device, training = module.mean.device, module.training
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.affine]
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64, device=device) for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        values = inputs[0].transpose(0, 1).flatten(1)
        variance, mean = (value.double() for value in torch.var_mean(values, dim=1, correction=0))
        sums[norm] += values.shape[1] * torch.stack([mean, variance + mean.square()])
        counts[norm] += values.shape[1]

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    module.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(images), _BATCH):
                module(to_batch(torch.from_numpy(images[start : start + _BATCH]).to(device)))
            for norm in norms:
                mean, square = sums[norm] / max(counts[norm], 1)
                _rebase(norm, mean, (square - mean.square()).clamp(min=0.0))
    finally:
        for hook in hooks:
            hook.remove()
        module.train(training)


def prepare(
    module: Normalised,
    train: LabelledImages,
    val: LabelledImages,
    config: TrainConfig,
    *,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> None:
    """Make a network with loaded weights ready for its first step: folded layers unfolded, the last layer fitted.

    The last layer is fitted where ``config.freeze`` is gradual: a new one would send noise through all layers. Features
    are kept in ``cache``.
    """
    if config.weights != "none" and is_folded(module.network):
        places = np.unique(np.linspace(0, len(train) - 1, _MEASURED).round().astype(np.int64))
        unfold_batchnorm(module, train.images[places])
    if config.freeze == "gradual":
        train_head(module, train, val, config, cache=cache, progress=progress)


def _block(network: nn.Module, name: str) -> str:
    first, _, rest = name.partition(".")
    child = getattr(network, first)
    blocks = isinstance(child, nn.Sequential) and any(list(block.children()) for block in child)
    return f"{first}.{rest.partition('.')[0]}" if blocks else first


def _first_epoch(distance: int, furthest: int, config: TrainConfig) -> int:
    if distance == 0 or config.freeze == "none":
        return 1
    if config.freeze == "features":
        return config.epochs + 1
    return 1 + (distance - 1) * max(config.epochs // 2, 1) // furthest


def _rebase(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Set a layer's statistics in evaluation mode and change its scale and shift so that it maps values as before."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - scale * norm.running_mean.double()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    # From the statistics as they are kept, in single precision, so that rounding them changes nothing.
    norm.weight.copy_(scale * (norm.running_var.double() + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * norm.running_mean.double())
