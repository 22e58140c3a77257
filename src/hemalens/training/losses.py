"""Logits to losses: cross-entropy of mixed labels, and how far several views of an image disagree."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["jensen_shannon", "mixed_cross_entropy"]


def mixed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    share: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the mean over the images of share * CE(label) + (1 - share) * CE(partner's label).

    Args:
        logits: (N, C) float32.
        labels: (N,) int64.
        partner_labels: (N,) int64, of the images mixed in.
        share: (N,) float in [0, 1]: 1 where nothing was mixed in.
        weights: of the classes (C,), averaging 1 over the samples, so that the mean is over images, not weights.
        smoothing: label smoothing in [0, 1).
    """

    def entropy(truth: Tensor) -> Tensor:
        return functional.cross_entropy(logits, truth, weights, label_smoothing=smoothing, reduction="none")

    return (share * entropy(labels) + (1.0 - share) * entropy(partner_labels)).mean()


def jensen_shannon(*logits: Tensor) -> Tensor:
    """Return the mean Jensen-Shannon divergence in nats of views' logits (N, C) (Hendrycks et al. 2020, eq. 3)."""
    views = torch.stack([functional.softmax(one, dim=1) for one in logits])
    middle = views.mean(dim=0).clamp(1e-7, 1.0).log()
    return torch.stack([functional.kl_div(middle, view, reduction="batchmean") for view in views]).mean()
