"""Images a second from tar shards of real cells: streamed by windows, from memory, and by torch's DataLoader.

11,959 JPEG of 216 px from four shards, brought to 64 px, shuffled, in batches of 64. Each way runs in a process of its
own, in turn. The DataLoader has two workers that decode and resize by Pillow, as many as the stream has; the window is
an eighth of the set. Measured of each: seconds to the first batch (from memory: all is decoded before), images a
second of a whole epoch whose batches are only received, seconds of an epoch that trains ``compact`` with one thread a
core, the peak of resident memory of the process that trains, and what its workers hold at the end (what they share is
counted in parts). Memory is read from /proc, so this runs on Linux.
"""

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from conditions import real_data, record
from hemalens.core.config import TrainConfig
from hemalens.core.types import encode_labels
from hemalens.data.reading.parallel import available_cores
from hemalens.data.sources import open_source
from hemalens.training.models import build_model
from hemalens.training.streaming import StreamFeed, open_feed
from hemalens.training.tensors import to_batch

SIDE, BATCH, WORKERS, ROUNDS = 64, 64, 2, 3
WAYS = ("memory", "stream", "dataloader")
CONFIG = TrainConfig(image_size=SIDE, batch_size=BATCH, balance="none", epochs=1000)
Epoch = Callable[[], Iterator[tuple[Tensor, Tensor]]]


class Shards(Dataset[tuple[Tensor, int]]):
    """Members of tars, read in place and decoded one by one."""

    def __init__(self, paths: list[Path]) -> None:
        self.members: list[tuple[Path, int, int, int]] = []
        for path in paths:
            with tarfile.open(path) as tar:
                members = [member for member in tar if member.isreg()]
            self.members += [(path, file.offset_data, file.size, file.name.split("/")[0]) for file in members]
        names = sorted({member[3] for member in self.members})
        self.labels = [names.index(member[3]) for member in self.members]
        self.files: dict[Path, io.BufferedReader] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.members)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image (S, S, 3) uint8 and its label."""
        path, offset, size, _ = self.members[index]
        if path not in self.files:
            self.files[path] = path.open("rb")
        self.files[path].seek(offset)
        image = Image.open(io.BytesIO(self.files[path].read(size))).convert("RGB")
        pixels = np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels), self.labels[index]


def ours(way: str, folder: Path, stack: ExitStack) -> Epoch:
    source = open_source(folder)
    chosen = [index for index, sample in enumerate(source.samples) if sample.sample_id.startswith("train")]
    labels = encode_labels([source.samples[index].label for index in chosen], source.classes)
    device = torch.device("cpu")
    feed = (
        open_feed(source, chosen, labels, CONFIG, device, window=0)
        if way == "memory"
        else StreamFeed(source, chosen, labels, CONFIG, device, window=len(chosen) // 8, workers=WORKERS)
    )
    stack.enter_context(feed)
    numbers = count(1)
    return lambda: ((batch.images, batch.labels) for batch in feed.epoch(next(numbers)))


def theirs(folder: Path) -> Epoch:
    loader = DataLoader(
        Shards(sorted(folder.glob("train-*.tar"))),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    return lambda: iter(loader)


def trained(batches: Iterator[tuple[Tensor, Tensor]], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for images, labels in batches:
        batch = to_batch(images).contiguous(memory_format=torch.channels_last)
        loss = nn.functional.cross_entropy(module(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def kilobytes(file: str, key: str) -> int:
    lines = Path("/proc", file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(way: str, folder: Path) -> dict[str, float]:
    """Run three epochs of one way and return its figures."""
    torch.set_num_threads(available_cores())
    started = time.perf_counter()
    with ExitStack() as stack:
        epoch = theirs(folder) if way == "dataloader" else ours(way, folder, stack)
        batches = epoch()
        next(batches)
        first = time.perf_counter() - started
        for _ in batches:
            pass
        began = time.perf_counter()
        shown = sum(len(images) for images, _ in epoch())
        received = time.perf_counter() - began
        module = build_model("compact", 8, dropout=0.0, seed=0).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        began = time.perf_counter()
        trained(epoch(), module, optimizer)
        training = time.perf_counter() - began
        workers = sum(kilobytes(f"{worker.pid}/smaps_rollup", "Pss") for worker in active_children())
    return {
        "first_batch_s": round(first, 2),
        "images_per_s": round(shown / received),
        "training_epoch_s": round(training, 2),
        "peak_mb": round(kilobytes("self/status", "VmHWM") / 1024),
        "workers_mb": round(workers / 1024),
    }


def in_process(way: str, folder: Path) -> dict[str, float]:
    """Measure in a new process, started such that its workers do not import this script, and torch with it."""
    code = "import json, sys, bench_stream as b; print(json.dumps(b.measure(sys.argv[1], b.Path(sys.argv[2]))))"
    command = [sys.executable, "-c", code, way, str(folder)]
    here = Path(__file__).parent
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=here).stdout)


def main() -> None:
    folder = real_data() / "pbc"
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(in_process(way, folder))
    figures = {way: {name: [row[name] for row in rows] for name in rows[0]} for way, rows in found.items()}
    record("stream", figures, side=SIDE, batch=BATCH, workers=WORKERS, cores=available_cores(), rounds=rounds)


if __name__ == "__main__":
    main()
