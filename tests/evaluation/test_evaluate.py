"""Scores of a trained model: equal to those of other libraries, complete, and about the samples asked for."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics
from torchmetrics.classification import MulticlassCalibrationError

from hemalens.core.artifacts import output_directory, read_json
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.evaluation_summary import Evaluation
from hemalens.core.metrics import softmax
from hemalens.core.provenance import sha256_file
from hemalens.core.recorded import open_record
from hemalens.core.types import CELL_CLASSES
from hemalens.data.scale import ZOOMS, Scale, zoomed
from hemalens.data.sources import content_sha256, open_source
from hemalens.data.synthetic import synthetic_set
from hemalens.evaluation.evaluate import evaluate as evaluate_as_record
from hemalens.evaluation.evaluate import score
from hemalens.export.export import export
from hemalens.inference.sidecar import find_onnx
from hemalens.training.checkpoint import load_model, read_validation
from hemalens.training.predicting import predict_logits
from hemalens.training.train import train
from tests.exported import bind_again
from tests.recording import record_again

CLASSES = CELL_CLASSES[:3]
SETTINGS = ("image_size=16", "epochs=1", "batch_size=16", "balance=none", "threads=1", "device=cpu", "optimizer=adamw")


def evaluate(*args: Any, **options: Any) -> dict[str, Any]:
    """Evaluate and return the object that the file holds."""
    return evaluate_as_record(*args, **options).to_json()


@dataclass(frozen=True)
class Trained:
    source: Path
    splits: Path
    run: Path


def write_cells(path: Path, labels: Sequence[int], classes: Sequence[str] = CLASSES, **arrays: Any) -> Path:
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [130, 130, 130]])
    noise = np.random.default_rng(len(labels)).integers(-55, 56, (len(labels), 16, 16, 3))
    images = (colours[np.asarray(labels)][:, None, None] + noise).astype(np.uint8)
    np.savez(path, images=images, labels=np.asarray(labels), classes=np.array(classes), **arrays)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of three colours that was trained a little, so that it is sometimes wrong."""
    folder = tmp_path_factory.mktemp("trained")
    source = write_cells(folder / "cells.npz", [row % 3 for row in range(90)])
    sides = ["test" if row % 3 == row % 9 else "val" if row % 9 < 6 else "train" for row in range(90)]
    table = pl.DataFrame({"sample_id": [f"row-{row:06d}" for row in range(90)], "split": sides})
    table.write_csv(folder / "splits.csv")
    train(source, folder / "run", splits=folder / "splits.csv", settings=(*SETTINGS, "lr=0.0003"))
    return Trained(source, folder / "splits.csv", folder / "run")


def probabilities(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, n_classes, n), softmax(generator.normal(0, 2, (n, n_classes)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 200), st.integers(2, 8))
def test_scores_are_those_of_scikit_learn_and_torchmetrics(seed: int, n: int, n_classes: int) -> None:
    labels, chances = probabilities(seed, n, n_classes)
    labels[:n_classes] = np.arange(n_classes)
    found = score(labels, chances, [str(c) for c in range(n_classes)]).to_json()
    predicted = chances.argmax(axis=1)
    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"]["value"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"]["value"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, chances, labels=range(n_classes)))
    assert found["confusion_matrix"] == metrics.confusion_matrix(labels, predicted).tolist()
    oracle = MulticlassCalibrationError(n_classes, n_bins=15, norm="l1")
    wanted = float(oracle(torch.from_numpy(chances), torch.from_numpy(labels)))
    assert found["ece"] == pytest.approx(wanted, abs=1e-6)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert 0 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1
    table = metrics.precision_recall_fscore_support(labels, predicted, labels=range(n_classes), zero_division=0)
    for index, (precision, recall, f1, support) in enumerate(zip(*table, strict=True)):
        mine = found["per_class"][str(index)]
        assert [mine[key] for key in ("precision", "recall", "f1")] == pytest.approx([precision, recall, f1])
        assert mine["support"] == support


