"""Which layers learn when and how fast; frozen and folded parts never drift."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hemalens.core.config import TrainConfig
from hemalens.training.checkpoint import latest_checkpoint, optimizer_tensors, restore_optimizer
from hemalens.training.feed import MemoryFeed
from hemalens.training.loop import Fitted, fit
from hemalens.training.models import Normalised, build_model, head_parameters
from hemalens.training.tensors import LabelledImages
from hemalens.training.transfer import layer_groups, parameter_groups, thaw
from hemalens.training.weights import is_folded, starting_module

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
        images, labels = torch.rand(6, 3, 32, 32, generator=generator), torch.arange(6) % 3
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(module(images), labels).backward()
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


def test_folded_normalisation_goes_on_as_scale_and_shift_and_others_take_batch_statistics(
    tmp_path: Path, quick: MakeConfig
) -> None:
    config = quick(weights=str(tmp_path / "w.safetensors"), optimizer="adamw", lr=0.01, epochs=8)
    module = folded("test_efficientnet")
    images = torch.rand(6, 3, 32, 32)
    before = module.eval()(images)
    groups = parameter_groups(module, config)
    thaw(module.train(), groups, 1)
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    assert torch.equal(module(images), before)  # the first step sees the network that was loaded
    learn(module, config, 1, torch.optim.AdamW(groups, lr=config.lr))
    assert is_folded(module)
    assert all(norm.weight.grad is not None for norm in norms)
    for begun in (quick(), quick(weights="w.safetensors")):
        other = make_module("test_efficientnet")
        if begun.weights != "none":
            other(images)  # weights that bring statistics
        thaw(other.train(), parameter_groups(other, begun), 1)
        assert all(norm.training for norm in other.modules() if isinstance(norm, _BatchNorm))


def test_batch_statistics_would_destroy_folded_weights(quick: MakeConfig) -> None:
    module, images = folded("test_efficientnet"), torch.rand(6, 3, 32, 32)
    before = module.eval()(images)
    assert (module.train()(images) - before).abs().max() > 0.1 * before.abs().max()


@pytest.mark.parametrize("freeze", ["gradual", "none"])
def test_a_run_by_the_loop_killed_and_resumed_ends_with_the_same_weights(
    freeze: str, tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    data, val = coloured(), coloured((4, 4, 4), seed=1)
    save_file(folded("test_resnet").network.state_dict(), tmp_path / "w.safetensors")
    config = quick(
        model="test_resnet",
        weights=str(tmp_path / "w.safetensors"),
        freeze=freeze,
        layer_decay=0.7,
        epochs=4,
        optimizer="adamw",
        lr=0.003,
        ema=0.5,
        dropout=0.2,
    )

    def run(name: str, stop: int = -1) -> Fitted:
        def progress(what: str, done: int, _total: int) -> None:
            if what == "training" and done == stop:
                raise KeyboardInterrupt

        feed = MemoryFeed(data, config, torch.device("cpu"))
        return fit(feed, val, 3, config, checkpoints=tmp_path / name, progress=progress)

    whole = run("whole")
    for stop in (1, 5, 10):
        with pytest.raises(KeyboardInterrupt):
            run("cut", stop)
    resumed = run("cut")
    state = resumed.module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.module.state_dict().items())
    assert [row["val_loss"] for row in whole.history] == [row["val_loss"] for row in resumed.history]


@pytest.mark.parametrize(("freeze", "reached"), [("gradual", True), ("none", False)])
def test_gradual_thawing_begins_with_a_fitted_last_layer(
    freeze: str, reached: bool, tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    config = quick(model="baseline", freeze=freeze, epochs=1, lr=1e-9, ema=0.9)
    feed = MemoryFeed(coloured(), config, torch.device("cpu"))
    fitted = fit(feed, coloured((4, 4, 4), seed=1), 3, config, checkpoints=tmp_path)
    assert (fitted.history[0]["val_accuracy"] > 0.9) is reached


def test_layers_not_yet_thawed_are_those_of_the_file_after_an_epoch_of_the_loop(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    given = folded("compact").network.state_dict()
    save_file(given, tmp_path / "w.safetensors")
    config = quick(weights=str(tmp_path / "w.safetensors"), freeze="gradual", epochs=8, patience=1, layer_decay=0.5)

    def progress(what: str, done: int, _total: int) -> None:
        if what == "training" and done == 3:  # three steps an epoch
            raise KeyboardInterrupt

    feed = MemoryFeed(coloured(), config, torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        fit(feed, coloured((4, 4, 4), seed=1), 3, config, checkpoints=tmp_path, progress=progress)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    changed = {key for key, value in given.items() if not torch.equal(found[0][f"module.network.{key}"], value)}
    assert {key.split(".")[0] + key.split(".")[1] for key in changed} == {"stages2", "head1"}


@pytest.mark.real_data
def test_the_mobilenet_file_is_folded_and_stays_as_it_is_in_training(real_data: Path, quick: MakeConfig) -> None:
    path = real_data.parent / "weights" / "mobilenetv2_100.imagenet.safetensors"
    config = quick(model="mobilenetv2_100", image_size=64, weights=str(path), dropout=0)
    module = starting_module(np.zeros((1, 64, 64, 3), np.uint8), 1000, config).eval()
    images = torch.rand(4, 3, 64, 64)
    before = module(images)
    assert is_folded(module.network)
    thaw(module.train(), parameter_groups(module, config), 1)
    torch.testing.assert_close(module(images), before)


def test_muon_orthogonalises_hidden_weights_only_and_lets_only_these_decay(quick: MakeConfig) -> None:
    module = Normalised(build_model("compact", 3), torch.zeros(3), torch.ones(3))
    groups = parameter_groups(module, quick(optimizer="muon", weight_decay=0.03))
    names = {id(parameter): name for name, parameter in module.network.named_parameters()}
    hidden = {names[id(one)] for group in groups if group["orthogonal"] for one in group["params"]}
    assert hidden == {name for name, one in module.network.named_parameters() if one.ndim == 4} - {"stem.0.weight"}
    assert {group["weight_decay"] for group in groups if group["orthogonal"]} == {0.03}
    assert {group["weight_decay"] for group in groups if not group["orthogonal"]} == {0.0}
    others = parameter_groups(module, quick(optimizer="sgd", weight_decay=0.03))
    assert not any(group["orthogonal"] for group in others)
