"""Which layers learn when and how fast; frozen parts never drift; unfolding changes no answer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hemalens.core.config import TrainConfig
from hemalens.training.heads import classifier
from hemalens.training.models import Normalised, build_model, head_parameters
from hemalens.training.tensors import LabelledImages, to_batch
from hemalens.training.transfer import layer_groups, parameter_groups, prepare, thaw, unfold_batchnorm
from hemalens.training.weights import is_folded

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]
NAMES = ("compact", "baseline", "test_resnet", "test_vit", "test_efficientnet", "vgg11", "mobilenetv2_100")


def make_module(name: str, classes: int = 3, size: int = 32) -> Normalised:
    return Normalised(build_model(name, classes, image_size=size), torch.full((3,), 0.5), torch.full((3,), 0.2))


def folded(name: str, classes: int = 3) -> Normalised:
    """A network as a file with folded batch normalisation gives it: statistics 0 and 1, shifts of their own."""
    module = make_module(name, classes)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.bias.copy_(torch.randn(part.num_features, generator=draw))
    return module


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_one_group_from_the_input_to_the_last_layer(name: str) -> None:
    network = build_model(name, 3, image_size=32)
    groups = layer_groups(network)
    names = [parameter for parameter, _ in network.named_parameters()]
    assert sorted(parameter for group in groups for parameter in group) == sorted(names)
    assert tuple(groups[-1]) == head_parameters(network)
    assert names[0] in groups[0]
    assert 3 <= len(groups) <= 12


def test_our_networks_are_grouped_by_their_blocks() -> None:
    first = [group[0].rsplit(".", 1)[0] for group in layer_groups(build_model("compact", 3))]
    assert first == ["stem.0", "stages.0.body.0", "stages.1.body.0", "stages.2.body.0", "head.1"]
    assert [group[0] for group in layer_groups(build_model("baseline", 3))][1:] == ["head.1.weight", "head.4.weight"]


def test_a_plain_run_has_two_groups_biases_and_normalisation_without_decay(quick: MakeConfig) -> None:
    module = make_module("compact")
    groups = parameter_groups(module, quick(weight_decay=0.02))
    assert {group["weight_decay"]: {p.ndim > 1 for p in group["params"]} for group in groups} == {
        0.02: {True},
        0.0: {False},
    }
    assert len(groups) == 2
    assert all((group["lr_scale"], group["first_epoch"]) == (1.0, 1) for group in groups)
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_learning_rates_fall_by_the_distance_from_the_last_layer(quick: MakeConfig) -> None:
    module = make_module("compact")
    groups = parameter_groups(module, quick(layer_decay=0.5))
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales[id(module.network.head[1].weight)] == 1.0
    assert scales[id(module.network.stages[2].body[0].weight)] == 0.5
    assert scales[id(module.network.stages[0].body[1].bias)] == 0.125
    assert scales[id(module.network.stem[0].weight)] == 0.0625


@pytest.mark.parametrize(
    ("freeze", "epochs", "wanted"),
    [
        ("none", 8, [1, 1, 1, 1, 1]),
        ("features", 8, [9, 9, 9, 9, 1]),
        ("gradual", 8, [4, 3, 2, 1, 1]),
        ("gradual", 1, [1, 1, 1, 1, 1]),
        ("gradual", 4, [2, 2, 1, 1, 1]),
    ],
)
def test_layers_learn_from_the_last_backwards_within_the_first_half(
    freeze: str, epochs: int, wanted: list[int], quick: MakeConfig
) -> None:
    module = make_module("compact")
    groups = parameter_groups(module, quick(freeze=freeze, epochs=epochs))
    begins = {id(parameter): group["first_epoch"] for group in groups for parameter in group["params"]}
    parameters = dict(module.network.named_parameters())
    found = [{begins[id(parameters[name])] for name in names} for names in layer_groups(module.network)]
    assert found == [{epoch} for epoch in wanted]


def learn(module: Normalised, config: TrainConfig, epoch: int, optimizer: torch.optim.Optimizer) -> None:
    """Take the two steps of an epoch as the training loop does."""
    module.train()
    thaw(module, optimizer.param_groups, epoch)
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(2):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["lr_scale"]
        pictures, labels = torch.rand(6, 3, 32, 32, generator=generator), torch.arange(6) % 3
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(module(pictures), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["compact", "test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("freeze", ["gradual", "features"])
def test_frozen_layers_and_their_statistics_never_change(name: str, freeze: str, quick: MakeConfig) -> None:
    config = quick(freeze=freeze, epochs=8, optimizer="adamw", lr=0.01, weight_decay=0.1)
    module = make_module(name)
    optimizer = torch.optim.AdamW(parameter_groups(module, config), lr=config.lr)
    begins = {id(p): group["first_epoch"] for group in optimizer.param_groups for p in group["params"]}
    for epoch in (1, 2):
        before = {key: value.clone() for key, value in module.state_dict().items()}
        learn(module, config, epoch, optimizer)
        for part_name, part in module.named_modules():
            own = dict(part.named_parameters(prefix=part_name, recurse=False))
            buffers = dict(part.named_buffers(prefix=part_name, recurse=False)) if own else {}
            if not own:
                continue
            frozen = all(begins[id(parameter)] > epoch for parameter in own.values())
            for key, value in {**own, **buffers}.items():
                changed = not torch.equal(before[key], value)
                assert changed != frozen or (changed is False and not value.is_floating_point()), key


def test_thawing_is_a_function_of_the_epoch_alone(quick: MakeConfig) -> None:
    config = quick(freeze="gradual", epochs=8)
    straight, jumped = make_module("compact"), make_module("compact")
    for epoch in (1, 2, 3):
        straight.train()
        thaw(straight, parameter_groups(straight, config), epoch)
    jumped.train()
    thaw(jumped, parameter_groups(jumped, config), 3)
    modes = [[part.training for part in module.modules()] for module in (straight, jumped)]
    learned = [[parameter.requires_grad for parameter in module.parameters()] for module in (straight, jumped)]
    assert modes[0] == modes[1]
    assert learned[0] == learned[1]
    assert 0 < sum(learned[0]) < len(learned[0])


def test_an_optimizer_gone_on_with_mid_way_ends_with_the_same_weights(quick: MakeConfig) -> None:
    from hemalens.training.checkpoint import optimizer_tensors, restore_optimizer

    config = quick(freeze="gradual", layer_decay=0.5, epochs=6, lr=0.01)

    def begin() -> tuple[Normalised, torch.optim.Optimizer]:
        module = make_module("compact")
        return module, torch.optim.SGD(parameter_groups(module, config), lr=config.lr, momentum=0.9, nesterov=True)

    whole, optimizer = begin()
    for epoch in (1, 2):
        learn(whole, config, epoch, optimizer)
    resumed, other = begin()
    resumed.load_state_dict(whole.state_dict())
    restore_optimizer(other, {name: value.clone() for name, value in optimizer_tensors(optimizer).items()})
    for epoch in (3, 4):
        learn(whole, config, epoch, optimizer)
        learn(resumed, config, epoch, other)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("name", ["compact", "test_resnet", "test_efficientnet"])
def test_unfolding_changes_no_answer_and_keeps_training_near_it(name: str, coloured: MakeSet) -> None:
    module, images = folded(name), coloured(size=32).images
    pictures, others = to_batch(torch.from_numpy(images)), torch.rand(8, 3, 32, 32)
    module.eval()
    before, before_others = module(pictures), module(others)
    module.train()
    unfold_batchnorm(module, images)
    assert module.training
    assert not is_folded(module)
    with_batch_statistics = module(pictures)
    module.load_state_dict(module.state_dict())
    fresh = folded(name)
    unfold_batchnorm(fresh, images)
    fresh.eval()
    torch.testing.assert_close(fresh(pictures), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fresh(others), before_others, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(with_batch_statistics, before, rtol=0.02, atol=0.02)
    raw = folded(name)
    raw.train()
    assert (raw(pictures) - before).abs().max() > 10 * (with_batch_statistics - before).abs().max()


def test_folded_weights_are_unfolded_before_training_and_others_left_alone(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    train, val = coloured(size=32), coloured((4, 4, 4), size=32, seed=1)
    save_file(folded("compact").network.state_dict(), tmp_path / "w.safetensors")
    config = quick(weights=str(tmp_path / "w.safetensors"), image_size=32)
    module = folded("compact")
    prepare(module, train, val, config)
    assert not is_folded(module)
    plain = make_module("compact")
    prepare(plain, train, val, quick())
    assert is_folded(plain)


def test_the_last_layer_is_fitted_before_gradual_thawing(tmp_path: Path, coloured: MakeSet, quick: MakeConfig) -> None:
    train, val = coloured(), coloured((4, 4, 4), seed=1)
    module = make_module("compact")
    before = classifier(module).weight.clone()
    prepare(module, train, val, quick(), cache=tmp_path)
    assert torch.equal(classifier(module).weight, before)
    prepare(module, train, val, quick(freeze="gradual"), cache=tmp_path)
    logits = module.eval()(to_batch(torch.from_numpy(train.images)))
    assert (logits.argmax(dim=1).numpy() == train.labels).mean() > 0.9
    assert list(tmp_path.glob("features-*.safetensors"))


@pytest.mark.real_data
def test_unfolding_the_mobilenet_file_changes_no_answer(real_data: Path, coloured: MakeSet) -> None:
    from hemalens.training.weights import load_weights

    network = build_model("mobilenetv2_100", 1000, image_size=64)
    path = real_data.parent / "weights" / "mobilenetv2_100.imagenet.safetensors"
    module = Normalised(network, *load_weights(network, path, "mobilenetv2_100")).eval()
    images = coloured((8, 8), size=64).images
    assert is_folded(network)
    pictures = to_batch(torch.from_numpy(images))
    before = module(pictures)
    unfold_batchnorm(module, images)
    torch.testing.assert_close(module(pictures), before, rtol=1e-3, atol=2e-3)
    assert not is_folded(network)
