"""From the folders of runs to what a report speaks of: only files that earlier stages wrote to their end are read.

A piece that was never made is None and stays so; a piece that is there and damaged is an error that names it. Needs
neither torch nor anything of training.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from hemalens.core.audit_summary import AuditSummary
from hemalens.core.config import TrainConfig
from hemalens.core.decisions import decisions_digest
from hemalens.core.errors import ArtifactError
from hemalens.core.evaluation_summary import Evaluation
from hemalens.core.provenance import PROVENANCE
from hemalens.core.recorded import Recorded, file_record, find_record, open_record
from hemalens.core.run_summary import OverfitCheck, TrainedModel
from hemalens.report.extras import (
    Elsewhere,
    Explanation,
    find_explanation,
    read_elsewhere,
    source_of,
)

__all__ = ["Evaluated", "ReportInputs", "RunInputs", "Splits", "load_inputs"]

_HISTORY_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "epoch": pl.Int64,
    "train_loss": pl.Float64,
    "train_accuracy": pl.Float64,
    "val_loss": pl.Float64,
    "val_accuracy": pl.Float64,
}
_PREDICTION_COLUMNS = dict.fromkeys(("sample_id", "label", "predicted"), pl.String)
_EVALUATION_FOLDERS = ("evaluate", "evaluation")
_EXPLANATION_FOLDERS = ("explain", "explained")
_OVERFIT_FOLDERS = ("overfit", "overfit-check")
_UNLABELLED = "(unlabelled)"
_DISTORTED = "val_distorted_accuracy"


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
class Evaluated:
    """What ``evaluate`` found out about one model.

    Attributes:
        directory: where it lies; the images of mistakes are inside.
        scores: the contents of ``evaluation.json``.
        provenance: of the directory.
        answers: sample_id, label and predicted of the samples with a label; None where they were not asked for or
            are not there.
    """

    directory: Path
    scores: Evaluation
    provenance: Mapping[str, Any]
    answers: pl.DataFrame | None


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
        audit_folder: where the audit lies, None where there is none.
        splits: None where there is no table of splits.
        dropped: issues of a dropped sample, joined by ``; `` -> samples that were left out for them; None where there
            is no list of them.
        overfit: the contents of an ``overfit.json`` in a folder beside the training, None where there is none.
        files: what was read, name -> SHA-256.
        elsewhere: scores on other laboratories' cells, of the run that a report describes at length.
        explanation: heat maps of the same run, None where there are none of its model.
    """

    name: str
    config: TrainConfig
    model: TrainedModel
    history: Mapping[str, Sequence[float | None]]
    provenance: Mapping[str, Any]
    evaluation: Evaluated | None
    audit: AuditSummary | None
    audit_folder: Path | None
    splits: Splits | None
    dropped: Mapping[str, int] | None
    overfit: OverfitCheck | None
    files: Mapping[str, str]
    elsewhere: tuple[Elsewhere, ...] = ()
    explanation: Explanation | None = None


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


def load_inputs(runs: Sequence[Path], evaluations: Sequence[Path] = (), elsewhere: Sequence[Path] = ()) -> ReportInputs:
    """Read runs: folders of ``hemalens run``, or of ``hemalens train`` with the evaluation of their model.

    Args:
        runs: the folders. An evaluation is looked for in ``evaluate/`` and ``evaluation/``, inside and beside the
            training; one of another model is passed over.
        evaluations: folders of ``hemalens evaluate`` anywhere; each is taken for the run whose model it scored, before
            one that lies there.
        elsewhere: folders of ``hemalens evaluate`` that scored the first run's model on the cells of other
            laboratories.

    Heat maps of the first run's model are looked for in ``explain/`` and ``explained/``, as an evaluation is.

    Raises ArtifactError where no run is named, a run was not trained to its end, a file is damaged, an evaluation is of
    none of the runs, one of several runs has no evaluation, or one from elsewhere is of another model or of the model's
    own source.
    """
    if not runs:
        raise ArtifactError("runs", "name at least one", "run: hemalens report RUN --out DIR")
    paths, passed = [Path(run) for run in runs], [Path(one) for one in evaluations]
    for one in passed:
        open_record(one, "evaluate")
    names, several = _names(paths), len(runs) > 1
    found = [_load_run(path, name, passed, answers=several) for path, name in zip(paths, names, strict=True)]
    used = {run.evaluation.directory for run in found if run.evaluation}
    if strange := [one for one in passed if one not in used]:
        step = "name the run that it scored, each model once"
        raise ArtifactError(f"evaluation {strange[0]}", "is of a model of none of the runs, or one too many", step)
    if several and (missing := [path for path, run in zip(paths, found, strict=True) if run.evaluation is None]):
        rule = "has no evaluation of its model inside or beside it, and several runs are compared by their scores"
        step = f"run: hemalens evaluate {missing[0]} SOURCE --out {missing[0] / 'evaluation'}"
        raise ArtifactError(f"run {missing[0]}", rule, step)
    found[0] = _extended(found[0], paths[0], [Path(one) for one in elsewhere])
    return ReportInputs(tuple(found))


