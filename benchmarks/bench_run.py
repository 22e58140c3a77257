"""What `hemalens run` reaches with its default recipe on the challenge file: three seeds, the validation file."""

import shutil
import statistics

from conditions import BUILD, challenge, record
from hemalens.evaluation.evaluate import evaluate
from hemalens.pipeline import run
from hemalens.training.train import DEFAULT_RECIPE

SEEDS = (0, 1, 2)


def main() -> None:
    rows = []
    for seed in SEEDS:
        out = BUILD / f"run-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        summary = run(challenge(), out, seed=seed)
        scores = evaluate(out, challenge(validation=True), BUILD / f"evaluation-{seed}", overwrite=True).to_json()
        rows.append(
            {
                "seed": seed,
                "train_seconds": summary["train_seconds"],
                "validation_file_accuracy": scores["accuracy"],
                "validation_file_distorted": scores["distorted"]["value"],
                "validation_file_ece": scores["ece"],
                "test_accuracy": summary["accuracy"],
            }
        )
    accuracies = [row["validation_file_accuracy"]["value"] for row in rows]
    record(
        "run",
        {
            "seeds": rows,
            "accuracy_median": statistics.median(accuracies),
            "accuracy_spread": [min(accuracies), max(accuracies)],
            "train_seconds_median": statistics.median(row["train_seconds"] for row in rows),
        },
        recipe=DEFAULT_RECIPE,
    )


if __name__ == "__main__":
    main()
