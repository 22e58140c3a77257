"""What training keeps for refusal: of the network as it is saved, of undistorted images, the same for a seed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hemalens.core.abstention import Abstention, judge
from hemalens.core.artifacts import read_json
from hemalens.core.config import AugmentStep
from hemalens.data.selection import choose_split
from hemalens.data.sources import open_source
from hemalens.data.split import read_splits
from hemalens.training import abstaining as refusing
from hemalens.training.abstaining import learn_abstention
from hemalens.training.checkpoint import load_model
from hemalens.training.predicting import predict_features
from hemalens.training.tensors import LabelledImages, load_images
from hemalens.training.train import train

SETTINGS = ("image_size=16", "epochs=1", "batch_size=16", "threads=1", "device=cpu", "balance=none", "optimizer=adamw")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("refusing")
    labels = np.arange(120) % 3
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    noise = np.random.default_rng(0).integers(-50, 51, (120, 16, 16, 3))
    images = (colours[labels][:, None, None] + noise).astype(np.uint8)
    np.savez(folder / "cells.npz", images=images, labels=labels, classes=np.array(["a", "b", "c"]))
    train(folder / "cells.npz", folder / "run", settings=SETTINGS)
    return folder / "cells.npz", folder / "run"


def steps_of(run: Path) -> list[AugmentStep]:
    return [AugmentStep(**step) for step in read_json(run / "config.json")["augment"]]


def learned(source: Path, run: Path, seed: int = 0, steps: list[AugmentStep] | None = None) -> Abstention:
    opened = open_source(source)
    assigned = read_splits(run / "splits.csv", opened.samples)
    labels, indices = choose_split(opened, assigned, "val")
    validation = LabelledImages(load_images(opened, indices, size=16), labels, tuple(map(str, indices)))
    steps = steps_of(run) if steps is None else steps
    return learn_abstention(load_model(run).module, opened, assigned, validation, steps=steps, seed=seed)


def test_a_run_holds_what_its_own_network_would_learn_again(trained: tuple[Path, Path]) -> None:
    written = read_json(trained[1] / "abstention.json")
    again = learned(*trained)
    assert Abstention.from_json(written).distance_limit == pytest.approx(again.distance_limit, rel=1e-4)
    assert again.gaussians is not None
    assert again.gaussians.means.shape == (3, 192)
    assert "abstention.json" in read_json(trained[1] / "provenance.json")["outputs"]


def test_what_is_no_cell_is_refused(trained: tuple[Path, Path]) -> None:
    abstention = Abstention.from_json(read_json(trained[1] / "abstention.json"))
    strange = np.random.default_rng(1).integers(0, 2, (20, 16, 16, 3)).astype(np.uint8) * 255
    judged = judge(abstention, *predict_features(load_model(trained[1]).module, torch.from_numpy(strange)))
    assert judged.abstained.mean() > 0.9
    assert "unlike any training cell" in judged.reasons[0]


def test_of_many_images_as_many_of_each_class_are_taken(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusing, "_PER_CLASS", 5)
    labels = np.repeat([0, 1, 2], [50, 3, 9])
    chosen = refusing._balanced(labels, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 5]
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, refusing._balanced(labels, seed=1))
    assert learned(*trained).to_json() == learned(*trained).to_json()


def test_other_light_than_home_is_less_strange_to_a_network_that_was_shown_it(trained: tuple[Path, Path]) -> None:
    light = [AugmentStep(name="brightness", strength=1.5), AugmentStep(name="channels", strength=1.5)]
    source, run = trained
    opened = open_source(source)
    dark = torch.from_numpy((load_images(opened, range(60), size=16) * 0.8).astype(np.uint8))
    seen = predict_features(load_model(run).module, dark)
    refused = [judge(learned(source, run, steps=steps), *seen).distance.mean() for steps in (light, [])]
    limits = [learned(source, run, steps=steps).distance_limit for steps in (light, [])]
    assert refused[0] / limits[0] < refused[1] / limits[1]


def test_steps_that_destroy_detail_excuse_nothing(trained: tuple[Path, Path]) -> None:
    damage = [AugmentStep(name=name) for name in ("blur", "noise", "cutout", "augmix")]
    assert learned(*trained, steps=damage).to_json() == learned(*trained, steps=[]).to_json()
