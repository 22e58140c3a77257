"""What a step sees: augmented, mixed with partners from the whole set, in several views; no batch changes them."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from hemalens.core.config import TrainConfig
from hemalens.training.augment.views import Views, make_views, views_loss
from hemalens.training.feed import Batch, MemoryFeed
from hemalens.training.losses import jensen_shannon
from hemalens.training.tensors import LabelledImages, to_batch

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def views_of(coloured: MakeSet) -> Callable[..., Views]:
    """Make the views of the first images of a set of 36."""

    def make(config: TrainConfig, indices: range = range(12), epoch: int = 1) -> Views:
        feed = MemoryFeed(coloured(), config, torch.device("cpu"))
        chosen = torch.tensor(list(indices))
        batch = Batch(feed.images(chosen), torch.as_tensor(feed.labels)[chosen], chosen, chosen, len(chosen))
        return make_views(batch, feed, config, epoch=epoch)

    return make


def test_without_steps_a_batch_stays_as_it_is(
    views_of: Callable[..., Views], quick: MakeConfig, coloured: MakeSet
) -> None:
    views = views_of(quick())
    assert torch.equal(views.images, to_batch(torch.from_numpy(coloured().images[:12])))
    assert torch.equal(views.labels, views.partner_labels)
    assert set(views.share.tolist()) == {1.0}
    assert views.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("keys", [{"mix": "both"}, {"mix": "cutmix", "jsd": 12.0}, {"jsd": 1.0}], ids=str)
def test_views_do_not_depend_on_the_batch(
    keys: dict[str, object], views_of: Callable[..., Views], quick: MakeConfig
) -> None:
    config = quick(augment=[{"name": "flip"}, {"name": "noise"}, {"name": "augmix"}], **keys)
    whole, part = views_of(config), views_of(config, range(4, 8))
    count = len(whole.images) // 12
    picked = torch.cat([torch.arange(4, 8) + 12 * view for view in range(count)])
    torch.testing.assert_close(part.images, whole.images[picked], atol=1e-6, rtol=0)
    assert torch.equal(part.partner_labels, whole.partner_labels[4:8])
    assert torch.equal(part.share, whole.share[4:8])


def test_mixing_blends_a_share_of_the_images_and_says_how_much(
    views_of: Callable[..., Views], quick: MakeConfig
) -> None:
    plain, mixed = views_of(quick(), range(36)), views_of(quick(mix="cutmix", mix_probability=0.5), range(36))
    changed = (plain.images != mixed.images).flatten(1).any(dim=1)
    assert 8 <= changed.sum() <= 28
    assert (mixed.share[changed] < 1).all()
    assert (mixed.share[~changed] == 1).sum() >= (~changed).sum() - 2  # an image may be drawn as its own partner
    outside = (plain.images == mixed.images).all(dim=1).flatten(1).double().mean(dim=1)
    # Pixels under the box that happen to be equal count as outside: never fewer than the share, and few more.
    assert (outside[changed] >= mixed.share[changed] - 1e-6).all()
    assert (outside[changed] <= mixed.share[changed] + 0.1).all()
    assert (mixed.partner_labels != mixed.labels).any()


def test_every_epoch_mixes_anew(views_of: Callable[..., Views], quick: MakeConfig) -> None:
    config = quick(mix="mixup")
    assert not torch.equal(views_of(config, epoch=1).share, views_of(config, epoch=2).share)


def test_the_first_of_three_views_goes_without_the_policies(views_of: Callable[..., Views], quick: MakeConfig) -> None:
    first, second, third = views_of(quick(augment=[{"name": "augmix"}], jsd=12.0)).images.chunk(3)
    assert torch.equal(first, views_of(quick()).images)
    assert not torch.equal(second, first)
    assert not torch.equal(second, third)


def test_the_loss_adds_the_weighted_consistency(views_of: Callable[..., Views], quick: MakeConfig) -> None:
    config = quick(jsd=12.0, label_smoothing=0.0)
    views = views_of(config)
    logits = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
    wanted = functional.cross_entropy(logits[:12], views.labels) + 12.0 * jensen_shannon(*logits.chunk(3))
    torch.testing.assert_close(views_loss(logits, views, config, None), wanted)
