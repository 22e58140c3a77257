"""Transfer learning: which layers learn, from which epoch and how fast.

All is a function of the network, the configuration and the epoch, so a resumed run goes on as it would have.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemalens.core.config import TrainConfig
from hemalens.training.models import Normalised, head_parameters
from hemalens.training.weights import is_folded

__all__ = ["layer_groups", "parameter_groups", "thaw"]


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
    of the group's distance from the last layer), ``first_epoch`` from which it learns (1 for all under freeze none;
    never but for the last layer under features; from the last group backwards over the first half of the epochs
    under gradual), ``orthogonal``: whether Muon is to orthogonalise their updates (weights of hidden layers, which
    alone decay then), and ``fixed_norms``: whether batch normalisation is to keep its statistics, since the weights
    given have it folded.
    """
    fixed_norms = config.weights != "none" and is_folded(module.network)
    parameters = dict(module.network.named_parameters())
    layers = layer_groups(module.network)
    hidden = _hidden(parameters, layers[-1]) if config.optimizer == "muon" else None
    merged: dict[tuple[float, int, float, bool], list[nn.Parameter]] = {}
    for distance, names in enumerate(reversed(layers)):
        first_epoch = _first_epoch(distance, len(layers) - 1, config)
        for name in names:
            orthogonal = hidden is not None and name in hidden
            decays = parameters[name].ndim > 1 if hidden is None else orthogonal
            decay = config.weight_decay if decays else 0.0
            key = (config.layer_decay**distance, first_epoch, decay, orthogonal)
            merged.setdefault(key, []).append(parameters[name])
    return [
        {
            "params": members,
            "weight_decay": decay,
            "lr_scale": lr_scale,
            "first_epoch": first_epoch,
            "orthogonal": orthogonal,
            "fixed_norms": fixed_norms,
        }
        for (lr_scale, first_epoch, decay, orthogonal), members in merged.items()
    ]


def thaw(module: nn.Module, groups: list[dict[str, Any]], epoch: int) -> None:
    """Let exactly the groups learn whose first epoch has come, after ``module.train()`` at the start of each epoch.

    Parts of which nothing learns work as in evaluation: batch statistics stay, no dropout. So does folded batch
    normalisation, whose statistics (means 0, variances 1) no batch has: it goes on as a learned scale and shift.
    """
    fixed_norms = any(group["fixed_norms"] for group in groups)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(group["first_epoch"] <= epoch)
    for part in module.modules():
        own = list(part.parameters())
        frozen = bool(own) and not any(parameter.requires_grad for parameter in own)
        if frozen or (fixed_norms and isinstance(part, _BatchNorm)):
            part.eval()


def _hidden(parameters: Mapping[str, nn.Parameter], head: Sequence[str]) -> set[str]:
    """Return the weights of all layers but the first, whose inputs are colours, and the last, whose outputs classes."""
    weights = [name for name, parameter in parameters.items() if parameter.ndim > 1]
    return set(weights[1:]) - set(head)


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
