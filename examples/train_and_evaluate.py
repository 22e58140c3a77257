"""Split clean samples, train a small network for a moment, score it with intervals.

python examples/train_and_evaluate.py FOLDER
"""

import sys
from pathlib import Path

from hemalens.data.split import split
from hemalens.data.synthetic import write_synthetic
from hemalens.evaluation.evaluate import evaluate
from hemalens.training.train import train


def main(folder: Path) -> None:
    """Write a small synthetic set, its split, a run and its evaluation into a folder."""
    cells = folder / "cells.npz"
    write_synthetic(cells, 20, size=32, contamination=False)
    splits = folder / "splits.csv"
    split(cells, splits, ratios="6:2:2", seed=1)
    run = folder / "run"
    train(cells, run, splits=splits, settings=["image_size=32", "epochs=2", "per_class=20", "batch_size=16"])
    scores = evaluate(run, cells, folder / "evaluation", splits=splits)
    accuracy = scores.accuracy
    print(f"accuracy {accuracy.value:.2f}, 95 % interval {accuracy.low:.2f} to {accuracy.high:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
