"""Images of a source to results, in order: read and worked on in worker processes, a few of them in memory at a time.

The one place that cuts a source into tasks, for the audit, for training, for predictions and for corrupted copies. An
image that kills its worker process comes back as an error that names it. Needs numpy and Pillow; no torch.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeVar

from hemalens.core.errors import ConfigError, DecodeError, UserError
from hemalens.data.reading.parallel import map_chunks
from hemalens.data.reading.ray import map_chunks_by_ray
from hemalens.data.sources.source import Source

__all__ = ["Engine", "every", "map_images"]

Engine = Literal["local", "ray"]
"""Where images are worked on: processes of this machine, or Ray Data."""

Result = TypeVar("Result")
_Task = tuple[Source, Sequence[int]]


def map_images(
    source: Source,
    indices: Sequence[int],
    function: Callable[[Source, Sequence[int]], Sequence[Result]],
    *,
    chunk: int,
    workers: int | None = None,
    engine: Engine = "local",
) -> Iterator[list[Result | DecodeError]]:
    """Yield the results of each ``chunk`` images, one an image, in the order of ``indices``.

    Args:
        source: any source. One in memory sends its rows to the workers, any other one where its files lie.
        indices: which images, in any order.
        function: called with a source of one chunk's images, numbered from 0, and with their indices; returns one
            result an image. It is sent to worker processes: a function of a module, or a ``partial`` of one.
        chunk: images in one call; two calls a worker are handed out ahead.
        workers: processes; None for one a core (a few chunks are done here), 0 for this process.
        engine: "local", or "ray" for Ray Data; the results are the same.

    Raises:
        ConfigError: for Ray and a source that is held in memory.
        MissingExtraError: for Ray where it is not installed.
    """
    if engine == "ray" and source.in_memory:
        rule = "reads images where they lie, an array file is held in memory"
        raise ConfigError("engine ray", rule, "leave --engine out, or save the images as files or tar shards")
    mapped = map_chunks_by_ray if engine == "ray" else map_chunks
    tasks = ((source.part(some), some) for some in (indices[at : at + chunk] for at in range(0, len(indices), chunk)))
    workers = 0 if source.in_process else workers
    gathered: list[Result | DecodeError] = []
    done = 0
    for results in mapped(partial(_work, function), tasks, halve=_halve, lost=_lost, workers=workers):
        gathered += results
        # Where a worker died, a chunk comes back in pieces.
        if len(gathered) == min(chunk, len(indices) - done):
            yield gathered
            done += len(gathered)
            gathered = []


def every(results: Sequence[Result | UserError]) -> list[Result]:
    """Return the results; raise the first error among them."""
    for result in results:
        if isinstance(result, UserError):
            raise result
    return [result for result in results if not isinstance(result, UserError)]


def _work(function: Callable[[Source, Sequence[int]], Sequence[Result]], task: _Task) -> Sequence[Result | DecodeError]:
    return function(*task)


def _halve(task: _Task) -> list[_Task]:
    source, indices = task
    middle = len(indices) // 2
    parts = (range(middle), range(middle, len(indices))) if middle else ()
    return [(source.part(part), indices[part.start : part.stop]) for part in parts]


def _lost(task: _Task) -> list[DecodeError]:
    step = "audit and clean the source first"
    return [DecodeError(f"image {sample.sample_id!r}", "its decoder crashed", step) for sample in task[0].samples]
