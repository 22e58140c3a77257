"""Deletion and insertion: maps of what a model uses win, maps of anything else do not."""

import numpy as np
import pytest

from hemalens.core.types import FloatArray, Images
from hemalens.evaluation.faithfulness import check_maps, deletion_insertion, random_maps

SIDE, CORNER = 32, 12


def images(count: int) -> Images:
    """Make grey noise with a bright corner."""
    made = np.random.default_rng(count).integers(0, 80, (count, SIDE, SIDE, 3), np.uint8)
    made[:, :CORNER, :CORNER] = np.random.default_rng(0).integers(150, 256, (count, CORNER, CORNER, 3))
    return made


def corner_model(given: Images) -> FloatArray:
    """Answer class 1 the more surely, the rougher and brighter the corner is; nothing else matters."""
    corner = given[:, :CORNER, :CORNER].astype(float)
    chance = np.clip(corner.mean(axis=(1, 2, 3)) / 300 + corner.std(axis=(1, 2, 3)) / 100, 0, 1)
    return np.stack([1 - chance, chance], axis=1)


def corner_maps(count: int) -> FloatArray:
    maps = np.zeros((count, 8, 8), np.float32)
    maps[:, :3, :3] = 1
    return maps


def test_maps_of_what_the_model_uses_are_called_meaningful() -> None:
    found = check_maps(corner_model, images(24), corner_maps(24), np.ones(24, int)).to_json()
    assert found["verdict"] == "meaningful"
    assert found["n"] == 24
    assert found["deletion"]["maps"] < found["deletion"]["random"]
    assert found["insertion"]["maps"] > found["insertion"]["random"]
    assert min(found[game]["better"] for game in ("deletion", "insertion")) > 0.9
    assert max(found[game]["p"] for game in ("deletion", "insertion")) < 0.001


@pytest.mark.parametrize("kind", ["random", "wrong"])
def test_other_maps_are_not(kind: str) -> None:
    maps = random_maps((24, 8, 8), seed=5) if kind == "random" else np.flip(corner_maps(24), (1, 2))
    assert check_maps(corner_model, images(24), maps, np.ones(24, int)).to_json()["verdict"] == "not shown"


def test_a_model_that_looks_nowhere_shows_nothing() -> None:
    found = check_maps(
        lambda given: np.full((len(given), 2), 0.5), images(6), corner_maps(6), np.ones(6, int)
    ).to_json()
    assert (found["verdict"], found["deletion"]["p"], found["insertion"]["better"]) == ("not shown", 1, 0)


def test_without_images_nothing_is_shown() -> None:
    found = check_maps(corner_model, images(1)[:0], corner_maps(1)[:0], np.ones(0, int)).to_json()
    assert found == {"n": 0, "verdict": "not shown"}


def test_curves_begin_and_end_with_the_whole_image_and_what_is_left_of_it() -> None:
    given, asked = images(3), np.array([1, 0, 1])
    seen: list[Images] = []

    def note(shown: Images) -> FloatArray:
        seen.append(shown)
        return corner_model(shown)

    curves = deletion_insertion(note, given, corner_maps(3), asked)
    whole = corner_model(given)[np.arange(3), asked]
    np.testing.assert_allclose(curves.deletion[:, 0], whole)
    np.testing.assert_allclose(curves.insertion[:, -1], whole)
    steps = curves.deletion.shape[1]
    for row, shown in enumerate(seen):
        assert (shown[steps - 1] == np.round(given[row].mean(axis=(0, 1)))).all()
        assert shown[steps].std() < given[row].std()
        gone = (shown[:steps] != given[row]).any(axis=3).mean(axis=(1, 2))
        np.testing.assert_allclose(gone, np.linspace(0, 1, steps), atol=0.03)


def test_the_hottest_pixels_go_first() -> None:
    seen: list[Images] = []

    def note(shown: Images) -> FloatArray:
        seen.append(shown)
        return corner_model(shown)

    given = images(1)
    deletion_insertion(note, given, corner_maps(1), np.array([1]))
    changed = (seen[0][1] != given[0]).any(axis=2)
    assert changed[:CORNER, :CORNER].sum() == changed.sum() > 0
