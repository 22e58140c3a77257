"""What a training stage looks at: the labelled samples of one split, enough of them, of two classes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hemalens.core.errors import ArtifactError, SourceError
from hemalens.data.selection import choose_split, open_assigned
from tests.training.kills import write_source


def test_the_source_s_own_split_is_kept_and_a_given_one_goes_before_it(tmp_path: Path) -> None:
    write_source(tmp_path)
    source, assigned = open_assigned(tmp_path / "cells.npz", None, seed=0)
    assert [name == "val" for name in assigned] == [row % 7 == 0 for row in range(42)]
    ids = [sample.sample_id for sample in source.samples]
    pl.DataFrame({"sample_id": ids, "split": ["train"] * 40 + ["test"] * 2}).write_csv(tmp_path / "splits.csv")
    _, assigned = open_assigned(tmp_path / "cells.npz", tmp_path / "splits.csv", seed=0)
    assert assigned == ["train"] * 40 + ["test"] * 2
    pl.DataFrame({"sample_id": ids[1:], "split": ["train"] * 41}).write_csv(tmp_path / "splits.csv")
    with pytest.raises(ArtifactError, match="row-000000"):
        open_assigned(tmp_path / "cells.npz", tmp_path / "splits.csv", seed=0)


def test_a_split_has_its_labels_and_indices_and_is_an_error_where_it_is_too_small(tmp_path: Path) -> None:
    write_source(tmp_path)
    source, assigned = open_assigned(tmp_path / "cells.npz", None, seed=0)
    labels, indices = choose_split(source, assigned, "val")
    assert indices == [0, 7, 14, 21, 28, 35]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(SourceError, match=r"split test of .* has 0 labelled samples, at least 1"):
        choose_split(source, assigned, "test")
    with pytest.raises(SourceError, match=r"split train of .* has 1 labelled samples, at least 2"):
        choose_split(source, ["train", *["val"] * 41], "train")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.full(4, 3))
    with pytest.raises(SourceError, match="needs at least two classes to train on, it has ig"):
        open_assigned(tmp_path / "one.npz", None, seed=0)
