"""Small hand-made folders as the stages leave them, to build reports from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from hemalens.core.artifacts import output_directory, output_file, write_json, write_table
from hemalens.core.audit_summary import AuditSummary, ClassCount, FoundIssue, LikenessMap
from hemalens.core.evaluation_summary import Evaluation
from hemalens.core.metrics import accuracy, balanced_accuracy, bootstrap_interval, macro_f1, per_class_scores
from hemalens.core.provenance import sha256_file
from hemalens.core.types import CELL_CLASSES
from hemalens.data.audit.issues import find_issue

CONFIG: dict[str, Any] = {
    "model": "compact",
    "image_size": 64,
    "epochs": 40,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 0.002,
    "schedule": "onecycle",
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "dropout": 0.2,
    "balance": "replicate",
    "per_class": 2000,
    "augment": [
        {"name": "flip", "probability": 0.5, "strength": 1.0},
        {"name": "rotate", "probability": 1.0, "strength": 1.0},
        {"name": "zoom", "probability": 1.0, "strength": 0.5},
    ],
    "precision": "bf16",
    "ema": 0.999,
    "patience": 8,
    "select_on": "distorted",
    "seed": 7,
    "threads": 2,
    "device": "cpu",
}


def confusion(classes: Sequence[str] = CELL_CLASSES) -> np.ndarray:
    """Make a matrix in which the last class is rare and the most frequent mistake is class 3 taken for 5 (9 times)."""
    size = len(classes)
    matrix = np.diag(np.arange(60, 60 + 10 * size, 10))
    matrix[-1, -1] = 11
    if size > 5:
        matrix[3, 5], matrix[6, 3], matrix[-1, 0] = 9, 4, 1
    return matrix


def _interval(matrix: np.ndarray, score: Any) -> dict[str, float]:
    found = bootstrap_interval(matrix, score, resamples=200)
    return {"value": found.value, "low": found.low, "high": found.high}


def scores(matrix: np.ndarray, classes: Sequence[str] = CELL_CLASSES) -> dict[str, Any]:
    """Make the part of evaluation.json that every evaluation has."""
    table = per_class_scores(matrix)
    return {
        "n": int(matrix.sum()),
        "classes": list(classes),
        "accuracy": _interval(matrix, accuracy),
        "balanced_accuracy": _interval(matrix, balanced_accuracy),
        "macro_f1": _interval(matrix, macro_f1),
        "per_class": {
            name: {key: float(table[key][index]) for key in ("precision", "recall", "f1")}
            | {"support": int(table["support"][index])}
            for index, name in enumerate(classes)
        },
        "confusion_matrix": matrix.tolist(),
        "split": "test",
        "source": "cells.npz",
        "model": "compact",
        "n_unknown_label": 0,
        "images_per_second": 100.0,
        "worst_mistakes": [],
    } | _measured(classes)


def _measured(classes: Sequence[str]) -> dict[str, Any]:
    """Make what every evaluation says of calibration, abstention and sets of answers."""
    bins = {"count": [0, 20], "confidence": [0.0, 0.9], "accuracy": [0.0, 0.88]}
    errors = {
        "ece": 0.03,
        "reliability": bins,
        "per_class": {name: {"ece": 0.01, "reliability": bins} for name in classes},
    }
    held = {"coverage": 0.9, "low": 0.8, "high": 0.95, "n": 50}
    empty: dict[str, list[int]] = {name: [] for name in ("edges", "right", "wrong", "unknown")}
    return {
        "loss": 0.3,
        "ece": 0.03,
        "ece_uncalibrated": 0.04,
        "temperature": 1.2,
        "reliability": bins,
        "abstention": {
            "coverage": 0.9,
            "accuracy_kept": 0.99,
            "accuracy_abstained": 0.6,
            "threshold": 0.7,
            "distance_threshold": None,
            "rejection_rate": 0.05,
            "histogram": empty,
            "rule": "confidence alone",
        },
        "calibration": {"temperature": 1.2, "before": errors, "after": errors},
        "conformal": {
            "wanted": 0.9,
            "lac_by_class": held | {"mean_size": 1.1, "empty": 0.0, "per_class": dict.fromkeys(classes, held)},
        },
        "risk_coverage": {
            "confidence": {"aurc": 0.004, "least_aurc": 0.0002, "coverage": [0.5, 1.0], "risk": [0.0, 0.01]}
        },
    }


def evaluation(**changes: Any) -> Evaluation:
    """Return an evaluation with some fields changed; of ``abstention`` only the given ones."""
    found = scores(confusion())
    changes["abstention"] = found["abstention"] | changes.get("abstention", {})
    return Evaluation.from_json(found | changes)


def extras() -> dict[str, Any]:
    """Make parts of evaluation.json, those that may be missing among them."""
    count = [0, 0, 0, 0, 1, 2, 3, 2, 5, 8, 13, 21, 34, 80, 400]
    confidence = [(i + 0.5) / 15 for i in range(15)]
    return {
        "loss": 0.12,
        "ece": 0.0213,
        "ece_uncalibrated": 0.0456,
        "temperature": 1.31,
        "abstention": _measured(CELL_CLASSES)["abstention"]
        | {"coverage": 0.94, "accuracy_kept": 0.995, "threshold": 0.71},
        "distorted": {
            "value": 0.913,
            "low": 0.889,
            "high": 0.934,
            "description": "blur, noise, brightness and hue, each of random strength",
        },
        "reliability": {"count": count, "confidence": confidence, "accuracy": [max(c - 0.03, 0) for c in confidence]},
        "groups": {
            "grey_background": {"n": 21, "accuracy": {"value": 0.857, "low": 0.667, "high": 1.0}},
            "other": {"n": 640, "accuracy": {"value": 0.981, "low": 0.97, "high": 0.99}},
        },
        "corruptions": {
            "blur": {"1": {"balanced_error": 0.03, "ece": 0.01}, "2": {"balanced_error": 0.08, "ece": 0.02}},
            "noise": {"1": {"balanced_error": 0.05, "ece": 0.02}, "2": {"balanced_error": 0.21, "ece": 0.09}},
            "be": 0.09,
            "rbe": 1.1,
        },
        "corruption_facts": _corruption_facts({"blur": 0.1, "noise": 0.2}, mean=0.0925),
    }


def _corruption_facts(alexnet: Mapping[str, float], *, mean: float) -> dict[str, Any]:
    return {
        "benchmark": "MedMNIST-C",
        "corrupted_at": 224,
        "seed": 0,
        "n": 500,
        "clean_balanced_error": 0.03,
        "mean_balanced_error": mean,
        "alexnet_mean_balanced_error": 0.1125,
        "alexnet_errors": dict(alexnet),
        "seconds": 3.0,
    }


def trust() -> dict[str, Any]:
    """Make what evaluations with abstention data know beyond ``extras``."""
    bins = extras()["reliability"]
    before = {"ece": 0.0456, "reliability": bins}
    classes = {name: {"ece": 0.001 * index, "reliability": bins} for index, name in enumerate(CELL_CLASSES, 1)}
    doubled = {name: one | {"ece": 2 * one["ece"]} for name, one in classes.items()}
    coverage = np.linspace(0.05, 1, 20)
    histogram = {"edges": [0.5, 1.0, 2.0, 4.0], "right": [5, 80, 3], "wrong": [0, 2, 4], "unknown": [0, 0, 0]}
    shares = {name: {"coverage": 0.9, "low": 0.8, "high": 0.95, "n": 50} for name in CELL_CLASSES}
    sets = {"coverage": 0.912, "low": 0.884, "high": 0.934, "n": 500, "mean_size": 0.93, "empty": 0.07}
    errors = {
        name: {str(level): {"balanced_error": 0.02 * level, "ece": 0.01 * level} for level in range(1, 6)}
        for name in ("pixelate", "motion_blur")
    }
    return {
        "calibration": {
            "temperature": 1.31,
            "before": before | {"per_class": doubled},
            "after": {"ece": 0.0213, "reliability": bins, "per_class": classes},
        },
        "abstention": {
            "coverage": 0.94,
            "accuracy_kept": 0.995,
            "accuracy_abstained": 0.625,
            "threshold": 0.71,
            "distance_threshold": 2.5,
            "rejection_rate": 0.05,
            "histogram": histogram,
            "rule": "distance from the training cells, and confidence",
            "unknown_classes": {"n": 40, "abstained": {"value": 0.75, "low": 0.6, "high": 0.86}, "auroc": {}},
        },
        "risk_coverage": {
            "confidence": {
                "aurc": 0.0042,
                "least_aurc": 0.0002,
                "coverage": coverage.tolist(),
                "risk": (coverage**4 / 50).tolist(),
            }
        },
        "conformal": {
            "wanted": 0.9,
            "lac": sets | {"per_class": shares | {"ig": shares["ig"] | {"coverage": 0.82}}},
            "lac_by_class": sets | {"per_class": shares},
            "aps_by_class": sets | {"per_class": shares},
        },
        "corruptions": errors | {"be": 0.41, "rbe": 0.37},
        "corruption_facts": _corruption_facts({"pixelate": 0.1, "motion_blur": 0.125}, mean=0.06),
    }


def trained_model(**changes: Any) -> dict[str, Any]:
    """Make what model.json holds."""
    return {
        "schema_version": 1,
        "model": "compact",
        "weights": "none",
        "weights_sha256": None,
        "freeze": "none",
        "normalise": "set",
        "classes": list(CELL_CLASSES),
        "image_size": 64,
        "parameters": 423_112,
        "precision": "bf16",
        "device": "cpu",
        "threads": 2,
        "best_epoch": 10,
        "epochs": 12,
        "train_seconds": 125.0,
        "val_accuracy": 0.9,
        "val_distorted_accuracy": None,
        "n_train": 640,
        "n_val": 96,
        "processes": 1,
    } | changes


def make_train(path: Path, *, config: Mapping[str, Any] = CONFIG, epochs: int = 12, distorted: bool = True) -> Path:
    """Write a finished training directory."""
    with output_directory(path, "train", seed=config.get("seed"), inputs={"source": "a" * 64}) as out:
        steps = np.arange(1, epochs + 1)
        table = {
            "epoch": steps,
            "seconds": np.full(epochs, 9.5),
            "lr": np.linspace(0.002, 0, epochs),
            "train_loss": 2 * np.exp(-steps / 4),
            "train_accuracy": 1 - 0.8 * np.exp(-steps / 3),
            "val_loss": 2 * np.exp(-steps / 4) + 0.1,
            "val_accuracy": 0.99 - 0.8 * np.exp(-steps / 4),
        }
        if distorted:
            table["val_distorted_accuracy"] = 0.9 - 0.7 * np.exp(-steps / 5)
        write_table(out / "history.csv", pl.DataFrame(table))
        write_json(out / "config.json", config)
        (out / "model.safetensors").write_bytes(f"weights of {path}".encode())
        more = {"epochs": epochs, "best_epoch": max(epochs - 2, 1), "device": config.get("device", "cpu")}
        write_json(out / "model.json", trained_model(**more))
    return path


def make_evaluation(
    path: Path, train: Path, *, matrix: np.ndarray | None = None, answers: bool = False, source: str = "a", **more: Any
) -> Path:
    """Write a finished evaluation directory of the model in ``train``; ``more`` goes into evaluation.json."""
    matrix = confusion() if matrix is None else matrix
    inputs = {"model": sha256_file(train / "model.safetensors"), "source": source * 64}
    with output_directory(path, "evaluate", inputs=inputs) as out:
        write_json(out / "evaluation.json", scores(matrix) | more)
        if answers:
            write_table(out / "predictions.csv", predictions(matrix))
    return path


def predictions(matrix: np.ndarray, classes: Sequence[str] = CELL_CLASSES) -> pl.DataFrame:
    """Make the answers that a matrix counts, class by class, the right ones last, and one sample without a label."""
    rows = [("unlabelled", None, classes[0])]
    for true, counts in enumerate(matrix.tolist()):
        order = sorted(range(len(classes)), key=lambda predicted: predicted == true)
        named = [predicted for predicted in order for _ in range(counts[predicted])]
        rows += [(f"{classes[true]}-{index}", classes[true], classes[one]) for index, one in enumerate(named)]
    return pl.DataFrame(rows, ["sample_id", "label", "predicted"], orient="row")


def make_mistakes(evaluate: Path, count: int = 3) -> list[dict[str, Any]]:
    """Draw images of mistakes beside an evaluation, before it is written, and return their entries."""
    (evaluate / "mistakes").mkdir(parents=True)
    (evaluate / ".hemalens-started").touch()
    entries = []
    for index in range(count):
        row, column = np.mgrid[:96, :96]
        disc = (row - 48) ** 2 + (column - 48) ** 2 < (20 + 3 * index) ** 2
        pixels = np.where(disc[..., None], (110, 60, 140), (238, 214, 205)).astype(np.uint8)
        Image.fromarray(pixels).save(evaluate / "mistakes" / f"{index}.jpg")
        entries.append(
            {
                "sample_id": f"row-{index:06d}",
                "label": "ig",
                "predicted": "monocyte",
                "confidence": 0.99 - 0.01 * index,
                "image": f"mistakes/{index}.jpg",
                "map": None,
            }
        )
    return entries


def audit_summary(**changes: Any) -> AuditSummary:
    """Return the summary of an audit that dropped copies and foreign images, with some fields changed."""
    before, after = (1419, 3117, 1751, 2895, 1414, 1420, 1243, 500), (1211, 2909, 1542, 2689, 1209, 1018, 1040, 329)
    counts = {"exact_duplicate": (1834, 12), "foreign": (1800, 2), "label_conflict": (1602, 2)}
    facts = {name: find_issue(name) for name in (*counts, "background_batch")}
    counts |= {"background_batch": (251, 1)}
    fields: dict[str, Any] = {
        "source": "cells.npz",
        "kind": "npz",
        "n_samples": sum(before),
        "n_unreadable": 0,
        "n_ignored": 0,
        "ignored": (),
        "classes": {
            name: ClassCount(before=old, after=new) for name, old, new in zip(CELL_CLASSES, before, after, strict=True)
        },
        "are_blood_cells": True,
        "issues": {
            name: FoundIssue(samples=counts[name][0], groups=counts[name][1], title=one.title, words=one.words)
            for name, one in facts.items()
        },
        "suggested_drops": sum(before) - sum(after),
        "shortcuts": (),
        "images": {},
        "map": LikenessMap(explained=(0.0, 0.0), limit=0.0),
        "findings_sha256": "",
        "seconds": 41.0,
    }
    return AuditSummary(**(fields | changes))


def make_audit(path: Path) -> Path:
    """Write a finished audit directory with a page."""
    with output_directory(path, "audit", inputs={"source.npz": "a" * 64}) as out:
        audit_summary().write(out / "audit.json")
        (out / "audit.html").write_text("<!doctype html><title>audit</title>", encoding="utf-8")
    return path


def make_splits(path: Path, *, groups: bool = False) -> Path:
    """Write a table of splits, 100 samples a class in 80:12:8, with or without group names."""
    rows = []
    for name in CELL_CLASSES:
        for index in range(100):
            split = "train" if index < 80 else "val" if index < 92 else "test"
            rows.append((f"{name}/{index}.png", name, f"slide-{index // 10}" if groups else None, split))
    table = pl.DataFrame(rows, ["sample_id", "label", "group", "split"], orient="row")
    with output_file(path, "split", seed=0) as out:
        write_table(out, table)
    return path


def make_run(path: Path, *, groups: bool = False, **config: Any) -> Path:
    """Write a whole run folder with every optional piece."""
    path.mkdir(parents=True)
    make_audit(path / "audit")
    make_splits(path / "splits.csv", groups=groups)
    train = make_train(path / "train", config=CONFIG | config)
    entries = make_mistakes(path / "evaluate")
    make_evaluation(path / "evaluate", train, **extras(), worst_mistakes=entries)
    return path


def make_elsewhere(path: Path, train: Path, *, source: str = "b", spec: str = "munich/cells.tar", **more: Any) -> Path:
    """Write a finished evaluation of 40 neutrophils (36 right, 30 abstained) and 10 blasts (6 abstained)."""
    index, other = CELL_CLASSES.index("neutrophil"), CELL_CLASSES.index("ig")
    matrix = np.zeros((len(CELL_CLASSES),) * 2, np.int64)
    matrix[index, index], matrix[index, other] = 36, 4
    rows = [("neutrophil", "neutrophil" if one < 36 else "ig", one < 30) for one in range(40)]
    rows += [("blast", "monocyte" if one < 9 else "ig", one < 6) for one in range(10)] + [(None, "ig", True)]
    inputs = {"model": sha256_file(train / "model.safetensors"), "source": source * 64}
    with output_directory(path, "evaluate", inputs=inputs) as out:
        write_json(out / "evaluation.json", scores(matrix) | {"split": "all", "source": spec} | more)
        write_table(out / "predictions.csv", pl.DataFrame(rows, ["label", "predicted", "abstained"], orient="row"))
    return path


def make_explanation(
    path: Path, train: Path, rows: Sequence[tuple[str, str | None, str]], *, source: str = "a"
) -> Path:
    """Write a finished explanation by the model in ``train`` of samples: sample_id, label, predicted."""
    inputs = {"model": sha256_file(train / "model.safetensors"), "source": source * 64}
    game = {"maps": 0.25, "random": 0.5, "better": 0.9, "p": 1e-5}
    check = {"n": len(rows), "steps": 16, "deletion": game, "insertion": game | {"p": 0.0123}, "verdict": "meaningful"}
    with output_directory(path, "explain", inputs=inputs) as out:
        (out / "maps").mkdir()
        for index in range(len(rows)):
            Image.new("RGB", (40, 40), (250, 240, 10 * index)).save(out / "maps" / f"{index}.png")
        table = [(*row, 0.9, f"maps/{index}.png") for index, row in enumerate(rows)]
        columns = ["sample_id", "label", "predicted", "confidence", "map"]
        write_table(out / "explain.csv", pl.DataFrame(table, columns, orient="row"))
        facts = {"method": "Grad-CAM", "map_size": [4, 4], "n_explained": len(rows), "check": check}
        facts |= {"split": "test", "source": "cells.npz", "model": "run", "n_samples": 100, "seconds": 3.0}
        facts |= {"n_mistakes_explained": 0}
        write_json(out / "explain.json", facts)
    return path
