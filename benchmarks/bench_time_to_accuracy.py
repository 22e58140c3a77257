"""Seconds of training to reach an accuracy on the validation file: `compact` beside a pipeline of everyday parts.

The peer is what a user would write: torchvision's RandAugment on PIL images in a DataLoader with two workers, timm's
resnet18 from scratch at 64 px, one-cycle SGD (or Adam), the same precision. Both train on the training part of the same
cleaned split of the challenge file, in turn on one machine, and are scored on the validation file after every epoch.

The validation file is read every epoch for the curve only: no epoch, setting or weights are chosen by it. Ours gets it
as the `val` part of its split, because that is the part that is scored each epoch; the weights that this picks are
thrown away. The clocks favour the peer: its clock stands still while it is scored, ours runs on (it scores a clean and
a distorted copy), and ours counts reading and resizing the images too.

    python benchmarks/bench_time_to_accuracy.py --limit 1800 --seeds 0 1 2
    python benchmarks/bench_time_to_accuracy.py --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from conditions import BUILD, RESULTS, challenge, real_data, record
from hemalens.core.config import load_config
from hemalens.core.types import encode_labels
from hemalens.data.sources import open_source
from hemalens.data.split import read_splits
from hemalens.training.recipes import find_recipe
from hemalens.training.train import train
from prepared import prepare

TARGETS = (0.985, 0.99)
SIDE, BATCH, WORKERS = 64, 128, 2
Arrays = tuple[np.ndarray, np.ndarray]


class ImageInput(Dataset[tuple[Tensor, int]]):
    """Images one by one through torchvision transforms, from PIL, as its documents show it."""

    def __init__(self, arrays: Arrays, *, augment: bool) -> None:
        self.images, self.labels = arrays
        steps = [v2.RandomHorizontalFlip(), v2.RandAugment()] if augment else []
        last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
        self.transform = v2.Compose([v2.Resize((SIDE, SIDE)), *steps, *last])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image and its label."""
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def read(path: Path, classes: Sequence[str], indices: Sequence[int] | None = None) -> Arrays:
    """Return images (N, H, W, 3) uint8 and labels (N,) int64 of a source, or of some of its places."""
    source = open_source(path)
    chosen = range(len(source)) if indices is None else indices
    images = np.stack([source.image(index).pixels for index in chosen])
    return images, encode_labels([source.samples[index].label for index in chosen], classes)


