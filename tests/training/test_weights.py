"""Weights to start from: every tensor in its place or an error that names it, no pickle, no long wait for a hub."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ConfigError
from hemalens.core.provenance import sha256_file
from hemalens.training.models import Normalised, build_model, head_parameters
from hemalens.training.tensors import LabelledImages
from hemalens.training.weights import find_weights, is_folded, load_weights, read_weights, starting_module

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]


def write_weights(path: Path, name: str, classes: int = 10, **metadata: str) -> dict[str, torch.Tensor]:
    """Write a network's own tensors, as timm would name them, with statistics of a trained network."""
    state = build_model(name, classes, image_size=32, seed=9).state_dict()
    state |= {key: torch.full_like(value, 0.3) for key, value in state.items() if key.endswith("running_mean")}
    save_file(state, path, metadata=metadata or None)
    return state


def test_none_is_no_file(quick: MakeConfig) -> None:
    assert find_weights(quick()) is None


def test_a_file_is_found_with_its_hash(tmp_path: Path, quick: MakeConfig) -> None:
    write_weights(tmp_path / "w.safetensors", "compact")
    found = find_weights(quick(weights=str(tmp_path / "w.safetensors")))
    assert found is not None
    assert (found.path, found.sha256) == (tmp_path / "w.safetensors", sha256_file(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["w.pth", "w.PT", "pytorch_model.bin", "w.ckpt", "w.pkl"])
def test_pickles_are_refused_unread_with_a_way_out(name: str, tmp_path: Path, quick: MakeConfig) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(ConfigError, match=r"pickles, which can run any code; .*safetensors\.torch\.save_file"):
        find_weights(quick(weights=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("spec", "rule"), [("imagenet", "must be none, hub or a .safetensors"), ("no.safetensors", "there is no such file")]
)
def test_other_words_and_missing_files_are_refused(spec: str, rule: str, quick: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=rule):
        find_weights(quick(weights=spec))


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x05 not what it says")
    with pytest.raises(ConfigError, match=r"w\.safetensors: is no safetensors file"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_hub_is_given_up_at_once_and_both_ways_out_are_named(quick: MakeConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        find_weights(quick(model="test_resnet", weights="hub"))
    message = str(caught.value)
    assert "timm/test_resnet.r160_in1k cannot be fetched" in message
    assert "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors" in message
    assert "--set weights=FILE.safetensors" in message
    assert "--set weights=none" in message


def test_the_hub_is_asked_only_once_before_giving_up(quick: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def out_of_reach(_url: str, *, timeout: float) -> None:
        asked.append(timeout)
        raise TimeoutError("timed out")

    def download(*_: object, local_files_only: bool = False) -> None:
        assert local_files_only, "the download tries six times"
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", out_of_reach)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ConfigError, match="timed out"):
        find_weights(quick(model="test_resnet", weights="hub"))
    assert asked == [5.0]


def test_a_file_in_the_hubs_cache_needs_no_network(
    tmp_path: Path, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path / "model.safetensors", "test_resnet")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "model.safetensors"))
    found = find_weights(quick(model="test_resnet", weights="hub"))
    assert found is not None
    assert found.sha256 == sha256_file(tmp_path / "model.safetensors")


def test_the_hub_has_nothing_for_our_own_networks(quick: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="timm has none for compact"):
        find_weights(quick(weights="hub"))


def test_every_tensor_is_taken_and_a_head_of_another_shape_stays_new(tmp_path: Path) -> None:
    given = write_weights(tmp_path / "w.safetensors", "test_resnet", classes=10)
    for classes in (10, 4):
        network = build_model("test_resnet", classes, image_size=32, seed=1)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        load_weights(network, tmp_path / "w.safetensors", "test_resnet")
        head = head_parameters(network)
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[key] if key in head and classes == 4 else given[key])


def test_a_file_without_a_head_leaves_the_new_one(tmp_path: Path) -> None:
    state = write_weights(tmp_path / "w.safetensors", "test_resnet")
    save_file({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "w.safetensors")
    load_weights(build_model("test_resnet", 10, image_size=32), tmp_path / "w.safetensors", "test_resnet")


def test_tensors_that_lack_are_left_over_or_differ_are_named(tmp_path: Path) -> None:
    state = write_weights(tmp_path / "w.safetensors", "test_resnet")
    first = next(key for key in state if key.endswith("layer1.0.conv1.weight"))
    save_file({"stray": torch.zeros(1), **{k: v for k, v in state.items() if k != first}}, tmp_path / "a.safetensors")
    save_file({**state, first: torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    for file, rule in (("a", rf"lacks {first}; has left over stray"), ("b", rf"differs in {first} \(2, 2\) for \(")):
        network = build_model("test_resnet", 10, image_size=32, seed=1)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(ConfigError, match=rule):
            load_weights(network, tmp_path / f"{file}.safetensors", "test_resnet")
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_weights_of_another_network_are_refused_in_one_short_line(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", "test_efficientnet")
    with pytest.raises(ConfigError, match=r"does not fit the network compact: lacks .* more; has left over") as caught:
        load_weights(build_model("compact", 3), tmp_path / "w.safetensors", "compact")
    assert len(str(caught.value)) < 600


def test_dense_layers_of_vgg_in_a_file_are_left_out(tmp_path: Path) -> None:
    state = build_model("vgg11", 3, image_size=32, seed=5).state_dict()
    dense = {"pre_logits.fc1.weight": torch.zeros(4, 4), "head.fc.weight": torch.zeros(7, 4096)}
    save_file({**state, **dense, "head.fc.bias": torch.zeros(7)}, tmp_path / "w.safetensors")
    network = build_model("vgg11", 3, image_size=32, seed=6)
    load_weights(network, tmp_path / "w.safetensors", "vgg11")
    assert torch.equal(network.state_dict()["features.0.weight"], state["features.0.weight"])


def test_position_embeddings_are_resized_to_the_images(tmp_path: Path) -> None:
    state = build_model("test_vit", 3, image_size=160, seed=5).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = build_model("test_vit", 3, image_size=64, seed=6)
    load_weights(network, tmp_path / "w.safetensors", "test_vit")
    assert network.state_dict()["pos_embed"].shape != state["pos_embed"].shape
    assert torch.equal(network.state_dict()["blocks.0.norm1.weight"], state["blocks.0.norm1.weight"])


def test_mean_and_deviation_come_with_the_weights(tmp_path: Path) -> None:
    def found(name: str = "test_resnet") -> tuple[list[float], list[float]]:
        mean, std = load_weights(build_model(name, 10, image_size=32), tmp_path / "w.safetensors", name)
        return [round(value, 3) for value in mean.tolist()], [round(value, 3) for value in std.tolist()]

    write_weights(tmp_path / "w.safetensors", "resnet18")
    assert found("resnet18") == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # timm's own
    write_weights(tmp_path / "w.safetensors", "test_resnet", mean="[0.1, 0.2, 0.3]", std="[0.4, 0.5, 0.6]")
    assert found() == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])  # named by the file
    state = write_weights(tmp_path / "w.safetensors", "resnet18")
    folded = {key: torch.zeros_like(value) if key.endswith("running_mean") else value for key, value in state.items()}
    save_file(folded, tmp_path / "w.safetensors")
    assert found("resnet18") == ([0.5] * 3, [0.5] * 3)  # converted from another library


@pytest.mark.parametrize("std", ["[0, 1, 1]", "[1, 1]", "one"])
def test_metadata_that_make_no_sense_are_refused(std: str, tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", "test_resnet", mean=json.dumps([0, 0, 0]), std=std)
    with pytest.raises(ConfigError, match="mean and std in its metadata"):
        load_weights(build_model("test_resnet", 10, image_size=32), tmp_path / "w.safetensors", "test_resnet")


def test_a_model_of_ours_is_gone_on_from_with_its_own_normalisation(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig
) -> None:
    trained = Normalised(build_model("compact", 5, seed=3), torch.full((3,), 0.7), torch.full((3,), 0.1))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    config = quick(weights=str(tmp_path / "model.safetensors"))
    for classes in (5, 3):
        module = starting_module(coloured().images, classes, config)
        state = trained.state_dict()
        assert torch.equal(module.mean, trained.mean)
        assert torch.equal(module.state_dict()["network.stem.0.weight"], state["network.stem.0.weight"])
        assert module(torch.rand(2, 3, 16, 16)).shape == (2, classes)
    module = starting_module(coloured().images, 5, config).eval()
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(module(images), trained.eval()(images))


def test_without_weights_the_training_set_gives_mean_and_deviation(coloured: MakeSet, quick: MakeConfig) -> None:
    images = coloured().images
    module = starting_module(images, 3, quick())
    scaled = images.reshape(-1, 3) / 255.0
    torch.testing.assert_close(module.mean.flatten(), torch.from_numpy(scaled.mean(axis=0)).float())
    torch.testing.assert_close(module.std.flatten(), torch.from_numpy(scaled.std(axis=0)).float())


def test_folded_normalisation_is_told_from_a_trained_one(tmp_path: Path) -> None:
    network = build_model("compact", 3)
    assert is_folded(network)
    network(torch.rand(4, 3, 16, 16))
    assert not is_folded(network)
    assert not is_folded(build_model("baseline", 3))


@pytest.mark.real_data
def test_the_mobilenet_file_knows_a_cat(real_data: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    path = shutil.copy(real_data.parent / "weights" / "mobilenetv2_100.imagenet.safetensors", tmp_path)
    network = build_model("mobilenetv2_100", 1000)
    mean, std = load_weights(network, Path(path), "mobilenetv2_100")
    cat = Image.open(real_data / "foreign" / "chelsea.png").convert("RGB").resize((224, 224))
    pixels = torch.from_numpy(np.asarray(cat).copy()).permute(2, 0, 1)[None] / 255
    logits = Normalised(network, mean, std).eval()(pixels)
    assert int(logits.argmax()) in {281, 282, 285}  # tabby, tiger cat, Egyptian cat
