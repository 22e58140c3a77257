"""Networks by name: logits of the right shape at every size, weights from the seed alone; timm's beside ours."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from hemalens.core.errors import ConfigError
from hemalens.training.models import MODELS, Normalised, build_model, check_model, count_parameters, head_parameters

TINY = ("test_resnet", "test_efficientnet", "test_vit", "test_resnet.r160_in1k")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [16, 28, 65])
def test_every_network_gives_a_logit_per_class_at_every_size(name: str, size: int) -> None:
    logits = build_model(name, 5).eval()(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", [*MODELS, *TINY])
def test_weights_depend_on_the_seed_and_not_on_the_global_state(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_model(name, 3, seed=4).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = build_model(name, 3, seed=4).state_dict(), build_model(name, 3, seed=5).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", [*MODELS, "test_resnet"])
def test_dropout_works_in_training_alone(name: str) -> None:
    network, images = build_model(name, 3, dropout=0.5), torch.rand(4, 3, 16, 16)
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_the_normalisation_is_part_of_the_network_and_its_weights() -> None:
    inner = torch.nn.Flatten()
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    module = Normalised(inner, mean, std)
    images = torch.rand(2, 3, 4, 4)
    wanted = (images.numpy() - mean.numpy().reshape(3, 1, 1)) / std.numpy().reshape(3, 1, 1)
    np.testing.assert_allclose(module(images).numpy(), wanted.reshape(2, -1), rtol=1e-5, atol=1e-6)
    assert set(module.state_dict()) == {"mean", "std"}


def test_by_image_light_and_white_balance_do_not_matter() -> None:
    module = Normalised(
        torch.nn.Identity(), torch.tensor([0.6, 0.5, 0.4]), torch.tensor([0.2, 0.2, 0.2]), by_image=True
    )
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = module(images)
    torch.testing.assert_close(plain.mean(dim=(2, 3)), torch.zeros(3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.square().mean(dim=(1, 2, 3)), torch.ones(3), rtol=1e-2, atol=0)
    lit = 0.6 * images + torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(module(lit), plain, rtol=0, atol=2e-3)
    assert module(torch.full((1, 3, 8, 8), 0.3)).abs().max() < 1e-5


def test_parameters_are_counted() -> None:
    assert count_parameters(torch.nn.Linear(4, 3)) == 15


def test_an_unknown_network_is_refused_with_the_known_names() -> None:
    for ask in (check_model, lambda name: build_model(name, 2)):
        with pytest.raises(ConfigError, match=r"model resnet9000: must be one of: .*compact.* timm"):
            ask("resnet9000")


@pytest.mark.parametrize(("typed", "meant"), [("mobilnetv2_100", "mobilenetv2_100"), ("vgg61", "vgg16")])
def test_a_name_misspelled_brings_up_the_one_meant(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"near it are: .*{meant}"):
        check_model(typed)


def test_unknown_weights_of_a_known_network_are_refused_with_the_known_ones() -> None:
    check_model("resnet18.a1_in1k")
    with pytest.raises(ConfigError, match=r"model resnet18\.a9: timm knows no weights 'a9'.*a1_in1k"):
        check_model("resnet18.a9")


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "../resnet18"])
def test_names_that_would_reach_the_network_or_the_disk_are_no_networks(name: str) -> None:
    with pytest.raises(ConfigError, match="must be one of"):
        check_model(name)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [32, 64, 96])
def test_networks_of_timm_give_a_logit_per_class(name: str, size: int) -> None:
    logits = build_model(name, 5, image_size=size).eval()(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [64, 96])
def test_vgg16_learns_at_small_sizes_without_its_dense_layers(size: int) -> None:
    network = build_model("vgg16", 8, image_size=size, dropout=0.5)
    assert count_parameters(network) == 14_714_688 + 513 * 8  # thirteen convolutions and the last layer
    network(torch.rand(2, 3, size, size)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_a_size_that_a_network_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model vgg11: cannot be used for 3 classes at 16 px"):
        build_model("vgg11", 3, image_size=16)


@pytest.mark.parametrize(
    ("name", "wanted"), [("compact", "head.1"), ("baseline", "head.4"), ("test_resnet", "fc"), ("vgg11", "head.fc")]
)
def test_the_last_layer_is_found(name: str, wanted: str) -> None:
    assert head_parameters(build_model(name, 3, image_size=32)) == (f"{wanted}.weight", f"{wanted}.bias")


def test_the_small_residual_network_comes_in_three_widths() -> None:
    counts = [count_parameters(build_model(name, 8)) for name in ("compact-small", "compact", "compact-large")]
    assert counts == [218_456, 869_032, 1_951_736]


def test_our_own_networks_do_without_timm() -> None:
    words = (
        "import sys; from hemalens.training.train import check_config; from hemalens.core.config import TrainConfig;"
    )
    words += "from hemalens.training.models import build_model; check_config(TrainConfig()); build_model('compact', 2);"
    subprocess.run([sys.executable, "-c", f"{words} sys.exit('timm' in sys.modules)"], check=True)
