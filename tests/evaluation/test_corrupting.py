"""Corrupted copies: the same whatever the source's kind, the chunks and the workers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemalens.data.sources import open_source
from hemalens.evaluation import corrupting
from hemalens.evaluation.corrupting import SETS, corrupted_copies
from hemalens.evaluation.corruptions import corrupt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "cells" / "ig").mkdir(parents=True)
    for number in range(3):
        pixels = generator.integers(0, 256, (40, 44, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cells" / "ig" / f"{number}.png")
    return tmp_path / "cells"


def test_a_image_is_enlarged_corrupted_and_resized_under_its_number_in_the_source(folder: Path) -> None:
    source = open_source(folder)
    (copies,) = corrupted_copies(source, [2, 0], size=32, workers=0)
    assert copies.shape == (55, 2, 32, 32, 3)
    large = Image.fromarray(source.image(2).pixels).resize((224, 224), Image.Resampling.BICUBIC)
    for number in (3, 17, 47, 54):
        name, severity = SETS[number]
        damaged = Image.fromarray(corrupt(np.asarray(large), name, severity, index=2))
        np.testing.assert_array_equal(copies[number, 0], damaged.resize((32, 32), Image.Resampling.BICUBIC))


def test_neither_chunks_nor_the_kind_of_source_change_a_copy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(folder)
    (whole,) = corrupted_copies(source, [0, 1, 2], size=16, workers=0)
    monkeypatch.setattr(corrupting, "_CHUNK_BYTES", 1)
    single = list(corrupted_copies(source, [0, 1, 2], size=16, workers=0))
    assert len(single) == 3
    np.testing.assert_array_equal(np.concatenate(single, axis=1), whole)
    images = np.stack([source.image(row).pixels for row in range(3)])
    np.savez(tmp_path / "cells.npz", images=images, labels=np.zeros(3, int))
    rows = list(corrupted_copies(open_source(tmp_path / "cells.npz"), [0, 1, 2], size=16, workers=0))
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), whole)


def test_worker_processes_make_the_same_copies(folder: Path) -> None:
    source = open_source(folder)
    (here,) = corrupted_copies(source, [0, 1], size=16, workers=0)
    (there,) = corrupted_copies(source, [0, 1], size=16, workers=1)
    np.testing.assert_array_equal(there, here)
