"""Batched augmentation against torchvision, SciPy and plain formulas; a sample's result is its own in any batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from hemalens.core.config import AugmentStep
from hemalens.core.errors import ConfigError
from hemalens.training.augment.augment import COLOUR, FIELD_LIKE, GEOMETRY, augment_batch, check_steps
from hemalens.training.augment.random import uniform

NAMES = (*GEOMETRY, *COLOUR)


def smooth(n: int, size: int = 32) -> Tensor:
    """Random images without fine detail, where interpolation costs little."""
    noise = np.random.default_rng(0).random((n, 3, size, size))
    blurred = ndimage.gaussian_filter(noise, (0, 0, size / 10, size / 10), mode="reflect")
    low, high = blurred.min(), blurred.max()
    return torch.from_numpy((blurred - low) / (high - low) * 0.6 + 0.2).float()


def augment(images: Tensor, *steps: AugmentStep, seed: int = 0, epoch: int = 1, first: int = 0) -> Tensor:
    keys = torch.arange(first, first + len(images))
    return augment_batch(images.clone(), keys, steps, seed=seed, epoch=epoch)


def draws_of(step: AugmentStep, n: int, count: int) -> Tensor:
    """The draws that shape a lone step, after the one that decides whether it is applied."""
    drawn = uniform(torch.arange(n), seed=0, epoch=1, stream=f"0:{step.name}", count=count + 1)
    return drawn[:, 1:]


def signed(step: AugmentStep, n: int, count: int = 1) -> list[list[float]]:
    return (draws_of(step, n, count) * 2 - 1).tolist()


def middle(images: Tensor, margin: int = 9) -> Tensor:
    return images[..., margin:-margin, margin:-margin]


def affine(image: Tensor, *, angle: float = 0.0, move: tuple[float, float] = (0, 0), scale: float = 1.0) -> Tensor:
    return vision.affine(
        image, angle, list(move), scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR, fill=None
    )


def sampled(image: Tensor, matrix: list[list[float]]) -> Tensor:
    """What a linear map of centred pixel coordinates gives, by SciPy's independent resampling."""
    linear = np.array(matrix)[::-1, ::-1]  # SciPy counts rows first
    centre = np.array([(image.shape[-1] - 1) / 2] * 2)
    planes = [
        ndimage.affine_transform(plane, linear, centre - linear @ centre, order=1, mode="reflect")
        for plane in image.numpy()
    ]
    return torch.from_numpy(np.stack(planes))


any_step = st.builds(
    AugmentStep,
    name=st.sampled_from(NAMES),
    probability=st.floats(0, 1),
    strength=st.floats(0, 10),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(any_step, max_size=4), st.integers(0, 100), st.integers(1, 9))
def test_images_keep_shape_type_and_range(steps: list[AugmentStep], seed: int, epoch: int) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    changed = augment(images, *steps, seed=seed, epoch=epoch)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert torch.isfinite(changed).all()
    assert changed.min() >= 0
    assert changed.max() <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(any_step, max_size=3), st.permutations(range(5)), st.integers(0, 100))
