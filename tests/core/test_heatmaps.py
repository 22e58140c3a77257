"""Heat maps: a class's own sum over the map, at an image's size, drawn so that cold places stay as they are."""

import numpy as np
import pytest

from hemalens.core.heatmaps import class_activation_map, colour_heat, enlarge, normalise, overlay


def test_a_map_sums_to_the_logit_before_its_bias_where_nothing_is_negative() -> None:
    generator = np.random.default_rng(0)
    found, weight = generator.random((5, 6, 3, 4)), generator.random((8, 6))
    classes = np.array([0, 3, 7, 3, 1])
    maps = class_activation_map(found, weight, classes)
    logits = found.mean(axis=(2, 3)) @ weight.T
    assert maps.shape == (5, 3, 4)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits[np.arange(5), classes])


def test_what_speaks_against_a_class_is_not_shown() -> None:
    found = np.array([[[[1.0, -1.0]], [[0.0, 5.0]]]])
    weight = np.array([[2.0, 0.0], [-1.0, 1.0]])
    assert class_activation_map(found, weight, np.array([0])).tolist() == [[[2, 0]]]
    assert class_activation_map(found, weight, np.array([1])).tolist() == [[[0, 6]]]


def test_each_map_is_divided_by_its_own_largest_value_and_zeros_stay() -> None:
    maps = np.array([[[1.0, 4.0]], [[0.0, 0.0]], [[0.25, 0.5]]])
    assert normalise(maps).tolist() == [[[0.25, 1]], [[0, 0]], [[0.5, 1]]]


def test_an_enlarged_map_keeps_its_hot_place_and_is_never_negative() -> None:
    heat = np.zeros((4, 6), np.float32)
    heat[1, 4] = 1
    large = enlarge(heat, (40, 90))
    assert large.shape == (40, 90)
    assert np.unravel_index(large.argmax(), large.shape) == (pytest.approx(14, abs=2), pytest.approx(67, abs=2))
    assert large.min() == 0


def test_an_overlay_leaves_cold_places_and_colours_hot_ones() -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    heat = np.zeros((4, 6))
    heat[:, 3:] = 1
    drawn = overlay(image, heat)
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(drawn[:, :12], image[:, :12])
    hottest = 0.25 * image[:, 40:] + 0.75 * colour_heat(np.ones(()))
    np.testing.assert_allclose(drawn[:, 40:], hottest, atol=1)


def test_heat_colours_get_lighter_all_the_way() -> None:
    light = colour_heat(np.linspace(0, 1, 50)) @ [0.299, 0.587, 0.114]
    assert (np.diff(light) > 0).all()
    assert light[-1] - light[0] > 150
