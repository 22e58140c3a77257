"""Arrays, PIL images and paths to pixels and to a source: one rule for all, each error by name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hemalens.core.errors import DecodeError, SourceError
from hemalens.data.sources.given import open_images, to_pixels
from hemalens.data.split import choose_splits

CELLS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "F", "1"])
def test_images_of_other_modes_follow_the_rules_of_decoding(mode: str) -> None:
    plain = Image.fromarray(np.full((4, 4), 200, np.uint8))
    if mode == "F":
        image = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    elif mode == "I;16":
        image = Image.fromarray(np.full((4, 4), 200 * 257, np.uint16))
    else:
        image = (plain.convert("RGB") if mode in ("CMYK", "RGBA") else plain).convert(mode)
    pixels = to_pixels(image)
    assert (pixels.shape, pixels.dtype) == ((4, 4, 3), np.uint8)
    assert pixels[0, 0, 0] in {128, 200, 255, 0}


def test_images_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 5, 3), np.uint8)).save(buffer, "JPEG", exif=exif)
    assert to_pixels(Image.open(buffer)).shape == (5, 2, 3)


def test_images_of_all_kinds_are_read_alike_in_their_order(tmp_path: Path) -> None:
    Image.fromarray(CELLS[2]).save(tmp_path / "cell.png")
    given = [CELLS[0], Image.fromarray(CELLS[1]), tmp_path / "cell.png", str(tmp_path / "cell.png")]
    source = open_images(given, ["a", "b", "a", "a"], classes=["a", "b"], groups=[1, 2, 1, 1])
    assert [source.image(index).pixels.tolist() for index in range(4)] == CELLS[[0, 1, 2, 2]].tolist()
    path = str(tmp_path / "cell.png")
    assert [sample.sample_id for sample in source.samples] == ["row-000000", "row-000001", path, f"{path}#2"]
    assert [(sample.label, sample.group) for sample in source.samples] == [
        ("a", "1"),
        ("b", "2"),
        ("a", "1"),
        ("a", "1"),
    ]
    assert source.classes == ("a", "b")


def test_an_array_is_a_source_that_leaves_it_as_it_is() -> None:
    before = CELLS.copy()
    source = open_images(CELLS)
    source.image(0).pixels[:] = 0
    assert (before == CELLS).all()
    grey = open_images(CELLS[..., 0])
    assert grey.image(1).pixels.tolist() == np.repeat(CELLS[1, :, :, :1], 3, axis=2).tolist()


def test_the_fingerprint_follows_pixels_and_labels() -> None:
    same = open_images(CELLS, list("abab")).fingerprint()
    assert open_images(list(CELLS), list("abab")).fingerprint() == same
    assert open_images(CELLS, list("abba")).fingerprint() != same
    assert open_images(CELLS[::-1], list("abab")).fingerprint() != same


def test_copies_stay_on_one_side_of_a_split() -> None:
    cells = np.concatenate([CELLS, CELLS[:1]])
    drawn = choose_splits(open_images(cells, ["a"] * 5), shares=(0.5, 0.5, 0), seed=3)
    assert drawn[0] == drawn[4]
    assert set(drawn) == {"train", "val"}


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (CELLS.reshape(4, -1), r"images \(4, 90\): are of no shape"),
        (CELLS[0], r"images \(6, 5, 3\): is one image"),
        ("cell.png", r"cell\.png: is one image"),
        (Image.fromarray(CELLS[0]), "is one image"),
        ([], "holds none"),
        (CELLS[:0], "holds none"),
        ([CELLS[0], 3], r"images\[1\]: is of the type int"),
    ],
)
def test_what_are_no_images_is_an_error_at_once(given: Any, rule: str) -> None:
    with pytest.raises(SourceError, match=rule):
        open_images(given)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DecodeError, match=r"nowhere\.png: cannot be read"):
        open_images(["nowhere.png"]).image(0)