def test_equal_keys_get_equal_images_in_any_order_and_company(
    steps: list[AugmentStep], order: list[int], seed: int
) -> None:
    images, keys = smooth(5, 16), torch.tensor([8, 1, 2**40, 3, 8])
    images[4] = images[0]
    together = augment_batch(images.clone(), keys, steps, seed=seed, epoch=3)
    shuffled = augment_batch(images[order], keys[order], steps, seed=seed, epoch=3)
    torch.testing.assert_close(together[4], together[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-6)


def test_stain_after_a_step_that_went_below_black_is_a_number() -> None:
    steps = (AugmentStep(name="contrast", strength=3), AugmentStep(name="stain"))
    assert torch.isfinite(augment(torch.rand(32, 3, 8, 8), *steps)).all()


@pytest.mark.parametrize("steps", [*[(AugmentStep(name=name),) for name in NAMES], FIELD_LIKE])
def test_a_sample_gets_the_same_image_in_any_batch(steps: tuple[AugmentStep, ...]) -> None:
    images, keys = smooth(6, 16), torch.tensor([3, 900, 4, 2**33 + 1, 0, 77])
    together = augment_batch(images.clone(), keys, steps, seed=5, epoch=2)
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    shuffled = augment_batch(images[order], keys[order], steps, seed=5, epoch=2)
    assert torch.equal(shuffled, together[order])
    for index in range(6):
        one = slice(index, index + 1)
        alone = augment_batch(images[one].clone(), keys[one], steps, seed=5, epoch=2)
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_epoch_or_key_gives_another_image(name: str) -> None:
    step, images = AugmentStep(name=name), smooth(1, 16).repeat(16, 1, 1, 1)
    first = augment(images, step)
    assert torch.equal(first, augment(images, step))
    for other in (augment(images, step, seed=1), augment(images, step, epoch=2), augment(images, step, first=99)):
        assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_no_probability_changes_nothing(name: str) -> None:
    images = smooth(4)
    torch.testing.assert_close(augment(images, AugmentStep(name=name, probability=0)), images, rtol=0, atol=1e-5)


# Flips, turns and orders of channels have no strength; the weakest policies still equalise, as in their papers.
@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"flip", "quarter", "permute", "randaugment", "trivialaugment", "augmix"})
)
def test_a_step_of_no_strength_changes_nothing(name: str) -> None:
    images = smooth(4)
    torch.testing.assert_close(augment(images, AugmentStep(name=name, strength=0)), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_stays_empty(name: str) -> None:
    assert augment(torch.zeros(0, 3, 16, 16), AugmentStep(name=name)).shape == (0, 3, 16, 16)


def test_no_steps_leave_images_alone() -> None:
    assert torch.equal(augment(smooth(2)), smooth(2))


def test_a_step_is_applied_as_often_as_its_probability_says() -> None:
    images = torch.full((2000, 3, 2, 2), 0.5)
    changed = (augment(images, AugmentStep(name="brightness", probability=0.3)) != 0.5).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_flip_mirrors_every_other_image_exactly() -> None:
    step, images = AugmentStep(name="flip"), torch.rand(64, 3, 16, 16)
    flipped = draws_of(step, 64, 1)[:, 0] < 0.5
    wanted = torch.where(flipped[:, None, None, None], torch.flip(images, (3,)), images)
    torch.testing.assert_close(augment(images, step), wanted, rtol=0, atol=1e-4)
    assert 16 < int(flipped.sum()) < 48


def test_quarter_turns_by_right_angles_all_four_of_them() -> None:
    images = torch.rand(64, 3, 15, 15)
    changed = augment(images, AugmentStep(name="quarter"))
    turns = []
    for before, after in zip(images, changed, strict=True):
        gaps = [float((torch.rot90(before, k, (1, 2)) - after).abs().max()) for k in range(4)]
        assert min(gaps) < 1e-4
        turns.append(int(np.argmin(gaps)))
    assert set(turns) == {0, 1, 2, 3}


def test_rotate_turns_by_the_drawn_angle_as_torchvision_does() -> None:
    step, images = AugmentStep(name="rotate"), smooth(12)
    changed = augment(images, step)
    angles = [value * 180 for (value,) in signed(step, 12)]
    signs = {
        round(float((middle(affine(images[0], angle=sign * angles[0])) - middle(changed[0])).abs().max()), 3): sign
        for sign in (-1, 1)
    }
    sense = signs[min(signs)]  # left or right does not matter, the angle does
    for before, after, angle in zip(images, changed, angles, strict=True):
        torch.testing.assert_close(middle(after), middle(affine(before, angle=sense * angle)), rtol=0, atol=5e-3)
    assert max(angles) > 90
    assert min(angles) < -90


def test_translate_moves_by_up_to_a_tenth_of_the_side_in_both_directions() -> None:
    step, images = AugmentStep(name="translate"), smooth(12)
    for before, after, (x, y) in zip(images, augment(images, step), signed(step, 12, 2), strict=True):
        wanted = ndimage.shift(before.numpy(), (0, -y * 3.2, -x * 3.2), order=1, mode="reflect")
        torch.testing.assert_close(after, torch.from_numpy(wanted), rtol=0, atol=5e-3)
    assert np.ptp(np.array(signed(step, 200, 2)), axis=0).min() > 1.8


def test_zoom_scales_evenly_by_up_to_a_quarter_either_way() -> None:
    step, images = AugmentStep(name="zoom"), smooth(12)
    for before, after, (drawn,) in zip(images, augment(images, step), signed(step, 12), strict=True):
        wanted = affine(before, scale=1.25**-drawn)
        torch.testing.assert_close(middle(after), middle(wanted), rtol=0, atol=5e-3)


def test_stretch_changes_the_aspect_and_keeps_the_area() -> None:
    step, images = AugmentStep(name="stretch"), smooth(12)
    for before, after, (drawn,) in zip(images, augment(images, step), signed(step, 12), strict=True):
        factor = 1.2 ** (drawn / 2)
        wanted = sampled(before, [[factor, 0], [0, 1 / factor]])
        torch.testing.assert_close(middle(after), middle(wanted), rtol=0, atol=5e-3)


def test_shear_moves_rows_sideways() -> None:
    step, images = AugmentStep(name="shear"), smooth(12)
    for before, after, (drawn,) in zip(images, augment(images, step), signed(step, 12), strict=True):
        wanted = sampled(before, [[1, 0.2 * drawn], [0, 1]])
        torch.testing.assert_close(middle(after), middle(wanted), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("first", "second"), [("shear", "rotate"), ("rotate", "shear"), ("translate", "rotate"), ("zoom", "translate")]
)
def test_two_geometric_steps_are_one_resampling_of_the_first_and_then_the_second(first: str, second: str) -> None:
    images = smooth(8, 48)
    steps = (AugmentStep(name=first, strength=2), AugmentStep(name=second, strength=0.5 if second == "rotate" else 2))
    together = augment(images, *steps)
    # A step that is never applied keeps the place, and so the draws, of the other.
    never = [step.model_copy(update={"probability": 0.0}) for step in steps]
    in_turn = augment(augment(images, steps[0], never[1]), never[0], steps[1])
    reversed_turn = augment(augment(images, never[0], steps[1]), steps[0], never[1])
    gap = (middle(together, 16) - middle(in_turn, 16)).abs().max()
    wrong = (middle(together, 16) - middle(reversed_turn, 16)).abs().max()
    assert gap < 0.02
    assert wrong > 2 * gap


def test_a_colour_step_between_two_geometric_ones_keeps_its_place() -> None:
    images = smooth(6)
    turn, hole = AugmentStep(name="rotate", strength=0.25), AugmentStep(name="cutout")
    never = turn.model_copy(update={"probability": 0.0})
    together = augment(images, turn, hole, turn)
    in_turn = augment(augment(images, turn, hole, never), never, hole.model_copy(update={"probability": 0.0}), turn)
    torch.testing.assert_close(together, in_turn, rtol=0, atol=1e-4)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_brightness_contrast_and_saturation_follow_their_formulas(strength: float) -> None:
    images = smooth(10)
    oracles = {
        "brightness": lambda image, factor: vision.adjust_brightness(image, factor),
        "contrast": lambda image, factor: image.mean() + (image - image.mean()) * factor,
        "saturation": lambda image, factor: image.mean(0) + (image - image.mean(0)) * factor,
    }
    reach = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.5}
    for name, oracle in oracles.items():
        step = AugmentStep(name=name, strength=strength)
        for before, after, (drawn,) in zip(images, augment(images, step), signed(step, 10), strict=True):
            wanted = oracle(before, 1 + reach[name] * strength * drawn).clamp(0, 1)
            torch.testing.assert_close(after, wanted, rtol=0, atol=1e-5)


