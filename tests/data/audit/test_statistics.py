"""One pass over the images: the same numbers for the same pixels, and a row for what cannot be read."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from hemalens.core.types import Images
from hemalens.data.audit.statistics import THUMBNAIL, Measurement, measure, measure_source
from hemalens.data.reading.decode import decode, decode_array
from hemalens.data.sources import open_source
from hemalens.data.synthetic import SyntheticSet
from tests.data.deadly import deadly
from tests.data.hostile import cell, encode

OF_THE_FILE = {"mode", "bytes", "sha256"}


def row_of(pixels: Images) -> Measurement:
    return measure(decode_array(pixels), encoded=pixels.tobytes())[0]


def distance(first: Measurement, second: Measurement) -> int:
    return (int(first.phash, 16) ^ int(second.phash, 16)).bit_count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cells: SyntheticSet) -> Path:
    """70 cells as PNG, one of them cut short, and a text."""
    root = tmp_path_factory.mktemp("images")
    for index in range(70):
        data = encode(cells.images[index])
        (root / f"{index:03d}.png").write_bytes(data[:200] if index == 40 else data)
    (root / "900.png").write_text("no image")
    return root


def test_arrays_and_files_of_the_same_pixels_measure_the_same(
    folder: Path, cells: SyntheticSet, tmp_path: Path
) -> None:
    np.savez(tmp_path / "cells.npz", images=cells.images[:70], labels=cells.labels[:70])
    from_files = measure_source(open_source(folder), workers=0)
    from_arrays = measure_source(open_source(tmp_path / "cells.npz"), workers=0)
    for index in set(range(70)) - {40}:
        one, other = from_files.measurements[index], from_arrays.measurements[index]
        assert one is not None
        assert other is not None
        ours, theirs = asdict(one), asdict(other)
        assert {key: ours[key] for key in ours.keys() - OF_THE_FILE} == {
            k: theirs[k] for k in ours.keys() - OF_THE_FILE
        }
        assert np.array_equal(from_files.thumbnails[index], from_arrays.thumbnails[index])


def test_workers_change_nothing(folder: Path, cells: SyntheticSet, tmp_path: Path) -> None:
    np.savez(tmp_path / "cells.npz", images=cells.images[:130], labels=cells.labels[:130])
    for path in (folder, tmp_path / "cells.npz"):
        source = open_source(path)
        here, there = measure_source(source, workers=0), measure_source(source, workers=2)
        assert here.measurements == there.measurements
        assert here.reasons == there.reasons
        assert np.array_equal(here.thumbnails, there.thumbnails)


def test_what_cannot_be_read_keeps_its_place_with_the_reason(folder: Path) -> None:
    told = []
    statistics = measure_source(open_source(folder), workers=0, progress=lambda *step: told.append(step))
    assert np.flatnonzero(~statistics.readable).tolist() == [40, 70]
    assert "cut short" in statistics.reasons[40]
    assert "not an image" in statistics.reasons[70]
    assert [reason for reason in statistics.reasons if reason] == [statistics.reasons[40], statistics.reasons[70]]
    assert not statistics.thumbnails[[40, 70]].any()
    assert statistics.column("width")[39:42] == [48, None, 48]
    assert told[0][1:] == (0, 71)
    assert told[-1][1:] == (71, 71)


def test_an_unreadable_row_of_an_array_does_not_end_the_pass(tmp_path: Path) -> None:
    images = np.stack([cell(8, seed) for seed in range(3)])
    np.savez(tmp_path / "twice.npz", images=images, labels=[0, 1, 2], ids=["a", "b", "a"])
    statistics = measure_source(open_source(tmp_path / "twice.npz"), workers=0)
    assert statistics.readable.tolist() == [True, True, False]
    assert "earlier row" in statistics.reasons[2]


def test_a_decoder_that_takes_its_process_down_costs_one_image() -> None:
    statistics = measure_source(deadly(2, 1), workers=1)
    assert statistics.reasons == ("", "its decoder crashed")
    assert statistics.readable.tolist() == [True, False]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40), top=st.integers(1, 256))
def test_light_is_measured_as_numpy_and_pillow_do(seed: int, height: int, width: int, top: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, top, (height, width, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    row = row_of(pixels)
    assert row.brightness == pytest.approx(grey.mean(), abs=6e-4)
    assert row.contrast == pytest.approx(grey.std(), abs=6e-4)
    ordered = np.sort(grey, axis=None)
    for tail, share in ((row.dark_tail, 0.05), (row.bright_tail, 0.95)):
        index = share * len(ordered)  # a whole number may come out a rounding error off: then either neighbour is right
        low, high = (ordered[min(int(np.ceil(index + off)), len(ordered)) - 1] for off in (-1e-6, 1e-6))
        assert tail in (low, high)
    assert (row.width, row.height) == (width, height)
    assert row.sharpness >= 0


def test_the_thumbnail_is_the_mean_of_areas() -> None:
    pixels = cell(64)
    thumbnail = measure(decode_array(pixels), encoded=b"")[1]
    means = pixels.reshape(THUMBNAIL, 4, THUMBNAIL, 4, 3).mean(axis=(1, 3))
    assert np.abs(thumbnail - means).max() <= 1


def test_a_brighter_copy_hashes_alike_and_other_cells_do_not(cells: SyntheticSet) -> None:
    rows = [row_of(image) for image in cells.images[::8]]
    brighter = [row_of(np.clip(image * 1.04 + 2, 0, 255).astype(np.uint8)) for image in cells.images[::8]]
    own = [distance(one, other) for one, other in zip(rows, brighter, strict=True)]
    others = [distance(one, other) for index, one in enumerate(rows) for other in rows[:index]]
    assert max(own) <= 6
    assert np.median(own) <= 2
    assert np.median(others) >= 16
    assert np.quantile(others, 0.01) > 6


def test_a_smaller_jpeg_of_a_image_hashes_alike(cells: SyntheticSet) -> None:
    image = Image.fromarray(cells.images[0])
    small = decode(encode(image.resize((36, 36), Image.Resampling.LANCZOS), "JPEG", quality=80))
    assert distance(row_of(cells.images[0]), measure(small, encoded=b"")[0]) <= 8


def test_sharpness_falls_with_blur_and_hardly_with_light(cells: SyntheticSet) -> None:
    image = Image.fromarray(cells.images[5])
    falling = [
        row_of(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))).sharpness for radius in (0, 0.7, 1.5, 3, 6)
    ]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > 10 * falling[3]
    assert row_of((cells.images[5] * 0.6).astype(np.uint8)).sharpness == pytest.approx(falling[0], rel=0.15)


def test_an_empty_field_and_a_image_too_small_to_judge_are_not_sharp() -> None:
    assert row_of(np.full((48, 48, 3), 200, np.uint8)).sharpness == 0
    assert row_of(cell(2)).sharpness == 0


def test_pixels_are_hashed_with_their_shape_whatever_the_file(cells: SyntheticSet) -> None:
    formats = [
        measure(decode(data := encode(cells.images[0], kind)), encoded=data)[0] for kind in ("PNG", "BMP", "TIFF")
    ]
    assert len({row.pixel_sha256 for row in formats}) == 1
    assert len({row.sha256 for row in formats}) == 3
    assert row_of(np.zeros((2, 8, 3), np.uint8)).pixel_sha256 != row_of(np.zeros((4, 4, 3), np.uint8)).pixel_sha256


def test_conversions_are_kept_in_words() -> None:
    row = measure(decode(encode(Image.new("LA", (8, 8), (9, 128)))), encoded=b"")[0]
    assert row.conversions == "grey repeated to three channels; alpha composited on white"
    assert row.mode == "LA"
