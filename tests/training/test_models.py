"""Networks by name: logits of the right shape at every size, weights from the seed alone."""

import numpy as np
import pytest
import torch

from hemalens.core.errors import ConfigError
from hemalens.training.models import MODELS, Normalised, build_model, check_model, count_parameters


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [16, 28, 65])
def test_every_network_gives_a_logit_per_class_at_every_size(name: str, size: int) -> None:
    logits = build_model(name, 5).eval()(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_weights_depend_on_the_seed_and_not_on_the_global_state(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_model(name, 3, seed=4).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = build_model(name, 3, seed=4).state_dict(), build_model(name, 3, seed=5).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_works_in_training_alone(name: str) -> None:
    network, pictures = build_model(name, 3, dropout=0.5), torch.rand(4, 3, 16, 16)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(network(pictures), network(pictures))
    network.eval()
    assert torch.equal(network(pictures), network(pictures))


def test_the_normalisation_is_part_of_the_network_and_its_weights() -> None:
    inner = torch.nn.Flatten()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    module = Normalised(inner, mean, std)
    pictures = torch.rand(2, 3, 4, 4)
    wanted = (pictures.numpy() - mean.numpy().reshape(3, 1, 1)) / std.numpy().reshape(3, 1, 1)
    np.testing.assert_allclose(module(pictures).numpy(), wanted.reshape(2, -1), rtol=1e-5, atol=1e-6)
    assert set(module.state_dict()) == {"mean", "std"}


def test_parameters_are_counted() -> None:
    assert count_parameters(torch.nn.Linear(4, 3)) == 15


def test_an_unknown_network_is_refused_with_the_known_names() -> None:
    for ask in (check_model, lambda name: build_model(name, 2)):
        with pytest.raises(ConfigError, match=r"model resnet9000: must be one of: .*compact"):
            ask("resnet9000")