def test_channels_shift_each_colour_on_its_own() -> None:
    step, images = AugmentStep(name="channels"), smooth(10)
    moved = (augment(images, step) - images).mean(dim=(2, 3))
    np.testing.assert_allclose(moved.numpy(), 0.1 * np.array(signed(step, 10, 3)), atol=1e-5)


def test_stain_scales_optical_density_and_leaves_white_white() -> None:
    step, images = AugmentStep(name="stain"), smooth(10)
    density = [-torch.log((one + 1 / 256) / (1 + 1 / 256)) for one in (images, augment(images, step))]
    factor = (density[1] / density[0]).mean(dim=(2, 3))
    np.testing.assert_allclose(factor.numpy(), 1 + 0.3 * np.array(signed(step, 10, 3)), rtol=1e-3)
    white = torch.ones(4, 3, 8, 8)
    torch.testing.assert_close(augment(white, step), white)


@pytest.mark.parametrize("size", [32, 64])
def test_blur_is_gaussian_with_a_width_in_proportion_to_the_size(size: int) -> None:
    step, images = AugmentStep(name="blur"), torch.rand(6, 3, size, size)
    sigmas = draws_of(step, 6, 1)[:, 0].numpy() * 1.5 * size / 64
    radius = math.ceil(4.5 * size / 64)
    for before, after, sigma in zip(images, augment(images, step), sigmas, strict=True):
        width = max(float(sigma), 1e-2)
        wanted = ndimage.gaussian_filter(before.numpy(), (0, width, width), mode="nearest", radius=(0, radius, radius))
        np.testing.assert_allclose(after.numpy(), wanted, atol=1e-4)
    inner = vision.gaussian_blur(images[:1], [2 * radius + 1] * 2, [float(sigmas[0])] * 2)
    torch.testing.assert_close(middle(augment(images, step)[:1]), middle(inner), rtol=0, atol=1e-3)


