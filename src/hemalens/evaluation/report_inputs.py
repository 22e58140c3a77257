"""From the folders of runs to what a report speaks of: only files that earlier stages wrote to their end are read.

A piece that was never made is None and stays so; a piece that is there and damaged is an error that names it. Needs
neither torch nor anything of training.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from hemalens.core.artifacts import find_table, read_json, read_table, require_complete
from hemalens.core.errors import ArtifactError
from hemalens.core.provenance import sha256_file

__all__ = ["Evaluation", "ReportInputs", "RunInputs", "Splits", "load_inputs"]

_MODEL_KEYS = ("model", "parameters", "classes")
_EVALUATION_KEYS = ("n", "classes", "accuracy", "balanced_accuracy", "macro_f1", "per_class", "confusion_matrix")
_AUDIT_KEYS = ("n_samples", "n_unreadable", "classes", "issues", "suggested_drops")
_HISTORY_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "epoch": pl.Int64,
    "train_loss": pl.Float64,
    "train_accuracy": pl.Float64,
    "val_loss": pl.Float64,
    "val_accuracy": pl.Float64,
}
_UNLABELLED = "(unlabelled)"
_PERTURBED = "val_perturbed_accuracy"


@dataclass(frozen=True, slots=True)
class Splits:
    """How many samples each class has in each split.

    Attributes:
        counts: split -> class -> samples; splits in the order train, val, test, then others.
        groups: distinct group names over all samples; 0 where no sample has one.
    """

    counts: Mapping[str, Mapping[str, int]]
    groups: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What ``evaluate`` found out about one model.

    Attributes:
        directory: where it lies; the pictures of mistakes are inside.
        scores: the contents of ``evaluation.json``.
        provenance: of the directory.
        split: the split that was scored, as recorded; None where it was not.
    """

    directory: Path
    scores: Mapping[str, Any]
    provenance: Mapping[str, Any]
    split: str | None


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What one run left behind.

    Attributes:
        name: tells it from the other runs of a report.
        config: the contents of ``config.json``.
        model: the contents of ``model.json``.
        history: column -> one value an epoch.
        provenance: of the training.
        evaluation: None where this model was not evaluated.
        audit: the contents of ``audit.json``, None where the data were not audited here.
        audit_page: the audit's own page, None where there is none.
        splits: None where there is no table of splits.
        files: what was read, name -> SHA-256.
    """

    name: str
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    history: Mapping[str, Sequence[float | None]]
    provenance: Mapping[str, Any]
    evaluation: Evaluation | None
    audit: Mapping[str, Any] | None
    audit_page: Path | None
    splits: Splits | None
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """The runs of one report; the first is the one that it describes at length."""

    runs: tuple[RunInputs, ...]

    @property
    def main(self) -> RunInputs:
        """The run that the report is about."""
        return self.runs[0]

    @property
    def files(self) -> dict[str, str]:
        """All files read, ``run/file`` -> SHA-256."""
        return {f"{run.name}/{name}": digest for run in self.runs for name, digest in run.files.items()}


def load_inputs(runs: Sequence[Path]) -> ReportInputs:
    """Read runs: folders of ``hemalens run``, or training folders with ``evaluate/`` and the like beside them.

    Raises ArtifactError where no run is named, a run was not trained to its end, or a file is damaged.
    """
    if not runs:
        raise ArtifactError("runs", "name at least one", "run: hemalens report RUN --out DIR")
    paths = [Path(run) for run in runs]
    return ReportInputs(tuple(_load_run(path, name) for path, name in zip(paths, _names(paths), strict=True)))


def _names(paths: Sequence[Path]) -> list[str]:
    """Name each run by its folder, one called ``train`` by the folder around it; number repeated names."""
    names = []
    for path in paths:
        whole = path.resolve()
        names.append(whole.parent.name if whole.name == "train" and whole.parent.name else whole.name)
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def _load_run(path: Path, name: str) -> RunInputs:
    train = path / "train" if (path / "train").is_dir() else path
    root = path if train != path else path.parent
    provenance = require_complete(train, "train")
    files = {f"train/{file}": train / file for file in ("config.json", "model.json", "history.csv")}
    model = _document(train / "model.json", _MODEL_KEYS)
    evaluation = _load_evaluation(root / "evaluate", provenance)
    if evaluation is not None:
        files["evaluate/evaluation.json"] = evaluation.directory / "evaluation.json"
    audit, page = None, root / "audit" / "audit.html"
    if (root / "audit").is_dir():
        require_complete(root / "audit", "audit")
        audit = _document(root / "audit" / "audit.json", _AUDIT_KEYS)
        files["audit/audit.json"] = root / "audit" / "audit.json"
    splits = None
    for label, folder in (("train/", train), ("", root)):  # the table that the training used, else the run's
        if splits is None and (table := find_table(folder / "splits.csv")) is not None:
            splits = _count_splits(table, model["classes"])
            files[f"{label}{table.name}"] = table
    return RunInputs(
        name=name,
        config=read_json(train / "config.json"),
        model=model,
        history=_load_history(train / "history.csv"),
        provenance=provenance,
        evaluation=evaluation,
        audit=audit,
        audit_page=page if audit is not None and page.is_file() else None,
        splits=splits,
        files={label: sha256_file(file) for label, file in files.items()},
    )


def _document(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    document = read_json(path)
    for key in keys:
        if key not in document:
            raise ArtifactError(f"file {path}", f"lacks the key {key!r}", "write it anew with its stage")
    return document


def _load_evaluation(directory: Path, training: Mapping[str, Any]) -> Evaluation | None:
    """Read an evaluation of this training's model; one of another model is as good as none."""
    if not directory.is_dir():
        return None
    provenance = require_complete(directory, "evaluate")
    made, used = set(training.get("outputs", {}).values()), set(provenance.get("inputs", {}).values())
    if made and used and not made & used:
        return None
    scores = _document(directory / "evaluation.json", _EVALUATION_KEYS)
    split = scores.get("split") or provenance.get("options", {}).get("split")
    return Evaluation(directory, scores, provenance, split)


def _load_history(path: Path) -> dict[str, list[float | None]]:
    table = read_table(path, _HISTORY_COLUMNS)
    columns = list(_HISTORY_COLUMNS)
    if _PERTURBED in table.columns:
        table = read_table(path, {**_HISTORY_COLUMNS, _PERTURBED: pl.Float64})
        columns += [_PERTURBED] if table[_PERTURBED].is_not_null().any() else []
    return {name: table[name].to_list() for name in columns}


def _count_splits(path: Path, classes: Sequence[str]) -> Splits:
    table = read_table(path, {"label": pl.String, "group": pl.String, "split": pl.String})
    found = Counter(table.select("split", pl.col("label").fill_null(_UNLABELLED)).iter_rows())
    order = [name for name in ("train", "val", "test") if any(split == name for split, _ in found)]
    order += sorted({str(split) for split, _ in found} - set(order))
    labels = [*classes, *sorted({str(label) for _, label in found} - set(classes))]
    counts = {split: {label: found.get((split, label), 0) for label in labels} for split in order}
    return Splits(counts, table["group"].drop_nulls().n_unique())
