"""From a batch as it was fed to what the network sees: augmented, mixed with partners, in as many views as asked for.

Everything is drawn from (seed, epoch, key), never from the batch: an image's views do not depend on its neighbours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hemalens.core.config import AugmentStep, TrainConfig
from hemalens.training.augment.augment import augment_batch
from hemalens.training.augment.mix import mix_images, mix_plan
from hemalens.training.feed import Batch, Feed
from hemalens.training.losses import jensen_shannon, mixed_cross_entropy
from hemalens.training.tensors import to_batch

__all__ = ["Views", "make_views", "views_loss"]

_PARTNER, _VIEW = 1 << 60, 1 << 56
_POLICIES = frozenset({"augmix", "randaugment", "trivialaugment"})


@dataclass(frozen=True, slots=True)
class Views:
    """What one step learns from.

    Attributes:
        images: (V * B, 3, S, S) float in [0, 1]: all first views, then all second ones, ...
        labels: (B,) int64.
        partner_labels: (B,) int64, of the images mixed in.
        share: (B,) float in [0, 1], of the own label; 1 where nothing was mixed in.
    """

    images: Tensor
    labels: Tensor
    partner_labels: Tensor
    share: Tensor


def make_views(batch: Batch, feed: Feed, config: TrainConfig, *, epoch: int) -> Views:
    """Augment a batch, mix partners into it where ``config.mix`` says so, and add two views for ``config.jsd``.

    With a consistency loss the first view goes without the policies (AugMix, RandAugment, TrivialAugment), as in
    Hendrycks et al. 2020; the other two take them.
    """
    first = tuple(step for step in config.augment if not (config.jsd and step.name in _POLICIES))
    images = _augmented(batch.images, batch.keys, first, config, epoch)
    images, partner_labels, share = _mixed(images, batch, feed, config, epoch)
    if config.jsd:
        others = [
            _augmented(batch.images, batch.keys + number * _VIEW, config.augment, config, epoch) for number in (1, 2)
        ]
        images = torch.cat([images, *others])
    images = images.contiguous(memory_format=torch.channels_last)
    return Views(images, batch.labels, partner_labels, share)


def views_loss(logits: Tensor, views: Views, config: TrainConfig, weights: Tensor | None) -> Tensor:
    """Return the loss of logits (V * B, C): cross-entropy of the first view, consistency of all three where asked for.

    Args:
        logits: as above, float32.
        views: what they were made of.
        config: label smoothing and the weight of the consistency.
        weights: of the classes (C,), or None.
    """
    first = logits[: len(views.labels)]
    loss = mixed_cross_entropy(
        first, views.labels, views.partner_labels, views.share, weights=weights, smoothing=config.label_smoothing
    )
    if config.jsd:
        loss = loss + config.jsd * jensen_shannon(*logits.chunk(3))
    return loss


def _augmented(images: Tensor, keys: Tensor, steps: tuple[AugmentStep, ...], config: TrainConfig, epoch: int) -> Tensor:
    return augment_batch(to_batch(images), keys, steps, seed=config.seed, epoch=epoch, size=config.image_size)


def _mixed(images: Tensor, batch: Batch, feed: Feed, config: TrainConfig, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, partners' labels and own shares; only the images that are mixed cost a partner."""
    share = torch.ones(len(batch.labels), device=images.device)
    labels = batch.labels.clone()
    if config.mix == "none":
        return images, labels, share
    plan = mix_plan(
        batch.keys,
        seed=config.seed,
        epoch=epoch,
        total=len(feed.labels),
        kind=config.mix,
        probability=config.mix_probability,
    )
    chosen = plan.mixed.nonzero()[:, 0]
    if not len(chosen):
        return images, labels, share
    plan = plan.of(chosen)
    indices = plan.partner.cpu()
    partners = _augmented(feed.images(indices), batch.keys[chosen] + _PARTNER, config.augment, config, epoch)
    blended, kept = mix_images(images[chosen], partners, plan)
    truth = torch.as_tensor(feed.labels)[indices].to(labels.device)
    return (
        images.index_copy(0, chosen, blended),
        labels.index_copy(0, chosen, truth),
        share.index_copy(0, chosen, kept),
    )
