"""How the size at which a network sees images changes its scores, clean and distorted, on the validation file.

Noise put on a larger image is less noise once it is made smaller, so ``distorted`` of ``evaluate``, which distorts
at the network's own size, cannot be compared between sizes. Here all are shown the same copies: distorted at 96 px,
then resized. The figure of ``evaluate`` stands beside it.

    HEMALENS_DATA=... python benchmarks/bench_sizes.py RUN [RUN...]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conditions import challenge, real_data, record, trained_runs
from hemalens.core.types import encode_labels
from hemalens.data.reading.resize import resize
from hemalens.data.sources import open_source
from hemalens.training.checkpoint import load_model
from hemalens.training.predicting import distort, predict_logits
from hemalens.training.tensors import load_images

SIDE = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="those of bench_run.py by default")
    given = parser.parse_args()
    real_data()
    torch.set_num_threads(1)
    source = open_source(challenge(validation=True))
    images = load_images(source, list(range(len(source))), size=SIDE)
    damaged = distort(torch.from_numpy(images)).numpy()
    rows = []
    for run in given.runs or trained_runs():
        rows.append(scored(run, images, damaged, [sample.label for sample in source.samples]))
        print(rows[-1], flush=True)
    record("sizes", {"runs": rows}, n=len(source), distorted_at=SIDE)


def scored(run: Path, images: np.ndarray, damaged: np.ndarray, named: list[str | None]) -> dict[str, Any]:
    """Return the share of right answers of a run on clean images, on the common copies, and on its own."""
    loaded = load_model(run)
    labels = encode_labels(named, loaded.classes)

    def right(shown: np.ndarray) -> float:
        return round(float((predict_logits(loaded.module, torch.from_numpy(shown)).argmax(axis=1) == labels).mean()), 4)

    clean, copies = (np.stack([resize(one, loaded.image_size) for one in part]) for part in (images, damaged))
    own = distort(torch.from_numpy(clean)).numpy()
    facts = {"run": str(run), "image_size": loaded.image_size}
    return {**facts, "clean": right(clean), "distorted_at_96": right(copies), "distorted_at_own_size": right(own)}


if __name__ == "__main__":
    main()