def _extended(run: RunInputs, path: Path, elsewhere: Sequence[Path]) -> RunInputs:
    """Return the run with what was found out about it elsewhere, and with its heat maps."""
    others = read_elsewhere(elsewhere, run.provenance, _own_sources(run))
    explanation = find_explanation(_nearby(path, _EXPLANATION_FOLDERS), run.provenance)
    files: dict[str, str] = {}
    for index, other in enumerate(others, 1):
        files |= _digests(open_record(other.directory), ("predictions.csv", "evaluation.json"), f"elsewhere-{index}/")
    if explanation is not None:
        files |= _digests(open_record(explanation.directory), ("explain.json", "explain.csv"), "explain/")
    return replace(run, elsewhere=others, explanation=explanation, files={**run.files, **files})


def _digests(record: Recorded, names: Sequence[str], label: str) -> dict[str, str]:
    """Return the recorded hashes of files, by the names that a report gives them."""
    return {f"{label}{found}": record.outputs[found] for name in names if (found := record.name_of(name))}


def _own_sources(run: RunInputs) -> dict[str, str]:
    """Return the fingerprints of sources that are not another laboratory's, with what they are."""
    audited = open_record(run.audit_folder, "audit").facts if run.audit_folder else {}
    records = [
        (run.evaluation.provenance if run.evaluation else {}, "the source of the report's own scores"),
        (audited, "the source that the model's training samples were taken from"),
        (run.provenance, "the source that the model was trained on"),
    ]
    return {source: words for record, words in records if (source := source_of(record))}


def _homes(path: Path) -> tuple[Path, Path]:
    """Return where a run's training lies, and the folder around it."""
    train = path / "train" if (path / "train").is_dir() else path
    return train, path if train != path else path.parent


def _nearby(path: Path, names: Sequence[str]) -> list[Path]:
    """Return where a stage's files may lie, inside a run's training and beside it."""
    return [home / name for home in dict.fromkeys(_homes(path)) for name in names]


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


def _load_run(path: Path, name: str, passed: Sequence[Path], *, answers: bool) -> RunInputs:
    train, root = _homes(path)
    trained = open_record(train, "train")
    files = _digests(trained, ("config.json", "model.json", "history.csv"), "train/")
    model = trained.read("model.json", TrainedModel)
    evaluation = _find_evaluation([*passed, *_nearby(path, _EVALUATION_FOLDERS)], trained.facts, answers=answers)
    if evaluation is not None:
        read = ("evaluation.json", "predictions.csv") if evaluation.answers is not None else ("evaluation.json",)
        files |= _digests(open_record(evaluation.directory), read, "evaluate/")
    audit, home = None, root / "audit"
    if home.is_dir():
        audited = open_record(home, "audit")
        audit = audited.read("audit.json", AuditSummary)
        files |= _digests(audited, ("audit.json", "statistics.csv"), "audit/")
        if table := audited.name_of("issues.csv"):  # as a person's decisions left it
            files[f"audit/{table}"] = decisions_digest(home)
    splits, used = _find_splits(trained, root, model.classes)
    dropped, listed = _find_dropped(root)
    overfit = None
    for index in _OVERFIT_FOLDERS:
        if overfit is None and (root / index / "overfit.json").is_file():
            checked = open_record(root / index, "overfit-check")
            overfit = checked.read("overfit.json", OverfitCheck)
            files |= _digests(checked, ("overfit.json",), f"{index}/")
    return RunInputs(
        name=name,
        config=_read_config(trained),
        model=model,
        history=_load_history(trained),
        provenance=trained.facts,
        evaluation=evaluation,
        audit=audit,
        audit_folder=home if audit is not None else None,
        splits=splits,
        dropped=dropped,
        overfit=overfit,
        files=files | used | listed,
    )


