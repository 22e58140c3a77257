import re
import xml.etree.ElementTree as ET
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest

from hemalens.core.charts import (
    CLASS_COLOURS,
    FALLBACK_COLOURS,
    INK,
    bar_counts,
    class_colours,
    figure_svg,
    house_style,
    print_svg,
    scatter_map,
)
from hemalens.core.types import CELL_CLASSES
from tests.core.test_page import contrast

LIGHT, DARK = "#fdfdfb", "#15181c"
# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def oklab(colour, sight):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(SIGHTS[sight]) @ linear, 0, 1)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return lab @ np.cbrt(cones @ seen)


def texts_of(svg):
    return [element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def groups_of(count):
    return {"odd": np.arange(count), "grey": np.arange(count, 2 * count)}


def test_every_cell_has_a_colour_of_its_own():
    assert tuple(CLASS_COLOURS) == CELL_CLASSES
    assert len(set(CLASS_COLOURS.values())) == 8
    assert set(FALLBACK_COLOURS) == set(CLASS_COLOURS.values())


@pytest.mark.parametrize("colour", CLASS_COLOURS.values())
@pytest.mark.parametrize("paper", [LIGHT, DARK])
def test_every_colour_stands_out_on_both_papers(colour, paper):
    assert contrast(colour, paper) >= 3


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_are_told_apart_by_every_sight(sight):
    seen = [oklab(colour, sight) for colour in CLASS_COLOURS.values()]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.075


def test_names_beyond_the_palette_begin_it_anew():
    names = [f"class {i}" for i in range(10)]
    assert class_colours(names)[8:] == class_colours(names)[:2]


def test_the_house_style_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    with house_style():
        assert mpl.rcParams["axes.spines.top"] is False
    bar_counts({"a": 1})
    assert dict(mpl.rcParams) == before


def test_a_users_settings_do_not_reach_the_figures():
    plain = figure_svg(bar_counts({"a": 3}), label="a")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "text.usetex": True}):
        assert figure_svg(bar_counts({"a": 3}), label="a") == plain


def test_the_same_data_give_the_same_bytes():
    points = np.random.default_rng(0).normal(size=(300, 2))
    first, second = (scatter_map(points, groups_of(20)) for _ in range(2))
    assert figure_svg(first, label="a") == figure_svg(second, label="a")


def test_an_svg_is_one_well_formed_element_with_a_label_and_no_baggage():
    svg = figure_svg(bar_counts({"ig": 3}), label='counts of "<cells>"\nand more')
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("role"), root.get("aria-label")) == ("img", 'counts of "<cells>" and more')
    assert root.get("viewBox")
    for word in ("<?xml", "<!DOCTYPE", "<metadata", "<style", INK, "DejaVu"):
        assert word not in svg
    assert "currentColor" in svg


def test_ids_of_two_figures_do_not_meet_and_every_reference_is_met():
    svgs = [figure_svg(bar_counts({"ig": n}), label="a") for n in (3, 4)]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert not ids[0] & ids[1]
    for svg, known in zip(svgs, ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= known


def test_text_stays_text_and_odd_names_are_taken_as_they_are():
    svg = figure_svg(bar_counts({"a$b$": 12_000, "<i>": 1, "细胞": 2}, {"a$b$": 9000, "<i>": 1, "细胞": 2}), label="a")
    assert {"a$b$", "<i>", "细胞", "12\u202f000 → 9000", "1"} <= set(texts_of(svg))


def test_bars_before_cleaning_stand_faded_behind_those_after():
    axes = bar_counts({"ig": 10, "platelet": 4}, {"ig": 7}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [10, 4, 7, 0]
    assert [bar.get_alpha() for bar in axes.patches] == [0.3, 0.3, None, None]
    assert [label.get_text() for label in axes.texts] == ["10 → 7", "4 → 0"]


def test_counts_alone_have_one_bar_a_class():
    axes = bar_counts({"ig": 10, "platelet": 4}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [10, 4]
    assert [label.get_text() for label in axes.yaxis.get_ticklabels()] == ["ig", "platelet"]


def test_a_map_shows_every_finite_sample_once_and_names_its_groups():
    points = np.random.default_rng(0).normal(size=(50, 2))
    points[3] = np.nan
    figure = scatter_map(points, groups_of(10), rest="cells")
    drawn = [len(collection.get_offsets()) for collection in figure.axes[0].collections]
    assert drawn == [30, 9, 10]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cells", "odd (10)", "grey (10)"]


@pytest.mark.parametrize(("count", "images"), [(2000, 0), (2001, 1)])
def test_many_points_become_one_image_inside_the_svg(count, images):
    points = np.random.default_rng(0).normal(size=(count, 2))
    svg = figure_svg(scatter_map(points, groups_of(10)), label="map")
    assert svg.count("<image") == images
    assert svg.count('href="data:image/png;base64,') == images


def test_a_map_of_nothing_is_still_a_figure():
    assert figure_svg(scatter_map(np.empty((0, 2)), {}), label="empty").startswith("<svg")


def test_an_svg_for_paper_is_inked_in_the_font_it_was_laid_out_for():
    svg = print_svg(figure_svg(bar_counts({"ig": 3}), label="a"))
    assert "currentColor" not in svg
    assert INK in svg
    assert "DejaVu Sans" in svg
    assert "system-ui" not in svg
