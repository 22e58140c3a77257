"""The stages in order, nothing else: audit, clean, split, train, evaluate, report.

A stage whose inputs have not changed since it was completed is left alone, so a run that was killed anywhere goes on
from the last complete stage when the same command is given again; training goes on from its last checkpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from hemalens.core.artifacts import (
    check_vacant,
    find_table,
    is_complete,
    output_directory,
    read_json,
    read_provenance,
    text_digest,
    write_json,
)
from hemalens.core.audit_summary import AuditSummary
from hemalens.core.config import load_config
from hemalens.core.decisions import decisions_digest
from hemalens.core.errors import ArtifactError, SourceError
from hemalens.core.evaluation_summary import Evaluation
from hemalens.core.recorded import file_record, open_record
from hemalens.core.types import Progress, no_progress
from hemalens.data.audit.audit import audit
from hemalens.data.clean import clean
from hemalens.data.sources import open_source
from hemalens.data.split import RATIOS, SPLITS, parse_ratios, split
from hemalens.data.synthetic import write_synthetic
from hemalens.evaluation.evaluate import evaluate
from hemalens.report.report import write_report
from hemalens.training.recipes import find_recipe
from hemalens.training.train import DEFAULT_RECIPE, check_config, train

__all__ = ["demo", "run"]

_RECORD = "run.json"


def run(
    source: str | Path,
    out: Path,
    *,
    recipe: str = DEFAULT_RECIPE,
    settings: Sequence[str] = (),
    ratios: str = RATIOS,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Take a source the whole way into ``out`` and return the summary: counts, scores, the report's path.

    Args:
        source: any labelled SOURCE, as dirty as it comes.
        out: the directory to write; one that the same command began is gone on with.
        recipe: name of a training recipe or a TOML file.
        settings: ``key=value`` texts over the recipe.
        ratios: shares of train, val and test.
        seed: of the split and the training.
        overwrite: begin anew in a directory that holds another run.
        progress: called for the steps.
    """
    opened = open_source(source)
    parse_ratios(ratios)
    config = load_config(find_recipe(recipe), (*settings, f"seed={seed}"))
    options = {"ratios": ratios, "seed": seed, "recipe": recipe, "config": config.model_dump(mode="json")}
    inputs = {"source": opened.fingerprint()}
    # Arrays are cleaned into an array file, files into class folders: each keeps its own bytes.
    cleaned, splits = out / ("clean.npz" if opened.in_memory else "clean"), out / "splits.csv"
    audited, trained, evaluated = out / "audit", out / "train", out / "evaluate"
    check_config(config)
    plan = {"options": options, "inputs": inputs}
    _begun(out, plan, overwrite=overwrite)
    with output_directory(out, "run", resume=True, seed=seed, inputs=inputs, options=options):
        work = _begin(out, plan, overwrite=overwrite)
        work.stage("audit", audited, inputs, lambda _: audit(source, audited, overwrite=True, progress=progress))
        work.stage(
            "clean",
            cleaned,
            {"decisions": decisions_digest(audited)},
            lambda _: clean(source, cleaned, audit=audited, overwrite=True, progress=progress),
        )
        work.stage(
            "split",
            splits,
            {"clean": _written(cleaned)},
            lambda _: split(
                cleaned, splits, ratios=ratios, seed=seed, audit=audited, overwrite=True, progress=progress
            ),
        )
        _check_splits(splits)
        work.stage(
            "train",
            trained,
            {"clean": _written(cleaned), "splits": _written(splits)},
            lambda begun: train(
                cleaned,
                trained,
                splits=splits,
                recipe=recipe,
                settings=(*settings, f"seed={seed}"),
                resume=begun,
                overwrite=True,
                progress=progress,
            ),
        )
        work.stage(
            "evaluate",
            evaluated,
            {"train": _written(trained), "splits": _written(splits)},
            lambda _: evaluate(
                trained, cleaned, evaluated, splits=splits, audit=audited, overwrite=True, progress=progress
            ),
        )
        write_report(out / "report.html", [out])
    return _summary(out)


