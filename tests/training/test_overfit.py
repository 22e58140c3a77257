"""Learning by heart: reached on clean labels, not reached on impossible ones, which are then named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hemalens.core.artifacts import read_json, read_provenance
from hemalens.core.config import TrainConfig, load_config
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.training.overfit import OVERFIT_RECIPE, memorise, overfit_check, stratified
from hemalens.training.recipes import find_recipe
from hemalens.training.tensors import LabelledImages
from tests.training.kills import write_source

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]
SETTINGS = ("image_size=16", "batch_size=12", "threads=1", "device=cpu", "per_class=6", "lr=0.003")


def test_the_recipe_keeps_nothing_from_being_memorised() -> None:
    config = load_config(find_recipe(OVERFIT_RECIPE))
    assert config.augment == ()
    assert (config.dropout, config.label_smoothing, config.weight_decay) == (0.0, 0.0, 0.0)
    assert (config.mix, config.jsd, config.schedule, config.ema, config.patience) == ("none", 0.0, "constant", 0.0, 0)


def test_the_subset_has_so_many_of_each_class_or_all() -> None:
    labels = np.repeat([0, 1, 3], [50, 4, 20])
    taken = stratified(labels, 10, seed=3)
    assert np.bincount(labels[taken]).tolist() == [10, 4, 0, 10]
    assert np.array_equal(taken, np.unique(taken))
    assert np.array_equal(taken, stratified(labels, 10, seed=3))
    assert not np.array_equal(taken, stratified(labels, 10, seed=4))


def test_what_can_be_learned_is_and_the_training_ends_there(tmp_path: Path) -> None:
    write_source(tmp_path)
    summary = overfit_check(tmp_path / "cells.npz", tmp_path / "out", settings=SETTINGS)
    assert summary["reached"] is True
    assert summary["accuracy"] == 1.0
    assert summary["epoch"] == len(summary["history"]) < 60
    assert [row["epoch"] for row in summary["history"]] == list(range(1, summary["epoch"] + 1))
    assert all(row["accuracy"] < 1.0 for row in summary["history"][:-1])
    assert summary["n_samples"] == 18
    assert summary["never_learned"] == []
    assert "fit together" in summary["meaning"]
    assert "generalisation" in summary["meaning"]
    assert read_json(tmp_path / "out" / "overfit.json") == summary
    assert "Training accuracy" in (tmp_path / "out" / "overfit.svg").read_text()
    record = read_provenance(tmp_path / "out")
    assert record is not None
    assert (record["command"], set(record["outputs"])) == ("overfit-check", {"overfit.json", "overfit.svg"})
    with pytest.raises(ArtifactError, match="exists already"):
        overfit_check(tmp_path / "cells.npz", tmp_path / "out", settings=SETTINGS)


def test_samples_that_cannot_be_learned_are_named_with_the_usual_causes(coloured: MakeSet, quick: MakeConfig) -> None:
    clean = coloured((8, 8, 8))
    # One image twice with two labels: no network can have both right.
    images = np.concatenate([clean.images, clean.images[:2]])
    ids = (*clean.sample_ids, "twin-0", "twin-1")
    subset = LabelledImages(images, np.append(clean.labels, [1, 2]), ids)
    config = quick(optimizer="adamw", lr=0.003, epochs=15, schedule="constant", label_smoothing=0, dropout=0)
    found = memorise(subset, ("red", "green", "blue"), config).to_json()
    assert found["reached"] is False
    assert found["epoch"] == 15
    named = {one["sample_id"] for one in found["never_learned"]}
    assert {"row-000000", "twin-0"} & named
    assert {"row-000001", "twin-1"} & named
    assert len(named) == round((1 - found["accuracy"]) * 26)
    labels = dict(zip(ids, (("red", "green", "blue")[label] for label in subset.labels), strict=True))
    assert all(one["label"] == labels[one["sample_id"]] != one["predicted"] for one in found["never_learned"])
    for cause in ("learning rate", "wrong labels", "too small", f"{len(named)} of 26 samples are not learned"):
        assert cause in found["meaning"]


def test_a_network_that_is_frozen_but_for_its_last_layer_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path)
    with pytest.raises(ConfigError, match="freeze features"):
        overfit_check(tmp_path / "cells.npz", tmp_path / "out", settings=(*SETTINGS, "freeze=features"))
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_in_the_folder_for_temporary_files(
    tmp_path: Path, coloured: MakeSet, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    memorise(coloured(), ("red", "green", "blue"), quick(epochs=1, supersample=1.5))
    assert list(tmp_path.iterdir()) == []
