"""Augmented images a second, ours and kornia's on the same batches in turn, and which of our requirements kornia meets.

Both get a batch of 128 uint8 cells of 96 px and return floats in [0, 1], as training needs them. hemalens does not need
kornia: ``pip install kornia`` first. It has no AugMix; its RandAugment and TrivialAugment draw one operation for a
whole batch, which is less work and less variety. Start-up is left out: the first batch of each side is not timed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from conditions import record
from hemalens.core.config import AugmentStep
from hemalens.data.synthetic import synthetic_set
from hemalens.training.augment.augment import augment_batch

try:
    import kornia
    from kornia.augmentation import AugmentationSequential, ColorJitter, RandomAffine, RandomHorizontalFlip
    from kornia.augmentation.auto import RandAugment, TrivialAugment
except ModuleNotFoundError:
    print("skipped: bench_kornia.py needs kornia; pip install kornia")
    sys.exit(0)

SIDE, BATCH, BATCHES, ROUNDS = 96, 128, 6, 5
PLAIN = ("flip", "rotate", "zoom", "shear", "translate", "brightness", "contrast", "saturation", "hue")
OURS = {
    "flips, affine and colour": PLAIN,
    "randaugment": ("randaugment",),
    "trivialaugment": ("trivialaugment",),
    "augmix": ("augmix",),
}
# The ranges of our steps at strength 1; a shear of 0.2 is 11.3 degrees.
AFFINE = RandomAffine(180.0, (0.1, 0.1), (0.8, 1.25), 11.3, padding_mode="reflection", p=1.0)
THEIRS: dict[str, torch.nn.Module] = {
    "flips, affine and colour": AugmentationSequential(
        RandomHorizontalFlip(p=0.5), AFFINE, ColorJitter(0.3, 0.3, 0.5, 0.1, p=1.0), data_keys=["input"]
    ),
    "randaugment": RandAugment(n=2, m=9),
    "trivialaugment": TrivialAugment(),
}


def ours(batch: Tensor, keys: Tensor, name: str) -> Tensor:
    steps = [AugmentStep(name=step) for step in OURS[name]]
    return augment_batch(batch.to(torch.float32).div_(255.0), keys, steps, seed=0, epoch=0)


def theirs(batch: Tensor, _keys: Tensor, name: str) -> Tensor:
    return THEIRS[name](batch.to(torch.float32).div_(255.0)).clamp_(0.0, 1.0)


def per_second(augment: Callable[[Tensor, Tensor, str], Tensor], batch: Tensor, name: str) -> float:
    """Return the images a second of one side."""
    augment(batch, torch.arange(BATCH), name)
    started = time.perf_counter()
    for index in range(BATCHES):
        augment(batch, torch.arange(BATCH) + index * BATCH, name)
    return BATCH * BATCHES / (time.perf_counter() - started)


def compared(batch: Tensor, name: str) -> dict[str, Any]:
    """Return the images a second of both sides, measured in turn."""
    sides = {"hemalens": ours, "kornia": theirs} if name in THEIRS else {"hemalens": ours}
    rows = [{side: per_second(augment, batch, name) for side, augment in sides.items()} for _ in range(ROUNDS)]
    found: dict[str, Any] = {f"{side}_per_s": [round(row[side]) for row in rows] for side in sides}
    if name in THEIRS:
        found["ratio_median"] = round(statistics.median(row["hemalens"] / row["kornia"] for row in rows), 2)
    return found


def same_draw(augment: Callable[[Tensor, Tensor, str], Tensor], batch: Tensor) -> bool:
    """Tell whether a sample is augmented the same in another order of its batch, at the same seed."""
    order, name = torch.arange(BATCH).flip(0), "flips, affine and colour"
    torch.manual_seed(0)
    first = augment(batch, torch.arange(BATCH), name)
    torch.manual_seed(0)
    return torch.allclose(augment(batch[order], order, name)[order], first, atol=1e-5)


def operations_a_batch(augment: Callable[[Tensor, Tensor, str], Tensor]) -> int:
    """Return how many different results RandAugment has for a batch of one and the same image."""
    torch.manual_seed(0)
    one = synthetic_set(1, size=SIDE, contamination=False).images[:1]
    batch = torch.from_numpy(one).permute(0, 3, 1, 2).expand(BATCH, -1, -1, -1).contiguous()
    return len({image.numpy().tobytes() for image in augment(batch, torch.arange(BATCH), "randaugment")})


def takes_bytes(batch: Tensor) -> bool:
    """Tell whether kornia takes uint8."""
    try:
        RandomHorizontalFlip()(batch)
    except TypeError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = synthetic_set(BATCH // 8, size=SIDE, contamination=False).images
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    figures: dict[str, Any] = {name: compared(batch, name) for name in OURS}
    figures["requirements"] = {
        "uint8 images": {"kornia": takes_bytes(batch)},
        "a sample's draw does not depend on its batch": {
            "hemalens": same_draw(ours, batch),
            "kornia": same_draw(theirs, batch),
        },
        f"different results of RandAugment on {BATCH} copies of one image": {
            "hemalens": operations_a_batch(ours),
            "kornia": operations_a_batch(theirs),
        },
        "largest shift of RandAugment at magnitude 30 of 30, share of the width": {
            "torchvision": round(150 / 331, 3),
            "hemalens": round(150 / 331, 3),
            "kornia": 0.1,
        },
    }
    record(
        "kornia", figures, kornia=kornia.__version__, side=SIDE, batch=BATCH, batches=BATCHES, threads=options.threads
    )


if __name__ == "__main__":
    main()
