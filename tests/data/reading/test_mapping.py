"""Images to results: in order and whole chunks, and an image that kills its worker costs itself alone and is named."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemalens.core.errors import DecodeError
from hemalens.data.reading import mapping
from hemalens.data.reading.load import load_images
from hemalens.data.reading.mapping import every, map_images
from hemalens.data.sources import open_source
from hemalens.data.sources.given import open_images
from hemalens.evaluation.corrupting import corrupted_copies
from hemalens.inference.chunks import decoded_chunks
from tests.data.deadly import deadly, slowly, told
from tests.data.hostile import cell


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_asked_for_in_whole_chunks(workers: int) -> None:
    source, indices = deadly(12), [11, 0, 5, 5, 7, 3, 2]
    chunks = list(map_images(source, indices, partial(told, offset=100), chunk=3, workers=workers))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    found = [result for chunk in chunks for result in chunk]
    assert [(name, index) for name, index, _ in found] == [(f"{index}.png", index + 100) for index in indices]


def test_an_image_that_kills_its_worker_costs_itself_alone_and_is_named() -> None:
    first, second, third = map_images(deadly(5, 2), range(5), told, chunk=2, workers=2)
    assert [name for name, _, _ in (*first, second[1], *third)] == ["0.png", "1.png", "3.png", "4.png"]
    assert isinstance(second[0], DecodeError)
    assert str(second[0]) == "image '2.png': its decoder crashed; audit and clean the source first"


def test_every_stage_names_the_image_that_kills_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(
        function: Callable[[Any], Any], tasks: Iterator[Any], *, halve: Callable[[Any], list[Any]], lost: Any, **_: Any
    ) -> Iterator[Any]:
        """Map as if the second image of a task killed every process that it is given to."""
        for task in tasks:
            good, bad = halve(task)
            assert halve(bad) == []
            yield from (function(good), lost(bad))

    monkeypatch.setattr(mapping, "map_chunks", dying)
    source = deadly(2)
    with pytest.raises(DecodeError, match=r"image '0\.png': its decoder crashed; audit and clean"):
        load_images(source, [1, 0], size=16)
    with pytest.raises(DecodeError, match=r"image '0\.png': its decoder crashed; audit and clean"):
        list(corrupted_copies(source, [1, 0], size=16))
    ((images, reasons),) = decoded_chunks(source, 16)
    assert reasons == ("", "its decoder crashed")
    assert images[0].any()
    assert not images[1].any()


def test_rows_of_an_array_travel_with_their_task(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.zeros(5, int), ids=["a", "b", "a", "c", "d"])
    part = open_source(tmp_path / "a.npz").part([4, 0, 2])
    (tmp_path / "a.npz").unlink()
    assert [sample.sample_id for sample in part.samples] == ["d", "a", "a#2"]
    assert np.array_equal(part.read(0), images[4])
    with pytest.raises(DecodeError, match="duplicate id"):
        part.read(2)


def test_a_program_that_hands_over_images_starts_no_processes() -> None:
    source = open_images([cell(8, number) for number in range(9)])
    assert {pid for chunk in map_images(source, range(9), slowly, chunk=8, workers=2) for pid in chunk} == {os.getpid()}


def test_the_first_error_is_raised_and_none_leaves_all() -> None:
    assert every([1, 2]) == [1, 2]
    with pytest.raises(DecodeError, match="first"):
        every([1, DecodeError("first", "bad"), DecodeError("second", "bad")])


def test_who_interrupts_is_told_once_by_the_run_and_no_worker_complains(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "from hemalens.data.reading.mapping import map_images\n"
        "from tests.data.deadly import deadly, slowly\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        for chunk in map_images(deadly(400), range(400), slowly, chunk=2, workers=2):\n"
        "            print(*chunk, flush=True)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', flush=True)\n"
    )
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}
    run = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings,
        start_new_session=True,
    )
    assert run.stdout.readline().split()[0].isdigit()
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, complaints = run.communicate(timeout=120)
    assert out.splitlines()[-1] == "interrupted"
    assert complaints == ""
    assert run.returncode == 0