def test_noise_has_the_drawn_spread_and_no_mean_and_differs_between_samples() -> None:
    step, images = AugmentStep(name="noise"), torch.full((8, 3, 48, 48), 0.5)
    noise = (augment(images, step) - 0.5).flatten(1).numpy()
    np.testing.assert_allclose(noise.std(axis=1), 0.1 * draws_of(step, 8, 1)[:, 0].numpy(), rtol=0.05)
    assert np.abs(noise.mean(axis=1)).max() < 0.006
    assert np.abs(np.corrcoef(noise) - np.eye(8)).max() < 0.06
    loud = noise[noise.std(axis=1).argmax()]
    kurtosis = ((loud / loud.std()) ** 4).mean()
    assert kurtosis == pytest.approx(3, abs=0.3)


def test_cutout_fills_one_square_with_the_mean_colour() -> None:
    images = torch.rand(40, 3, 40, 40) * 0.5 + 0.25
    areas = []
    for before, after in zip(images, augment(images, AugmentStep(name="cutout")), strict=True):
        hole = (before != after).any(dim=0)
        rows, columns = torch.nonzero(hole.any(dim=1))[:, 0], torch.nonzero(hole.any(dim=0))[:, 0]
        assert int(hole.sum()) == len(rows) * len(columns)
        wanted = before.mean(dim=(1, 2))[:, None].expand(3, int(hole.sum()))
        torch.testing.assert_close(after[:, hole], wanted)
        areas.append(int(hole.sum()))
    assert max(areas) == 12 * 12
    assert min(areas) < 12 * 12  # some reach over the border


def test_an_unknown_step_is_refused_with_all_known_names() -> None:
    check_steps(FIELD_LIKE)
    with pytest.raises(ConfigError, match="augmentation twirl") as caught:
        check_steps([AugmentStep(name="flip"), AugmentStep(name="twirl")])
    assert all(name in str(caught.value) for name in NAMES)


def test_larger_images_are_sampled_down_even_without_a_step() -> None:
    large = smooth(3, 48)
    down = augment_batch(large.clone(), torch.arange(3), (), seed=0, epoch=1, size=32)
    # Sampling at (x + 0.5) * 1.5 - 0.5: halfway between pixels 0 and 1, then on pixel 2, and so on.
    wanted = functional.interpolate(large, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(down, wanted, atol=1e-5, rtol=0)


def test_turning_a_larger_image_blurs_less_than_turning_a_small_one() -> None:
    large = torch.rand(16, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    small = functional.interpolate(large, size=(64, 64), mode="bicubic", antialias=True).clamp(0, 1)
    turn = AugmentStep(name="rotate")
    keys = torch.arange(16)
    from_large = augment_batch(large, keys, (turn,), seed=0, epoch=1, size=64)
    from_small = augment_batch(small, keys, (turn,), seed=0, epoch=1)
    assert from_large.shape == from_small.shape
    assert from_large.std(dim=(2, 3)).mean() > 1.1 * from_small.std(dim=(2, 3)).mean()