def test_an_evaluation_holds_every_field_of_the_contract(trained: Trained, tmp_path: Path) -> None:
    summary = evaluate(trained.run, trained.source, tmp_path / "out", splits=trained.splits)
    written = read_json(tmp_path / "out" / "evaluation.json")
    assert written == summary
    found = open_record(tmp_path / "out", "evaluate").read("evaluation.json", Evaluation)
    assert found.to_json() == written
    assert (written["n"], written["split"], written["classes"]) == (30, "test", list(CLASSES))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "distorted"):
        assert {"value", "low", "high"} <= written[name].keys()
        assert written[name]["low"] <= written[name]["value"] <= written[name]["high"]
    assert list(written["per_class"]) == list(CLASSES)
    assert np.sum(written["confusion_matrix"]) == 30
    assert all(isinstance(written[name], float) for name in ("loss", "ece", "ece_uncalibrated", "temperature"))
    assert {"coverage", "accuracy_kept", "threshold", "distance_threshold", "rule"} <= written["abstention"].keys()
    assert written["calibration"]["after"]["ece"] == written["ece"]
    assert written["calibration"]["before"]["ece"] == written["ece_uncalibrated"]
    assert list(written["calibration"]["after"]["per_class"]) == list(CLASSES)
    assert {"lac", "lac_by_class", "aps", "aps_by_class"} <= written["conformal"].keys()
    assert written["risk_coverage"].keys() == {"confidence", "distance"}
    assert written["n_unknown_label"] == 0
    assert "groups" not in written
    drawn = ("confusion_matrix", "per_class_f1", "reliability", "reliability_by_class", "risk_coverage", "abstention")
    for name in drawn:
        assert (tmp_path / "out" / f"{name}.svg").read_text().lstrip().startswith("<svg")
    record = read_json(tmp_path / "out" / "provenance.json")
    assert record["command"] == "evaluate"
    assert set(record["inputs"]) == {"source", "model"}


@pytest.mark.usefixtures("undrawn")
def test_predictions_have_a_row_a_sample_and_agree_with_the_scores(trained: Trained, tmp_path: Path) -> None:
    summary = evaluate(trained.run, trained.source, tmp_path / "out", split="all")
    table = pl.read_csv(tmp_path / "out" / "predictions.csv")
    chances = table.select(f"p_{name}" for name in CLASSES).to_numpy()
    fixed = ["sample_id", "label", "predicted", "confidence", "abstained", "reason"]
    assert table.columns == [*fixed, *(f"p_{name}" for name in CLASSES)]
    assert table["sample_id"].to_list() == [f"row-{row:06d}" for row in range(90)]
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert table["predicted"].to_list() == [CLASSES[index] for index in chances.argmax(axis=1)]
    np.testing.assert_allclose(table["confidence"], chances.max(axis=1))
    right = table["label"] == table["predicted"]
    assert right.mean() == pytest.approx(summary["accuracy"]["value"])
    refused, abstention = table["abstained"], summary["abstention"]
    assert 1 - refused.mean() == pytest.approx(abstention["coverage"])
    assert right.filter(~refused).mean() == pytest.approx(abstention["accuracy_kept"])
    for abstained, reason, confidence in table.select("abstained", "reason", "confidence").iter_rows():
        assert abstained == bool(reason)
        unsure = confidence < abstention["threshold"]
        assert unsure == ("confidence" in (reason or "")) or abs(confidence - abstention["threshold"]) < 1e-6


