"""Losses against torch's own cross-entropy, torchmetrics and plain NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchmetrics.functional import kl_divergence

from hemalens.training.losses import jensen_shannon, mixed_cross_entropy


def logits(n: int = 12, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_cross_entropy_is_that_of_a_mixed_target(smoothing: float) -> None:
    labels, partners = torch.arange(12) % 5, (torch.arange(12) * 3 + 1) % 5
    share = torch.linspace(0, 1, 12)
    found = mixed_cross_entropy(logits(), labels, partners, share, smoothing=smoothing)
    target = share[:, None] * functional.one_hot(labels, 5) + (1 - share[:, None]) * functional.one_hot(partners, 5)
    target = target.double().numpy() * (1 - smoothing) + smoothing / 5
    values = logits().double().numpy()
    log_probability = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    assert float(found) == pytest.approx(-(target * log_probability).sum(axis=1).mean(), abs=1e-5)


def test_unmixed_it_is_the_plain_cross_entropy() -> None:
    labels = torch.arange(12) % 5
    found = mixed_cross_entropy(logits(), labels, labels.roll(1), torch.ones(12), smoothing=0.1)
    torch.testing.assert_close(found, functional.cross_entropy(logits(), labels, label_smoothing=0.1))


def test_class_weights_weigh_each_of_the_two_labels() -> None:
    labels, partners, share = torch.arange(12) % 5, (torch.arange(12) + 2) % 5, torch.full((12,), 0.25)
    weights = torch.tensor([0.5, 1.0, 1.5, 1.0, 1.0])
    found = mixed_cross_entropy(logits(), labels, partners, share, weights=weights)
    values = torch.log_softmax(logits(), dim=1)
    rows = torch.arange(12)
    own, other = (-weights[truth] * values[rows, truth] for truth in (labels, partners))
    torch.testing.assert_close(found, (0.25 * own + 0.75 * other).mean())


def test_jensen_shannon_is_the_mean_divergence_from_the_mean_view() -> None:
    views = [torch.softmax(logits(seed=seed), dim=1).double() for seed in range(3)]
    middle = sum(views) / 3
    wanted = sum(float(kl_divergence(view, middle)) for view in views) / 3
    assert float(jensen_shannon(*(logits(seed=seed) for seed in range(3)))) == pytest.approx(wanted, abs=1e-5)


def test_views_that_agree_do_not_diverge_and_views_that_differ_by_log_three_at_most() -> None:
    assert float(jensen_shannon(logits(), logits(), logits())) == pytest.approx(0, abs=1e-6)
    sure = 40 * torch.eye(3)
    apart = jensen_shannon(sure, sure.roll(1, 0), sure.roll(2, 0))
    assert float(apart) == pytest.approx(np.log(3), abs=1e-4)


def test_disagreement_pulls_the_views_together() -> None:
    views = [logits(seed=seed).requires_grad_() for seed in range(3)]
    before = jensen_shannon(*views)
    before.backward()
    with torch.no_grad():
        after = jensen_shannon(*(view - view.grad for view in views))
    assert after < before
