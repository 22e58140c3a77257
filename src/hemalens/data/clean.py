"""A source and its audit to the kept samples, with every dropped one listed and any of them taken back on request.

The source itself is never changed. Decisions are the column ``suggestion`` of ``issues.csv``, edited by hand or in a
review: one ``drop`` among a sample's rows drops it, else ``relabel:CLASS`` gives it another label. Needs no torch.
"""

import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import polars as pl
from numpy.lib import format as npy
from PIL import Image

from hemalens.core.artifacts import (
    find_table,
    output_directory,
    output_file,
    read_provenance,
    remove_leftovers,
    text_digest,
    write_atomically,
    write_json,
    write_table,
)
from hemalens.core.decisions import RELABEL, new_labels, read_issues, require_unreviewed, write_issues
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.recorded import open_record
from hemalens.core.types import Images, Progress, Sample, no_progress
from hemalens.data.audit.checks.finding import SUGGESTIONS
from hemalens.data.audit.issues import issue_names
from hemalens.data.reading.decode import decode, decode_array
from hemalens.data.sources import Source, content_sha256, open_source

__all__ = ["clean", "decide", "open_audited"]

_Read = Callable[[int], bytes | npt.NDArray[Any]]


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

    Samples under another label than the source's are listed in ``relabelled.csv``, written where there are any.

    Args:
        source: the SOURCE that was audited.
        out: a file ending in ``.npz`` (all images of one size) or a directory of class folders.
        audit: what ``audit`` wrote, reviewed or its ``issues.csv`` edited or not.
        restore: ids to take back as the source has them: their rows become ``keep`` in ``issues.csv``, and ``out`` is
            written anew.
        classes: class names in label order, as given to ``audit``.
        overwrite: replace an earlier output.
        progress: called for the steps.

    Raises:
        ArtifactError: the audit is incomplete, of another source, or a decision in it is not known.
    """
    opened, fingerprint = open_audited(source, audit, classes=classes)
    contents = _contents(audit)
    _check_apart(Path(opened.spec), out)
    issues = read_issues(audit)
    if restore:
        require_unreviewed(audit)
        issues = _restored(issues, restore, opened.samples)
    overwrite = overwrite or (bool(restore) and (read_provenance(out) or {}).get("command") == "clean")
    dropped = decide(issues, opened.samples)
    kept = [index for index in range(len(opened)) if index not in dropped]
    if not kept:
        raise ArtifactError(f"decisions in {audit / 'issues.csv'}", "drop every sample", "set some to keep")
    _check_unreadable(opened.samples, kept, issues)
    labels = new_labels(issues, opened.samples, opened.classes)
    samples = [replace(opened.samples[index], label=labels.get(index, opened.samples[index].label)) for index in kept]
    options = {"classes": list(classes) if classes else None}
    inputs = {"source": fingerprint, "decisions": _decisions_digest(dropped, labels, opened.samples)}
    tables = {"dropped.csv": _dropped_table(opened.samples, dropped)}
    tables["relabelled.csv"] = _relabelled_table(opened.samples, labels, issues)
    to_file = out.suffix.lower() == ".npz"
    home = out.parent if to_file else out
    for table in (home / name for name in tables):
        if to_file and find_table(table) and not overwrite:
            raise ArtifactError(f"output {table}", "exists already", "add --overwrite or choose another --out")
    guard = partial(output_file, beside=tuple(tables)) if to_file else output_directory
    with guard(out, "clean", overwrite=overwrite, inputs=inputs, options=options):
        read = partial(_as_audited, opened, contents)
        if to_file:
            _write_arrays(opened, read, kept, samples, out, progress)
        else:
            _write_folders(read, kept, samples, out, progress)
        if to_file:
            for name in ("dropped.csv", "relabelled.csv"):
                remove_leftovers(home / name)
        write_table(home / "dropped.csv", tables["dropped.csv"])
        if labels:
            write_table(home / "relabelled.csv", tables["relabelled.csv"])
        elif to_file:
            (home / "relabelled.csv").unlink(missing_ok=True)  # of the output that is replaced
        if restore:  # last: a restored sample that cannot be written leaves the decisions as they were
            write_issues(audit, issues)
    counts = {"n_samples": len(opened), "kept": len(kept), "dropped": len(dropped), "relabelled": len(labels)}
    return {**counts, "out": str(out)}


def open_audited(source: str | Path, audit: Path, *, classes: Sequence[str] | None = None) -> tuple[Source, str]:
    """Open the source that an audit was made from; return it and its fingerprint.

    Raises ArtifactError where the audit is incomplete, or of another source or another state of it.
    """
    record = open_record(audit, "audit")
    opened = open_source(source, classes=classes)
    fingerprint = opened.fingerprint()
    if record.inputs.get("source") != fingerprint:
        rule = f"is not what {audit} was made from, or has changed since"
        raise ArtifactError(f"source {source}", rule, "audit it again")
    return opened, fingerprint


def _contents(audit: Path) -> dict[str, str | None]:
    """Return what each sample was when it was audited: id -> SHA-256 of its bytes, or of its row of an array."""
    table = open_record(audit, "audit").table("manifest.csv", dict.fromkeys(("sample_id", "sha256"), pl.String))
    return dict(table.select("sample_id", "sha256").iter_rows())


def _as_audited(source: Source, contents: Mapping[str, str | None], index: int) -> bytes | npt.NDArray[Any]:
    """Read a sample; raise SourceError where it is not what was audited, be its size and time as they were."""
    data, name = source.read(index), source.samples[index].sample_id
    if content_sha256(data) != contents.get(name):
        rule = "has changed since the audit: its SHA-256 is not the one in manifest.csv"
        raise SourceError(f"image {name}", rule, "put it back, or audit the source again")
    return data


def decide(issues: pl.DataFrame, samples: Sequence[Sample]) -> dict[int, tuple[str, str]]:
    """Return index -> (issues, reasons) of the samples that at least one row of ``issues.csv`` drops.

    Raises ArtifactError where a row names a sample that the source lacks, or an issue or decision that is not known.
    """
    known = issue_names()
    indices = {sample.sample_id: index for index, sample in enumerate(samples)}
    drops: dict[int, tuple[list[str], list[str]]] = {}
    for line, (sample_id, issue, suggestion, reason) in enumerate(
        issues.select("sample_id", "issue", "suggestion", "reason").iter_rows(), 2
    ):
        what = f"issues.csv line {line}"
        if sample_id not in indices:
            raise ArtifactError(f"{what}: sample {sample_id}", "is not in the source", "mend or delete the line")
        if issue not in known:
            raise ArtifactError(f"{what}: issue {issue}", f"must be one of {', '.join(known)}", "mend the line")
        if suggestion not in SUGGESTIONS and not str(suggestion).startswith(RELABEL):
            rule = f"must be one of {', '.join(SUGGESTIONS)}, {RELABEL}CLASS"
            raise ArtifactError(f"{what}: suggestion {suggestion}", rule, "mend the line")
        if suggestion == "drop":
            names, reasons = drops.setdefault(indices[sample_id], ([], []))
            names.append(issue)
            reasons.append(reason or "")
    return {index: ("; ".join(names), "; ".join(reasons)) for index, (names, reasons) in drops.items()}


def _check_apart(source: Path, out: Path) -> None:
    """Raise where the output would overwrite the source, or become a part of its folder."""
    source, target = source.resolve(), out.resolve()
    if source.exists() and (target == source or source in target.parents):
        raise ArtifactError(f"output {out}", "lies in the source, which is never changed", "choose another --out")


def _restored(issues: pl.DataFrame, restore: Sequence[str], samples: Sequence[Sample]) -> pl.DataFrame:
    known = {sample.sample_id for sample in samples}
    changed = (pl.col("suggestion") == "drop") | pl.col("suggestion").str.starts_with(RELABEL)
    restorable = set(issues.filter(changed)["sample_id"].to_list())
    for sample_id in restore:
        if sample_id not in known:
            raise ConfigError(f"restore {sample_id}", "is no sample of the source", "take an id from dropped.csv")
        if sample_id not in restorable:
            step = "take an id from dropped.csv or relabelled.csv"
            raise ConfigError(f"restore {sample_id}", "was not dropped and not relabelled", step)
    chosen = pl.col("sample_id").is_in(list(restore))
    return issues.with_columns(pl.when(chosen).then(pl.lit("keep")).otherwise("suggestion").alias("suggestion"))


def _check_unreadable(samples: Sequence[Sample], kept: Sequence[int], issues: pl.DataFrame) -> None:
    unreadable = set(issues.filter(pl.col("issue") == "unreadable")["sample_id"].to_list())
    for index in kept:
        if samples[index].sample_id in unreadable:
            what = f"sample {samples[index].sample_id}"
            rule = "is unreadable and cannot be kept"
            raise ArtifactError(what, rule, "set it to drop in issues.csv, do not restore it")


def _decisions_digest(
    dropped: Mapping[int, tuple[str, str]], labels: Mapping[int, str], samples: Sequence[Sample]
) -> str:
    lines = sorted(samples[index].sample_id for index in dropped)
    lines += sorted(f"{samples[index].sample_id}\t{label}" for index, label in labels.items())
    return text_digest("\n".join(lines))


def _dropped_table(samples: Sequence[Sample], dropped: dict[int, tuple[str, str]]) -> pl.DataFrame:
    rows = [(samples[index].sample_id, samples[index].label, *dropped[index]) for index in sorted(dropped)]
    schema = dict.fromkeys(("sample_id", "label", "issue", "reason"), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")


def _relabelled_table(samples: Sequence[Sample], labels: Mapping[int, str], issues: pl.DataFrame) -> pl.DataFrame:
    """Return sample_id, old label, new_label, and the findings that led to it."""
    found: dict[str, tuple[list[str], list[str]]] = {samples[index].sample_id: ([], []) for index in labels}
    for sample_id, issue, reason in issues.select("sample_id", "issue", "reason").iter_rows():
        if sample_id in found:
            found[sample_id][0].append(issue)
            found[sample_id][1].append(reason or "")
    rows = [
        (sample.sample_id, sample.label, labels[index], *("; ".join(words) for words in found[sample.sample_id]))
        for index, sample in ((index, samples[index]) for index in sorted(labels))
    ]
    schema = dict.fromkeys(("sample_id", "label", "new_label", "issue", "reason"), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")


def _write_arrays(
    source: Source, read: _Read, kept: Sequence[int], samples: Sequence[Sample], out: Path, progress: Progress
) -> None:
    """Write images, labels, classes, ids (and groups, splits) as an ``.npz``; images stream through one by one."""
    first = _decoded(read(kept[0]), samples[0].sample_id).shape
    numbers = {name: number for number, name in enumerate(source.classes)}
    lone = next((sample.sample_id for sample in samples if sample.label is None), None)
    if lone is not None:
        raise SourceError(f"sample {lone}", "has no label, which an .npz cannot say", "write to a directory: --out DIR")
    kind = np.uint8 if len(numbers) <= 256 else np.int64
    columns: dict[str, np.ndarray[Any, Any]] = {
        "ids": np.array([sample.sample_id for sample in samples]),
        "labels": np.array([[numbers[sample.label or ""]] for sample in samples], kind),
        "classes": np.array(source.classes),
    }
    for name in ("group", "split"):
        if any(getattr(sample, name) is not None for sample in samples):
            columns[f"{name}s"] = np.array([getattr(sample, name) or "" for sample in samples])

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("images.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *first)}
                npy.write_array_header_2_0(member, header)
                for done, index in enumerate(kept):
                    if done % 500 == 0:
                        progress("writing clean samples", done, len(kept))
                    member.write(_of_size(read(index), samples[done].sample_id, first).tobytes())
            for name, values in columns.items():
                with archive.open(f"{name}.npy", "w") as member:
                    npy.write_array(member, values, allow_pickle=False)

    write_atomically(out, write)
    progress("writing clean samples", len(kept), len(kept))


def _decoded(data: bytes | npt.NDArray[Any], name: str) -> Images:
    return (decode_array(data, name=name) if isinstance(data, np.ndarray) else decode(data, name=name)).pixels


def _of_size(data: bytes | npt.NDArray[Any], name: str, shape: tuple[int, ...]) -> Images:
    pixels = _decoded(data, name)
    if pixels.shape != shape:
        rule = f"is {pixels.shape[1]} x {pixels.shape[0]} pixels where the first is {shape[1]} x {shape[0]}"
        step = "write to a directory instead of an .npz: --out DIR"
        raise SourceError(f"image {name}", rule, step)
    return pixels


def _write_folders(read: _Read, kept: Sequence[int], samples: Sequence[Sample], out: Path, progress: Progress) -> None:
    """Write class folders: encoded files byte for byte, rows of arrays as PNG.

    Where folders cannot say all that the source knows (groups, labels that are no file names), every image gets a
    label file ``name.json`` beside it.
    """
    sidecars = any(sample.group or _harmless(sample.label or "") != (sample.label or "") for sample in samples)
    taken: dict[str, int] = {}
    for done, (index, sample) in enumerate(zip(kept, samples, strict=True)):
        if done % 100 == 0:
            progress("writing clean samples", done, len(kept))
        data, suffix = read(index), ""
        if not isinstance(data, bytes):
            buffer = io.BytesIO()
            Image.fromarray(_decoded(data, sample.sample_id)).save(buffer, "PNG")
            data, suffix = buffer.getvalue(), ".png"
        path = out / _relative(sample, suffix, taken, by_stem=sidecars)
        facts = {"label": sample.label, "group": sample.group, "split": sample.split}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            if sidecars:
                write_json(path.with_suffix(".json"), {key: value for key, value in facts.items() if value is not None})
        except OSError as error:
            rule = f"cannot be written ({error.strerror or error})"
            raise ArtifactError(f"output {path}", rule, "free some space, or write to an .npz") from error
    progress("writing clean samples", len(kept), len(kept))


def _relative(sample: Sample, suffix: str, taken: dict[str, int], *, by_stem: bool) -> Path:
    """Return where a sample goes below the output: its split and label, then its name, harmless and unique.

    Names are told apart without regard to case, and with ``by_stem`` without regard to the suffix.
    """
    parts = [part for part in sample.sample_id.split("/") if part not in ("", ".", "..")]
    name = Path(_harmless(parts[-1] if parts else "image"))
    if suffix and name.suffix.lower() != suffix:
        name = Path(f"{name}{suffix}")
    folder = Path(*(_harmless(part) for part in (sample.split, sample.label) if part))
    stem = name.stem
    while True:
        key = f"{folder}/{name.stem if by_stem else name}".casefold()
        if key not in taken:
            taken[key] = 1
            return folder / name
        taken[key] += 1
        name = Path(f"{stem}-{taken[key]}{name.suffix}")


def _harmless(name: str) -> str:
    """Return a name that stays in its folder on every system and is not hidden."""
    return re.sub(r'^\.|[\x00-\x1f\\/:*?"<>|]', "_", name)
