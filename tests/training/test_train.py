"""Samples and splits to a run directory: everything a report needs, resumable, refusing what is not of one piece."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hemalens.core.artifacts import read_json, read_provenance
from hemalens.core.errors import ArtifactError, ConfigError, SourceError, UserError
from hemalens.core.provenance import sha256_file
from hemalens.core.types import CELL_CLASSES, Progress
from hemalens.report.inputs import load_inputs
from hemalens.training.checkpoint import load_model
from hemalens.training.tensors import LabelledImages
from hemalens.training.train import train

MakeSet = Callable[..., LabelledImages]
SETTINGS = (
    *("image_size=16", "epochs=2", "batch_size=12", "balance=none", "threads=1", "device=cpu", "precision=fp32"),
    "augment=[{name='flip'}, {name='rotate'}]",
)


@pytest.fixture
def source(tmp_path: Path, coloured: MakeSet) -> Path:
    """100 images of two classes."""
    made = coloured((60, 40))
    path = tmp_path / "cells.npz"
    np.savez(path, images=made.images, labels=made.labels)
    return path


def kill_at(step: int) -> Progress:
    def progress(what: str, done: int, _total: int) -> None:
        if what == "training" and done == step:
            raise KeyboardInterrupt

    return progress


def weights_hash(run: Path) -> str:
    return sha256_file(run / "model.safetensors")


def test_a_run_holds_what_later_stages_and_the_report_read(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "run" / "train"
    summary = train(source, run, settings=SETTINGS)
    card = read_json(run / "model.json")
    assert summary == card
    assert card["classes"] == list(CELL_CLASSES)
    assert (card["image_size"], card["epochs"], card["model"], card["precision"]) == (16, 2, "compact", "fp32")
    assert card["n_train"] + card["n_val"] < 100
    assert {"parameters", "device", "threads", "best_epoch", "train_seconds", "val_accuracy"} <= card.keys()
    config = read_json(run / "config.json")
    assert config["augment"] == [{"name": name, "probability": 1.0, "strength": 1.0} for name in ("flip", "rotate")]
    history = pl.read_csv(run / "history.csv")
    assert history["epoch"].to_list() == [1, 2]
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_distorted_accuracy"} < set(history.columns)
    report = load_inputs([tmp_path / "run"]).main
    assert report.history["val_accuracy"] == history["val_accuracy"].to_list()
    assert report.splits is not None
    assert load_model(tmp_path / "run").classes == CELL_CLASSES
    record = read_provenance(run)
    assert record is not None
    assert record["command"] == "train"
    assert record["outputs"]["model.safetensors"] == weights_hash(run)
    assert record["inputs"]["source"] == sha256_file(source)


def test_without_splits_83_13_4_are_drawn_and_written_down(source: Path, tmp_path: Path) -> None:
    card = train(source, tmp_path / "run", settings=(*SETTINGS, "epochs=1"))
    table = pl.read_csv(tmp_path / "run" / "splits.csv")
    counts = dict(table.group_by("split").len().rows())
    assert sum(counts.values()) == 100
    assert abs(counts["train"] - 83) <= 1
    assert abs(counts["val"] - 13) <= 1
    assert (card["n_train"], card["n_val"]) == (counts["train"], counts["val"])


def test_the_splits_given_are_obeyed(source: Path, tmp_path: Path) -> None:
    assigned = ["val" if row % 5 == 0 else "train" for row in range(100)]
    table = pl.DataFrame({"sample_id": [f"row-{row:06d}" for row in range(100)], "split": assigned})
    table.write_csv(tmp_path / "splits.csv")
    card = train(source, tmp_path / "run", splits=tmp_path / "splits.csv", settings=(*SETTINGS, "epochs=1"))
    assert (card["n_train"], card["n_val"]) == (80, 20)
    assert pl.read_csv(tmp_path / "run" / "splits.csv")["split"].to_list() == assigned


@pytest.mark.parametrize("steps", [(0,), (8,), (5, 11)])
def test_a_killed_run_resumed_ends_with_the_same_file(source: Path, tmp_path: Path, steps: tuple[int, ...]) -> None:
    settings = (*SETTINGS, "ema=0.9", "dropout=0.2")
    train(source, tmp_path / "whole", settings=settings)
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            train(source, tmp_path / "cut", settings=settings, resume=True, progress=kill_at(step))
        assert not (tmp_path / "cut" / "provenance.json").exists()
    train(source, tmp_path / "cut", settings=settings, resume=True)
    assert weights_hash(tmp_path / "cut") == weights_hash(tmp_path / "whole")
    assert (tmp_path / "cut" / "provenance.json").exists()


def test_resuming_a_complete_run_returns_its_summary_and_touches_nothing(source: Path, tmp_path: Path) -> None:
    first = train(source, tmp_path / "run", settings=(*SETTINGS, "epochs=1"))
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    assert train(source, tmp_path / "run", settings=(*SETTINGS, "epochs=1"), resume=True) == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")} == stamps


def test_an_earlier_run_is_refused_unless_it_may_be_replaced(source: Path, tmp_path: Path) -> None:
    settings = (*SETTINGS, "epochs=1")
    train(source, tmp_path / "run", settings=settings)
    before = weights_hash(tmp_path / "run")
    with pytest.raises(ArtifactError, match="exists already"):
        train(source, tmp_path / "run", settings=settings)
    train(source, tmp_path / "run", settings=(*settings, "seed=3"), overwrite=True)
    assert weights_hash(tmp_path / "run") != before


def test_a_run_of_another_configuration_is_not_resumed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(source, tmp_path / "run", settings=SETTINGS, progress=kill_at(8))
    for setting, key in (("lr=0.01", "lr"), ("seed=1", "seed"), ("augment=[]", "augment")):
        with pytest.raises(ArtifactError, match=rf"{key}: was .* in the run to resume"):
            train(source, tmp_path / "run", settings=(*SETTINGS, setting), resume=True)


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_on_other_data_or_splits_is_not_resumed(
    source: Path, tmp_path: Path, coloured: MakeSet, finished: bool
) -> None:
    run = tmp_path / "run"
    if finished:
        train(source, run, settings=SETTINGS)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(source, run, settings=SETTINGS, progress=kill_at(8))
    assigned = ["val" if row % 5 == 0 else "train" for row in range(100)]
    table = pl.DataFrame({"sample_id": [f"row-{row:06d}" for row in range(100)], "split": assigned})
    table.write_csv(tmp_path / "splits.csv")
    with pytest.raises(ArtifactError, match="splits: has changed"):
        train(source, run, splits=tmp_path / "splits.csv", settings=SETTINGS, resume=True)
    made = coloured((60, 40), seed=7)
    np.savez(source, images=made.images, labels=made.labels)
    with pytest.raises(ArtifactError, match="source: has changed"):
        train(source, run, settings=SETTINGS, resume=True)


def test_resume_with_overwrite_begins_anew_where_it_cannot_go_on(source: Path, tmp_path: Path) -> None:
    settings = (*SETTINGS, "lr=0.01")
    train(source, tmp_path / "fresh", settings=settings)
    with pytest.raises(KeyboardInterrupt):
        train(source, tmp_path / "run", settings=SETTINGS, progress=kill_at(8))
    train(source, tmp_path / "run", settings=settings, resume=True, overwrite=True)
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "fresh")


def test_a_directory_of_somebody_else_is_not_resumed_into(source: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="not empty"):
        train(source, tmp_path / "theirs", settings=SETTINGS, resume=True)


def save(path: Path, made: LabelledImages, **arrays: Any) -> Path:
    np.savez(path, images=made.images, **arrays)
    return path


def test_a_source_without_labels_or_with_one_class_is_refused(tmp_path: Path, coloured: MakeSet) -> None:
    made = coloured((10, 10))
    np.save(tmp_path / "unlabelled.npy", made.images)
    save(tmp_path / "one.npz", made, labels=np.full(20, 3))
    for path, found in ((tmp_path / "unlabelled.npy", "none"), (tmp_path / "one.npz", "ig")):
        with pytest.raises(SourceError, match=f"needs at least two classes to train on, it has {found}"):
            train(path, tmp_path / "run", settings=SETTINGS)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_split_without_a_labelled_sample_is_refused(tmp_path: Path, coloured: MakeSet, missing: str) -> None:
    made = coloured((10, 10))
    other = {"train": "val", "val": "train"}[missing]
    path = save(tmp_path / "cells.npz", made, labels=made.labels, splits=np.array([other] * 20))
    with pytest.raises(SourceError, match=f"split {missing} of .* has 0 labelled samples"):
        train(path, tmp_path / "run", settings=SETTINGS)
    assert not (tmp_path / "run" / "model.json").exists()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"recipe": "nonesuch"}, "recipe nonesuch"),
        ({"settings": ("model=nonesuch",)}, "model nonesuch"),
        ({"settings": ("augment=[{name='twirl'}]",)}, "augmentation twirl"),
        ({"settings": ("device=abacus",)}, "device abacus"),
        ({"splits": Path("nowhere.csv")}, r"table nowhere\.csv: does not exist"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    source: Path, tmp_path: Path, arguments: dict[str, Any], rule: str
) -> None:
    with pytest.raises(UserError, match=rule) as caught:
        train(source, tmp_path / "run", **arguments)
    assert isinstance(caught.value, ConfigError | ArtifactError)
    assert not (tmp_path / "run").exists()
