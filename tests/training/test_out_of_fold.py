"""Out-of-fold probabilities: nobody judges what it was trained on, nothing is torn apart, a killed run goes on."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hemalens.core.artifacts import PROVENANCE
from hemalens.core.errors import ArtifactError, ConfigError, SourceError
from hemalens.core.types import Sample
from hemalens.data.audit import audit
from hemalens.training.out_of_fold import choose_folds, out_of_fold
from tests.training.conftest import MakeSet

QUICK = (
    *("image_size=16", "oversample=1.0", "epochs=4", "batch_size=16", "precision=fp32", "threads=1", "device=cpu"),
    "augment=[{name='flip'}]",
)


@pytest.fixture
def source(tmp_path: Path, coloured: MakeSet) -> Path:
    """90 pictures of three colours, four of them under another's label, and a copy of the first."""
    made = coloured((30, 30, 30))
    labels = made.labels.copy()
    labels[[3, 33, 63, 64]] = [1, 2, 0, 0]
    np.savez(tmp_path / "cells.npz", images=[*made.images, made.images[0]], labels=[*labels, 0])
    return tmp_path / "cells.npz"


def made_of(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    return out_of_fold(source, out, **{"folds": 3, "settings": QUICK, "workers": 0, **options})


def test_wrong_labels_are_found_from_the_pictures_alone(source: Path, tmp_path: Path) -> None:
    summary = made_of(source, tmp_path / "oof")
    table = pl.read_csv(tmp_path / "oof" / "out_of_fold.csv")
    assert table.columns[:3] == ["sample_id", "label", "fold"]
    assert table.height == summary["judged"] == 90  # the copy is suggested to drop
    np.testing.assert_allclose(table.select(pl.sum_horizontal(pl.col("^p_.*$"))).to_numpy(), 1, atol=1e-4)
    assert all(abs(count - 30) <= 2 for count in Counter(table["fold"]).values())
    assert summary["folds"] == len(summary["accuracy_per_fold"]) == 3
    assert summary["accuracy"] > 0.85
    assert {path.name for path in (tmp_path / "oof").iterdir()} == {
        *("out_of_fold.csv", "out_of_fold.json", PROVENANCE)
    }
    found = audit(source, tmp_path / "audit", probabilities=tmp_path / "oof" / "out_of_fold.csv", workers=0)
    issues = pl.read_csv(tmp_path / "audit" / "issues.csv").filter(pl.col("issue") == "label_issue")
    assert {f"row-{row:06d}" for row in (3, 33, 63, 64)} <= set(issues["sample_id"])
    assert issues.height == found["issues"]["label_issue"]["samples"] <= 12


def test_a_label_does_not_teach_who_judges_it(source: Path, tmp_path: Path, coloured: MakeSet) -> None:
    """Exchanging a held-out label changes no answer on its fold: neither weights nor epoch depend on it."""
    made_of(source, tmp_path / "a")
    table = pl.read_csv(tmp_path / "a" / "out_of_fold.csv")
    fold = table["fold"][5]
    with np.load(source) as arrays:
        labels = arrays["labels"].copy()
        rows = [int(name.removeprefix("row-")) for name in table.filter(pl.col("fold") == fold)["sample_id"]]
        partner = next(row for row in rows if labels[row] != labels[5])
        labels[[5, partner]] = labels[[partner, 5]]  # two labels of one fold: the folds stay as they are
        np.savez(tmp_path / "b.npz", images=arrays["images"], labels=labels)
    made_of(tmp_path / "b.npz", tmp_path / "b")
    again = pl.read_csv(tmp_path / "b" / "out_of_fold.csv")
    if again["fold"].to_list() != table["fold"].to_list():
        pytest.skip("the exchange moved samples to other folds")
    chosen = pl.col("fold") == fold
    first, second = (one.filter(chosen).drop("label") for one in (table, again))
    assert first.equals(second)
    assert not table.drop("label").equals(again.drop("label"))


def test_a_killed_run_goes_on_after_its_last_fold_and_epoch_and_ends_with_the_same(
    source: Path, tmp_path: Path
) -> None:
    made_of(source, tmp_path / "whole")
    killed = 0
    for limit in (5, 9, 14, 20):
        steps = []

        def kill(what: str, done: int, total: int, limit: int = limit, steps: list[str] = steps) -> None:
            if what.endswith("training"):
                steps.append(what)
                if len(steps) > limit:
                    raise KeyboardInterrupt

        try:
            made_of(source, tmp_path / "cut", progress=kill)
        except KeyboardInterrupt:
            killed += 1
            assert not (tmp_path / "cut" / PROVENANCE).exists()
    assert killed >= 3
    fresh = []
    made_of(source, tmp_path / "cut", progress=lambda what, *_: fresh.append(what))
    assert not [what for what in fresh if what.startswith("fold 1 of 3: training")]
    names = ("out_of_fold.csv", "out_of_fold.json")
    assert [(tmp_path / "cut" / n).read_bytes() for n in names] == [
        (tmp_path / "whole" / n).read_bytes() for n in names
    ]


def test_what_is_there_is_used_again_and_what_is_of_something_else_is_refused(source: Path, tmp_path: Path) -> None:
    quick = {"settings": (*QUICK, "epochs=1")}
    first = made_of(source, tmp_path / "oof", **quick)
    said: list[str] = []
    assert made_of(source, tmp_path / "oof", progress=lambda what, *_: said.append(what), **quick) == first
    assert said == []
    with pytest.raises(ArtifactError, match="--overwrite"):
        made_of(source, tmp_path / "oof", **quick, folds=2)
    assert made_of(source, tmp_path / "oof", **quick, folds=2, overwrite=True)["folds"] == 2


def test_groups_and_copies_stay_in_one_fold_and_classes_are_shared_out_evenly() -> None:
    labels = ["ig", "monocyte"] * 60
    groups = [f"patient {place // 7}" if place < 42 else None for place in range(120)]
    links = [f"copies {place % 5}" if place >= 110 else None for place in range(120)]
    samples = [
        Sample(f"{place}", label, group) for place, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    folds = choose_folds(samples, links, 4, seed=1)
    for names in (groups, links):
        for name in {name for name in names if name}:
            assert len({folds[place] for place in range(120) if names[place] == name}) == 1
    counts = Counter(zip(labels, folds.tolist(), strict=True))
    assert len(counts) == 8
    assert max(counts.values()) - min(counts.values()) <= 3


@pytest.mark.parametrize(
    ("labels", "options", "error"),
    [
        (np.zeros(40), {}, SourceError),
        (np.arange(40) % 2, {"folds": 1}, ConfigError),
        (np.arange(40) % 2, {"settings": ("nonsense=1",)}, ConfigError),
        (np.arange(4) % 2, {}, SourceError),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path: Path, labels: Any, options: dict, error: type[Exception]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), np.uint8)
    np.savez(tmp_path / "odd.npz", images=images, labels=labels.astype(np.uint8))
    with pytest.raises(error):
        made_of(tmp_path / "odd.npz", tmp_path / "oof", **options)
