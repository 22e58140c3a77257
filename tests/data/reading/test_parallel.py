"""Chunks in worker processes: in order, few in memory, and a process that dies costs its own chunk alone."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hemalens.core.errors import ConfigError
from hemalens.data.reading.parallel import available_cores, map_chunks

KILLER, FAULTY = -1, -2


def squares(task: list[int]) -> list[int | str]:
    if KILLER in task:
        os._exit(9)
    if FAULTY in task:
        raise ArithmeticError("a defect")
    return [number * number for number in task]


def process_of(task: list[int]) -> int:
    return os.getpid()


def halve(task: list[int]) -> list[list[int]]:
    middle = len(task) // 2
    return [task[:middle], task[middle:]] if middle else []


def whole(task: list[int]) -> list[list[int]]:
    return []


def lost(task: list[int]) -> list[int | str]:
    return ["lost"] * len(task)


class Doubler:
    """A function that counts how often it is sent."""

    sent = 0

    def __call__(self, number: int) -> int:
        return 2 * number

    def __reduce__(self) -> tuple[type["Doubler"], tuple[()]]:
        type(self).sent += 1
        return Doubler, ()


def flat(results: Iterator[list[int | str]]) -> list[int | str]:
    return [item for result in results for item in result]


def test_a_process_that_dies_costs_the_one_item_that_killed_it_and_the_order_stays() -> None:
    tasks = [[0, 1, 2, 3], [4, 5], [6, KILLER, 8], [9], [10, 11], [12]]
    found = flat(map_chunks(squares, iter(tasks), halve=halve, lost=lost, workers=2))
    assert found == [0, 1, 4, 9, 16, 25, 36, "lost", 64, 81, 100, 121, 144]


def test_what_the_function_carries_is_sent_once_a_process_not_once_a_task() -> None:
    Doubler.sent = 0
    doubled = map_chunks(Doubler(), iter(range(9)), halve=lambda _: [], lost=lambda _: -1, workers=1)
    assert list(doubled) == [2 * number for number in range(9)]
    assert Doubler.sent == 1


def test_a_chunk_that_cannot_be_cut_is_lost_whole() -> None:
    tasks = [[1], [2, KILLER, 3], [4]]
    assert flat(map_chunks(squares, iter(tasks), halve=whole, lost=lost, workers=1)) == [1, "lost", "lost", "lost", 16]


def test_a_process_may_die_while_the_caller_is_busy_with_an_earlier_result() -> None:
    found = []
    for result in map_chunks(squares, iter([[1], [KILLER], [2], [3]]), halve=whole, lost=lost, workers=1):
        found += result
        time.sleep(0.3)  # the second task kills its process meanwhile, before the third is handed out
    assert found == [1, "lost", 4, 9]


def test_the_first_and_the_last_task_may_kill() -> None:
    tasks = [[KILLER], [1], [KILLER]]
    assert flat(map_chunks(squares, iter(tasks), halve=halve, lost=lost, workers=2)) == ["lost", 1, "lost"]


def test_no_more_than_two_tasks_a_worker_are_taken_ahead() -> None:
    taken = 0

    def tasks() -> Iterator[list[int]]:
        nonlocal taken
        for number in range(12):
            taken += 1
            yield [number]

    ahead = []
    for done, _ in enumerate(map_chunks(squares, tasks(), halve=halve, lost=lost, workers=2), 1):
        ahead.append(taken - done)
    assert max(ahead) <= 2 * 2
    assert taken == len(ahead) == 12


def test_without_workers_everything_runs_here_one_task_after_the_other() -> None:
    taken = []

    def tasks() -> Iterator[list[int]]:
        for number in range(5):
            taken.append(number)
            yield [number]

    results = map_chunks(process_of, tasks(), halve=halve, lost=os.getpgid, workers=0)
    assert taken == []
    assert next(results) == os.getpid()
    assert taken == [0]
    assert list(results) == [os.getpid()] * 4


def test_two_tasks_are_not_worth_starting_processes() -> None:
    tasks = iter([[1]]) if available_cores() == 1 else iter([[1], [2]])
    assert set(map_chunks(process_of, tasks, halve=halve, lost=os.getpgid)) == {os.getpid()}


def test_a_named_number_of_workers_is_used_even_for_one_task() -> None:
    assert os.getpid() not in set(map_chunks(process_of, iter([[1]]), halve=halve, lost=os.getpgid, workers=1))


def test_no_task_gives_no_result() -> None:
    assert list(map_chunks(squares, iter([]), halve=halve, lost=lost)) == []
    assert list(map_chunks(squares, iter([]), halve=halve, lost=lost, workers=2)) == []


def test_a_defect_in_the_function_reaches_the_caller() -> None:
    with pytest.raises(ArithmeticError, match="a defect"):
        flat(map_chunks(squares, iter([[1], [FAULTY]]), halve=halve, lost=lost, workers=1))


class Unsendable:
    """A function that cannot be taken out of its parcel, so no process with it ever starts."""

    def __call__(self, number: int) -> int:
        return number

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_processes_that_never_start_are_an_error_not_a_loss_of_every_task() -> None:
    with pytest.raises(ConfigError, match="worker processes: cannot start"):
        list(map_chunks(Unsendable(), iter([1, 2]), halve=lambda _: [], lost=lambda _: -1, workers=1))


def test_a_caller_who_stops_early_leaves_no_process_behind() -> None:
    before = set(multiprocessing.active_children())
    results = map_chunks(squares, iter([[number] for number in range(9)]), halve=halve, lost=lost, workers=1)
    assert next(results) == [0]
    results.close()
    assert set(multiprocessing.active_children()) <= before


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "starts_and_dies.py"
    script.write_text(
        "import os, signal\n"
        "from hemalens.data.reading.parallel import map_chunks\n"
        "from tests.data.reading.test_parallel import lost, process_of, whole\n"
        "if __name__ == '__main__':\n"
        "    tasks = ([0] for _ in range(100))\n"
        "    for number in map_chunks(process_of, tasks, halve=whole, lost=lost, workers=2):\n"
        "        print(number, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    # The pipe stays open as long as any of the processes lives: reading it to its end waits for all of them.
    command, surroundings = [sys.executable, str(script)], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=surroundings, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.strip().isdigit()
