"""The whole way: every artifact is there, nothing is done twice, and a run cut off anywhere ends like any other."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from hemalens import pipeline
from hemalens.core.artifacts import read_json
from hemalens.core.errors import ConfigError, HemalensError, SourceError
from hemalens.core.provenance import sha256_file
from hemalens.data.audit import statistics
from hemalens.data.reading.decode import Decoded
from hemalens.data.split import split
from hemalens.data.synthetic import SyntheticSet, synthetic_set
from hemalens.pipeline import demo, run

SETTINGS = (
    *("image_size=16", "epochs=1", "batch_size=16", "per_class=16", "threads=1", "device=cpu", "precision=fp32"),
    "augment=[{name='flip'}]",
)
STAGES = ("audit", "clean", "split", "train", "evaluate", "report")
OUTPUTS = {
    "audit": "audit/audit.json",
    "clean": "clean.npz",
    "split": "splits.csv",
    "train": "train/model.safetensors",
    "evaluate": "evaluate/evaluation.json",
    "report": "report.html",
}


@pytest.fixture(scope="module")
def cells() -> SyntheticSet:
    return synthetic_set({"basophil": 14, "lymphocyte": 14, "platelet": 14}, size=24)


@pytest.fixture(scope="module")
def source(cells: SyntheticSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "cells.npz"
    np.savez(path, images=cells.images, labels=cells.labels)
    return path


@pytest.fixture(scope="module")
def measured() -> list[tuple[int, int]]:
    """The size of each image that ``finished`` measured."""
    return []


@pytest.fixture(scope="module")
def finished(source: Path, measured: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never cut off."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_reduce", counting(measured))
        run(source, out, settings=SETTINGS, ratios="6:2:2")
    return out


def counting(measured: list[tuple[int, int]]) -> Callable[[Decoded, bytes], Any]:
    """Return what measures an image and counts it; a few images are measured in this process."""
    reduce = statistics._reduce

    def counted(image: Decoded, encoded: bytes) -> Any:
        measured.append(image.size)
        return reduce(image, encoded)

    return counted


def go(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    return run(source, out, **{"settings": SETTINGS, "ratios": "6:2:2", **options})


def stamps(out: Path) -> dict[str, int]:
    return {stage: (out / name).stat().st_mtime_ns for stage, name in OUTPUTS.items()}


def changed(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    return [stage for stage in STAGES if before[stage] != after[stage]]


def same_model(one: Path, two: Path) -> bool:
    return sha256_file(one / "train" / "model.safetensors") == sha256_file(two / "train" / "model.safetensors")


def test_tables_of_a_million_rows_are_parquet_and_are_read_by_every_stage(
    finished: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    monkeypatch.setattr("hemalens.core.artifacts._PARQUET_ROWS", 2)  # the history has one row an epoch
    go(source, tmp_path / "out")
    again = stamps_of_tables(tmp_path / "out")
    assert {path.suffix for path in again} == {".parquet"}
    names = ("audit/manifest", "audit/statistics", "audit/issues", "splits", "evaluate/predictions")
    assert {path.relative_to(tmp_path / "out").with_suffix("").as_posix() for path in again} >= set(names)
    for name in names:
        one, two = tmp_path / "out" / f"{name}.parquet", finished / f"{name}.csv"
        assert pl.read_parquet(one).shape == pl.read_csv(two).shape
    assert same_model(tmp_path / "out", finished)
    go(source, tmp_path / "out")
    assert stamps_of_tables(tmp_path / "out") == again, "nothing is done twice"


def stamps_of_tables(out: Path) -> dict[Path, int]:
    tables = (path for path in out.rglob("*") if path.suffix in (".csv", ".parquet") and path.name != "history.csv")
    return {path: path.stat().st_mtime_ns for path in tables}


def test_a_run_writes_every_artifact_and_the_report_last(finished: Path, cells: SyntheticSet) -> None:
    times = stamps(finished)
    assert list(times.values()) == sorted(times.values())
    for name in (
        "audit/audit.html",
        "audit/issues.csv",
        "dropped.csv",
        "train/history.csv",
        "report.pdf",
        "model_card.md",
        "evaluate/predictions.csv",
    ):
        assert (finished / name).is_file()
    for name in ("provenance.json", "audit/provenance.json", "train/provenance.json", "evaluate/provenance.json"):
        assert (finished / name).is_file()
    assert not list(finished.rglob(".hemalens-started"))
    evaluation, audited = read_json(finished / "evaluate/evaluation.json"), read_json(finished / "audit/audit.json")
    assert evaluation["split"] == "test"
    assert audited["n_samples"] == len(cells.labels)
    assert audited["suggested_drops"] > 0
    with np.load(finished / "clean.npz") as clean:
        assert len(clean["images"]) == audited["n_samples"] - audited["suggested_drops"]


def test_a_run_measures_each_image_once(
    finished: Path, cells: SyntheticSet, measured: list[tuple[int, int]], tmp_path: Path
) -> None:
    assert len(measured) == len(cells.labels)
    split(finished / "clean.npz", tmp_path / "splits.csv", ratios="6:2:2")
    assert (tmp_path / "splits.csv").read_bytes() == (finished / "splits.csv").read_bytes()


def test_the_summary_says_what_was_found(source: Path, finished: Path) -> None:
    summary = go(source, finished)
    evaluation = read_json(finished / "evaluate" / "evaluation.json")
    assert summary["report"] == str(finished / "report.html")
    assert (summary["n_test"], summary["accuracy"]) == (evaluation["n"], evaluation["accuracy"])
    assert {"n_samples", "suggested_drops", "macro_f1", "distorted", "train_seconds"} <= summary.keys()


def test_the_same_command_again_does_nothing_but_the_report(source: Path, finished: Path) -> None:
    before = stamps(finished)
    go(source, finished)
    assert changed(before, stamps(finished)) == ["report"]


@pytest.mark.usefixtures("undrawn")
def test_an_edited_decision_is_obeyed_by_all_stages_after_the_audit(source: Path, tmp_path: Path) -> None:
    go(source, tmp_path / "out")
    before, issues = stamps(tmp_path / "out"), pl.read_csv(tmp_path / "out/audit/issues.csv", infer_schema=False)
    with np.load(tmp_path / "out" / "clean.npz") as clean:
        kept = len(clean["ids"])
    row = issues.filter(pl.col("suggestion") == "drop").row(0, named=True)["sample_id"]
    chosen = pl.when(pl.col("sample_id") == row).then(pl.lit("keep")).otherwise("suggestion")
    issues.with_columns(chosen.alias("suggestion")).write_csv(tmp_path / "out/audit/issues.csv")
    go(source, tmp_path / "out")
    assert changed(before, stamps(tmp_path / "out")) == list(STAGES[1:])
    with np.load(tmp_path / "out" / "clean.npz") as clean:
        assert len(clean["ids"]) == kept + 1
        assert row in clean["ids"]


def killed(when: str, stage: Callable[..., Any]) -> Callable[..., Any]:
    def perform(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            stage(*arguments, **options)
        raise KeyboardInterrupt

    return perform


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_around_every_stage_ends_with_the_same_model(
    when: str, source: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in STAGES:
        name = "write_report" if stage == "report" else stage
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, name, killed(when, getattr(pipeline, name)))
            with pytest.raises(KeyboardInterrupt):
                go(source, tmp_path)
        assert not (tmp_path / "provenance.json").exists()
    go(source, tmp_path)
    assert (tmp_path / "provenance.json").exists()
    assert same_model(tmp_path, finished)


@pytest.mark.usefixtures("undrawn")
def test_training_goes_on_where_it_was_killed(source: Path, tmp_path: Path) -> None:
    settings = (*SETTINGS, "epochs=3")
    go(source, tmp_path / "whole", settings=settings)

    def pull_the_plug(what: str, done: int, _total: int) -> None:
        if what == "training" and done == 7:  # 3 steps an epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(source, tmp_path / "cut", settings=settings, progress=pull_the_plug)
    first: list[int] = []

    def watch(what: str, done: int, _total: int) -> None:
        if what == "training":
            first.append(done)

    go(source, tmp_path / "cut", settings=settings, progress=watch)
    assert first[0] == 6
    assert same_model(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.usefixtures("undrawn")
def test_a_deleted_output_is_made_again(source: Path, finished: Path) -> None:
    before = sha256_file(finished / "splits.csv")
    (finished / "splits.csv").unlink()
    go(source, finished)
    assert sha256_file(finished / "splits.csv") == before


@pytest.mark.parametrize(
    ("options", "named"),
    [({"recipe": "baseline"}, "recipe"), ({"seed": 1}, "seed"), ({"ratios": "7:2:1"}, "ratios")],
)
def test_another_run_in_the_same_place_is_refused(
    options: dict[str, Any], named: str, source: Path, finished: Path
) -> None:
    before = stamps(finished)
    with pytest.raises(HemalensError, match=f"holds a run with another {named}.*--overwrite"):
        go(source, finished, **options)
    assert stamps(finished) == before


@pytest.mark.usefixtures("undrawn")
def test_another_run_replaces_the_first_on_demand(source: Path, finished: Path, tmp_path: Path) -> None:
    go(source, tmp_path / "out", seed=1)
    go(source, tmp_path / "out", overwrite=True)
    assert same_model(tmp_path / "out", finished)
    assert read_json(tmp_path / "out" / "train" / "config.json")["seed"] == 0


@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_images_is_cleaned_into_a_folder(cells: SyntheticSet, tmp_path: Path) -> None:
    for row, (image, label) in enumerate(zip(cells.images, cells.labels, strict=True)):
        folder = tmp_path / "cells" / cells.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row:03d}.png")
    go(tmp_path / "cells", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (tmp_path / "out" / "clean.npz").exists()
    kept = sorted(path.relative_to(tmp_path / "out" / "clean") for path in (tmp_path / "out/clean").rglob("*.png"))
    summary = read_json(tmp_path / "out" / "audit" / "audit.json")
    assert len(kept) == summary["n_samples"] - summary["suggested_drops"]
    name = kept[0]
    assert (tmp_path / "out/clean" / name).read_bytes() == (tmp_path / "cells" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"settings": ("model=nonesuch",)}, ConfigError),
        ({"settings": ("augment=[{name='twirl'}]",)}, ConfigError),
        ({"ratios": "1:2"}, ConfigError),
        ({"recipe": "nonesuch"}, ConfigError),
        ({"seed": 2**32}, ConfigError),
        ({"source": "nowhere.npz"}, SourceError),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    options: dict[str, Any], kind: type[HemalensError], source: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind):
        run(options.pop("source", source), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_place_with_files_of_somebody_else_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(HemalensError, match="not empty"):
        go(source, tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_the_demo_goes_on_where_it_was_killed_and_keeps_what_it_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = synthetic_set({"basophil": 30, "lymphocyte": 30}, size=24)

    def render(path: Path, _per_class: int, **_: Any) -> None:
        np.savez(path, images=small.images, labels=small.labels)

    monkeypatch.setattr(pipeline, "write_synthetic", render)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", killed("before", run))
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path, per_class=30, settings=SETTINGS)
    (rendered,) = tmp_path.rglob("synthetic.npz")
    stamp = rendered.stat().st_mtime_ns
    summary = demo(tmp_path, per_class=30, settings=SETTINGS)
    assert rendered.stat().st_mtime_ns == stamp
    assert Path(summary["report"]).is_file()
    assert tmp_path in Path(summary["report"]).parents
    with pytest.raises(HemalensError, match="exists already"):
        demo(tmp_path, per_class=31, settings=SETTINGS)
