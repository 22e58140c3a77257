"""The recipes that come along: they are found by name and each is a whole, valid configuration."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from hemalens.core.artifacts import read_json, read_provenance
from hemalens.core.config import load_config
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.core.provenance import sha256_file
from hemalens.evaluation.evaluate import evaluate
from hemalens.training.checkpoint import load_model, read_validation
from hemalens.training.models import build_model
from hemalens.training.predicting import predict_logits
from hemalens.training.recipes import find_recipe, recipe_names
from hemalens.training.tensors import LabelledImages
from hemalens.training.train import DEFAULT_RECIPE, check_config, train

MakeSet = Callable[..., LabelledImages]
TRANSFER = ("mobilenet-transfer", "vgg16-finetune", "vgg16-transfer")
TINY = ("image_size=32", "epochs=2", "per_class=8", "batch_size=8", "threads=1", "device=cpu", "precision=fp32")


@pytest.fixture
def source(tmp_path: Path, coloured: MakeSet) -> Path:
    """60 images of three classes."""
    made = coloured((20, 20, 20), size=32)
    np.savez(tmp_path / "cells.npz", images=made.images, labels=made.labels)
    return tmp_path / "cells.npz"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_configuration_that_can_be_trained(name: str) -> None:
    check_config(load_config(find_recipe(name), ["device=cpu", "weights=none"]))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", TRANSFER)
def test_transfer_recipes_say_at_once_what_they_need_where_there_is_no_network(
    name: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"weights hub: timm/.* cannot be fetched .*weights=FILE.*weights=none"):
        train(source, tmp_path / "run", recipe=name)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", TRANSFER)
@pytest.mark.parametrize("weights", ["none", "file"])
def test_transfer_recipes_run_offline_and_their_models_load_from_the_run_alone(
    name: str, weights: str, source: Path, tmp_path: Path
) -> None:
    file = tmp_path / "w.safetensors"
    if weights == "file":
        network = build_model("test_resnet", 10, image_size=32)
        network(torch.rand(8, 3, 32, 32))
        save_file(network.state_dict(), file)
    given = str(file) if weights == "file" else "none"
    run = tmp_path / "run"
    card = train(source, run, recipe=name, settings=(*TINY, "model=test_resnet", f"weights={given}"))
    record = read_provenance(run)
    assert record is not None
    assert record["inputs"].get("weights") == card["weights_sha256"]
    assert card["weights_sha256"] == (sha256_file(file) if weights == "file" else None)
    assert read_json(run / "model.json")["weights"] == given
    assert len(pl.read_csv(run / "history.csv")) == (1 if name == "vgg16-transfer" else 2)
    file.unlink(missing_ok=True)
    loaded = load_model(run)
    logits, labels = read_validation(run)
    side = pl.read_csv(run / "splits.csv")["split"].to_numpy() == "val"
    images = torch.from_numpy(np.load(source)["images"][side])
    np.testing.assert_allclose(predict_logits(loaded.module, images), logits, rtol=1e-5, atol=1e-5)
    assert np.array_equal(np.load(source)["labels"][side], labels)


def test_a_probe_resumed_reads_its_features_and_ends_with_the_same_model(source: Path, tmp_path: Path) -> None:
    settings = (*TINY, "model=test_resnet", "weights=none", "augment=[{name='flip'}]")
    train(source, tmp_path / "whole", recipe="vgg16-transfer", settings=settings)
    seen = []

    def kill(what: str, done: int, total: int) -> None:
        seen.append(what)
        if what == "predicting":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(source, tmp_path / "cut", recipe="vgg16-transfer", settings=settings, progress=kill)
    assert "features" in seen
    again: list[str] = []
    train(
        source,
        tmp_path / "cut",
        recipe="vgg16-transfer",
        settings=settings,
        resume=True,
        progress=lambda what, *_: again.append(what),
    )
    assert "features" not in again
    assert sha256_file(tmp_path / "cut" / "model.safetensors") == sha256_file(tmp_path / "whole" / "model.safetensors")


@pytest.mark.usefixtures("undrawn")
def test_a_network_of_timm_is_evaluated_like_ours(source: Path, tmp_path: Path) -> None:
    settings = (*TINY, "model=test_vit", "weights=none")
    train(source, tmp_path / "run", recipe="vgg16-transfer", settings=settings)
    result = evaluate(tmp_path / "run", source, tmp_path / "evaluation")
    assert (result.n, result.model) == (60, "test_vit")


def test_weights_changed_since_are_no_run_to_resume(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    settings = (*TINY, f"weights={file}")

    def write(seed: int) -> None:
        save_file(build_model("compact", 8, seed=seed).state_dict(), file)

    def kill(what: str, done: int, _total: int) -> None:
        if what == "training" and done == 4:
            raise KeyboardInterrupt

    write(1)
    with pytest.raises(KeyboardInterrupt):
        train(source, tmp_path / "run", settings=settings, progress=kill)
    write(2)
    with pytest.raises(ArtifactError, match="weights: has changed"):
        train(source, tmp_path / "run", settings=settings, resume=True)


def test_the_default_and_the_demo_have_recipes() -> None:
    assert {DEFAULT_RECIPE, "demo", "baseline"} <= set(recipe_names())


def test_an_unknown_recipe_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"recipe nonesuch: must be one of: .*baseline.*compact"):
        find_recipe("nonesuch")


def test_a_name_that_ends_in_toml_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("epochs = 2\n")
    assert find_recipe(str(tmp_path / "mine.toml")) == {"epochs": 2}
    with pytest.raises(ConfigError, match="cannot be read"):
        find_recipe(str(tmp_path / "other.toml"))
