"""The rendered demo set: it depends on its seed alone, has the faults it says it has, and is no child's play."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.core.types import CELL_CLASSES
from hemalens.data.synthetic import SyntheticSet, render_cell, synthetic_set, write_synthetic
from hemalens.data.synthetic.cells import LOOKS
from hemalens.data.synthetic.fields import distance_to_discs, grain_noise, make_plane
from hemalens.data.synthetic.foreign import colour_chart, landscape


@pytest.fixture(scope="module")
def planted_set() -> SyntheticSet:
    return synthetic_set(150, size=16, seed=1)


def rows_with(made: SyntheticSet, reason: str) -> list[int]:
    return [row for row, found in enumerate(made.reasons) if found == reason]


@settings(max_examples=12, deadline=None)
@given(name=st.sampled_from(CELL_CLASSES), seed=st.integers(0, 2**70))
def test_same_seed_gives_the_same_bytes_and_the_next_seed_others(name: str, seed: int) -> None:
    first = render_cell(name, size=28, seed=seed)
    assert np.array_equal(first, render_cell(name, size=28, seed=seed))
    assert not np.array_equal(first, render_cell(name, size=28, seed=seed + 1))


@pytest.mark.parametrize("size", [28, 64, 96])
@pytest.mark.parametrize("name", CELL_CLASSES)
def test_a_image_has_the_size_asked_for_and_shows_a_stained_cell_on_bright_plasma(name: str, size: int) -> None:
    image = render_cell(name, size=size, seed=3)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    middle = image[size * 3 // 8 : size * 5 // 8, size * 3 // 8 : size * 5 // 8]
    assert np.percentile(middle[..., 1], 10) < 130  # purple absorbs green most
    assert np.percentile(image[..., 0], 95) > 220


def test_the_scene_is_the_same_at_every_size() -> None:
    large = render_cell("monocyte", size=96, seed=5).astype(float)
    shrunk = large.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    small = render_cell("monocyte", size=32, seed=5)
    other = render_cell("monocyte", size=32, seed=6)
    assert np.abs(shrunk - small).mean() < 6 < 20 < np.abs(shrunk - other).mean()


def test_every_class_has_a_look() -> None:
    assert set(LOOKS) == set(CELL_CLASSES)


def test_a_synonym_names_the_same_cell() -> None:
    first = render_cell("Thrombocyte", size=28, seed=0)
    assert np.array_equal(first, render_cell("platelet", size=28, seed=0))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: render_cell("myeloblast", seed=0), "basophil, eosinophil"),
        (lambda: render_cell("ig", size=8, seed=0), "image size 8"),
        (lambda: render_cell("ig", seed=-1), "seed -1"),
        (lambda: synthetic_set(0), "cells per class 0"),
        (lambda: synthetic_set({"ig": -2}), "0 or more"),
        (lambda: synthetic_set({"ig": 1, "blast": 1}), "'blast'"),
        (lambda: write_synthetic(Path("set.zip"), 1), "npz"),
    ],
)
def test_wrong_options_are_named(ask, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ask()


def test_a_larger_set_begins_with_the_smaller_ones_cells() -> None:
    small, large = synthetic_set(2, size=16, seed=4), synthetic_set({"ig": 5, "platelet": 3}, size=16, seed=4)
    for label in (CELL_CLASSES.index("ig"), CELL_CLASSES.index("platelet")):
        few, many = (made.images[(made.labels == label) & ~made.planted] for made in (small, large))
        assert np.array_equal(few, many[:2])
    assert np.array_equal(render_cell("ig", size=16, seed=4), synthetic_set({"ig": 1}, size=16, seed=4).images[0])


def test_without_contamination_every_row_is_a_cell_of_its_own() -> None:
    made = synthetic_set({"neutrophil": 3, "erythroblast": 2}, size=16, contamination=False)
    assert made.labels.tolist() == [2, 2, 6, 6, 6]
    assert made.labels.dtype == np.uint8
    assert made.classes == CELL_CLASSES
    assert set(made.reasons) == {""}
    assert not made.planted.any()
    assert (made.twins == -1).all()


def test_contamination_keeps_the_challenge_files_proportions(planted_set: SyntheticSet) -> None:
    # 1,200 cells: 1,600 / 11,959 of them is 20 landscapes a label, 200 / 11,959 is 20 charts.
    foreign = np.array(rows_with(planted_set, "foreign"))
    assert len(planted_set.images) == len(planted_set.labels) == len(planted_set.reasons) == 1200 + 4 + 160 + 20
    assert np.bincount(planted_set.labels[foreign[:160]]).tolist() == [20] * 8
    assert set(planted_set.labels[foreign[160:]].tolist()) == {CELL_CLASSES.index("monocyte")}
    assert planted_set.planted.sum() == 184
    assert planted_set.planted.mean() == pytest.approx(1800 / 13_759, abs=0.01)


def test_each_foreign_image_is_one_image_repeated(planted_set: SyntheticSet) -> None:
    images = planted_set.images[rows_with(planted_set, "foreign")]
    assert (images[:160] == landscape(16, seed=1)).all()
    assert (images[160:] == colour_chart(16, seed=1)).all()
    assert not np.array_equal(images[0], images[-1])


def test_copies_equal_their_twins_and_one_has_another_label(planted_set: SyntheticSet) -> None:
    copies = rows_with(planted_set, "exact_duplicate")
    (conflict,) = rows_with(planted_set, "label_conflict")
    assert len(copies) == 3
    for row in (*copies, conflict):
        twin = planted_set.twins[row]
        assert np.array_equal(planted_set.images[row], planted_set.images[twin])
        assert (planted_set.labels[row] == planted_set.labels[twin]) == (row != conflict)
        assert not planted_set.planted[twin]
    assert (planted_set.twins >= 0).sum() == 4


def test_about_two_in_a_hundred_cells_have_a_bluish_background(planted_set: SyntheticSet) -> None:
    bluish = rows_with(planted_set, "background_batch")
    assert 10 <= len(bluish) <= 40
    brightest = np.percentile(planted_set.images[:1200].reshape(1200, -1, 3).astype(float), 90, axis=1)
    blue = np.flatnonzero(brightest[:, 2] > brightest[:, 0])
    assert blue.tolist() == bluish
    assert not planted_set.planted[bluish].any()


def test_junk_of_a_small_set_takes_only_labels_in_use() -> None:
    made = synthetic_set({"platelet": 2, "ig": 2}, size=16)
    assert set(made.labels.tolist()) == {CELL_CLASSES.index("ig"), CELL_CLASSES.index("platelet")}
    assert len(rows_with(made, "foreign")) == 2 + 2
    assert len(rows_with(made, "label_conflict")) == 1


def test_one_label_alone_cannot_conflict() -> None:
    made = synthetic_set({"ig": 3}, size=16)
    assert rows_with(made, "label_conflict") == []
    assert len(rows_with(made, "exact_duplicate")) == 2


def test_progress_counts_every_cell() -> None:
    seen = []
    synthetic_set({"ig": 3}, size=16, progress=lambda what, done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_colours_alone_tell_the_classes_apart_but_not_always() -> None:
    made = synthetic_set(90, size=32, contamination=False)
    pixels = made.images.reshape(len(made.labels), -1, 3).astype(float)
    colours = [pixels.mean(axis=1), pixels.std(axis=1), *np.percentile(pixels, [5, 25, 50, 75], axis=1)]
    features = np.concatenate(colours, axis=1)
    for_training = np.arange(len(made.labels)) % 90 < 60
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(features[for_training], made.labels[for_training])
    accuracy = model.score(features[~for_training], made.labels[~for_training])
    assert 0.6 < accuracy < 0.96


def test_the_written_file_reads_back_and_is_reproducible(tmp_path: Path) -> None:
    made = write_synthetic(tmp_path / "a.npz", 2, size=16, seed=2)
    write_synthetic(tmp_path / "b.npz", 2, size=16, seed=2)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert sorted(file) == ["images", "labels"]
        assert np.array_equal(file["images"], made.images)
        assert np.array_equal(file["labels"], made.labels[:, None])
        assert file["images"].dtype == file["labels"].dtype == np.uint8
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_folder_that_is_missing_is_an_error_of_the_output(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_synthetic(tmp_path / "missing" / "a.npz", 1, size=16)


@pytest.mark.parametrize("grain", [2.0, 7.0, 20.0])
def test_noise_has_unit_spread_and_the_grain_asked_for(grain: float) -> None:
    plane = make_plane(192)
    drawn = np.stack([grain_noise(plane, np.random.default_rng(seed), grain) for seed in range(12)])
    assert drawn.std() == pytest.approx(1, abs=0.15)
    a_grain_apart = round(2.5 * grain / plane.pixel)
    beside, apart = ((drawn[:, :, :-step] * drawn[:, :, step:]).mean() for step in (1, a_grain_apart))
    assert beside > 0.8
    assert abs(apart) < 0.25


def test_distance_to_discs_is_that_to_the_nearest() -> None:
    plane = make_plane(96)
    distance = distance_to_discs(plane.x, plane.y, np.array([[0.5, 0.5, 4.0], [20.5, 0.5, 2.0]]))
    row, middle = 48, 48
    assert [distance[row, middle + step] for step in (0, 4, 10, 20)] == pytest.approx([-4, 0, 6, -2], abs=1e-4)