def _read_config(trained: Recorded) -> TrainConfig:
    """Read the configuration; raise ArtifactError where it is of another version."""
    try:
        return TrainConfig.model_validate_json(trained.bytes("config.json"))
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"])) or "config.json"
        rule = f"holds no configuration of this version ({key}: {error.errors()[0]['msg']})"
        raise ArtifactError(f"file {trained.home / 'config.json'}", rule, "train again") from None


def _find_splits(trained: Recorded, root: Path, classes: Sequence[str]) -> tuple[Splits | None, dict[str, str]]:
    """Count the table that the training used, else the one beside the run."""
    if trained.has("splits.csv"):
        return _count_splits(trained, classes), _digests(trained, ("splits.csv",), "train/")
    for name in ("splits.csv", "splits.parquet"):
        if (root / name).is_file():
            record = find_record(root / name) or file_record(root / name)
            return _count_splits(record, classes), _digests(record, (name,), "")
    return None, {}


def _find_dropped(root: Path) -> tuple[dict[str, int] | None, dict[str, str]]:
    """Count the list of dropped samples beside a run, or among the cells that were cleaned into a directory."""
    for name in ("dropped.csv", "dropped.parquet"):
        if not (root / name).is_file():
            continue
        for cleaned in sorted(root.glob(f"*.{PROVENANCE}")):
            record = file_record(cleaned.with_name(cleaned.name.removesuffix(f".{PROVENANCE}")))
            if record.command == "clean" and name in record.outputs:
                reasons = record.table(name, dict.fromkeys(("sample_id", "issue"), pl.String))["issue"].to_list()
                return dict(Counter(map(str, reasons)).most_common()), _digests(record, (name,), "")
        step = "clean again, or remove it"
        raise ArtifactError(f"file {root / name}", "is in no record beside it, so its origin is unknown", step)
    return None, {}


def _find_evaluation(folders: Sequence[Path], training: Mapping[str, Any], *, answers: bool) -> Evaluated | None:
    """Read the first evaluation of this training's model; one of another model is as good as none."""
    for folder in folders:
        if folder.is_dir() and (found := _load_evaluation(folder, training, answers=answers)) is not None:
            return found
    return None


def _load_evaluation(directory: Path, training: Mapping[str, Any], *, answers: bool) -> Evaluated | None:
    record = open_record(directory, "evaluate")
    made, used = set(training.get("outputs", {}).values()), set(record.inputs.values())
    if made and used and not made & used:
        return None
    scores = record.read("evaluation.json", Evaluation)
    kept = _load_answers(record, scores.classes) if answers and record.has("predictions.csv") else None
    return Evaluated(directory, scores, record.facts, kept)


def _load_answers(record: Recorded, classes: Sequence[str]) -> pl.DataFrame:
    table = record.table("predictions.csv", _PREDICTION_COLUMNS).select(list(_PREDICTION_COLUMNS))
    return table.filter(pl.col("label").is_in(list(classes))).sort("sample_id")


def _load_history(record: Recorded) -> dict[str, list[float | None]]:
    table = record.table("history.csv", _HISTORY_COLUMNS)
    columns = list(_HISTORY_COLUMNS)
    if _DISTORTED in table.columns:
        table = record.table("history.csv", {**_HISTORY_COLUMNS, _DISTORTED: pl.Float64})
        columns += [_DISTORTED] if table[_DISTORTED].is_not_null().any() else []
    return {name: table[name].to_list() for name in columns}


def _count_splits(record: Recorded, classes: Sequence[str]) -> Splits:
    table = record.table("splits.csv", {"label": pl.String, "group": pl.String, "split": pl.String})
    found = Counter(table.select("split", pl.col("label").fill_null(_UNLABELLED)).iter_rows())
    order = [name for name in ("train", "val", "test") if any(split == name for split, _ in found)]
    order += sorted({str(split) for split, _ in found} - set(order))
    labels = [*classes, *sorted({str(label) for _, label in found} - set(classes))]
    counts = {split: {label: found.get((split, label), 0) for label in labels} for split in order}
    return Splits(counts, table["group"].drop_nulls().n_unique())
