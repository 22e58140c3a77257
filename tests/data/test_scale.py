"""Images of another magnification are brought to the training cells' size, and those of the same are left alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core.abstention import Abstention
from hemalens.core.errors import ArtifactError, SourceError
from hemalens.core.scores import Gaussians
from hemalens.data.reading.resize import resize
from hemalens.data.scale import FEWEST, ZOOMS, choose_scale, find_scale, zoomed
from hemalens.data.sources import Source, open_source

SIZE = 32
RADIUS = 8.0  # of the training cells, in images of SIZE


def discs(radius: float, count: int = 60, *, side: int = 48) -> np.ndarray:
    """Dark discs of nearly one radius (in images of SIZE) on a bright ground, (count, side, side, 3) uint8."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    sizes = radius * side / SIZE * draw.uniform(0.95, 1.05, count)
    inside = np.hypot(rows, columns) < sizes[:, None, None]
    return np.repeat(np.where(inside, 60, 220).astype(np.uint8)[..., None], 3, axis=3)


def dark_area(images: np.ndarray) -> np.ndarray:
    assert images.shape[1:] == (SIZE, SIZE, 3)
    return (images[..., 0] < 140).mean(axis=(1, 2), dtype=np.float64)[:, None].astype(np.float32)


def known(gaussians: Gaussians | None) -> Abstention:
    return Abstention(1.0, 0.05, 3.0, 0.0, np.ones(2, np.float32), gaussians)


def abstention() -> Abstention:
    """What knows discs of RADIUS, whose areas differ by some percent; the limit is three spreads."""
    mean = np.array([[np.pi * RADIUS**2 / SIZE**2]], np.float32)
    spread = 0.06 * float(mean[0, 0])
    return known(Gaussians(mean, np.eye(1, dtype=np.float32), np.array([1 / spread**2], np.float32), 0.0))


def stored(path: Path, images: np.ndarray) -> Source:
    np.savez(path, images=images, labels=np.zeros(len(images), np.int64))
    return open_source(path)


@pytest.mark.parametrize("magnification", [1 / 1.4, 0.8, 1.0, 1.25])
def test_the_zoom_undoes_another_magnification(tmp_path: Path, magnification: float) -> None:
    source = stored(tmp_path / "cells.npz", discs(RADIUS * magnification))
    scale = find_scale(source, SIZE, abstention(), dark_area)
    assert scale.zoom == min(ZOOMS, key=lambda zoom: abs(np.log(zoom * magnification)))
    assert scale.n_images == 60
    assert list(scale.to_json()["distances"]) == [f"{zoom:g}" for zoom in ZOOMS]
    if magnification == 1.0:
        assert scale.words() == "not needed: 0 % of 60 images are unlike the training cells"
    else:
        assert scale.words().startswith(f"zoomed by {scale.zoom:g}: 100 % of 60 images are unlike the training cells")


def test_nothing_is_said_of_few_images_or_by_a_model_that_knows_no_training_cells(tmp_path: Path) -> None:
    source = stored(tmp_path / "few.npz", discs(RADIUS, FEWEST - 1))
    with pytest.raises(SourceError, match="has 49 readable images, at least 50 are needed"):
        find_scale(source, SIZE, abstention(), dark_area)
    with pytest.raises(ArtifactError, match="has no statistics of its training cells"):
        find_scale(source, SIZE, known(None), dark_area)


def test_damaged_images_are_passed_over(tmp_path: Path) -> None:
    from PIL import Image

    for index, image in enumerate(discs(RADIUS, 55)):
        Image.fromarray(image).save(tmp_path / f"{index:02d}.png")
    (tmp_path / "00.png").write_bytes(b"no image")
    assert find_scale(open_source(tmp_path), SIZE, abstention(), dark_area).n_images == 54


def away(distances: np.ndarray) -> np.ndarray:
    """Return features (N, 1) at these distances from a class at 0 of spread 1."""
    return distances[:, None].astype(np.float32)


def at_zero(limit: float, home: Gaussians | None = None) -> Abstention:
    one = np.ones((1, 1), np.float32)
    return Abstention(1.0, 0.05, limit, 0.0, one[0], Gaussians(0 * one, one, one[0], 0.0), home)


def test_images_stay_where_the_gain_may_be_chance() -> None:
    draw = np.random.default_rng(1)
    far = 10 + draw.normal(0, 1, 80)
    unsure = choose_scale({1.0: away(far), 1.25: away(far + draw.normal(-0.02, 1, 80))}, at_zero(3.0))
    assert (unsure.zoom, unsure.unlike) == (1.0, 1.0)
    assert unsure.words() == (
        "not possible: 100 % of 80 images are unlike the training cells, and no zoom makes them clearly more alike"
    )
    assert choose_scale({1.0: away(far), 1.25: away(far - 2)}, at_zero(3.0)).zoom == 1.25


def test_images_stay_where_most_are_like_training_cells_even_if_another_zoom_is_nearer() -> None:
    near = np.linspace(1, 2, 100)
    assert choose_scale({1.0: away(near), 0.9: away(near - 0.5)}, at_zero(1.9)).zoom == 1.0
    assert choose_scale({1.0: away(near), 0.9: away(near - 0.5)}, at_zero(1.7)).zoom == 0.9


def test_the_size_is_told_by_the_distance_that_does_not_see_through_it() -> None:
    one = np.ones((1, 2), np.float32)
    # Sizes lie along the second feature, which the abstention's distance hardly counts.
    blind = Gaussians(0 * one, np.eye(2, dtype=np.float32), np.array([1, 1e-6], np.float32), 0.0)
    home = Gaussians(0 * one, np.eye(2, dtype=np.float32), np.array([1, 1], np.float32), 0.0)
    draw = np.random.default_rng(0)
    features = {zoom: draw.normal((5, 10 * abs(zoom - 1.25)), 0.5, (80, 2)) for zoom in (1.0, 1.12, 1.25, 1.4)}
    found = choose_scale(features, Abstention(1.0, 0.05, 3.0, 0.0, one[0], blind, home))
    assert (found.zoom, found.unlike) == (1.25, 1.0)


def test_a_zoom_of_one_is_the_plain_resize() -> None:
    image = discs(RADIUS, 1)[0]
    np.testing.assert_array_equal(zoomed(image, 1.0, SIZE), resize(image, SIZE))


@given(st.sampled_from(ZOOMS), st.integers(20, 60), st.integers(20, 60))
def test_a_zoom_changes_the_area_by_its_square_and_keeps_the_middle(zoom: float, height: int, width: int) -> None:
    rows, columns = np.mgrid[:height, :width]
    inside = (abs(rows - (height - 1) / 2) < height / 6) & (abs(columns - (width - 1) / 2) < width / 6)
    image = np.repeat(np.where(inside, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    before, after = (1 - resize(image, 96) / 255.0)[..., 0], (1 - zoomed(image, zoom, 96) / 255.0)[..., 0]
    assert after.sum() / before.sum() == pytest.approx(zoom**2, rel=0.12)
    indices = np.arange(96) - 47.5
    assert abs((after.sum(axis=0) * indices).sum() / after.sum()) < 0.6
    assert abs((after.sum(axis=1) * indices).sum() / after.sum()) < 0.6
