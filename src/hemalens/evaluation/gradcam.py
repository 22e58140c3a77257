"""A trained network and images to Grad-CAM maps: what in its last map raises a class's logit. Needs torch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hemalens.core.errors import ConfigError
from hemalens.core.types import FloatArray, Images, IntArray
from hemalens.training.models import Normalised
from hemalens.training.tensors import to_batch

__all__ = ["grad_cam"]

_BATCH = 64


def grad_cam(module: nn.Module, images: Images, classes: IntArray) -> FloatArray:
    """Return maps (N, h, w) float32, not below 0, of one class of each image (Selvaraju et al. 2017, equations 1-2).

    Where the head is one linear layer on the mean of the map, they are class activation maps over h w.

    Args:
        module: images to logits, as ``load_model`` returns it: a ``Normalised`` network in evaluation mode.
        images: (N, S, S, 3) uint8 at the network's size.
        classes: the class asked about, of each image (N,).

    Raises ConfigError where the network's features are no map.
    """
    parts = [np.zeros((0, 1, 1), np.float32)]
    for start in range(0, len(images), _BATCH):
        batch = to_batch(torch.from_numpy(images[start : start + _BATCH]))
        parts.append(_maps(module, batch, torch.from_numpy(classes[start : start + _BATCH]).long()))
    return np.concatenate(parts[1:] or parts)


def _maps(module: nn.Module, batch: Tensor, classes: Tensor) -> FloatArray:
    assert isinstance(module, Normalised)
    network: Any = module.network
    device = next(module.parameters()).device
    with torch.no_grad():
        found: Tensor = network.forward_features(module.prepare(batch.to(device)))
    if found.ndim != 4 or min(found.shape[2:]) < 1:
        rule = f"gives features {tuple(found.shape[1:])}, which are no map of two axes"
        raise ConfigError(f"network {type(network).__name__}", rule, "explain a convolutional network")
    found = found.detach().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = network.forward_head(found)
        chosen = logits.gather(1, classes.to(device)[:, None]).sum()
        (slope,) = torch.autograd.grad(chosen, found)
    last = getattr(network, "num_features", found.shape[1]) == found.shape[3] != found.shape[1]  # channels, as in Swin
    channel, indices = (3, (1, 2)) if last else (1, (2, 3))
    weighted = (slope.mean(indices, keepdim=True) * found.detach()).sum(channel)
    return weighted.clamp_min(0).float().cpu().numpy()
