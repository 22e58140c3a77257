"""The rows of ``predict`` from the machines of a Ray cluster: the same chunks, in order, by actors that hold the model.

Not ``map_images``, whose workers keep nothing between two chunks: an actor opens the model, and an array file, once.
Needs the extra ``ray``. Every machine must see the source under the same path; the model travels.
"""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from hemalens.core.errors import MissingExtraError
from hemalens.data.sources import Source
from hemalens.inference.chunks import CHUNK, decode_chunk, judge_chunk
from hemalens.inference.model import Model
from hemalens.inference.sidecar import Sidecar, read_exported

__all__ = ["ray_frames"]


def ray_frames(
    source: Source, classifier: Model, *, begin: int = 0, actors: int | None = None, zoom: float = 1.0
) -> Iterator[pl.DataFrame]:
    """Yield the rows of each chunk of a source from ``begin`` on, in order.

    Args:
        source: what ``open_source`` returned.
        classifier: the model.
        begin: the first sample, a multiple of CHUNK.
        actors: processes, each of one core; None for one a core of the cluster.
        zoom: of every image.

    Raises MissingExtraError where Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("engine ray", "ray") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    starts = [{"start": start} for start in range(begin, len(source), CHUNK)]
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray types in parts
    count = actors or max(1, int(resources.get("CPU", 1)))
    told = {"source": source, "path": str(classifier.path), "exported": read_exported(classifier.path), "zoom": zoom}
    rows = ray.data.from_items(starts, override_num_blocks=len(starts)).map_batches(
        _Actor, fn_constructor_kwargs=told, batch_size=1, concurrency=min(count, len(starts)), num_cpus=1
    )
    for batch in rows.iter_batches(batch_size=1, batch_format="numpy"):
        yield pl.read_ipc(io.BytesIO(batch["rows"][0]))


class _Actor:
    """A process of the cluster: the listing of the source and the opened model."""

    def __init__(self, source: Source, path: str, exported: tuple[bytes, Sidecar], zoom: float) -> None:
        self._source, self._zoom = source, zoom
        threadpool_limits(1, user_api="blas")
        self._classifier = Model(Path(path), *exported, threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the rows of one chunk as the bytes of an Arrow file."""
        start = int(batch["start"][0])
        indices = range(start, min(start + CHUNK, len(self._source)))
        decoded = decode_chunk(self._source, self._classifier.image_size, indices, zoom=self._zoom)
        samples = [self._source.samples[index] for index in indices]
        buffer = io.BytesIO()
        judge_chunk(self._classifier, samples, decoded).write_ipc(buffer)
        return {"rows": np.array([buffer.getvalue()], object)}
