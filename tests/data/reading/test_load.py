"""Samples to arrays of one size, at once or ahead of need: order kept, failures named, no process left over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemalens.core.errors import DecodeError
from hemalens.data.reading.load import Decoder, cancel, load_images, resize
from hemalens.data.sources import open_source


def write_arrays(path: Path, n: int = 6, size: int = 20) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(n) % 2)
    return images


def write_folder(path: Path, n: int = 4) -> list[np.ndarray]:
    images = [np.random.default_rng(row).integers(0, 256, (18, 24, 3), dtype=np.uint8) for row in range(n)]
    for row, image in enumerate(images):
        (path / "platelet").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / "platelet" / f"{row}.png")
    return images


def test_images_of_an_array_come_in_the_order_asked_for(tmp_path: Path) -> None:
    images = write_arrays(tmp_path / "a.npz")
    chosen = [4, 0, 3]
    loaded = load_images(open_source(tmp_path / "a.npz"), chosen, size=20)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, images[chosen])


def test_images_of_files_are_brought_to_one_size(tmp_path: Path) -> None:
    images = write_folder(tmp_path)
    loaded = load_images(open_source(tmp_path), [2, 1], size=16, workers=0)
    assert loaded.shape == (2, 16, 16, 3)
    assert np.array_equal(loaded[0], resize(images[2], 16))
    assert np.array_equal(loaded[1], resize(images[1], 16))


def test_resizing_averages_over_what_it_leaves_out_and_keeps_a_image_of_the_size() -> None:
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
    assert told == [("loading images", 0, 2), ("loading images", 2, 2)]


def test_a_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "platelet" / "1.png").write_bytes(b"no image")
    with pytest.raises(DecodeError, match=r"platelet/1\.png"):
        load_images(open_source(tmp_path), [0, 1, 2], size=16, workers=0)


@pytest.mark.parametrize("kind", ["arrays", "folder"])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_begun_ahead_is_what_loading_gives(tmp_path: Path, kind: str, workers: int) -> None:
    spec = tmp_path / "a.npz" if kind == "arrays" else tmp_path / "cells"
    write_arrays(spec, 70) if kind == "arrays" else write_folder(spec, 70)
    source, first, second = open_source(spec), np.arange(69, 0, -1), np.array([3, 5])
    decoder = Decoder(source, 16, workers=workers)
    begun = [decoder.begin(first), decoder.begin(second), decoder.begin(np.array([], np.int64))]
    found = [decoder.finish(part) for part in begun]
    decoder.close()
    assert np.array_equal(found[0], load_images(source, first.tolist(), size=16, workers=0))
    assert np.array_equal(found[1], load_images(source, [3, 5], size=16, workers=0))
    assert found[2].shape == (0, 16, 16, 3)
    assert not any(begun)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_cannot_be_read_ahead_is_named(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path)
    (tmp_path / "platelet" / "1.png").write_bytes(b"no image")
    decoder = Decoder(open_source(tmp_path), 16, workers=workers)
    begun = decoder.begin(np.array([0, 1, 2]))
    with pytest.raises(DecodeError, match=r"platelet/1\.png"):
        decoder.finish(begun)
    decoder.close()


def test_workers_that_died_cost_nothing_but_time(tmp_path: Path) -> None:
    write_folder(tmp_path, 40)
    source = open_source(tmp_path)
    wanted = load_images(source, range(40), size=16, workers=0)
    decoder = Decoder(source, 16, workers=1)
    assert np.array_equal(decoder.finish(decoder.begin(np.array([7]))), wanted[[7]])
    first, second = decoder.begin(np.arange(40)), decoder.begin(np.array([1, 4]))
    for process in list(decoder._pool._processes.values()):
        process.kill()
    assert np.array_equal(decoder.finish(first), wanted)
    third = decoder.begin(np.array([9, 2]))
    assert np.array_equal(decoder.finish(second), wanted[[1, 4]])
    assert np.array_equal(decoder.finish(third), wanted[[9, 2]])
    decoder.close()


def test_what_is_given_up_is_not_decoded_and_what_follows_is(tmp_path: Path) -> None:
    write_folder(tmp_path)
    source = open_source(tmp_path)
    decoder = Decoder(source, 16, workers=1)
    begun = decoder.begin(np.zeros(320, np.int64))
    futures = [future for _, future in begun]
    cancel(begun)
    assert not begun
    assert futures[-1].cancelled()
    assert np.array_equal(decoder.finish(decoder.begin(np.array([2]))), load_images(source, [2], size=16, workers=0))
    decoder.close()


def test_workers_end_with_a_run_that_was_killed_and_import_no_torch(tmp_path: Path) -> None:
    write_folder(tmp_path)
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "import numpy as np\n"
        "from hemalens.data.sources import open_source\n"
        "from hemalens.data.reading.load import Decoder\n"
        "if __name__ == '__main__':\n"
        "    decoder = Decoder(open_source(sys.argv[1]), 16, workers=1)\n"
        "    decoder.finish(decoder.begin(np.array([0])))\n"
        "    print('torch' in sys.modules, *decoder._pool._processes, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, script, tmp_path / "platelet"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    torch, worker = run.stdout.readline().split()
    assert torch == "False"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    for _ in range(200):
        try:
            os.kill(int(worker), 0)
            state = Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":  # ended, and nobody has asked how
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its run by ten seconds")
