"""Predictions of whole sources: every sample a row, whatever it is, however often the run is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from hemalens.core.artifacts import read_provenance
from hemalens.core.errors import ArtifactError, ConfigError
from hemalens.data.scale import ZOOMS, Scale, zoomed
from hemalens.inference import chunks
from hemalens.inference import predict as module
from hemalens.inference.chunks import schema
from hemalens.inference.model import Model, to_pixels
from hemalens.inference.predict import predict
from tests.exported import Exported

PARTS = ".predictions.csv.parts"


@pytest.fixture
def folder(exported: Exported, tmp_path: Path) -> Path:
    """150 images in class folders, three of them damaged."""
    stored = np.load(exported.source)
    for index in range(150):
        row = index % len(stored["images"])
        path = tmp_path / "cells" / ("basophil", "lymphocyte", "platelet")[index // 50] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stored["images"][row]).save(path)
    for index, broken in ((3, b"no image"), (64, b""), (149, b"\x89PNG\r\n\x1a\n")):
        next((tmp_path / "cells").rglob(f"{index:03d}.png")).write_bytes(broken)
    return tmp_path / "cells"


def test_every_sample_has_a_row_and_unreadable_ones_a_reason(exported: Exported, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    summary = predict(folder, out, model=exported.onnx, workers=0)
    table = pl.read_csv(out)
    classifier = Model.open(exported.onnx)
    assert table.columns == list(schema(classifier.classes_.tolist()))
    paths = sorted(folder.rglob("*.png"))
    assert table["sample_id"].to_list() == [path.relative_to(folder).as_posix() for path in paths]
    assert table["label"].to_list() == [path.parent.name for path in paths]
    broken = table.filter(pl.col("predicted").is_null())
    assert [Path(name).stem for name in broken["sample_id"]] == ["003", "064", "149"]
    assert broken["reason"].str.starts_with("unreadable: ").all()
    assert broken["abstained"].all()
    assert broken["confidence"].null_count() == 3
    sound = table.filter(pl.col("predicted").is_not_null())
    readable = [path for path in paths if path.stem not in {"003", "064", "149"}]
    assert sound["predicted"].to_list() == classifier.predict(readable).tolist()
    wanted = classifier.predict_proba(readable)
    np.testing.assert_allclose(sound.select("^p_.*$").to_numpy(), wanted, atol=2e-6)
    assert (summary["n_samples"], summary["n_unreadable"], summary["n_abstained"]) == (150, 3, table["abstained"].sum())
    assert summary["predicted"] == dict(sorted(sound.group_by("predicted").len().iter_rows()))
    record = read_provenance(out)
    assert record is not None
    assert (record["command"], set(record["inputs"])) == ("predict", {"source", "model"})
    assert not (tmp_path / PARTS).exists()


def test_folders_archives_arrays_and_shards_have_the_same_rows(
    exported: Exported, folder: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.make_archive(str(tmp_path / "cells_zip"), "zip", folder)
    (tmp_path / "shards").mkdir()
    shutil.make_archive(str(tmp_path / "shards" / "one"), "tar", folder)
    predict(folder, tmp_path / "a.csv", model=exported.onnx, workers=0)
    predict(tmp_path / "cells_zip.zip", tmp_path / "b.parquet", model=exported.onnx, workers=0)
    predict(tmp_path / "shards", tmp_path / "c.csv", model=exported.onnx, workers=0)
    columns = pl.exclude("sample_id")
    wanted = pl.read_csv(tmp_path / "a.csv").select(columns)
    assert wanted.equals(pl.read_parquet(tmp_path / "b.parquet").select(columns))
    assert wanted.equals(pl.read_csv(tmp_path / "c.csv").select(columns))
    stored = np.load(exported.source)
    np.save(tmp_path / "unlabelled.npy", stored["images"])
    summary = predict(tmp_path / "unlabelled.npy", tmp_path / "d.csv", model=exported.onnx, workers=0)
    table = pl.read_csv(tmp_path / "d.csv")
    assert summary["n_samples"] == table["label"].null_count() == len(stored["images"])
    assert table["predicted"].to_list() == Model.open(exported.onnx).predict(stored["images"]).tolist()


def test_processes_give_the_same_table(exported: Exported, folder: Path, tmp_path: Path) -> None:
    predict(folder, tmp_path / "a.csv", model=exported.onnx, workers=0)
    predict(folder, tmp_path / "b.csv", model=exported.onnx, workers=1)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_it_goes_on_after_the_last_part(
    exported: Exported, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_CHUNKS", 1)
    predict(folder, tmp_path / "whole.csv", model=exported.onnx, workers=0)
    out = tmp_path / "predictions.csv"
    judged: list[int] = []

    def stopping(classifier: Model, samples: tuple, decoded: chunks.Decoded) -> pl.DataFrame:
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append(len(samples))
        return chunks.judge_chunk(classifier, samples, decoded)

    monkeypatch.setattr(module, "judge_chunk", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict(folder, out, model=exported.onnx, workers=0)
    assert not out.exists()
    assert sorted(path.name for path in (tmp_path / PARTS).glob("part-*")) == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    monkeypatch.setattr(module, "judge_chunk", chunks.judge_chunk)
    summary = predict(folder, out, model=exported.onnx, workers=0)
    assert summary["resumed_at"] == 128
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / PARTS).exists()


def test_a_killed_process_loses_nothing_and_writes_no_table(exported: Exported, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    code = (
        "import sys, time; from pathlib import Path; from hemalens.inference import predict as m;"
        "m._PART_CHUNKS = 1; judge = m.judge_chunk;"
        "m.judge_chunk = lambda *a: (judge(*a), time.sleep(0.5))[0];"
        "m.predict(sys.argv[1], Path(sys.argv[2]), model=sys.argv[3], workers=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, folder, out, exported.onnx])
    first = tmp_path / PARTS / "part-000000.parquet"
    while not first.is_file():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = subprocess.run([sys.executable, "-c", code, folder, out, exported.onnx], check=False)
    assert done.returncode == 0
    predict(folder, tmp_path / "whole.csv", model=exported.onnx, workers=0)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_parts_of_something_else_are_refused_unless_overwritten(
    exported: Exported, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    (tmp_path / PARTS).mkdir()
    (tmp_path / PARTS / "plan.json").write_text("{}")
    (tmp_path / PARTS / "part-000000.parquet").write_text("of another model")
    with pytest.raises(ArtifactError, match="unfinished predictions of another source or model"):
        predict(folder, out, model=exported.onnx, workers=0)
    assert predict(folder, out, model=exported.onnx, workers=0, overwrite=True)["resumed_at"] == 0
    with pytest.raises(ArtifactError, match="exists already"):
        predict(folder, out, model=exported.onnx, workers=0)


def test_a_csv_of_very_many_rows_becomes_a_parquet(
    exported: Exported, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PARQUET_ROWS", 100)
    summary = predict(folder, tmp_path / "predictions.csv", model=exported.onnx, workers=0)
    assert summary["out"] == str(tmp_path / "predictions.parquet")
    assert pl.read_parquet(summary["out"]).height == 150
    assert read_provenance(tmp_path / "predictions.csv") is not None


def test_adapting_predicts_the_zoomed_images_and_says_so(
    exported: Exported, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, classifier = tmp_path / "predictions.csv", Model.open(exported.onnx)
    told = Scale(1.25, 150, 0.9, dict.fromkeys(ZOOMS, 2.0) | {1.0: 3.0})
    monkeypatch.setattr(module, "find_scale", lambda *_, **__: told)
    summary = predict(folder, out, model=exported.onnx, workers=0, adapt=True)
    record = read_provenance(out)
    assert record is not None
    assert summary["adaptation"] == record["options"]["adaptation"] == told.to_json()
    table = pl.read_csv(out).filter(pl.col("predicted").is_not_null())
    pixels = [to_pixels(folder / name) for name in table["sample_id"]]
    wanted = classifier.predict_proba([zoomed(one, 1.25, classifier.image_size) for one in pixels])
    np.testing.assert_allclose(table.select("^p_.*$").to_numpy(), wanted, atol=2e-6)


def test_images_like_the_training_cells_are_left_as_they_are(exported: Exported, tmp_path: Path) -> None:
    plain, adapted = tmp_path / "plain.csv", tmp_path / "adapted.csv"
    assert "adaptation" not in predict(exported.source, plain, model=exported.onnx, workers=0)
    summary = predict(exported.source, adapted, model=exported.onnx, workers=0, adapt=True)
    assert (summary["adaptation"]["zoom"], summary["adaptation"]["n_images"]) == (1.0, 106)
    assert plain.read_bytes() == adapted.read_bytes()


@pytest.mark.parametrize(
    ("out", "engine", "words"),
    [("table.txt", "local", r"must be named \.csv or \.parquet"), ("table.csv", "spark", "must be one of local, ray")],
)
def test_other_names_and_engines_are_refused(tmp_path: Path, out: str, engine: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        predict(tmp_path, tmp_path / out, engine=engine)  # type: ignore[arg-type]
