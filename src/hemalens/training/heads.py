"""A network's last layer fitted by itself: the features before it once for every image, then logistic regression.

Features are kept on disk under a key of what they depend on, so that a run goes on without computing them again.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.core.types import Progress, no_progress
from hemalens.training.augment.augment import augment_batch
from hemalens.training.checkpoint import read_tensors, write_tensors
from hemalens.training.feed import Feed, MemoryFeed
from hemalens.training.models import Normalised, last_layers
from hemalens.training.schedule import class_weights
from hemalens.training.tensors import LabelledImages, to_batch

__all__ = ["VIEWS", "Head", "classifier", "extract_features", "fit_head", "train_head"]

_LOG = logging.getLogger(__name__)
_BATCH = 128
_COMPARED = 256
_STRENGTHS = tuple(10.0**-power for power in np.arange(1.0, 5.6, 0.5))
_ITERATIONS = 200
VIEWS = 8
"""The flips and quarter turns of a square: exact, nothing is interpolated."""


@dataclass(frozen=True, slots=True)
class Head:
    """A fitted last layer: logits = features @ weight.T + bias.

    Attributes:
        weight: (C, F) float32.
        bias: (C,) float32.
        strength: of the L2 penalty on the weights of standardised features, chosen on validation.
        train_loss: mean cross-entropy on the training features, as weighted there, without the penalty.
        train_accuracy: share of the training features that are named rightly.
        val_loss: mean cross-entropy on the validation features.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    train_loss: float
    train_accuracy: float
    val_loss: float


def classifier(module: nn.Module) -> nn.Linear:
    """Return the last layer of a network; raise ConfigError where that is not one linear layer."""
    found = last_layers(module)
    if len(found) != 1 or not isinstance(found[0], nn.Linear):
        network = module.network if isinstance(module, Normalised) else module
        what = f"last layer of {type(network).__name__}"
        raise ConfigError(what, "must be one linear layer to be fitted by itself", "use --set freeze=none")
    return found[0]


def extract_features(
    module: nn.Module,
    feed: Feed,
    *,
    views: int = 1,
    size: int = 0,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """Return what reaches the last layer (views * N, F) float32 for a set of N images, in evaluation mode.

    Args:
        module: the network.
        feed: the set; its augmentation takes no part.
        views: how many of the 8 flips and quarter turns of every image; the first is the image itself.
        size: pixels per side that the network sees; 0 for those of the images.
        cache: a directory; features of the same weights, images and views are read from there if they are whole.
        progress: called for the images.
    """
    path = cache / f"features-{_key(module, feed, views, size)}.safetensors" if cache is not None else None
    if path is not None and path.exists():
        try:
            return read_tensors(path)[0]["features"]
        except (ArtifactError, KeyError) as error:
            _LOG.warning("features computed again: %s", error)
    features = _compute(module, feed, views, size, progress)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"features": features})
    return features


def fit_head(features: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor, weights: Tensor) -> Head:
    """Fit multinomial logistic regression by L-BFGS; the strength with the lowest validation loss is kept.

    Args:
        features: (N, F) float32 of training images.
        labels: (N,) int64, 0..C-1.
        val_features: (M, F) float32.
        val_labels: (M,) int64.
        weights: (C,) of the classes in the training loss; C is taken from here.
    """
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, torch.ones(()))  # a feature that never changes says nothing
    scaled = (features - mean) / std
    val_scaled = (val_features - mean) / std
    inner, bias = torch.zeros(len(weights), features.shape[1]), torch.zeros(len(weights))
    best: Head | None = None
    # From strong to weak, each from the one before; a loss that rises again rises further.
    for strength in _STRENGTHS:
        inner, bias = _minimise(scaled, labels, weights, strength, (inner, bias))
        val_loss = functional.cross_entropy(val_scaled @ inner.T + bias, val_labels).item()
        if best is not None and val_loss > best.val_loss:
            break
        logits = scaled @ inner.T + bias
        weight = inner / std
        best = Head(
            weight,
            bias - weight @ mean,
            strength,
            functional.cross_entropy(logits, labels, weights).item(),
            (logits.argmax(dim=1) == labels).float().mean().item(),
            val_loss,
        )
    assert best is not None
    return best


def train_head(
    module: nn.Module,
    train: Feed,
    val: LabelledImages,
    config: TrainConfig,
    *,
    views: int = 1,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> Head:
    """Fit the last layer of a network on its features and put it in; nothing else is changed.

    Classes count evenly unless ``config.balance`` is none. See ``extract_features`` for ``views`` and ``cache``.
    """
    last = classifier(module)
    held = MemoryFeed(val, config, last.weight.device)
    size = config.image_size
    features = extract_features(module, train, views=views, size=size, cache=cache, progress=progress)
    val_features = extract_features(module, held, size=size, cache=cache, progress=progress)
    even = class_weights(train.labels, last.out_features)
    weights = torch.ones(last.out_features) if config.balance == "none" else torch.from_numpy(even).float()
    labels = torch.from_numpy(train.labels).repeat(views)
    head = fit_head(features, labels, val_features, torch.from_numpy(val.labels), weights)
    with torch.no_grad():
        last.weight.copy_(head.weight)
        last.bias.copy_(head.bias)
    _LOG.info("last layer fitted: strength %g, validation loss %.4f", head.strength, head.val_loss)
    return head


def _key(module: nn.Module, feed: Feed, views: int, size: int) -> str:
    """Return 16 hexadecimal digits that change with the weights before the last layer, the set, views and size.

    The set is known by its ids and some of its images: one larger than memory is not decoded a second time for this.
    """
    last = {id(parameter) for parameter in classifier(module).parameters()}
    images = np.ascontiguousarray(feed.sample(_COMPARED))
    digest = hashlib.sha256(f"{images.shape} {views} {size} {feed.sample_ids}".encode("utf-8", "surrogatepass"))
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in last:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().data)
    digest.update(images.data)
    return digest.hexdigest()[:16]


def _compute(module: nn.Module, feed: Feed, views: int, size: int, progress: Progress) -> Tensor:
    count, training = len(feed.labels), module.training
    parts: list[Tensor] = []
    hook = classifier(module).register_forward_pre_hook(lambda _, inputs: parts.append(inputs[0].float().cpu()))
    module.eval()
    try:
        with torch.inference_mode():
            for view in range(views):
                for start in range(0, count, _BATCH):
                    progress("features", view * count + start, views * count)
                    indices = torch.arange(start, min(start + _BATCH, count))
                    batch = augment_batch(to_batch(feed.images(indices)), indices, (), seed=0, epoch=0, size=size)
                    module(_turned(batch, view).contiguous(memory_format=torch.channels_last))
    finally:
        hook.remove()
        module.train(training)
    progress("features", views * count, views * count)
    return torch.cat(parts).flatten(1).clone()


def _turned(batch: Tensor, view: int) -> Tensor:
    """Return images (N, 3, S, S) in one of the 8 positions of a square; 0 leaves them as they are."""
    turned = torch.rot90(batch, view % 4, (2, 3))
    return turned.flip(3) if view >= 4 else turned


def _minimise(
    features: Tensor, labels: Tensor, weights: Tensor, strength: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    inner, bias = (value.clone().requires_grad_() for value in start)
    optimizer = torch.optim.LBFGS([inner, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(features @ inner.T + bias, labels, weights)
        value = value + 0.5 * strength * inner.square().sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # as above
    return inner.detach(), bias.detach()
