"""Chunks of work to results in order, in spawned processes; a process that dies costs its chunk, never the run.

Needs the standard library only: spawned workers import this first.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from hemalens.core.errors import ConfigError

__all__ = ["available_cores", "begin_worker", "map_chunks"]

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
    """Yield ``function(task)`` for each task, in order.

    Args:
        function: runs in spawned processes. It is sent to each once, tasks are sent one by one: what they share (a
            source's listing, as ``partial(function, source)``) belongs to it.
        tasks: consumed as workers get free, so they may be large and made on the way; two a worker are in memory.
        halve: cuts a task whose process died into smaller ones, tried one by one in processes of their own; [] where it
            cannot be cut. The results of the parts are yielded one after the other.
        lost: the result to yield for a task that kills its process and cannot be cut.
        workers: processes; None for one a core (few tasks are done here), 0 to run everything here.

    Raises:
        ConfigError: where no process can be started.
    """
    count = available_cores() if workers is None else workers
    # Starting two processes takes longer than two chunks of work.
    waiting = deque(islice(tasks, min(3, 2 * count) if workers is None else 0))
    if count == 0 or (workers is None and len(waiting) < min(3, 2 * count)):
        yield from map(function, chain(waiting, tasks))
        return
    pool = _pool(count, function)
    running: deque[tuple[Task, Future[Any]]] = deque()
    try:
        while True:
            while len(running) < 2 * count:
                waiting.extend(islice(tasks, 0 if waiting else 1))
                if not waiting:
                    break
                try:
                    future: Future[Any] = pool.submit(_run, waiting[0])
                except BrokenProcessPool:  # a task under way, or nothing but an idle process's death, has broken it
                    if running:
                        break
                    pool = _pool(count, function)
                else:
                    running.append((waiting.popleft(), future))
            if not running:
                return
            task, future = running.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=False, cancel_futures=True)
                yield from _retry(function, task, halve, lost)
                pool = _pool(count, function)
                waiting.extendleft(later for later, _ in reversed(running))
                running.clear()
            else:
                yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def begin_worker() -> None:
    """Leave Ctrl-C to the process that started this one, and end when that is gone.

    A terminal sends Ctrl-C to all of them: the one that the user started says so once. A worker whose run was killed
    would wait for tasks forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _wait_and_end(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _retry(
    function: Callable[[Task], Result],
    task: Task,
    halve: Callable[[Task], list[Task]],
    lost: Callable[[Task], Result],
) -> Iterator[Result]:
    """Run a task again by itself; where its process dies once more, run its halves."""
    try:
        with _pool(1, function) as pool:
            _check_start(pool)
            future: Future[Any] = pool.submit(_run, task)
            yield future.result()
    except BrokenProcessPool:
        parts = halve(task)
        if not parts:
            yield lost(task)
        for part in parts:
            yield from _retry(function, part, halve, lost)


def _check_start(pool: ProcessPoolExecutor) -> None:
    """Tell a task that kills its process from processes that never start, or every task would be called a killer."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        rule = "cannot start (a script that starts them must be a file, and do so below if __name__ == '__main__')"
        raise ConfigError("worker processes", rule, "mend the script, or ask for 0 workers") from error


def _pool(workers: int, function: Callable[[Any], Any]) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process with threads (polars, BLAS) may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_install, initargs=(function,))


_installed: list[Callable[[Any], Any]] = []


def _install(function: Callable[[Any], Any]) -> None:
    """Keep what this worker process is for."""
    _installed[:] = [function]
    begin_worker()


def _run(task: object) -> object:
    return _installed[0](task)