@pytest.mark.usefixtures("undrawn")
def test_temperature_and_threshold_come_from_the_validation_samples(trained: Trained, tmp_path: Path) -> None:
    summary = evaluate(trained.run, trained.source, tmp_path / "out", splits=trained.splits)
    logits, _ = read_validation(trained.run)
    val = evaluate(trained.run, trained.source, tmp_path / "val", splits=trained.splits, split="val")
    # Each of two criteria takes a whole number of the 30 samples.
    assert 1 - val["abstention"]["coverage"] == pytest.approx(0.05, abs=2 / len(logits))
    assert val["abstention"]["threshold"] == summary["abstention"]["threshold"]
    assert val["temperature"] == summary["temperature"]
    assert val["loss"] <= metrics.log_loss([row % 3 for row in range(90) if 3 <= row % 9 < 6], softmax(logits)) + 1e-6


@pytest.mark.usefixtures("undrawn")
def test_one_side_of_the_split_is_scored_as_asked(trained: Trained, tmp_path: Path) -> None:
    counts = {
        side: evaluate(trained.run, trained.source, tmp_path / side, splits=trained.splits, split=side)["n"]
        for side in ("train", "all")
    }
    assert counts == {"train": 30, "all": 90}


@pytest.mark.usefixtures("undrawn")
def test_labels_the_model_does_not_know_are_predicted_and_counted_but_not_scored(
    trained: Trained, tmp_path: Path
) -> None:
    labels = [0, 1, 2, 3, 3]
    source = write_cells(tmp_path / "more.npz", labels, (*CLASSES, "blast"))
    summary = evaluate(trained.run, source, tmp_path / "out")
    assert (summary["n"], summary["n_unknown_label"]) == (3, 2)
    table = pl.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["label"].to_list() == [*CLASSES, "blast", "blast"]
    assert all(row["label"] in CLASSES for row in summary["worst_mistakes"])


@pytest.mark.usefixtures("undrawn")
def test_another_order_of_classes_in_the_source_changes_nothing(trained: Trained, tmp_path: Path) -> None:
    labels = [row % 3 for row in range(30)]
    same = write_cells(tmp_path / "same.npz", labels)
    with np.load(same) as arrays:
        np.savez(
            tmp_path / "turned.npz",
            images=arrays["images"],
            labels=2 - arrays["labels"],
            classes=arrays["classes"][::-1],
        )
    found = [evaluate(trained.run, tmp_path / f"{name}.npz", tmp_path / name) for name in ("same", "turned")]
    assert found[0]["confusion_matrix"] == found[1]["confusion_matrix"]
    assert found[0]["distorted"] == found[1]["distorted"]


@pytest.mark.usefixtures("undrawn")
def test_the_worst_mistakes_are_the_surest_ones_and_their_images_are_there(trained: Trained, tmp_path: Path) -> None:
    wrong = [(row + row % 2) % 3 for row in range(60)]  # every other colour under another label
    with np.load(write_cells(tmp_path / "cells.npz", [row % 3 for row in range(60)])) as arrays:
        images = arrays["images"]
    np.savez(tmp_path / "cells.npz", images=images, labels=np.array(wrong), classes=np.array(CLASSES))
    summary = evaluate(trained.run, tmp_path / "cells.npz", tmp_path / "out")
    worst = summary["worst_mistakes"]
    sure = [row["confidence"] for row in worst]
    assert sure == sorted(sure, reverse=True)
    assert len(worst) == min(24, round(60 * (1 - summary["accuracy"]["value"])))
    for row in worst:
        index = int(row["sample_id"].removeprefix("row-"))
        assert row["label"] == CLASSES[wrong[index]] != row["predicted"]
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / row["image"])), images[index])
        heated = np.asarray(Image.open(tmp_path / "out" / row["map"]))
        assert heated.shape == images[index].shape
        assert not np.array_equal(heated, images[index])


