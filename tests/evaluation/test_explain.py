"""Explanations: a map a sample, the worst mistakes first, the same from a run and from an exported model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from hemalens.core.artifacts import read_json
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.heatmaps import normalise, overlay
from hemalens.data.synthetic import synthetic_set
from hemalens.evaluation.examinee import open_examinee
from hemalens.evaluation.explain import explain
from hemalens.export.export import export
from hemalens.training.checkpoint import load_model
from hemalens.training.predicting import predict_logits
from hemalens.training.train import train
from tests.exported import bind_again

KINDS = ("lymphocyte", "neutrophil", "platelet")
SETTINGS = ("image_size=32", "epochs=2", "batch_size=16", "balance=none", "threads=1", "device=cpu", "precision=fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, some of them mislabelled, and a run that learned a little from them."""
    path = tmp_path_factory.mktemp("explain")
    made = synthetic_set(dict.fromkeys(KINDS, 16), size=40)
    np.savez(path / "cells.npz", images=made.images, labels=made.labels)
    train(path / "cells.npz", path / "run", settings=SETTINGS)
    return path


@pytest.fixture(scope="module")
def explained(folder: Path) -> Path:
    explain(folder / "run", folder / "cells.npz", folder / "out", limit=20)
    return folder / "out"


def test_every_explained_sample_has_a_row_and_a_image(folder: Path, explained: Path) -> None:
    table = pl.read_csv(explained / "explain.csv")
    assert table.columns == ["sample_id", "label", "predicted", "confidence", "map"]
    assert len(table) == table["sample_id"].n_unique() == 20
    for name in table["map"]:
        with Image.open(explained / name) as drawn:
            assert (drawn.format, drawn.size, drawn.mode) == ("PNG", (40, 40), "RGB")
    assert {path.name for path in (explained / "maps").iterdir()} == {Path(name).name for name in table["map"]}


def test_the_summary_says_what_was_done_and_whether_it_means_something(folder: Path, explained: Path) -> None:
    result = read_json(explained / "explain.json")
    with np.load(folder / "cells.npz") as arrays:
        assert result["n_samples"] == len(arrays["images"])
    assert (result["n_explained"], result["map_size"]) == (20, [2, 2])
    assert "Grad-CAM" in result["method"]
    assert result["check"]["verdict"] in ("meaningful", "not shown")
    assert result["check"]["n"] == 20
    record = read_json(explained / "provenance.json")
    assert record["command"] == "explain"
    assert set(record["inputs"]) == {"source", "model"}


def test_the_worst_mistakes_come_first(folder: Path, explained: Path) -> None:
    loaded = load_model(folder / "run")
    with np.load(folder / "cells.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    table = pl.read_csv(explained / "explain.csv")
    wrong = (table["label"] != table["predicted"]).to_list()
    mistakes = read_json(explained / "explain.json")["n_mistakes_explained"]
    assert wrong == [True] * mistakes + [False] * (20 - mistakes)
    confidence = table["confidence"][:mistakes].to_list()
    assert confidence == sorted(confidence, reverse=True)
    small = np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in images])
    predicted = predict_logits(loaded.module, torch.from_numpy(small)).argmax(axis=1)
    named = [loaded.classes[number] for number in predicted]
    rows = [int(name.removeprefix("row-")) for name in table["sample_id"]]
    assert table["predicted"].to_list() == [named[row] for row in rows]
    assert labels.ndim in (1, 2)


def test_a_map_is_the_image_under_its_heat(folder: Path, explained: Path) -> None:
    examinee = open_examinee(folder / "run")
    first = pl.read_csv(explained / "explain.csv").row(0, named=True)
    with np.load(folder / "cells.npz") as arrays:
        image = arrays["images"][int(first["sample_id"].removeprefix("row-"))]
    small = np.array(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))[None]
    heat = normalise(examinee.maps(small, np.array([examinee.classes.index(first["predicted"])])))
    np.testing.assert_array_equal(np.asarray(Image.open(explained / first["map"])), overlay(image, heat[0]))


def test_the_page_shows_check_mistakes_and_samples(explained: Path) -> None:
    text = (explained / "explain.html").read_text(encoding="utf-8")
    result = read_json(explained / "explain.json")
    assert text.count("<li><figure>") == 20
    assert "Not for diagnosis" in text
    assert ("Yes: the model" in text) == (result["check"]["verdict"] == "meaningful")
    assert text.count("labelled ") >= result["n_mistakes_explained"]
    assert "http://" not in text
    assert "https://" not in text


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    export(folder / "run", folder / "exports" / "model.onnx")
    return folder / "exports" / "model.onnx"


