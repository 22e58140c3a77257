"""Corrupted images: those of medmnistc where nothing is random, and seeded draws of the same kind where much is."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hemalens.core.types import Images
from hemalens.evaluation.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Stain,
    blow_bubbles,
    blur_motion,
    corrupt,
    deposit_stains,
    draw_bubbles,
    draw_stains,
)
from tests.evaluation.references.record_motion_blur import CASES

FIXED = ("pixelate", "jpeg_compression", "brightness_up", "brightness_down", "contrast_up", "contrast_down")
RANDOM = ("motion_blur", "stain_deposit", "bubble")


def image(seed: int, shape: tuple[int, int] = (224, 224)) -> Images:
    """Make an image of soft colours and noise, with a grey, a black and a white patch."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), np.uint8))
    smooth = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC)).astype(int)
    pixels = (smooth + generator.integers(-20, 21, (*shape, 3))).clip(0, 255).astype(np.uint8)
    pixels[:20, :20], pixels[30:40, 30:40], pixels[50:60, :10] = 120, 0, 255
    return pixels


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The corruptions of medmnistc; ImageMagick, which only its motion blur needs, is replaced by nothing."""
    for name, content in {"wand": {}, "wand.image": {"Image": object}, "wand.api": {"library": None}}.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    registry = pytest.importorskip("medmnistc.corruptions.registry")
    yield registry.CORRUPTIONS_DS["bloodmnist"]
    for name in [name for name in sys.modules if name.startswith("medmnistc")]:
        del sys.modules[name]


def test_names_and_order_are_those_of_the_package(oracle: dict[str, Any]) -> None:
    assert list(CORRUPTIONS) == list(oracle)
    for name, found in CORRUPTIONS.items():
        assert len(found.parameters) == len(oracle[name].severity_params) == len(SEVERITIES)


@pytest.mark.parametrize("name", FIXED)
def test_what_pillow_does_there_is_done_here_to_the_bit(oracle: dict[str, Any], name: str) -> None:
    for severity in SEVERITIES:
        wanted = oracle[name].apply(Image.fromarray(image(1)), severity - 1)
        np.testing.assert_array_equal(corrupt(image(1), name, severity, index=0), wanted)


@pytest.mark.parametrize("name", ["defocus_blur", "saturate"])
def test_arithmetic_differs_by_one_level_in_a_tenth_of_the_values_at_most(oracle: dict[str, Any], name: str) -> None:
    # It cuts fractions off after floating-point sums, where an exact 120 may have become 119.99.
    for severity in SEVERITIES:
        wanted = oracle[name].apply(Image.fromarray(image(2)), severity - 1).astype(int)
        differences = np.abs(corrupt(image(2), name, severity, index=0) - wanted)
        assert differences.max() <= 1
        assert differences.mean() < 0.1


def test_motion_blur_is_that_of_imagemagick() -> None:
    recorded = np.asarray(Image.open(Path(__file__).parent / "references" / "motion_blur.png"))
    untouched, *results = np.split(recorded, 1 + len(CASES))
    for (radius, sigma, angle), wanted in zip(CASES, results, strict=True):
        found = blur_motion(untouched, radius, sigma, angle).astype(int)
        assert np.abs(found - wanted).max() <= 1
        assert (found != wanted).mean() < 0.001
    assert {case[:2] for case in CASES} == set(CORRUPTIONS["motion_blur"].parameters)


class Script:
    """Stands for the module ``random``: ``randint`` gives prepared numbers and notes the bounds it was asked for."""

    def __init__(self, values: list[int]) -> None:
        self.values, self.bounds = list(values), []

    def randint(self, low: int, high: int) -> int:
        self.bounds.append((low, high))
        return self.values.pop(0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_bubbles_drawn_here_look_as_the_package_draws_them(
    oracle: dict[str, Any], monkeypatch: pytest.MonkeyPatch, severity: int
) -> None:
    largest, most = map(int, CORRUPTIONS["bubble"].parameters[severity - 1])
    bubbles = draw_bubbles(np.random.default_rng(severity), largest, most, (224, 224))
    script = Script([len(bubbles), *(value for one in bubbles for value in (one.radius, one.x, one.y))])
    monkeypatch.setattr("medmnistc.corruptions.microscopy.random", script)
    wanted = oracle["bubble"].apply(Image.fromarray(image(3)), severity - 1)
    np.testing.assert_array_equal(blow_bubbles(image(3), bubbles), wanted)
    assert script.values == []
    assert script.bounds[:2] == [(7, most), (3, largest)]
    for one, (_, across, down) in zip(bubbles, zip(*[iter(script.bounds[1:])] * 3, strict=True), strict=True):
        assert across == down == (one.radius, 224 - one.radius)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_stains_drawn_here_look_as_the_package_deposits_them(
    oracle: dict[str, Any], monkeypatch: pytest.MonkeyPatch, severity: int
) -> None:
    side, most = map(int, CORRUPTIONS["stain_deposit"].parameters[severity - 1])
    stains = draw_stains(np.random.default_rng(severity), side, most, (224, 224))
    indices = [value for number, one in enumerate(stains) for value in (number, one.x, one.y)]
    script = Script([len(stains)] * (most > 1) + indices)
    its_inks = oracle["stain_deposit"].inks
    size = str(max(3, severity - 1))
    assert its_inks[size].shape[1:] == (side, side)
    mine = {size: [one.shape.astype(np.uint64) for one in stains]}
    monkeypatch.setattr(oracle["stain_deposit"], "_inks", mine)
    monkeypatch.setattr("medmnistc.corruptions.microscopy.random", script)
    wanted = oracle["stain_deposit"].apply(Image.fromarray(image(4)), severity - 1)
    np.testing.assert_array_equal(deposit_stains(image(4), stains), wanted)
    assert script.values == []
    assert (10, 224 - side - 10) in script.bounds


@pytest.mark.parametrize(("size", "side"), [("3", 24), ("4", 32)])
def test_blots_cover_as_much_of_their_square_as_those_of_the_package(
    oracle: dict[str, Any], size: str, side: int
) -> None:
    shares = [one.mean() for one in oracle["stain_deposit"].inks[size]]
    generator = np.random.default_rng(0)
    mine = [stain.shape.mean() for _ in range(100) for stain in draw_stains(generator, side, 1, (224, 224))]
    assert np.mean(mine) == pytest.approx(np.mean(shares), abs=0.06)
    assert np.std(mine) == pytest.approx(np.std(shares), abs=0.05)


def test_angles_of_motion_cover_45_degrees_to_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    angles: list[float] = []

    def note(pixels: Images, radius: int, sigma: float, angle: float) -> Images:
        angles.append(angle)
        return pixels

    monkeypatch.setattr("hemalens.evaluation.corruptions.blur_motion", note)
    for index in range(300):
        corrupt(image(0, (64, 64)), "motion_blur", 3, index=index)
    assert -45 <= min(angles) < -42
    assert 42 < max(angles) <= 45
    assert abs(np.mean(angles)) < 5


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([*CORRUPTIONS]), st.sampled_from(SEVERITIES), st.integers(0, 10**6), st.integers(0, 99))
def test_a_copy_depends_on_nothing_but_its_key(name: str, severity: int, index: int, seed: int) -> None:
    given_image = image(5, (96, 90))
    first = corrupt(given_image, name, severity, index=index, seed=seed)
    corrupt(given_image, name, severity, index=index + 1, seed=seed)
    np.testing.assert_array_equal(corrupt(given_image, name, severity, index=index, seed=seed), first)
    np.testing.assert_array_equal(given_image, image(5, (96, 90)))
    assert (first.shape, first.dtype) == (given_image.shape, np.uint8)


@pytest.mark.parametrize("name", RANDOM)
def test_sample_severity_and_seed_change_what_is_drawn(name: str) -> None:
    copies = [
        corrupt(image(6), name, severity, index=index, seed=seed)
        for severity, index, seed in ((3, 1, 0), (4, 1, 0), (3, 2, 0), (3, 1, 1))
    ]
    assert len({copy.tobytes() for copy in copies}) == len(copies)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_more(name: str) -> None:
    changes = [
        np.mean([np.abs(corrupt(image(s), name, severity, index=s).astype(int) - image(s)).mean() for s in (1, 2)])
        for severity in (1, 5)
    ]
    assert 0 < changes[0] < changes[1]


def test_stains_are_black_and_touch_nothing_else() -> None:
    shape = np.zeros((6, 6), bool)
    shape[2, 1:4] = True
    found = deposit_stains(np.full((64, 64, 3), 200, np.uint8), [Stain(shape, x=10, y=20)])
    assert np.argwhere((found == 0).all(axis=2)).tolist() == [[22, 11], [22, 12], [22, 13]]
    assert ((found == 200) | (found == 0)).all()


@pytest.mark.parametrize(("severity", "shape"), [(0, (64, 64, 3)), (6, (64, 64, 3)), (1, (63, 64, 3)), (1, (64, 64))])
def test_what_has_no_meaning_is_refused(severity: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        corrupt(np.zeros(shape, np.uint8), "pixelate", severity, index=0)
