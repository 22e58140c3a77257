"""A source of any kind and size to a table of predictions, restartable, in memory that does not grow with it.

Rows go to part files beside the output, each whole or not there; the same command given again goes on after the last
one, and the table appears when all are there. Needs onnxruntime; no torch.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
from threadpoolctl import threadpool_limits

from hemalens.core.artifacts import output_file, read_json, write_atomically, write_json
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.core.provenance import sha256_file
from hemalens.core.spreadsheet import to_spreadsheet
from hemalens.core.types import FloatArray, Images, Progress, no_progress
from hemalens.data.scale import Scale, find_scale
from hemalens.data.sources import Source, open_source
from hemalens.inference.chunks import CHUNK, decoded_chunks, judge_chunk
from hemalens.inference.model import Model
from hemalens.inference.sidecar import EMBEDDED

__all__ = ["Engine", "predict"]

Engine = Literal["local", "ray"]
_PART_CHUNKS = 64  # a part file holds 4,096 rows: what a kill can cost
_PLAN = "plan.json"
_PARQUET_ROWS = 1_000_000  # as core.artifacts writes tables


def predict(
    source: str | Path,
    out: Path,
    *,
    model: str | Path = EMBEDDED,
    workers: int | None = None,
    engine: Engine = "local",
    adapt: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write one row of predictions a sample and return a summary.

    Given again after a stop it goes on where it was. A sample that cannot be read has a row with the reason.

    Args:
        source: any SOURCE.
        out: the table to write, .csv or .parquet; of a million rows and more a .csv becomes a .parquet.
        model: an .onnx file, or ``embedded``.
        workers: processes that decode; None for one a core. With ``ray``: actors, None for one a core of the cluster.
        engine: ``local``, or ``ray`` for the machines of a Ray cluster, which all must see the source.
        adapt: first bring the images to the size of the training cells, told from their features, not from labels.
        overwrite: replace an earlier output.
        progress: called for the samples.

    Raises:
        ArtifactError: the output exists, the model is not there, or unfinished parts are of something else.
        ConfigError: another suffix or engine.
        SourceError: too few images to adapt to.
        MissingExtraError: ``ray`` is not installed.
    """
    started = time.monotonic()
    _check(out, engine)
    opened = open_source(source)
    classifier = Model.open(model)
    inputs = {"source": opened.fingerprint(), "model": sha256_file(classifier.path)}
    options: dict[str, Any] = {"model": str(model)}
    if adapt:
        options["adaptation"] = _scale(opened, classifier, progress).to_json()
    zoom: float = options["adaptation"]["zoom"] if adapt else 1.0
    parts = out.with_name(f".{out.name}.parts")
    with output_file(out, "predict", overwrite=overwrite, inputs=inputs, options=options):
        done = _begin(parts, {"inputs": inputs, "rows": CHUNK * _PART_CHUNKS, "zoom": zoom}, overwrite=overwrite)
        # Threads of numpy's that wait for their part of a small product take the cores from those that decode.
        with threadpool_limits(1, user_api="blas"):
            _write_parts(opened, classifier, parts, done, engine=engine, workers=workers, zoom=zoom, progress=progress)
        written, counts = _finish(parts, out, len(opened))
    shutil.rmtree(parts)
    seconds = time.monotonic() - started
    return {
        "source": str(source),
        **options,
        **counts,
        "resumed_at": done * CHUNK * _PART_CHUNKS,
        "seconds": round(seconds, 2),
        "out": str(written),
    }


def _scale(source: Source, classifier: Model, progress: Progress) -> Scale:
    def features(images: Images) -> FloatArray:
        return classifier.run(images).features

    return find_scale(source, classifier.image_size, classifier.sidecar.abstention, features, progress=progress)


def _check(out: Path, engine: str) -> None:
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"output {out}", "must be named .csv or .parquet", "write for example --out predictions.csv")
    if engine not in get_args(Engine):
        raise ConfigError(f"engine {engine}", f"must be one of {', '.join(get_args(Engine))}", "change --engine")


def _begin(parts: Path, plan: dict[str, Any], *, overwrite: bool) -> int:
    """Return how many whole parts of this very plan are there; others are an error, or removed by ``overwrite``."""
    path = parts / _PLAN
    if path.is_file() and read_json(path) != plan:
        if not overwrite:
            rule = "holds unfinished predictions of another source or model, or of an earlier state of them"
            raise ArtifactError(f"directory {parts}", rule, "add --overwrite to start again, or choose another --out")
        shutil.rmtree(parts)
    elif parts.exists() and not path.is_file():
        shutil.rmtree(parts)  # killed before its plan was written: it holds nothing
    if not path.is_file():
        parts.mkdir(parents=True)
        write_json(path, plan)
    done = 0
    while _part(parts, done).is_file():
        done += 1
    return done


def _write_parts(
    source: Source,
    classifier: Model,
    parts: Path,
    done: int,
    *,
    engine: Engine,
    workers: int | None,
    zoom: float,
    progress: Progress,
) -> None:
    begin, total = done * CHUNK * _PART_CHUNKS, len(source)
    progress("predicting", min(begin, total), total)
    if begin >= total > 0:
        return
    held: list[pl.DataFrame] = []
    rows = begin
    for frame in _frames(source, classifier, begin, engine=engine, workers=workers, zoom=zoom):
        held.append(frame)
        rows += frame.height
        if len(held) == _PART_CHUNKS or rows == total:
            write_atomically(_part(parts, done), pl.concat(held).write_parquet)
            done, held = done + 1, []
        progress("predicting", rows, total)


def _frames(
    source: Source, classifier: Model, begin: int, *, engine: Engine, workers: int | None, zoom: float
) -> Iterator[pl.DataFrame]:
    """Yield the rows of each chunk from ``begin`` on, in order."""
    if engine == "ray":
        from hemalens.inference.ray import ray_frames  # here: only this needs the extra

        yield from ray_frames(source, classifier, begin=begin, actors=workers, zoom=zoom)
        return
    for decoded in decoded_chunks(source, classifier.image_size, begin=begin, workers=workers, zoom=zoom):
        stop = begin + len(decoded[1])
        yield judge_chunk(classifier, source.samples[begin:stop], decoded)
        begin = stop


def _finish(parts: Path, out: Path, total: int) -> tuple[Path, dict[str, Any]]:
    """Join the parts to the table, one after the other; return where it lies and what it counts."""
    table = pl.scan_parquet(sorted(parts.glob("part-*.parquet")))
    numbers = table.select(
        pl.len().alias("n_samples"),
        pl.col("reason").str.starts_with("unreadable: ").sum().alias("n_unreadable"),
        pl.col("abstained").sum().alias("n_abstained"),
    ).collect(engine="streaming")
    found = table.group_by("predicted").len().collect(engine="streaming")
    counts = numbers.row(0, named=True)
    assert counts["n_samples"] == total
    counts["predicted"] = dict(sorted(found.drop_nulls().iter_rows()))
    twin = out.with_suffix(".parquet")
    if out.suffix == ".csv" and total < _PARQUET_ROWS:
        write_atomically(out, to_spreadsheet(table).sink_csv)
        return out, counts
    write_atomically(twin, table.sink_parquet)
    if twin != out:
        out.unlink(missing_ok=True)  # an older CSV would be read in its place
    return twin, counts


def _part(parts: Path, number: int) -> Path:
    return parts / f"part-{number:06d}.parquet"
