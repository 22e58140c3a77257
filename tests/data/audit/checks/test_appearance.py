"""Appearance features tell stained cells from all else, whatever the lamp."""

import numpy as np
import pytest

from hemalens.data.audit.checks.appearance import appearance, looks_stained, optical_density
from hemalens.data.audit.statistics import Statistics
from hemalens.data.synthetic.foreign import colour_chart
from tests.data.measured import measured, page_of_text


def test_cells_look_stained_and_paper_charts_and_blanks_do_not(measured_cells: Statistics) -> None:
    others = measured([page_of_text(48), colour_chart(48, 1), *[np.full((48, 48, 3), v, np.uint8) for v in (0, 255)]])
    assert looks_stained(measured_cells.thumbnails).mean() > 0.99
    assert not looks_stained(others.thumbnails).any()


def test_a_dimmer_lamp_changes_the_white_but_hardly_the_density(measured_cells: Statistics) -> None:
    bright = measured_cells.thumbnails[:40]
    dim = (bright * 0.7).astype(np.uint8)
    (density, white), (dim_density, dim_white) = optical_density(bright), optical_density(dim)
    assert np.abs(density - dim_density).mean() < 0.01
    assert np.allclose(dim_white, 0.7 * white, atol=1)
    assert looks_stained(dim).mean() > 0.9


def test_density_is_0_on_the_white_and_1_at_a_tenth_of_its_light() -> None:
    thumbnail = np.full((1, 16, 16, 3), 249, np.uint8)
    thumbnail[0, 0, 0] = 24  # (24 + 1) / (249 + 1) = 0.1
    density, white = optical_density(thumbnail)
    assert white.tolist() == [[249, 249, 249]]
    assert density[0, :, 0] == pytest.approx([1, 1, 1], abs=1e-5)
    assert density[0, :, 1:].max() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 1024, 1500])
def test_features_do_not_depend_on_the_block_they_are_computed_in(count: int) -> None:
    thumbnails = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    features = appearance(thumbnails)
    assert len(features) == count == len(looks_stained(thumbnails))
    if count:
        assert np.isfinite(features).all()
        assert np.allclose(features[-1], appearance(thumbnails[-1:])[0])


def test_extremes_give_finite_features() -> None:
    extremes = np.stack([np.zeros((16, 16, 3)), np.full((16, 16, 3), 255), np.eye(16)[..., None].repeat(3, 2) * 255])
    assert np.isfinite(appearance(extremes.astype(np.uint8))).all()
