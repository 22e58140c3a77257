"""Files whose names a spreadsheet would run go the whole way: every id comes back, no cell is a formula."""

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from hemalens.core.artifacts import read_table
from hemalens.data.audit import audit
from hemalens.data.clean import clean
from hemalens.data.decisions import read_issues
from hemalens.data.sources import open_source
from hemalens.data.split import read_splits, split
from hemalens.deployment.predict import predict
from hemalens.evaluation.evaluate import evaluate
from tests.deployment.conftest import Exported

BEGINNINGS = ("=1+1", "-cell", "+a", "@b", "'=c", "''-d", "'tis", "x;=e", '=cmd|" &')
LABELS = {0: "basophil", 4: "lymphocyte", 7: "platelet"}  # in the challenge's order
SIGNS = ("=", "+", "-", "@")


@pytest.fixture
def listed(exported: Exported, tmp_path: Path) -> Path:
    """A list of cells, the first of them three times; each name begins like a formula or nearly so."""
    stored = np.load(exported.source)
    rows = []
    for place, image in enumerate(stored["images"]):
        name = f"{BEGINNINGS[place % len(BEGINNINGS)]}{place:02d}.png"
        Image.fromarray(image).save(tmp_path / name)
        rows.append({"path": name, "label": LABELS[stored["labels"][place].item()]})
    for name in ("=copy.png", "-copy.png"):
        (tmp_path / name).write_bytes((tmp_path / rows[0]["path"]).read_bytes())
        rows.append({"path": name, "label": rows[0]["label"]})
    pl.DataFrame(rows).write_csv(tmp_path / "list.csv")
    return tmp_path / "list.csv"


def test_names_like_formulas_go_from_audit_to_predictions(exported: Exported, listed: Path, tmp_path: Path) -> None:
    ids = [sample.sample_id for sample in open_source(listed).samples]
    assert {"=copy.png", "-cell01.png", "''-d05.png"} < set(ids)
    audit(listed, tmp_path / "audit", workers=0)
    assert read_table(tmp_path / "audit" / "manifest.csv", {})["sample_id"].to_list() == ids
    copies = read_issues(tmp_path / "audit").filter(pl.col("issue") == "exact_duplicate")
    assert {"=1+100.png", "=copy.png", "-copy.png"} <= set(copies["sample_id"])

    clean(listed, tmp_path / "clean.npz", audit=tmp_path / "audit")
    dropped = set(read_table(tmp_path / "dropped.csv", {})["sample_id"])
    assert {"=copy.png", "-copy.png"} <= dropped
    kept = [sample.sample_id for sample in open_source(tmp_path / "clean.npz").samples]
    assert kept == [name for name in ids if name not in dropped]

    split(tmp_path / "clean.npz", tmp_path / "splits.csv", ratios="1:1:1")
    sides = read_splits(tmp_path / "splits.csv", open_source(tmp_path / "clean.npz").samples)
    assert len(sides) == len(kept)
    evaluate(exported.onnx, tmp_path / "clean.npz", tmp_path / "scores", splits=tmp_path / "splits.csv")
    tested = read_table(tmp_path / "scores" / "predictions.csv", {})["sample_id"].to_list()
    assert tested == [name for name, side in zip(kept, sides, strict=True) if side == "test"]

    predict(tmp_path / "clean.npz", tmp_path / "predictions.csv", model=exported.onnx, workers=0)
    assert read_table(tmp_path / "predictions.csv", {})["sample_id"].to_list() == kept

    tables = [path for path in tmp_path.rglob("*.csv") if path != listed]
    assert len(tables) == 7
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        texts = [part for cell in cells if not _is_number(cell) for part in cell.split(";")]
        assert not [text for text in texts if text.startswith(SIGNS)], path


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
