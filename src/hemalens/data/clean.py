"""A source and its audit to the kept samples, with every dropped one listed and any of them taken back on request.

The source itself is never changed. Decisions are the column ``suggestion`` of ``issues.csv``: a person may edit it, and
one ``drop`` among a sample's rows drops it. Needs no torch.
"""

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.lib import format as npy
from PIL import Image

from hemalens.core.artifacts import (
    output_directory,
    output_file,
    read_provenance,
    read_table,
    require_complete,
    text_digest,
    write_atomically,
    write_table,
)
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.types import Progress, Sample, no_progress
from hemalens.data.checks.finding import ISSUES, SUGGESTIONS
from hemalens.data.sources import Source, open_source

__all__ = ["clean", "decide"]

_TEXT = ("sample_id", "label", "issue", "group", "suggestion", "reason")


def clean(
    source: str | Path,
    out: Path,
    *,
    audit: Path,
    restore: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the kept samples of a source to ``out`` with ``dropped.csv``, and return the counts.

    Args:
        source: the SOURCE that was audited.
        out: a file ending in ``.npz`` (all pictures of one size) or a directory of class folders.
        audit: what ``audit`` wrote, its ``issues.csv`` edited or not.
        restore: ids to take back: their rows become ``keep`` in ``issues.csv``, and ``out`` is written anew.
        classes: class names in label order, as given to ``audit``.
        overwrite: replace an earlier output.
        progress: told about the steps.

    Raises:
        ArtifactError: the audit is incomplete, of another source, or a decision in it is not known.
    """
    record = require_complete(audit, "audit")
    opened = open_source(source, classes=classes)
    fingerprint = opened.fingerprint()
    if record["inputs"].get("source") != fingerprint:
        rule = f"is not what {audit} was made from, or has changed since"
        raise ArtifactError(f"source {source}", rule, "audit it again")
    issues = _read_issues(audit / "issues.csv")
    if restore:
        issues = _restored(issues, restore, opened.samples)
        write_table(audit / "issues.csv", issues)
    overwrite = overwrite or (bool(restore) and (read_provenance(out) or {}).get("command") == "clean")
    dropped = decide(issues, opened.samples)
    kept = [index for index in range(len(opened)) if index not in dropped]
    if not kept:
        raise ArtifactError(f"decisions in {audit / 'issues.csv'}", "drop every sample", "set some to keep")
    _check_unreadable(opened.samples, kept, issues)
    options = {"classes": list(classes) if classes else None}
    inputs = {"source": fingerprint, "decisions": _decisions_digest(dropped, opened.samples)}
    table = _dropped_table(opened.samples, dropped)
    if out.suffix == ".npz":
        with output_file(out, "clean", overwrite=overwrite, inputs=inputs, options=options):
            write_table(out.with_name("dropped.csv"), table)
            _write_arrays(opened, kept, out, progress)
    else:
        with output_directory(out, "clean", overwrite=overwrite, inputs=inputs, options=options):
            write_table(out / "dropped.csv", table)
            _write_folders(opened, kept, out, progress)
    return {"n_samples": len(opened), "kept": len(kept), "dropped": len(dropped), "out": str(out)}


def decide(issues: pl.DataFrame, samples: Sequence[Sample]) -> dict[int, tuple[str, str]]:
    """Return place -> (issues, reasons) of the samples that at least one row of ``issues.csv`` drops.

    Raises ArtifactError where a row names a sample that the source lacks, or a decision that is not known.
    """
    places = {sample.sample_id: place for place, sample in enumerate(samples)}
    drops: dict[int, tuple[list[str], list[str]]] = {}
    for line, (sample_id, issue, suggestion, reason) in enumerate(
        issues.select("sample_id", "issue", "suggestion", "reason").iter_rows(), 2
    ):
        what = f"issues.csv line {line}"
        if sample_id not in places:
            raise ArtifactError(f"{what}: sample {sample_id}", "is not in the source", "mend or delete the line")
        if suggestion not in SUGGESTIONS:
            rule = f"must be one of {', '.join(SUGGESTIONS)}"
            raise ArtifactError(f"{what}: suggestion {suggestion}", rule, "mend the line")
        if suggestion == "drop":
            names, reasons = drops.setdefault(places[sample_id], ([], []))
            names.append(issue)
            reasons.append(reason or "")
    return {place: ("; ".join(names), "; ".join(reasons)) for place, (names, reasons) in drops.items()}


def _read_issues(path: Path) -> pl.DataFrame:
    table = read_table(path, dict.fromkeys(_TEXT, pl.String) | {"score": pl.Float64})
    unknown = sorted({issue for issue in table["issue"].to_list() if issue not in ISSUES})
    if unknown:
        raise ArtifactError(f"issue {unknown[0]!r} in {path}", f"must be one of {', '.join(ISSUES)}", "mend the line")
    return table


def _restored(issues: pl.DataFrame, restore: Sequence[str], samples: Sequence[Sample]) -> pl.DataFrame:
    known = {sample.sample_id for sample in samples}
    dropped = set(issues.filter(pl.col("suggestion") == "drop")["sample_id"].to_list())
    for sample_id in restore:
        if sample_id not in known:
            raise ConfigError(f"restore {sample_id}", "is no sample of the source", "take an id from dropped.csv")
        if sample_id not in dropped:
            raise ConfigError(f"restore {sample_id}", "was not dropped", "take an id from dropped.csv")
    chosen = pl.col("sample_id").is_in(list(restore))
    return issues.with_columns(pl.when(chosen).then(pl.lit("keep")).otherwise("suggestion").alias("suggestion"))


def _check_unreadable(samples: Sequence[Sample], kept: Sequence[int], issues: pl.DataFrame) -> None:
    unreadable = set(issues.filter(pl.col("issue") == "unreadable")["sample_id"].to_list())
    for place in kept:
        if samples[place].sample_id in unreadable:
            what = f"sample {samples[place].sample_id}"
            raise ArtifactError(what, "is unreadable and cannot be kept", "set it to drop in issues.csv")


def _decisions_digest(dropped: dict[int, tuple[str, str]], samples: Sequence[Sample]) -> str:
    return text_digest("\n".join(sorted(samples[place].sample_id for place in dropped)))


def _dropped_table(samples: Sequence[Sample], dropped: dict[int, tuple[str, str]]) -> pl.DataFrame:
    rows = [(samples[place].sample_id, samples[place].label, *dropped[place]) for place in sorted(dropped)]
    schema = dict.fromkeys(("sample_id", "label", "issue", "reason"), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")


def _write_arrays(source: Source, kept: Sequence[int], out: Path, progress: Progress) -> None:
    """Write images, labels, classes, ids (and groups, splits) as an ``.npz``; pictures stream through one by one."""
    first = source.picture(kept[0]).pixels.shape
    samples = [source.samples[place] for place in kept]
    numbers = {name: number for number, name in enumerate(source.classes)}
    columns: dict[str, np.ndarray[Any, Any]] = {"ids": np.array([sample.sample_id for sample in samples])}
    if all(sample.label is not None for sample in samples) and numbers:
        kind = np.uint8 if len(numbers) <= 256 else np.int64
        columns["labels"] = np.array([[numbers[sample.label or ""]] for sample in samples], kind)
        columns["classes"] = np.array(source.classes)
    elif any(sample.label is not None for sample in samples):
        rule = "has no label while others have one, which an .npz cannot say"
        lone = next(sample.sample_id for sample in samples if sample.label is None)
        raise SourceError(f"sample {lone}", rule, "drop it in issues.csv, or write to a directory")
    for name in ("group", "split"):
        if any(getattr(sample, name) is not None for sample in samples):
            columns[f"{name}s"] = np.array([getattr(sample, name) or "" for sample in samples])

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("images.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *first)}
                npy.write_array_header_2_0(member, header)
                for done, place in enumerate(kept):
                    if done % 500 == 0:
                        progress("writing clean samples", done, len(kept))
                    member.write(_of_size(source, place, first).tobytes())
            for name, values in columns.items():
                with archive.open(f"{name}.npy", "w") as member:
                    npy.write_array(member, values, allow_pickle=False)

    write_atomically(out, write)
    progress("writing clean samples", len(kept), len(kept))


def _of_size(source: Source, place: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = source.picture(place).pixels
    if pixels.shape != shape:
        rule = f"is {pixels.shape[1]} x {pixels.shape[0]} pixels where the first is {shape[1]} x {shape[0]}"
        step = "write to a directory instead of an .npz: --out DIR"
        raise SourceError(f"picture {source.samples[place].sample_id}", rule, step)
    return pixels


def _write_folders(source: Source, kept: Sequence[int], out: Path, progress: Progress) -> None:
    """Write class folders: encoded files byte for byte, rows of arrays as PNG."""
    taken: set[str] = set()
    for done, place in enumerate(kept):
        if done % 100 == 0:
            progress("writing clean samples", done, len(kept))
        sample = source.samples[place]
        data = source.read(place)
        if not isinstance(data, bytes):
            buffer = io.BytesIO()
            Image.fromarray(source.picture(place).pixels).save(buffer, "PNG")
            data, suffix = buffer.getvalue(), ".png"
        else:
            suffix = ""
        path = out / _relative(sample, suffix, taken)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    progress("writing clean samples", len(kept), len(kept))


def _relative(sample: Sample, suffix: str, taken: set[str]) -> Path:
    """Return where a sample goes below the output: its split and label, then its name, made unique and harmless."""
    parts = [part for part in sample.sample_id.split("/") if part not in ("", ".", "..")]
    stem = re.sub(r'[\x00-\x1f\\:*?"<>|]', "_", "_".join(parts[-1:]) or "picture")
    folders = [part for part in (sample.split, sample.label) if part]
    harmless = [re.sub(r"[\x00-\x1f\\/:*?\"<>|]", "_", folder) for folder in folders]
    name, number = f"{stem}{suffix}", 1
    while "/".join([*harmless, name]).casefold() in taken:
        number += 1
        name = f"{Path(stem).stem}-{number}{Path(stem).suffix}{suffix}"
    taken.add("/".join([*harmless, name]).casefold())
    return Path(*harmless, name)
