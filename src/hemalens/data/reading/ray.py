"""Chunks of work through Ray Data, on this machine or on a cluster: the results of ``map_chunks`` in the same order.

Ray is the extra ``ray`` and imported when first used. A chunk that Ray gives up, for a process that dies or an error,
is done again by ``map_chunks`` here, which finds the one item that kills and lets defects through; so the results are
those of the local engine. Only tasks travel: the files must lie where every machine of the cluster sees them.
"""

import logging
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TypeVar

from hemalens.core.errors import ConfigError, MissingExtraError
from hemalens.data.reading.parallel import map_chunks

__all__ = ["map_chunks_by_ray"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_chunks_by_ray(
    function: Callable[[Task], Result],
    tasks: Iterator[Task],
    *,
    halve: Callable[[Task], list[Task]],
    lost: Callable[[Task], Result],
    workers: int | None = None,
) -> Iterator[Result]:
    """Yield ``function(task)`` for each task, in order, computed by Ray Data.

    Args:
        function: as for ``map_chunks``; small, as it is sent with every task.
        tasks: all of them are pickled and handed over before the first is done.
        halve: as for ``map_chunks``, which takes over what Ray gave up.
        lost: likewise.
        workers: CPUs of a Ray that is started here; None for all. A running Ray (RAY_ADDRESS, or one that the caller
            has started) is used as it is and left running.

    Raises:
        MissingExtraError: where Ray is not installed.
        ConfigError: where it does not start.
    """
    handed = [pickle.dumps(task) for task in tasks]
    if not handed:
        return
    with _running(workers) as ray:
        rows = [{"number": number, "task": task} for number, task in enumerate(handed)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        context = dataset.context
        context.execution_options.preserve_order = True
        context.max_errored_blocks = -1  # what fails is done here, see above
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        done = 0
        # Ray Data's own number of retries is -1: an image that kills its process would be tried for ever.
        mapped = dataset.map(_Work(function), ray_remote_args_fn=lambda: {"max_retries": 1})
        for row in mapped.iter_rows():
            yield from _here(function, handed[done : row["number"]], halve, lost)
            yield pickle.loads(row["result"])  # noqa: S301  # made by _Work a moment ago
            done = row["number"] + 1
        yield from _here(function, handed[done:], halve, lost)


class _Work:
    """What a process of Ray does with one row."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        result = self._function(pickle.loads(row["task"]))  # noqa: S301  # made by map_chunks_by_ray a moment ago
        return {"number": row["number"], "result": pickle.dumps(result)}


def _here(
    function: Callable[[Task], Result],
    handed: Sequence[bytes],
    halve: Callable[[Task], list[Task]],
    lost: Callable[[Task], Result],
) -> Iterator[Result]:
    """Do what Ray gave up in one process of our own."""
    tasks: Iterator[Task] = (pickle.loads(task) for task in handed)  # noqa: S301  # made by map_chunks_by_ray
    if handed:
        yield from map_chunks(function, tasks, halve=halve, lost=lost, workers=1)


@contextmanager
def _running(workers: int | None) -> Iterator[Any]:
    """Lend Ray; start it quietly where none runs, and end it again."""
    # Nothing leaves the machine, and Ray's advice on settings of its own is not for our users.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        # Ray and what it imports open files and sockets that they leave to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import ray
            import ray.data
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("ray", "pyarrow", "pandas"):
                raise
            raise MissingExtraError("engine ray", "ray") from None
        ours = not ray.is_initialized()
        if ours:
            joins = "RAY_ADDRESS" in os.environ  # a cluster has its own CPUs and dashboard
            cpus, dashboard = (None, None) if joins else (workers, False)
            try:
                ray.init(num_cpus=cpus, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
            except (RuntimeError, ConnectionError, OSError, ValueError, TimeoutError) as error:
                rule = f"does not start ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
                raise ConfigError("engine ray", rule, "check RAY_ADDRESS, or leave --engine out") from error
        # It logs each chunk that it gives up with a traceback; we do it again and say ourselves what comes of it.
        logger = logging.getLogger("ray.data")
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        with redirect_stdout(sys.stderr):  # where it tells of processes that died; stdout belongs to --json
            try:
                yield ray
            finally:
                logger.setLevel(level)
                if ours:
                    ray.shutdown()
