"""Seconds an epoch and accuracy of `compact` in fp32, bf16 and fp16, in turn, on the CPU or a GPU.

Trains on the split of the cleaned challenge file, which also chooses the epoch; the accuracy is that on the validation
file, scored once after training and used to choose nothing. The first epoch is left out of the seconds (kernels are
chosen in it). A precision that computes convolutions much slower than fp32 on this device is skipped by name.

    python benchmarks/bench_precision.py --epochs 12 --seeds 0 1 2
    python benchmarks/bench_precision.py --device cuda
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch

from conditions import BUILD, RESULTS, challenge, real_data, record
from hemalens.evaluation.evaluate import evaluate
from hemalens.training.train import train
from prepared import prepare

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RECIPE = "compact"
SLOWEST = 3.0  # times as slow as fp32: from there on training is not worth the wait


def convolution_seconds(precision: str, device: str) -> float:
    """Return the median seconds of a convolution forward and back, as wide as the middle of `compact`."""
    layer = torch.nn.Conv2d(64, 128, 3, padding=1).to(device, memory_format=torch.channels_last)
    images = torch.rand(64, 64, 16, 16, device=device).contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        with torch.autocast(device, dtype=PRECISIONS[precision], enabled=precision != "fp32"):
            loss = layer(images).float().sum()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def measure(precision: str, seed: int, given: argparse.Namespace, data: tuple[Path, Path]) -> dict[str, Any]:
    out = given.out / f"{given.device}-{precision}-{seed}"
    own = (f"precision={precision}", f"seed={seed}", f"device={given.device}", *given.set)
    settings = (*own, *((f"epochs={given.epochs}",) if given.epochs else ()))
    train(data[0], out, splits=data[1], recipe=RECIPE, settings=settings, overwrite=True)
    scores = evaluate(out, given.validation, out / "evaluation", overwrite=True).to_json()
    seconds = pl.read_csv(out / "history.csv")["seconds"].to_list()
    return {
        "seed": seed,
        "seconds_an_epoch": round(statistics.median(seconds[1:] or seconds), 3),
        "accuracy": scores["accuracy"],
        "distorted": scores["distorted"]["value"],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source", type=Path, help="labelled source in place of the challenge file")
    parser.add_argument("--validation", type=Path, help="what to score on then")
    parser.add_argument("--out", type=Path, default=BUILD / "precision", help="folder of the runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the recipe")
    given = parser.parse_args()
    if (given.source is None) != (given.validation is None):
        parser.error("--source and --validation: give both or neither")
    return given


def main() -> None:
    given = arguments()
    usual = given.source is None and not given.set
    if given.source is None:
        real_data()
        given.source, given.validation = challenge(), challenge(validation=True)
    data = prepare(given.source, given.out / "data")
    plain = convolution_seconds("fp32", given.device)
    rates = {name: round(convolution_seconds(name, given.device) / plain, 2) for name in PRECISIONS}
    chosen = [name for name, rate in rates.items() if rate <= SLOWEST]
    for name in rates.keys() - set(chosen):
        print(f"skipped: {name}: a convolution takes {rates[name]} times as long as in fp32 on this {given.device}")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for seed in given.seeds:  # in turn, so that a busy stretch of the machine falls on all of them
        for name in chosen:
            rows[name].append(measure(name, seed, given, data))
    medians = {name: statistics.median(row["seconds_an_epoch"] for row in found) for name, found in rows.items()}
    record(
        "precision",
        {
            "runs": rows,
            "seconds_an_epoch_median": medians,
            "speed_against_fp32": {name: round(medians["fp32"] / value, 2) for name, value in medians.items()},
            "convolution_seconds_against_fp32": rates,
            "skipped": sorted(rates.keys() - set(chosen)),
        },
        folder=RESULTS if usual else given.out,
        recipe=RECIPE,
        device=torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        epochs=given.epochs or "as in the recipe",
        set=given.set,
        source=given.source.name,
    )


if __name__ == "__main__":
    main()
