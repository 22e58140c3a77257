"""How runs stand the 55 corrupted sets of MedMNIST-C on the validation file: balanced error, BE, rBE, clean accuracy.

The aim is a mean balanced error below half of the paper's AlexNet (0.1125) at 98.5 % clean accuracy. The errors are of
our corruptions, made from cells of 216-224 px at 224 px; the AlexNet's are the paper's, on BloodMNIST's test pictures,
which come from the same collection. ``--limit`` takes every so-many-th picture, so that all classes stay.

    python benchmarks/bench_corruptions.py RUN [RUN...]
    python benchmarks/bench_corruptions.py RUN --limit 400
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conditions import RESULTS, real_data, record
from hemalens.core.calibration import fit_temperature
from hemalens.core.metrics import accuracy, balanced_accuracy, confusion_matrix, softmax
from hemalens.data.sources import Source, open_source
from hemalens.evaluation.robustness import ALEXNET_ERRORS, Scored, mean_errors, measure_robustness
from hemalens.training.checkpoint import load_model, model_directory, read_validation
from hemalens.training.predicting import predict_logits
from hemalens.training.tensors import encode_labels, load_images


def measure(run: Path, source: Source, places: list[int], workers: int | None) -> dict[str, Any]:
    loaded = load_model(run)
    labels = encode_labels([source.samples[place].label for place in places], loaded.classes)
    temperature = fit_temperature(*read_validation(model_directory(run)))

    def predict(pictures: np.ndarray) -> np.ndarray:
        return predict_logits(loaded.module, torch.from_numpy(pictures))

    clean = predict(load_images(source, places, size=loaded.image_size, workers=workers))
    matrix = confusion_matrix(labels, softmax(clean).argmax(axis=1), len(loaded.classes))
    error = 1 - float(balanced_accuracy(matrix))
    scored = Scored(places, labels, loaded.classes, loaded.image_size, predict, temperature, error)
    found = measure_robustness(source, scored, workers=workers)
    means = mean_errors(found["corruptions"])
    return {
        "run": str(run),
        "model": loaded.card["model"],
        "clean_accuracy": float(accuracy(matrix)),
        "clean_balanced_error": error,
        "mean_balanced_error": found["corruption_facts"]["mean_balanced_error"],
        "share_of_alexnet": found["corruption_facts"]["mean_balanced_error"] / np.mean(list(ALEXNET_ERRORS.values())),
        "be": found["corruptions"]["be"],
        "rbe": found["corruptions"]["rbe"],
        "mean_by_corruption": dict(sorted(means.items(), key=lambda one: -one[1])),
        "corruptions": {name: found["corruptions"][name] for name in means},
        "seconds": found["corruption_facts"]["seconds"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the errors as a Markdown table: a row a corruption, the AlexNet last."""
    head = ["corruption", *(f"{Path(row['run']).name}" for row in rows), "AlexNet"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for name in sorted(ALEXNET_ERRORS, key=lambda one: -rows[0]["mean_by_corruption"][one]):
        found = []
        for row in rows:
            steps = ", ".join(f"{100 * one['balanced_error']:.1f}" for one in row["corruptions"][name].values())
            found.append(f"{100 * row['mean_by_corruption'][name]:.1f} ({steps})")
        lines.append(" | ".join([name, *found, f"{100 * ALEXNET_ERRORS[name]:.1f}"]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--limit", type=int, help="pictures at most")
    parser.add_argument("--workers", type=int, help="processes that corrupt; one a core by default, 0 for none")
    parser.add_argument("--out", type=Path, help="folder for corruptions.json in place of results/")
    given = parser.parse_args()
    source = open_source(real_data() / "pbc" / "val-000.tar")
    step = max(1, -(-len(source) // (given.limit or len(source))))
    places = list(range(0, len(source), step))
    started = time.monotonic()
    rows = [measure(run, source, places, given.workers) for run in given.runs]
    record(
        "corruptions",
        {"runs": rows, "seconds": time.monotonic() - started},
        folder=given.out or RESULTS,
        n=len(places),
        source="pbc/val-000.tar",
        aim="mean balanced error under 0.5 of the AlexNet's at 98.5 % clean accuracy",
    )
    print(table(rows))


if __name__ == "__main__":
    main()
