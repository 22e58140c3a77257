"""The policies against torchvision's tables, and their promises: own draws, valid images, mixing weights."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from hemalens.data.synthetic import render_cell
from hemalens.training.augment import operations, policies
from hemalens.training.augment.operations import OPERATIONS
from hemalens.training.augment.policies import (
    AUGMIX_DRAWS,
    RANDAUGMENT_DRAWS,
    TRIVIALAUGMENT_DRAWS,
    _tables,
    augmix,
    rand_augment,
    trivial_augment,
)
from tests.training.augment.test_operations import expected

NAMES = {
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
    "AutoContrast": "autocontrast",
}
POLICIES = {
    "randaugment": (rand_augment, RANDAUGMENT_DRAWS),
    "trivialaugment": (trivial_augment, TRIVIALAUGMENT_DRAWS),
    "augmix": (augmix, AUGMIX_DRAWS),
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (24, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def draws(count: int, n: int = 24) -> torch.Tensor:
    return torch.rand(n, count, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("space", "tables"),
    [
        (
            v2.RandAugment._AUGMENTATION_SPACE,
            lambda: _tables(31, 32, 40, shear=0.3, shift=150 / 331, turn=30.0, bits=(8, 4)),
        ),
        (
            v2.AugMix._AUGMENTATION_SPACE,
            lambda: _tables(10, 32, 40, shear=0.3, shift=1 / 3, turn=30.0, bits=(4, 0)),
        ),
    ],
    ids=["RandAugment", "AugMix"],
)
def test_magnitudes_are_torchvisions(space, tables) -> None:
    ours = tables()
    bins = ours.shape[1]
    for name, (magnitudes, _) in space.items():
        theirs = magnitudes(bins, 32, 40)
        if theirs is not None:
            row = ours[OPERATIONS.index(NAMES.get(name, name.lower()))]
            torch.testing.assert_close(row, theirs.to(torch.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", POLICIES)
def test_a_sample_is_augmented_the_same_in_any_batch(name: str, images: torch.Tensor) -> None:
    policy, count = POLICIES[name]
    whole = policy(images, draws(count))
    part = policy(images[5:9], draws(count)[5:9])
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert torch.equal(whole[5:9], part)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_change_most_images_each_in_its_way(name: str, images: torch.Tensor) -> None:
    policy, count = POLICIES[name]
    same = images[:1].expand(24, -1, -1, -1)
    changed = policy(same, draws(count))
    assert len(changed.flatten(1).unique(dim=0)) > 12


def test_augmix_is_torchvisions_functions_in_turn_mixed_by_the_drawn_weights() -> None:
    cells = torch.from_numpy(np.stack([render_cell("neutrophil", size=48, seed=seed) for seed in range(24)]))
    cells, drawn = cells.permute(0, 3, 1, 2).contiguous(), draws(AUGMIX_DRAWS)
    tables = _tables(10, 48, 48, shear=0.3, shift=1 / 3, turn=30.0, bits=(4, 0))
    mixed = []
    for cell, (share, *rest) in zip(cells, drawn.tolist(), strict=True):
        weights = -np.log1p(-np.array(rest[:3]))
        total = cell * (1 - share)
        for chain in range(3):
            changed = cell
            for depth in range(int(rest[3 + chain] * 3) + 1):
                first, level, sign = rest[6 + 9 * chain + 3 * depth :][:3]
                number = 1 + int(first * 13)
                magnitude = float(tables[number, int(level * 3)])
                signed = OPERATIONS[number] not in ("posterize", "solarize", "autocontrast", "equalize")
                magnitude = -magnitude if signed and sign < 0.5 else magnitude
                changed = expected(OPERATIONS[number], changed, magnitude, "bilinear")
            total = total + changed * float(share * weights[chain] / weights.sum())
        mixed.append(total.to(torch.uint8))
    gap = (augmix(cells, drawn, beyond="black").float() - torch.stack(mixed).float()).abs()
    # Each operation may differ by a level, and an equalised level by several.
    assert gap.mean() < 0.2
    assert gap.flatten().quantile(0.99) <= 2


def test_a_batch_cut_into_stretches_is_one_batch(monkeypatch: pytest.MonkeyPatch, images: torch.Tensor) -> None:
    whole = augmix(images, draws(AUGMIX_DRAWS))
    monkeypatch.setattr(policies, "_STRETCH", 5 * images[0].numel())
    assert torch.equal(augmix(images, draws(AUGMIX_DRAWS)), whole)
    monkeypatch.setattr(operations, "_PIECE", 1)
    assert torch.equal(augmix(images, draws(AUGMIX_DRAWS)), whole)


def test_augmix_without_a_share_is_the_image_itself(images: torch.Tensor) -> None:
    nothing = draws(AUGMIX_DRAWS)
    nothing[:, 0] = 0.0
    assert torch.equal(augmix(images, nothing), images)


def test_augmix_stays_between_what_it_mixes() -> None:
    white = torch.full((24, 3, 16, 16), 255, dtype=torch.uint8)
    assert augmix(white, draws(AUGMIX_DRAWS)).float().mean() > 100


def test_stronger_randaugment_moves_further(images: torch.Tensor) -> None:
    def change(magnitude: int) -> float:
        moved = rand_augment(images, draws(RANDAUGMENT_DRAWS), magnitude=magnitude)
        return float((moved.float() - images.float()).abs().mean())

    assert change(20) > change(2)
