"""Chunks of work to results in order, in spawned processes; a process that dies costs its chunk, never the run.

Standard library only: spawned workers import this first.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

__all__ = ["available_cores", "map_chunks"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_chunks(
    function: Callable[[Task], Result],
    tasks: Iterator[Task],
    *,
    halve: Callable[[Task], list[Task]],
    lost: Callable[[Task], Result],
    workers: int | None = None,
) -> Iterator[Result]:
    """Yield ``function(task)`` for each task, in order, with at most two tasks a worker in memory.

    Args:
        function: a module-level function; it runs in spawned processes.
        tasks: consumed as workers get free, so they may be large and made on the way.
        halve: cuts a task whose process died into smaller ones, tried one by one in processes of their own; [] where it
            cannot be cut. The results of the parts are yielded one after the other.
        lost: the result to yield for a task that kills its process and cannot be cut.
        workers: processes; None for one a core, 0 to run everything here.
    """
    first = list(islice(tasks, 3))
    # Starting two processes takes longer than two chunks of work.
    if workers == 0 or (workers is None and len(first) < 3):
        for task in first:
            yield function(task)
        yield from map(function, tasks)
        return
    count = workers or available_cores()
    waiting = deque(first)
    pool = _pool(count)
    running: deque[tuple[Task, Future[Result]]] = deque()
    try:
        while True:
            while len(running) < 2 * count:
                following = waiting.popleft() if waiting else next(tasks, None)
                if following is None:
                    break
                running.append((following, pool.submit(function, following)))
            if not running:
                return
            task, future = running.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=False, cancel_futures=True)
                yield from _retry(function, task, halve, lost)
                pool = _pool(count)
                running = deque((later, pool.submit(function, later)) for later, _ in running)
            else:
                yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _retry(
    function: Callable[[Task], Result],
    task: Task,
    halve: Callable[[Task], list[Task]],
    lost: Callable[[Task], Result],
) -> Iterator[Result]:
    """Run a task again by itself; where its process dies once more, run its halves."""
    try:
        with _pool(1) as pool:
            yield pool.submit(function, task).result()
    except BrokenProcessPool:
        parts = halve(task)
        if not parts:
            yield lost(task)
        for part in parts:
            yield from _retry(function, part, halve, lost)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with threads (polars, BLAS) may hang.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