@pytest.mark.usefixtures("undrawn")
def test_adapting_scores_the_zoomed_images_and_says_so(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Scale(1.25, 90, 0.9, dict.fromkeys(ZOOMS, 2.0) | {1.0: 3.0})
    monkeypatch.setattr("hemalens.evaluation.evaluate.find_scale", lambda *_, **__: told)
    summary = evaluate(trained.run, trained.source, tmp_path / "out", split="all", adapt=True)
    assert summary["adaptation"] == told.to_json()
    assert read_json(tmp_path / "out" / "provenance.json")["options"]["adapt"] is True
    loaded, source = load_model(trained.run), open_source(trained.source)
    images = np.stack([zoomed(source.image(index).pixels, 1.25, 16) for index in range(90)])
    predicted = predict_logits(loaded.module, torch.from_numpy(images)).argmax(axis=1)
    table = pl.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["predicted"].to_list() == [CLASSES[index] for index in predicted]


@pytest.mark.usefixtures("undrawn")
def test_images_like_the_training_cells_are_not_adapted(trained: Trained, tmp_path: Path) -> None:
    plain = evaluate(trained.run, trained.source, tmp_path / "plain", split="all")
    adapted = evaluate(trained.run, trained.source, tmp_path / "adapted", split="all", adapt=True)
    assert adapted["adaptation"]["zoom"] == 1.0
    assert adapted["confusion_matrix"] == plain["confusion_matrix"]
    with pytest.raises(ConfigError, match="--adapt with --corruptions"):
        evaluate(trained.run, trained.source, tmp_path / "both", adapt=True, corruptions=True)


def test_corruptions_are_scored_where_they_are_asked_for(trained: Trained, tmp_path: Path) -> None:
    cells = write_cells(tmp_path / "cells.npz", [0, 1, 2, 3, 0, 1], classes=(*CLASSES, "stranger"))
    told: list[str] = []
    summary = evaluate(
        trained.run, cells, tmp_path / "out", corruptions=True, progress=lambda what, *_: told.append(what)
    )
    found = dict(summary["corruptions"])
    assert (found.pop("be"), found.pop("rbe")) == (None, None)  # three classes: no AlexNet was tested on them
    assert len(found) == 11
    for severities in found.values():
        assert list(severities) == ["1", "2", "3", "4", "5"]
        assert all({"balanced_error", "ece"} == one.keys() for one in severities.values())
    facts = summary["corruption_facts"]
    assert facts["n"] == 5, "a label that the model does not know takes no part"
    assert facts["clean_balanced_error"] == pytest.approx(1 - summary["balanced_accuracy"]["value"])
    assert "corrupting" in told
    assert len(pl.read_csv(tmp_path / "out" / "corruptions.csv")) == 55
    assert (tmp_path / "out" / "corruptions.svg").exists()
    assert read_json(tmp_path / "out" / "provenance.json")["options"]["corruptions"] is True


def write_audit(path: Path, source: Path, batch: Sequence[str]) -> Path:
    """Write the part of an audit that is read: a batch of another background, and the contents of all samples.

    The ids carry a prefix that the source lacks, as after cleaning into folders: only the contents are the same.
    """
    opened = open_source(source)
    contents = [content_sha256(opened.read(index)) for index in range(len(opened))]
    manifest = {"sample_id": [f"shard/{sample.sample_id}" for sample in opened.samples], "sha256": contents}
    table = {
        "sample_id": [f"shard/{name}" for name in ("row-000000", *batch)],
        "issue": ["blurry", *["background_batch"] * len(batch)],
    }
    with output_directory(path, "audit"):
        texts = dict.fromkeys(("label", "suggestion", "reason"), "review") | {"group": "g1"}
        rows = pl.DataFrame(table).with_columns(*(pl.lit(text).alias(name) for name, text in texts.items()))
        rows = rows.with_columns(pl.lit(1.0).alias("score"))
        rows.write_csv(path / "issues.csv")
        pl.DataFrame(manifest).write_csv(path / "manifest.csv")
    return path


@pytest.mark.usefixtures("undrawn")
def test_a_background_batch_that_the_audit_found_is_scored_apart(trained: Trained, tmp_path: Path) -> None:
    audit = write_audit(tmp_path / "audit", trained.source, [f"row-{row:06d}" for row in range(0, 90, 10)])
    summary = evaluate(trained.run, trained.source, tmp_path / "out", audit=audit)
    groups = summary["groups"]
    assert {name: group["n"] for name, group in groups.items()} == {"grey_background": 9, "other": 81}
    right = sum(group["n"] * group["accuracy"]["value"] for group in groups.values())
    assert right / 90 == pytest.approx(summary["accuracy"]["value"])


@pytest.mark.usefixtures("undrawn")
def test_without_a_background_batch_there_are_no_groups(trained: Trained, tmp_path: Path) -> None:
    audit = write_audit(tmp_path / "audit", trained.source, [])
    assert "groups" not in evaluate(trained.run, trained.source, tmp_path / "out", audit=audit)


@pytest.mark.usefixtures("undrawn")
def test_evaluating_twice_gives_the_same_but_for_the_time(trained: Trained, tmp_path: Path) -> None:
    first, second = (evaluate(trained.run, trained.source, tmp_path / name, split="all") for name in "ab")
    assert {key for key in first if first[key] != second[key]} <= {"images_per_second"}


@pytest.mark.usefixtures("undrawn")
def test_wrong_options_are_refused_before_anything_is_written(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="split holdout: must be one of train, val, test, all"):
        evaluate(trained.run, trained.source, out, splits=trained.splits, split="holdout")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="split val: needs to know who is in it"):
        evaluate(trained.run, trained.source, out, split="val")
    everywhere = pl.read_csv(trained.splits).with_columns(pl.lit("train").alias("split"))
    everywhere.write_csv(tmp_path / "splits.csv")
    with pytest.raises(ArtifactError, match=r"split test in .* is empty"):
        evaluate(trained.run, trained.source, out, splits=tmp_path / "splits.csv")
    with pytest.raises(ArtifactError, match="nowhere: does not exist"):
        evaluate(tmp_path / "nowhere", trained.source, out)
    with pytest.raises(ArtifactError, match="audit"):
        evaluate(trained.run, trained.source, out, audit=tmp_path / "nowhere")
    strange = write_cells(tmp_path / "strange.npz", [0, 1], ("blast", "hairy"))
    with pytest.raises(SourceError, match=r"no sample labelled with a class of the model \(basophil, "):
        evaluate(trained.run, strange, out)
    assert not out.exists()