def theirs(training: Arrays, validation: Arrays, seed: int, given: argparse.Namespace) -> list[dict[str, float]]:
    """Train the peer; return (epoch, seconds of training, accuracy) after each epoch within the limit."""
    torch.manual_seed(seed)
    device = torch.device(given.device)
    loader = DataLoader(
        ImageInput(training, augment=True),
        batch_size=min(BATCH, len(training[1])),
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    scored = DataLoader(ImageInput(validation, augment=False), batch_size=256)
    model = timm.create_model("resnet18", pretrained=False, num_classes=int(training[1].max()) + 1)
    model.to(device, memory_format=torch.channels_last)
    if given.peer_optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    highest = optimizer.param_groups[0]["lr"]
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=given.peer_epochs * len(loader))
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    curve: list[dict[str, float]] = []
    seconds = 0.0
    for epoch in range(1, given.peer_epochs + 1):
        started = time.perf_counter()
        model.train()
        for images, labels in loader:
            batch = images.to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=given.precision == "bf16"):
                loss = loss_of(model(batch), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - started
        curve.append({"epoch": epoch, "seconds": round(seconds, 2), "accuracy": accuracy(model, scored, device)})
        print(f"peer, seed {seed}: {curve[-1]}", flush=True)
        if seconds > given.limit:
            break
    return curve


def accuracy(model: torch.nn.Module, loader: DataLoader[tuple[Tensor, int]], device: torch.device) -> float:
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for images, labels in loader:
            batch = images.to(device, memory_format=torch.channels_last)
            right += int((model(batch).argmax(dim=1).cpu() == labels).sum())
            total += len(labels)
    return right / total


def ours(together: Path, splits: Path, seed: int, given: argparse.Namespace) -> list[dict[str, float]]:
    """Train `compact`; return (epoch, seconds since its call, accuracy) after each epoch."""
    started = time.perf_counter()
    first: list[float] = []

    def watch(what: str, _done: int, _total: int) -> None:
        if what == "training" and not first:
            first.append(time.perf_counter() - started)

    settings = [f"seed={seed}", f"device={given.device}", f"precision={given.precision}", *given.set]
    out = given.out / f"hemalens-{given.device}-{seed}"
    train(together, out, splits=splits, recipe=given.recipe, settings=settings, overwrite=True, progress=watch)
    history = pl.read_csv(out / "history.csv")
    seconds = first[0] + np.cumsum(history["seconds"].to_numpy())
    rows = zip(history["epoch"].to_list(), seconds.tolist(), history["val_accuracy"].to_list(), strict=True)
    return [{"epoch": epoch, "seconds": round(spent, 2), "accuracy": score} for epoch, spent, score in rows]


def join(training: Arrays, validation: Arrays, classes: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """Write one array file of both sets, with a split that says which is which."""
    path, splits = folder / "together.npz", folder / "together.csv"
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = (np.concatenate(both) for both in zip(training, validation, strict=True))
    np.savez(path, images=images, labels=labels, classes=np.array(classes))
    sides = ["train"] * len(training[1]) + ["val"] * len(validation[1])
    samples = open_source(path).samples
    columns = {"sample_id": [one.sample_id for one in samples], "label": [one.label for one in samples]}
    pl.DataFrame(columns | {"group": [None] * len(samples), "split": sides}).write_csv(splits)
    return path, splits


def reached(curve: Sequence[dict[str, float]], target: float) -> float | None:
    """Return the seconds after which a curve first stands at the target, None where it never does."""
    return next((point["seconds"] for point in curve if point["accuracy"] >= target), None)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which the peer begins no epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="compact", help="of ours")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of both")
    parser.add_argument("--peer-epochs", type=int, default=20, help="the length of its one-cycle course")
    parser.add_argument("--peer-optimizer", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--threads", type=int, help="of both, in the main process; all cores by default")
    parser.add_argument("--source", type=Path, help="labelled source in place of the challenge file")
    parser.add_argument("--validation", type=Path, help="what to score on then")
    parser.add_argument("--out", type=Path, default=BUILD / "time-to-accuracy")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over our recipe")
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
    if given.threads:
        torch.set_num_threads(given.threads)
        given.set.append(f"threads={given.threads}")
    cleaned, splits = prepare(given.source, given.out / "data")
    source = open_source(cleaned)
    sides = read_splits(splits, source.samples)
    training = read(cleaned, source.classes, [index for index, side in enumerate(sides) if side == "train"])
    validation = read(given.validation, source.classes)
    together = join(training, validation, source.classes, given.out)
    curves: dict[str, list[dict[str, Any]]] = {"hemalens": [], "peer": []}
    for seed in given.seeds:
        curves["hemalens"].append({"seed": seed, "curve": ours(*together, seed, given)})
        curves["peer"].append({"seed": seed, "curve": theirs(training, validation, seed, given)})
        summarise(curves, given, RESULTS if usual else given.out)  # after every pair: a run that is cut off keeps them


def summarise(curves: dict[str, list[dict[str, Any]]], given: argparse.Namespace, folder: Path) -> None:
    """Recorded the curves so far and when each of them reached the targets."""
    seconds = {
        name: {str(target): [reached(one["curve"], target) for one in found] for target in TARGETS}
        for name, found in curves.items()
    }
    ratios = {}
    for target in map(str, TARGETS):
        pairs = zip(seconds["hemalens"][target], seconds["peer"][target], strict=True)
        both = [peer / own for own, peer in pairs if own is not None and peer is not None]
        ratios[target] = round(statistics.median(both), 2) if both else None
    config = load_config(find_recipe(given.recipe), given.set)
    record(
        "time_to_accuracy",
        {"seconds_to": seconds, "peer_over_hemalens_median": ratios, "curves": curves},
        folder=folder,
        device=torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        precision=given.precision,
        threads=torch.get_num_threads(),
        hemalens={"recipe": given.recipe, "set": given.set, "model": config.model, "epochs": config.epochs},
        peer={
            "model": "timm resnet18, 64 px",
            "augmentation": "flip, torchvision v2.RandAugment on PIL",
            "workers": WORKERS,
            "batch": BATCH,
            "optimizer": given.peer_optimizer,
            "epochs": given.peer_epochs,
            "limit_seconds": given.limit,
        },
        source=given.source.name,
        validation=given.validation.name,
    )


if __name__ == "__main__":
    main()