def test_an_exported_model_gives_the_maps_of_its_run(folder: Path, exported: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    asked = np.array([0, 1, 2, 1])
    without_torch, with_it = open_examinee(exported), open_examinee(folder / "run")
    assert without_torch.classes == with_it.classes
    np.testing.assert_allclose(
        normalise(without_torch.maps(images, asked)), normalise(with_it.maps(images, asked)), atol=1e-4
    )


def test_an_exported_model_is_explained_to_a_page_too(folder: Path, exported: Path, tmp_path: Path) -> None:
    result = explain(exported, folder / "cells.npz", tmp_path / "out", limit=3).to_json()
    assert result["method"].startswith("class activation maps")
    assert result["n_explained"] == 3
    assert (tmp_path / "out" / "explain.html").exists()


def test_an_export_without_a_linear_head_is_refused(folder: Path, exported: Path, tmp_path: Path) -> None:
    bind_again(
        tmp_path / "model.onnx", read_json(exported.with_suffix(".json")) | {"head": None}, exported.read_bytes()
    )
    with pytest.raises(ConfigError, match=r"has no class activation maps .*; explain the run"):
        explain(tmp_path / "model.onnx", folder / "cells.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_samples_of_the_side_that_was_asked_for_are_explained(
    folder: Path, exported: Path, tmp_path: Path
) -> None:
    with np.load(folder / "cells.npz") as arrays:
        ids = [f"row-{row:06d}" for row in range(len(arrays["images"]))]
    sides = [("test", "train", "val")[row % 3] for row in range(len(ids))]
    pl.DataFrame({"sample_id": ids, "split": sides}).write_csv(tmp_path / "splits.csv")
    asked = {"default": None, "val": "val", "all": "all"}
    for name, side in asked.items():
        out = tmp_path / name
        result = explain(
            exported, folder / "cells.npz", out, splits=tmp_path / "splits.csv", split=side, limit=4
        ).to_json()  # type: ignore[arg-type]
        wanted = side or "test"
        assert result["split"] == read_json(out / "provenance.json")["options"]["split"] == wanted
        members = [one for one, where in zip(ids, sides, strict=True) if wanted in (where, "all")]
        page = (out / "explain.html").read_text(encoding="utf-8")
        assert (f"({wanted} split)" in page) == (wanted != "all")
        table = pl.read_csv(out / "explain.csv")
        assert (result["n_samples"], table.height) == (len(members), 4)
        assert set(table["sample_id"]) <= set(members)
        indices = [int(one.removeprefix("row-")) for one in table["sample_id"]]
        assert table["map"].to_list() == [f"maps/{index:06d}.png" for index in indices]


def test_wrong_sides_are_refused_as_in_evaluate(folder: Path, tmp_path: Path) -> None:
    cells, out = folder / "cells.npz", tmp_path / "out"
    with pytest.raises(ConfigError, match="split holdout: must be one of train, val, test, all"):
        explain(folder / "run", cells, out, split="holdout")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="split val: needs to know who is in it"):
        explain(folder / "run", cells, out, split="val")
    pl.DataFrame({"sample_id": ["row-000000"], "split": ["test"]}).write_csv(tmp_path / "splits.csv")
    with pytest.raises(ArtifactError, match=r"sample row-000001: is not in .*splits\.csv"):
        explain(folder / "run", cells, out, splits=tmp_path / "splits.csv")
    assert not out.exists()


def test_samples_without_labels_are_explained_without_mistakes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    with np.load(folder / "cells.npz") as arrays:
        for row in range(2):
            Image.fromarray(arrays["images"][row]).save(tmp_path / "flat" / f"{row}.png")
    result = explain(folder / "run", tmp_path / "flat", tmp_path / "out").to_json()
    assert (result["n_explained"], result["n_mistakes_explained"]) == (2, 0)
    assert "None was found among labelled samples" in (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")


def test_what_cannot_be_explained_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit 0: must be at least 1"):
        explain(folder / "run", folder / "cells.npz", tmp_path / "out", limit=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        explain(folder / "run", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ArtifactError, match="does not exist"):
        explain(tmp_path / "nowhere", folder / "cells.npz", tmp_path / "out")


def test_an_exported_model_is_explained_without_torch(folder: Path, exported: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hemalens.evaluation.explain import explain; "
        "explain(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), limit=2); "
        "assert not {'torch', 'onnx', 'hemalens.training.models'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, str(exported), str(folder / "cells.npz"), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "explain.html").exists()