@pytest.mark.usefixtures("undrawn")
def test_an_earlier_evaluation_is_replaced_only_on_demand(trained: Trained, tmp_path: Path) -> None:
    evaluate(trained.run, trained.source, tmp_path / "out")
    with pytest.raises(ArtifactError, match="exists already"):
        evaluate(trained.run, trained.source, tmp_path / "out")
    again = evaluate(trained.run, trained.source, tmp_path / "out", splits=trained.splits, overwrite=True)
    assert read_json(tmp_path / "out" / "evaluation.json")["n"] == again["n"] == 30


@pytest.mark.usefixtures("undrawn")
def test_a_sample_that_cannot_be_read_is_named(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "basophil"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.png").symlink_to("/etc/hostname")
    with pytest.raises(SourceError, match=r"b\.png: cannot be read"):
        evaluate(trained.run, tmp_path / "cells", tmp_path / "out")


@pytest.mark.usefixtures("undrawn")
def test_the_module_predicts_the_written_probabilities(trained: Trained, tmp_path: Path) -> None:
    summary = evaluate(trained.run, trained.source, tmp_path / "out")
    assert summary["split"] == "all"
    loaded = load_model(trained.run)
    with np.load(trained.source) as arrays, torch.no_grad():
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2) / 255
        chances = torch.softmax(loaded.module(images).double() / summary["temperature"], dim=1)
    table = pl.read_csv(tmp_path / "out" / "predictions.csv").select(f"p_{name}" for name in CLASSES)
    np.testing.assert_allclose(table.to_numpy(), chances.numpy(), atol=1e-4)


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_abstention_data_abstains_by_confidence_and_says_so(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run" / "abstention.json").unlink()
    record_again(tmp_path / "run")
    old = evaluate(tmp_path / "run", trained.source, tmp_path / "old", splits=trained.splits)
    assert "abstains by confidence alone" in caplog.text
    assert old["abstention"]["rule"].startswith("confidence alone")
    assert old["abstention"]["distance_threshold"] is None
    new = evaluate(trained.run, trained.source, tmp_path / "new", splits=trained.splits)
    assert new["abstention"]["rule"].startswith("distance")
    assert old["accuracy"] == new["accuracy"]
    logits, _ = read_validation(trained.run)
    confidence = softmax(logits / old["temperature"]).max(axis=1)
    assert (confidence < old["abstention"]["threshold"]).mean() == pytest.approx(0.05, abs=1 / len(logits))


@pytest.mark.usefixtures("undrawn")
def test_damaged_abstention_data_are_named(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    (tmp_path / "run" / "abstention.json").write_text('{"schema_version": 1}', encoding="utf-8")
    record_again(tmp_path / "run")
    with pytest.raises(ArtifactError, match="abstention data"):
        evaluate(tmp_path / "run", trained.source, tmp_path / "out", splits=trained.splits)


@pytest.mark.usefixtures("undrawn")
def test_images_of_an_unknown_class_are_refused_by_distance_and_counted(trained: Trained, tmp_path: Path) -> None:
    source = write_cells(tmp_path / "mixed.npz", [0, 1, 2, 3] * 10, classes=(*CLASSES, "myeloblast"))
    summary = evaluate(trained.run, source, tmp_path / "out")
    found = summary["abstention"]["unknown_classes"]
    table = pl.read_csv(tmp_path / "out" / "predictions.csv").filter(pl.col("label") == "myeloblast")
    assert found["n"] == table.height == 10
    assert found["abstained"]["value"] == table["abstained"].mean()
    assert found["abstained"]["low"] <= found["abstained"]["value"] <= found["abstained"]["high"]
    assert sum(summary["abstention"]["histogram"]["unknown"]) == 10
    assert summary["n_unknown_label"] == 10


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, exported; nobody may write to it."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(trained.run, path, source=trained.source)
    return path


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def answers(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "predictions.csv").select("sample_id", "label", "predicted", "abstained")


def test_an_exported_model_is_scored_as_the_run_it_was_exported_from(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    run, onnx = (
        evaluate(model, trained.source, tmp_path / name, splits=trained.splits)
        for name, model in (("run", trained.run), ("onnx", exported))
    )
    assert list(onnx) == list(run)
    for name in ("model", "accuracy", "macro_f1", "confusion_matrix", "per_class", "distorted", "temperature", "split"):
        assert onnx[name] == run[name], name
    assert onnx["calibration"]["before"]["ece"] == pytest.approx(run["calibration"]["before"]["ece"], abs=1e-4)
    assert onnx["abstention"]["rule"] == run["abstention"]["rule"]
    assert onnx["abstention"]["threshold"] == run["abstention"]["threshold"]
    assert onnx["conformal"].keys() == {"wanted", "lac_by_class"}, "no validation samples lie beside an export"
    assert onnx["conformal"]["lac_by_class"]["coverage"] == pytest.approx(
        run["conformal"]["lac_by_class"]["coverage"], abs=1 / 30
    )
    assert files_below(tmp_path / "onnx") == files_below(tmp_path / "run")
    assert answers(tmp_path / "onnx").equals(answers(tmp_path / "run"))
    for mine, theirs in zip(onnx["worst_mistakes"], run["worst_mistakes"], strict=True):
        assert (mine["sample_id"], mine["map"]) == (theirs["sample_id"], theirs["map"])
        first, second = (np.asarray(Image.open(tmp_path / name / mine["map"]), int) for name in ("onnx", "run"))
        assert abs(first - second).max() <= 2
    record = read_json(tmp_path / "onnx" / "provenance.json")
    assert record["inputs"]["model"] == sha256_file(exported)


@pytest.mark.usefixtures("undrawn")
def test_corruptions_of_an_exported_model_cost_what_they_cost_its_run(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    cells = write_cells(tmp_path / "cells.npz", [0, 1, 2, 1])
    run, onnx = (
        evaluate(model, cells, tmp_path / name, corruptions=True)["corruptions"]
        for name, model in (("run", trained.run), ("onnx", exported))
    )
    for name, severities in run.items():
        for severity, one in (severities or {}).items():
            assert onnx[name][severity]["balanced_error"] == one["balanced_error"]
            assert onnx[name][severity]["ece"] == pytest.approx(one["ece"], abs=1e-3)


@pytest.mark.usefixtures("undrawn")
def test_an_exported_model_is_adapted_and_scored_by_groups(trained: Trained, exported: Path, tmp_path: Path) -> None:
    audit = write_audit(tmp_path / "audit", trained.source, [f"row-{row:06d}" for row in range(0, 90, 10)])
    run, onnx = (
        evaluate(model, trained.source, tmp_path / name, audit=audit, adapt=True)
        for name, model in (("run", trained.run), ("onnx", exported))
    )
    assert onnx["groups"] == run["groups"]
    assert onnx["adaptation"]["zoom"] == run["adaptation"]["zoom"]
    assert onnx["adaptation"]["distances"] == pytest.approx(run["adaptation"]["distances"], rel=1e-3)


@pytest.mark.usefixtures("undrawn")
def test_an_export_without_maps_has_its_mistakes_without_them(trained: Trained, exported: Path, tmp_path: Path) -> None:
    bind_again(
        tmp_path / "model.onnx", read_json(exported.with_suffix(".json")) | {"head": None}, exported.read_bytes()
    )
    cells = write_cells(tmp_path / "cells.npz", [0, 1, 2] * 5)
    with np.load(cells) as arrays:
        wrong = dict(arrays) | {"labels": (arrays["labels"] + 1) % 3}
    np.savez(cells, **wrong)
    worst = evaluate(tmp_path / "model.onnx", cells, tmp_path / "out")["worst_mistakes"]
    assert worst
    assert {row["map"] for row in worst} == {None}


@pytest.mark.usefixtures("undrawn")
def test_the_embedded_model_is_scored(tmp_path: Path) -> None:
    made = synthetic_set({"lymphocyte": 4, "platelet": 4}, size=64, contamination=False)
    np.savez(tmp_path / "cells.npz", images=made.images, labels=made.labels)
    summary = evaluate("embedded", tmp_path / "cells.npz", tmp_path / "out")
    assert (summary["n"], summary["classes"]) == (8, list(CELL_CLASSES))
    record = read_json(tmp_path / "out" / "provenance.json")
    assert record["inputs"]["model"] == sha256_file(find_onnx("embedded"))


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from hemalens.core.errors import MissingExtraError
from hemalens.evaluation.evaluate import evaluate

run, onnx, source, out = map(Path, sys.argv[1:])
evaluate(onnx, source, out)
try:
    evaluate(run, source, out)
except MissingExtraError as error:
    print(error)
"""


def test_without_torch_an_export_is_scored_undistorted_and_a_run_names_the_extra(
    trained: Trained, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", WITHOUT_TORCH, *map(str, (trained.run, exported, trained.source, out))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "not scored under distortions" in done.stderr
    assert "needs the optional extra 'train'" in done.stdout
    assert "give its .onnx file" in done.stdout
    whole = evaluate(exported, trained.source, tmp_path / "whole")
    without = read_json(tmp_path / "out" / "evaluation.json")
    assert whole.keys() - without.keys() == {"distorted"}
    assert without["confusion_matrix"] == whole["confusion_matrix"]
