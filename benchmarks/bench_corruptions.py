"""How runs stand the 55 corrupted sets of MedMNIST-C on the validation file: balanced error, BE, rBE, clean accuracy.

The aim is a mean balanced error below half of the paper's AlexNet (0.1125) at 98.5 % clean accuracy. The errors are of
our corruptions, made from cells of 216-224 px at 224 px; the AlexNet's are the paper's, on BloodMNIST's test images,
which come from the same collection. ``--limit`` takes every so-many-th image, so that all classes stay.

    python benchmarks/bench_corruptions.py RUN [RUN...]
    python benchmarks/bench_corruptions.py RUN --limit 400
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conditions import RESULTS, real_data, record, trained_runs
from hemalens.core.calibration import fit_temperature
from hemalens.core.metrics import accuracy, balanced_accuracy, confusion_matrix
from hemalens.core.types import encode_labels
from hemalens.data.sources import Source, open_source
from hemalens.evaluation.corrupting import SETS, corrupted_copies
from hemalens.evaluation.robustness import ALEXNET_ERRORS, Scored, score_corruptions
from hemalens.training.checkpoint import load_model, model_directory, read_validation
from hemalens.training.predicting import predict_logits
from hemalens.training.tensors import load_images


def scored_by(run: Path, source: Source, indices: list[int], workers: int | None) -> tuple[Scored, dict[str, Any]]:
    """Return how a run is scored, and what it does on clean images."""
    loaded = load_model(run)
    labels = encode_labels([source.samples[index].label for index in indices], loaded.classes)

    def predict(images: np.ndarray) -> np.ndarray:
        return predict_logits(loaded.module, torch.from_numpy(images))

    clean = predict(load_images(source, indices, size=loaded.image_size, workers=workers))
    matrix = confusion_matrix(labels, clean.argmax(axis=1), len(loaded.classes))
    error = 1 - float(balanced_accuracy(matrix))
    temperature = fit_temperature(*read_validation(model_directory(run)))
    scored = Scored(indices, labels, loaded.classes, loaded.image_size, predict, temperature, error)
    facts = {"model": loaded.card["model"], "image_size": loaded.image_size, "clean_accuracy": float(accuracy(matrix))}
    return scored, {"run": str(run), **facts, "clean_balanced_error": error}


def corrupted_answers(source: Source, models: list[Scored], workers: int | None) -> list[np.ndarray]:
    """Return the logits (55, N, C) of each model; images are corrupted once for all models of one size."""
    found = [np.zeros((len(SETS), len(one.indices), len(one.classes)), np.float32) for one in models]
    for size in sorted({one.size for one in models}):
        done = 0
        for copies in corrupted_copies(source, models[0].indices, size=size, workers=workers):
            flat, count = copies.reshape(-1, size, size, 3), copies.shape[1]
            for model, logits in zip(models, found, strict=True):
                if model.size == size:
                    logits[:, done : done + count] = model.predict(flat).reshape(len(SETS), count, -1)
            done += count
            print(f"{size} px: {done} of {len(models[0].indices)}", file=sys.stderr)
    return found


def row(facts: dict[str, Any], scored: Scored, logits: np.ndarray) -> dict[str, Any]:
    found = score_corruptions(logits, scored)
    means = found.mean_errors()
    mean = float(np.mean(list(means.values())))
    return {
        **facts,
        "mean_balanced_error": mean,
        "share_of_alexnet": mean / float(np.mean(list(ALEXNET_ERRORS.values()))),
        "be": found.be,
        "rbe": found.rbe,
        "mean_by_corruption": dict(sorted(means.items(), key=lambda one: -one[1])),
        "corruptions": found.model_dump(mode="json", include=set(means)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the errors as a Markdown table: a row a corruption, the AlexNet last."""
    head = ["corruption", *(f"{Path(one['run']).name}" for one in rows), "AlexNet"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name in sorted(ALEXNET_ERRORS, key=lambda one: -rows[0]["mean_by_corruption"][one]):
        found = []
        for one in rows:
            steps = ", ".join(f"{100 * step['balanced_error']:.1f}" for step in one["corruptions"][name].values())
            found.append(f"{100 * one['mean_by_corruption'][name]:.1f} ({steps})")
        lines.append(" | ".join([name, *found, f"{100 * ALEXNET_ERRORS[name]:.1f}"]))
    for words, key in (("mean", "mean_balanced_error"), ("clean", "clean_balanced_error")):
        lines.append(" | ".join([words, *(f"{100 * one[key]:.2f}" for one in rows), ""]))
    lines.append(" | ".join(["BE, rBE", *(f"{one['be']:.3f}, {one['rbe']:.3f}" for one in rows), "1, 1"]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="those of bench_run.py by default")
    parser.add_argument("--limit", type=int, help="images at most")
    parser.add_argument("--workers", type=int, help="processes that corrupt; one a core by default, 0 for none")
    parser.add_argument("--out", type=Path, help="folder for corruptions.json in place of results/")
    given = parser.parse_args()
    source = open_source(real_data() / "pbc" / "val-000.tar")
    step = max(1, -(-len(source) // (given.limit or len(source))))
    indices = list(range(0, len(source), step))
    started = time.monotonic()
    opened = [scored_by(run, source, indices, given.workers) for run in given.runs or trained_runs()]
    answers = corrupted_answers(source, [scored for scored, _ in opened], given.workers)
    rows = [row(facts, scored, logits) for (scored, facts), logits in zip(opened, answers, strict=True)]
    record(
        "corruptions",
        {"runs": rows, "seconds": time.monotonic() - started},
        folder=given.out or RESULTS,
        n=len(indices),
        source="pbc/val-000.tar",
        aim="mean balanced error under 0.5 of the AlexNet's at 98.5 % clean accuracy",
    )
    print(table(rows))


if __name__ == "__main__":
    main()
