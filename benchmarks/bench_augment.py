"""Images a second through AugMix and RandAugment: ours on batches, torchvision's on images, in turn.

96 px synthetic cells, uint8 in and uint8 out, each side with its defaults: bilinear AugMix, nearest RandAugment. On
CPUs ours runs ``--threads`` threads (one a core by default); torchvision runs in a DataLoader with as many workers of
one thread, on PIL images and on tensors, and the faster of the two counts. On another ``--device`` ours runs there,
beside the same workers and beside torchvision there, which gives a whole batch one and the same draw. Start-up is left
out on all sides: the clock starts with the second batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from conditions import record
from hemalens.data.reading.parallel import available_cores
from hemalens.data.synthetic import synthetic_set
from hemalens.training.augment.policies import AUGMIX_DRAWS, RANDAUGMENT_DRAWS, augmix, rand_augment
from hemalens.training.augment.random import uniform

SIDE, IMAGES, BATCH, ROUNDS = 96, 4096, 256, 3
OURS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "augmix": (augmix, AUGMIX_DRAWS),
    "randaugment": (rand_augment, RANDAUGMENT_DRAWS),
}
THEIRS = {"augmix": v2.AugMix, "randaugment": v2.RandAugment}


class ImageInput(Dataset[Tensor]):
    """Images one by one through a torchvision transform, from PIL images or tensors."""

    def __init__(self, images: np.ndarray, transform: v2.Transform, *, pil: bool) -> None:
        self.images, self.transform, self.pil = images, transform, pil

    def __len__(self) -> int:
        """Return how many are asked for."""
        return IMAGES

    def __getitem__(self, index: int) -> Tensor:
        """Return one image, augmented."""
        image = self.images[index % len(self.images)]
        given = Image.fromarray(image) if self.pil else torch.from_numpy(image).permute(2, 0, 1)
        return v2.functional.pil_to_tensor(self.transform(given)) if self.pil else self.transform(given)


def first_thread() -> None:
    torch.set_num_threads(1)


def theirs(images: np.ndarray, name: str, workers: int, *, pil: bool) -> float:
    loader = DataLoader(
        ImageInput(images, THEIRS[name](), pil=pil),
        batch_size=BATCH,
        num_workers=workers,
        worker_init_fn=lambda _: first_thread(),
    )
    batches = iter(loader)
    next(batches)
    started = time.perf_counter()
    count = sum(len(batch) for batch in batches)
    return count / (time.perf_counter() - started)


def on_device(images: np.ndarray, device: torch.device, augment: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the images a second of a function of images (N, 3, S, S) uint8 and their keys (N,)."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    indices = torch.arange(IMAGES, device=device)
    # As in training, where float batches come and go: only then does glibc keep blocks of a uint8 batch's size instead
    # of asking the kernel for new pages each time, which costs a quarter more.
    torch.ones((BATCH, *batch.shape[1:]), dtype=torch.float32).sum()

    def batch(start: int) -> int:
        keys = indices[start : start + BATCH]
        return len(augment(batch.index_select(0, keys % len(batch)), keys))

    batch(0)
    settle(device)
    started = time.perf_counter()
    count = sum(batch(start) for start in range(BATCH, IMAGES, BATCH))
    settle(device)
    return count / (time.perf_counter() - started)


def ours(images: np.ndarray, name: str, device: torch.device) -> float:
    policy, draws = OURS[name]
    return on_device(
        images,
        device,
        lambda batch, keys: policy(batch, uniform(keys, seed=0, epoch=0, stream=name, count=draws)),
    )


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes a second that a plain copy moves, reading and writing counted."""
    source = torch.randint(0, 256, (1 << 28,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    settle(device)
    started = time.perf_counter()
    target.copy_(source)
    settle(device)
    return 2 * source.numel() / (time.perf_counter() - started)


def compared(images: np.ndarray, name: str, device: torch.device, threads: int) -> dict[str, object]:
    """Return the images a second of both sides, measured in turn, and the ratio to the faster backend."""
    rows = [
        (
            ours(images, name, device),
            theirs(images, name, threads, pil=True),
            theirs(images, name, threads, pil=False),
        )
        for _ in range(ROUNDS)
    ]
    mine, pil, tensor = ([round(row[index]) for row in rows] for index in range(3))
    found: dict[str, object] = {
        "hemalens_per_s": mine,
        "torchvision_pil_per_s": pil,
        "torchvision_tensor_per_s": tensor,
        "ratio_to_faster_median": round(statistics.median(a / max(b, c) for a, b, c in rows), 2),
    }
    if device.type != "cpu":
        transform = THEIRS[name]()
        found["torchvision_one_draw_a_batch_on_device_per_s"] = [
            round(on_device(images, device, lambda images, _: transform(images))) for _ in range(ROUNDS)
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="where ours runs: cpu, cuda, cuda:1, ...")
    parser.add_argument("--threads", type=int, default=available_cores(), help="of ours, and workers of torchvision")
    options = parser.parse_args()
    device, threads = torch.device(options.device), options.threads
    torch.set_num_threads(threads)
    images = synthetic_set(64, size=SIDE, contamination=False).images
    figures: dict[str, Any] = {name: compared(images, name, device, threads) for name in OURS}
    bandwidth = copy_bandwidth(device)
    # An image read once and written once is the least that any augmentation can move.
    least = bandwidth / (2 * 3 * SIDE * SIDE)
    figures["copy_bandwidth_gb_per_s"] = round(bandwidth / 1e9, 1)
    figures["images_per_s_at_bandwidth"] = round(least)
    for name in OURS:
        figures[f"{name}_times_slower_than_a_copy"] = round(
            least / statistics.median(figures[name]["hemalens_per_s"]), 1
        )
    record(
        "augment",
        figures,
        side=SIDE,
        batch=BATCH,
        images=IMAGES,
        device=str(device),
        threads=threads,
        workers=threads,
    )


if __name__ == "__main__":
    main()
