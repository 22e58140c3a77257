"""Samples to arrays of one size: order kept, labels numbered, what cannot be read named."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hemalens.core.errors import DecodeError, SourceError
from hemalens.data.sources import open_source
from hemalens.training import decoding
from hemalens.training.tensors import LabelledImages, encode_labels, load_images, resize, to_batch


def write_arrays(path: Path, n: int = 6, size: int = 20) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(n) % 2)
    return images


def write_folder(path: Path, n: int = 4) -> list[np.ndarray]:
    pictures = [np.random.default_rng(row).integers(0, 256, (18, 24, 3), dtype=np.uint8) for row in range(n)]
    for row, picture in enumerate(pictures):
        (path / "platelet").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path / "platelet" / f"{row}.png")
    return pictures


def test_pictures_of_an_array_come_in_the_order_asked_for(tmp_path: Path) -> None:
    images = write_arrays(tmp_path / "a.npz")
    chosen = [4, 0, 3]
    loaded = load_images(open_source(tmp_path / "a.npz"), chosen, size=20)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, images[chosen])


def test_pictures_of_files_are_brought_to_one_size(tmp_path: Path) -> None:
    pictures = write_folder(tmp_path)
    loaded = load_images(open_source(tmp_path), [2, 1], size=16, workers=0)
    assert loaded.shape == (2, 16, 16, 3)
    assert np.array_equal(loaded[0], resize(pictures[2], 16))
    assert np.array_equal(loaded[1], resize(pictures[1], 16))


def test_resizing_averages_over_what_it_leaves_out_and_keeps_a_picture_of_the_size() -> None:
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[::2] = 200  # stripes that a filter without antialiasing would keep or lose
    assert np.abs(resize(fine, 16)[4:-4].astype(int) - 100).max() <= 4
    assert resize(fine, 64) is fine
    assert resize(fine[:, :32], 16).shape == (16, 16, 3)


def test_nothing_asked_for_is_an_empty_array(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz")
    assert load_images(open_source(tmp_path / "a.npz"), [], size=16).shape == (0, 16, 16, 3)


def test_progress_is_told_from_nothing_to_all(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz")
    told: list[tuple[str, int, int]] = []
    load_images(open_source(tmp_path / "a.npz"), [0, 1], size=20, progress=lambda *step: told.append(step))
    assert told == [("loading pictures", 0, 2), ("loading pictures", 2, 2)]


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "platelet" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DecodeError, match=r"platelet/1\.png"):
        load_images(open_source(tmp_path), [0, 1, 2], size=16, workers=0)


@pytest.mark.parametrize("kind", ["arrays", "folder"])
def test_a_chunk_whose_process_died_is_loaded_picture_by_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    spec = tmp_path / "a.npz" if kind == "arrays" else tmp_path / "cells"
    write_arrays(spec, size=16) if kind == "arrays" else write_folder(spec)

    def always_halved(
        function: Callable[[Any], Any], tasks: Iterator[Any], *, halve: Callable[[Any], list[Any]], **_: Any
    ) -> Iterator[Any]:
        for task in tasks:
            yield from (function(part) for part in halve(task))

    source = open_source(spec)
    wanted = load_images(source, [2, 0, 3], size=16, workers=0)
    monkeypatch.setattr(decoding, "map_chunks", always_halved)
    assert np.array_equal(load_images(source, [2, 0, 3], size=16), wanted)


def test_a_picture_that_kills_its_process_alone_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, 1)

    def always_lost(
        _: Any, tasks: Iterator[Any], *, halve: Any, lost: Callable[[Any], Any], **__: Any
    ) -> Iterator[Any]:
        for task in tasks:
            assert halve(task) == []
            yield lost(task)

    monkeypatch.setattr(decoding, "map_chunks", always_lost)
    with pytest.raises(SourceError, match=r"picture platelet/0\.png: crashed its decoder"):
        load_images(open_source(tmp_path), [0], size=16)


def test_labels_become_numbers_and_what_is_no_class_becomes_minus_one() -> None:
    numbers = encode_labels(["b", None, "a", "x", "b"], ["a", "b"])
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [1, -1, 0, -1, 1]


def test_a_batch_holds_the_same_values_from_zero_to_one() -> None:
    images = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    batch = to_batch(images)
    assert batch.shape == (2, 3, 5, 5)
    assert batch.dtype == torch.float32
    assert torch.equal((batch * 255).round().to(torch.uint8).permute(0, 2, 3, 1), images)
    assert images.dtype == torch.uint8


def test_a_set_is_as_long_as_its_labels() -> None:
    assert len(LabelledImages(np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64), ("a", "b", "c"))) == 3