def demo(
    out: Path,
    *,
    per_class: int = 200,
    settings: Sequence[str] = (),
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Render the synthetic set into ``out/cells`` and run it the whole way into ``out/synthetic``; return its summary.

    Args:
        out: the directory to write; one that the same command began is gone on with.
        per_class: synthetic cells rendered for each of the eight classes.
        settings: ``key=value`` texts over the recipe ``demo``.
        seed: of the rendering, the split and the training.
        overwrite: begin anew.
        progress: called for the steps.
    """
    cells = out / "cells"
    rendered = cells / "synthetic.npz"
    options = {"per_class": per_class, "seed": seed}
    if overwrite or not is_complete(cells, options=options, inputs={}):
        with output_directory(cells, "demo", overwrite=overwrite, seed=seed, options=options):
            write_synthetic(rendered, per_class, seed=seed, progress=progress)
    # The folder gives the report its title, so the report says that the cells are synthetic.
    folder = out / "synthetic"
    return run(rendered, folder, recipe="demo", settings=settings, seed=seed, overwrite=overwrite, progress=progress)


@dataclass(frozen=True, slots=True)
class _Work:
    """Which stages were begun and completed from which inputs; kept in ``run.json``."""

    record: dict[str, Any]
    path: Path

    def stage(self, name: str, output: Path, inputs: Mapping[str, str], perform: Callable[[bool], object]) -> None:
        """Perform a stage unless it was completed from these inputs; tell it whether it was begun from them."""
        digest = text_digest(repr(sorted(inputs.items())))
        begun, done = self.record["begun"], self.record["done"]
        present = output.exists() or find_table(output) is not None  # a large table is Parquet
        if done.get(name) == digest and present and read_provenance(output) is not None:
            return
        resumed = begun.get(name) == digest
        begun[name] = digest
        done.pop(name, None)
        write_json(self.path, self.record)
        perform(resumed)
        done[name] = digest
        write_json(self.path, self.record)


def _begun(out: Path, plan: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """Return the record of an earlier run of the same plan in ``out``, None where there is none; touch nothing."""
    path = out / _RECORD
    if path.is_file() and not overwrite:
        record = read_json(path)
        parts = [record.get(key) for key in ("plan", "begun", "done")]
        if not all(isinstance(part, dict) for part in (*parts, *(record.get("plan") or {}).values())):
            raise ArtifactError(f"file {path}", "is no record of a run", "add --overwrite to start again")
        for part, wanted in plan.items():
            for key, value in wanted.items():
                if record["plan"].get(part, {}).get(key) != value:
                    rule = f"holds a run with another {key}"
                    raise ArtifactError(
                        f"directory {out}", rule, "choose another --out, or add --overwrite to start again"
                    )
        return record
    check_vacant(out, overwrite=overwrite)
    return None


def _begin(out: Path, plan: Mapping[str, Any], *, overwrite: bool) -> _Work:
    """Go on with an earlier run of the same plan in ``out``, or begin a new one."""
    path = out / _RECORD
    found = read_json(path) if path.is_file() and not overwrite else None
    work = _Work(found or {"plan": dict(plan), "begun": {}, "done": {}}, path)
    write_json(path, work.record)
    return work


def _check_splits(splits: Path) -> None:
    """Raise where a split has no sample before the hours of training, not after them."""
    found = set(file_record(splits, "split").table(splits.name, {"split": pl.String})["split"].to_list())
    for name in SPLITS:
        if name not in found:
            step = "use more samples, or start again with larger shares, for example --ratios 6:2:2 --overwrite"
            raise SourceError(f"split {name} in {splits}", "has no sample", step)


def _written(output: Path) -> str:
    """Return a digest of what a stage wrote, from the hashes in its provenance."""
    found = (file_record(output) if output.is_file() or find_table(output) else open_record(output)).facts
    return text_digest(repr(sorted(found.get("outputs", {}).items())))


def _summary(out: Path) -> dict[str, Any]:
    evaluation = open_record(out / "evaluate", "evaluate").read("evaluation.json", Evaluation).to_json()
    audited = open_record(out / "audit", "audit").read("audit.json", AuditSummary)
    return {
        "n_samples": audited.n_samples,
        "suggested_drops": audited.suggested_drops,
        "n_test": evaluation["n"],
        "accuracy": evaluation["accuracy"],
        "macro_f1": evaluation["macro_f1"],
        "distorted": evaluation["distorted"],
        "train_seconds": open_record(out / "train", "train").json("model.json")["train_seconds"],
        "report": str(out / "report.html"),
    }
