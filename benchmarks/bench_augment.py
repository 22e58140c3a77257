"""Pictures a second through AugMix and RandAugment: ours on batches, torchvision's on pictures, in turn.

96 px synthetic cells, uint8 in and uint8 out. Ours runs one thread a core; torchvision runs in a DataLoader with one
worker a core, on PIL images and on tensors, and the faster of the two counts. Start-up is left out on both sides: the
clock starts with the second batch.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from conditions import record
from hemalens.data.parallel import available_cores
from hemalens.data.synthetic import synthetic_set
from hemalens.training.policies import AUGMIX_DRAWS, RANDAUGMENT_DRAWS, augmix, rand_augment
from hemalens.training.random import uniform

SIDE, PICTURES, BATCH, ROUNDS = 96, 4096, 256, 3
OURS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "augmix": (augmix, AUGMIX_DRAWS),
    "randaugment": (rand_augment, RANDAUGMENT_DRAWS),
}
THEIRS = {"augmix": v2.AugMix, "randaugment": v2.RandAugment}


class Pictures(Dataset[Tensor]):
    """Pictures one by one through a torchvision transform, from PIL images or tensors."""

    def __init__(self, images: np.ndarray, transform: v2.Transform, *, pil: bool) -> None:
        self.images, self.transform, self.pil = images, transform, pil

    def __len__(self) -> int:
        """Return how many are asked for."""
        return PICTURES

    def __getitem__(self, index: int) -> Tensor:
        """Return one picture, augmented."""
        image = self.images[index % len(self.images)]
        picture = Image.fromarray(image) if self.pil else torch.from_numpy(image).permute(2, 0, 1)
        return v2.functional.pil_to_tensor(self.transform(picture)) if self.pil else self.transform(picture)


def first_thread() -> None:
    torch.set_num_threads(1)


def theirs(images: np.ndarray, name: str, *, pil: bool) -> float:
    loader = DataLoader(
        Pictures(images, THEIRS[name](), pil=pil),
        batch_size=BATCH,
        num_workers=available_cores(),
        worker_init_fn=lambda _: first_thread(),
    )
    batches = iter(loader)
    next(batches)
    started = time.perf_counter()
    count = sum(len(batch) for batch in batches)
    return count / (time.perf_counter() - started)


def ours(images: np.ndarray, name: str) -> float:
    policy, draws = OURS[name]
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    places = torch.arange(PICTURES)

    def batch(start: int) -> int:
        keys = places[start : start + BATCH]
        chosen = pictures[keys % len(pictures)]
        return len(policy(chosen, uniform(keys, seed=0, epoch=0, stream=name, count=draws)))

    batch(0)
    started = time.perf_counter()
    count = sum(batch(start) for start in range(BATCH, PICTURES, BATCH))
    return count / (time.perf_counter() - started)


def copy_bandwidth() -> float:
    """Return the bytes a second that a plain copy moves, reading and writing counted."""
    source = torch.randint(0, 256, (1 << 28,), dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)
    started = time.perf_counter()
    target.copy_(source)
    return 2 * source.numel() / (time.perf_counter() - started)


def main() -> None:
    torch.set_num_threads(available_cores())
    images = synthetic_set(64, size=SIDE, contamination=False).images
    figures: dict[str, object] = {}
    for name in OURS:
        rows = [
            (ours(images, name), theirs(images, name, pil=True), theirs(images, name, pil=False)) for _ in range(ROUNDS)
        ]
        mine, pil, tensor = ([round(row[place]) for row in rows] for place in range(3))
        figures[name] = {
            "hemalens_per_s": mine,
            "torchvision_pil_per_s": pil,
            "torchvision_tensor_per_s": tensor,
            "ratio_to_faster_median": round(statistics.median(a / max(b, c) for a, b, c in rows), 2),
        }
    bandwidth = copy_bandwidth()
    # A picture read once and written once is the least that any augmentation can move.
    figures["copy_bandwidth_gb_per_s"] = round(bandwidth / 1e9, 1)
    figures["pictures_per_s_at_bandwidth"] = round(bandwidth / (2 * 3 * SIDE * SIDE))
    record("augment", figures, side=SIDE, batch=BATCH, pictures=PICTURES, cores=available_cores())


if __name__ == "__main__":
    main()
