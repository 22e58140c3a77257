"""What a report may know beyond its runs: scores on other laboratories' cells, and heat maps of a model.

Like everything that a report reads, each was written to its end by an earlier stage. Needs neither torch nor anything
of training.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import polars as pl

from hemalens.core.errors import ArtifactError
from hemalens.core.records import Record, open_record

__all__ = [
    "EVALUATION_KEYS",
    "Elsewhere",
    "Explanation",
    "find_explanation",
    "read_elsewhere",
    "source_of",
]

EVALUATION_KEYS = ("n", "classes", "accuracy", "balanced_accuracy", "macro_f1", "per_class", "confusion_matrix")
"""What every ``evaluation.json`` holds."""

_ANSWER_COLUMNS = dict.fromkeys(("label", "predicted", "abstained"), pl.String)
_EXPLANATION_KEYS = ("n_explained", "map_size", "method", "check")
_EXPLAINED_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "sample_id": pl.String,
    "label": pl.String,
    "predicted": pl.String,
    "confidence": pl.Float64,
    "map": pl.String,
}


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What ``evaluate`` found out about one model on the cells of another laboratory.

    Attributes:
        directory: where it lies.
        name: of the source; two sources of one report have two names.
        source: the fingerprint of its contents.
        scores: the contents of ``evaluation.json``.
        provenance: of the directory.
        refused: samples of classes that the model knows which it refused.
        kept_right: samples of those classes which it answered, rightly.
        strangers: class that the model does not know -> its samples, and how many of them were refused.
        named: class of the model -> how many of the strangers were answered with it.
    """

    directory: Path
    name: str
    source: str
    scores: Mapping[str, Any]
    provenance: Mapping[str, Any]
    refused: int
    kept_right: int
    strangers: Mapping[str, tuple[int, int]]
    named: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``explain`` drew of one model.

    Attributes:
        directory: where it lies; the heat maps are inside.
        facts: the contents of ``explain.json``.
        provenance: of the directory.
        samples: sample_id, label, predicted, confidence and map of the explained samples, the worst mistakes first.
    """

    directory: Path
    facts: Mapping[str, Any]
    provenance: Mapping[str, Any]
    samples: pl.DataFrame

    @property
    def source(self) -> str | None:
        """The fingerprint of the source whose samples were explained, None where it was not recorded."""
        return source_of(self.provenance)


def source_of(provenance: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of the source that a stage read, None where it was not recorded."""
    found: str | None = provenance.get("inputs", {}).get("source")
    return found


def read_elsewhere(
    directories: Iterable[Path], training: Mapping[str, Any], own: Mapping[str, str]
) -> tuple[Elsewhere, ...]:
    """Read evaluations of one model on the cells of other laboratories.

    Args:
        directories: folders of ``hemalens evaluate``; one that is named twice is read once.
        training: the provenance of the model's training.
        own: fingerprint of a source that is not another laboratory's -> what it is, in words.

    Raises ArtifactError where one is incomplete or damaged, of another model, or of one of the model's own sources.
    """
    found = [_read_elsewhere(one, training, own) for one in {path.resolve(): path for path in directories}.values()]
    specs = [str(scores.get("source", record.home.name)) for record, scores in found]
    sources = [str(source_of(record.facts)) for record, _ in found]
    names = _source_names(specs, sources)
    return tuple(_counted(*one, name, source) for one, name, source in zip(found, names, sources, strict=True))


def find_explanation(folders: Iterable[Path], training: Mapping[str, Any]) -> Explanation | None:
    """Read the first explanation of a training's model; one of another model is as good as none.

    Raises ArtifactError where a folder that is there is incomplete or damaged.
    """
    for folder in folders:
        if not folder.is_dir():
            continue
        record = open_record(folder, "explain")
        if _is_of_model(record.facts, training):
            facts = record.json("explain.json", _EXPLANATION_KEYS)
            samples = record.table("explain.csv", _EXPLAINED_COLUMNS).select(list(_EXPLAINED_COLUMNS))
            return Explanation(folder, facts, record.facts, samples)
    return None


def _is_of_model(provenance: Mapping[str, Any], training: Mapping[str, Any]) -> bool:
    weights = training.get("outputs", {}).get("model.safetensors")
    return weights is not None and provenance.get("inputs", {}).get("model") == weights


def _read_elsewhere(
    directory: Path, training: Mapping[str, Any], own: Mapping[str, str]
) -> tuple[Record, dict[str, Any]]:
    """Return an evaluation's record and scores, where they are of this model and of another laboratory."""
    record, what = open_record(directory, "evaluate"), f"evaluation {directory}"
    if not _is_of_model(record.facts, training):
        rule = "is of another model than that of the report's first run"
        raise ArtifactError(what, rule, "evaluate that run on the other laboratory's cells")
    source = source_of(record.facts)
    if source is None:
        rule = "does not record what it scored, so nothing tells whether that is another laboratory"
        raise ArtifactError(what, rule, "evaluate anew")
    if source in own:
        rule = f"scored {own[source]}: these are not the cells of another laboratory"
        raise ArtifactError(what, rule, "name an evaluation of another laboratory's cells in --elsewhere")
    return record, record.json("evaluation.json", EVALUATION_KEYS)


def _counted(record: Record, scores: Mapping[str, Any], name: str, source: str) -> Elsewhere:
    """Count what was refused, of the classes that the model knows and of those that it does not."""
    table = record.table("predictions.csv", _ANSWER_COLUMNS).drop_nulls("label")
    table = table.with_columns(pl.col("abstained") == "true")
    known = table.filter(pl.col("label").is_in(list(scores["classes"])))
    strange = table.filter(~pl.col("label").is_in(list(scores["classes"])))
    kept = known.filter(~pl.col("abstained"))
    samples, refused = (Counter(part["label"]) for part in (strange, strange.filter("abstained")))
    return Elsewhere(
        directory=record.home,
        name=name,
        source=source,
        scores=scores,
        provenance=record.facts,
        refused=known.height - kept.height,
        kept_right=kept.filter(pl.col("label") == pl.col("predicted")).height,
        strangers={label: (count, refused[label]) for label, count in samples.most_common()},
        named=dict(Counter(strange.filter(~pl.col("abstained"))["predicted"]).most_common()),
    )


def _source_names(specs: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return what each source is called: its file, with as many folders as tell it from sources of other contents."""
    for depth in (1, 2):
        names = ["/".join(PurePath(spec).parts[-depth:]) for spec in specs]
        if len(set(names)) == len(set(zip(names, sources, strict=True))):
            return names
    return list(specs)
