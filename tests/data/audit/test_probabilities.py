"""Files of probabilities: aligned by sample id, refused by name where they are of something else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hemalens.core.errors import ArtifactError
from hemalens.data.audit.probabilities import read_probabilities
from tests.data.measured import samples_of

SAMPLES = samples_of(["ig", "monocyte", None, "ig"])
CLASSES = ("ig", "monocyte", "platelet")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def perform(ids: list[str], **columns: object) -> Path:
        pl.DataFrame({"sample_id": ids, **columns}).write_csv(tmp_path / "p.csv")
        return tmp_path / "p.csv"

    return perform


def test_rows_are_put_in_the_order_of_the_source_and_absent_ones_stay_empty(write: Write) -> None:
    path = write(["row-000003", "row-000000"], p_monocyte=[0.9, 0.2], p_ig=[0.1, 0.8], predicted=["ig", "ig"])
    values = read_probabilities(path, SAMPLES, CLASSES)
    np.testing.assert_allclose(values[[0, 3]], [[0.8, 0.2, 0.0], [0.1, 0.9, 0.0]])
    assert np.isnan(values[[1, 2]]).all()


def test_parquet_and_plain_arrays_are_read_as_well(tmp_path: Path) -> None:
    chances = np.array([[0.5, 0.5, 0], [1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.5]])
    np.save(tmp_path / "p.npy", chances.astype(np.float32))
    names = [sample.sample_id for sample in SAMPLES]
    columns = {f"p_{name}": chances[:, index] for index, name in enumerate(CLASSES)}
    pl.DataFrame({"sample_id": names, **columns}).write_parquet(tmp_path / "p.parquet")
    for name in ("p.npy", "p.parquet"):
        np.testing.assert_allclose(read_probabilities(tmp_path / name, SAMPLES, CLASSES), chances, atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "columns", "message"),
    [
        (["row-000009"], {"p_ig": [1.0], "p_monocyte": [0.0]}, "sample row-000009 .*is not in the source"),
        (["row-000000"] * 2, {"p_ig": [1.0] * 2, "p_monocyte": [0.0] * 2}, "sample row-000000 .*is there twice"),
        (["row-000000"], {"p_ig": [1.0]}, "lacks the column 'p_monocyte'"),
        (["row-000000"], {"p_ig": [0.7], "p_monocyte": [0.7]}, "probabilities of row-000000 .*sum to 1"),
        (["row-000000"], {"p_ig": [4.0], "p_monocyte": [-3.0]}, "probabilities of row-000000 .*not logits"),
        (["row-000000"], {"p_ig": ["much"], "p_monocyte": [0.0]}, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(write: Write, ids: list[str], columns: dict, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_probabilities(write(ids, **columns), SAMPLES, CLASSES)


@pytest.mark.parametrize("array", [np.zeros((4, 2)), np.zeros((3, 3)), np.zeros((4, 3), int)])
def test_an_array_of_another_shape_or_kind_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(ArtifactError, match=r"must be \(4, 3\) of floats"):
        read_probabilities(tmp_path / "p.npy", SAMPLES, CLASSES)


def test_a_file_that_is_missing_or_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        read_probabilities(tmp_path / "none.csv", SAMPLES, CLASSES)
    (tmp_path / "p.npy").write_bytes(b"no array")
    for name in ("p.npy", "other.npy"):
        with pytest.raises(ArtifactError, match="cannot be read as an array"):
            read_probabilities(tmp_path / name, SAMPLES, CLASSES)
