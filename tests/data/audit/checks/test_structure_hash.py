"""Structure hashes: a turned copy asks for what its original stored, light changes nothing, other cells are far."""

import numpy as np
import pytest

from hemalens.core.types import Images
from hemalens.data.audit.checks.structure_hash import BITS, ORIENTATIONS, STORED, oriented, structure_hashes
from hemalens.data.audit.statistics import Statistics


@pytest.fixture(scope="module")
def thumbnails(measured_cells: Statistics) -> Images:
    return measured_cells.thumbnails


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.bitwise_count(one ^ other)


@pytest.mark.parametrize("turn", range(8))
def test_a_image_asked_for_in_an_orientation_is_its_copy_turned_so(thumbnails: Images, turn: int) -> None:
    _, asked = structure_hashes(thumbnails)
    stored, _ = structure_hashes(np.ascontiguousarray(oriented(thumbnails, turn)))
    # A coefficient of nothing but rounding may take either sign.
    assert np.quantile(apart(asked[:, turn], stored[:, 0]), 0.99) <= 1


def test_turning_back_brings_the_image_back() -> None:
    image = np.arange(2 * 9 * 3).reshape(2, 3, 3, 3)
    assert len(ORIENTATIONS) == 8
    assert len({oriented(image, turn).tobytes() for turn in range(8)}) == 8
    for turn in range(8):
        back = {5: 6, 6: 5}.get(turn, turn)
        assert np.array_equal(oriented(oriented(image, turn), back), image)
    assert np.array_equal(oriented(image, 5), np.rot90(image, -1, axes=(1, 2)))


def test_light_and_contrast_leave_the_hash_alone(thumbnails: Images) -> None:
    stored, asked = structure_hashes(thumbnails)
    darker = (thumbnails * 0.7 + 10).round().astype(np.uint8)
    assert np.quantile(apart(structure_hashes(darker)[0][:, 0], stored[:, 0]), 0.95) <= 2
    assert stored.shape == (len(thumbnails), STORED)
    assert asked.shape == (len(thumbnails), 8)
    assert (stored < 2**BITS).all()


def test_other_cells_are_far(thumbnails: Images) -> None:
    stored, _ = structure_hashes(thumbnails)
    distances = apart(stored[::2, 0][:150, None], stored[1::2, 0][None, :150])
    assert np.quantile(distances, 0.001) > 8
    assert 26 <= np.median(distances) <= 32


def test_blocks_change_nothing(thumbnails: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = structure_hashes(thumbnails)
    monkeypatch.setattr("hemalens.data.audit.checks.structure_hash._BLOCK", 7)
    assert all(np.array_equal(one, other) for one, other in zip(whole, structure_hashes(thumbnails), strict=True))
    assert structure_hashes(thumbnails[:0])[0].shape == (0, STORED)
