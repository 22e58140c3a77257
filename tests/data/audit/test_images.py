import numpy as np
import polars as pl
import pytest
from PIL import Image

from hemalens.core.artifacts import read_json
from hemalens.data.audit.audit import audit
from hemalens.data.synthetic import synthetic_set


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Audit three classes of cells, one file that is no image and names that look like paths."""
    folder = tmp_path_factory.mktemp("audited")
    cells = synthetic_set({"basophil": 30, "lymphocyte": 30, "platelet": 30}, size=48)
    source = folder / "cells"
    for index, (pixels, label) in enumerate(zip(cells.images, cells.labels, strict=True)):
        name = cells.classes[label]
        (source / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(source / name / f"a%2f..{index:03d}.png")
    next(source.iterdir()).joinpath("broken.png").write_bytes(b"no image")
    audit(source, folder / "audit")
    return folder / "audit"


def test_every_class_shows_two_cells_that_are_kept(audited):
    shown = read_json(audited / "audit.json")["images"]["classes"]
    assert len(shown) == 6
    assert len({one["label"] for one in shown}) == 3
    issues = pl.read_csv(audited / "issues.csv", infer_schema=False)
    dropped = set(issues.filter(pl.col("suggestion") == "drop")["sample_id"].to_list())
    assert not dropped & {one["sample_id"] for one in shown}
    assert len({one["sample_id"] for one in shown}) == 6


def test_every_image_listed_is_a_small_file_inside_the_audit(audited):
    images = read_json(audited / "audit.json")["images"]
    files = [audited / one["file"] for shown in images.values() for one in shown]
    assert sorted(files) == sorted((audited / "images").iterdir())
    for file in files:
        with Image.open(file) as image:
            assert max(image.size) <= 128
    assert set(read_json(audited / "provenance.json")["outputs"]) >= {f"images/{file.name}" for file in files}


def test_findings_show_each_image_once_and_say_how_many_copies(tmp_path):
    cells = synthetic_set({"basophil": 40, "platelet": 40}, size=32)
    foreign = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    images = np.concatenate([cells.images, np.repeat(foreign, 12, axis=0)])
    labels = np.concatenate([cells.labels, np.repeat(cells.labels[:1], 12)])
    np.savez(tmp_path / "cells.npz", images=images, labels=labels)
    found = audit(tmp_path / "cells.npz", tmp_path / "audit").images
    assert [one.words for one in found["foreign"]].count("12 copies") <= 1
    ids = [one.sample_id for one in found["foreign"]]
    assert len(ids) == len(set(ids))
    assert not set(ids) & {one.sample_id for one in found["outlier"]}


def test_the_map_says_its_limit_and_shares(audited):
    found = read_json(audited / "audit.json")["map"]
    assert found["limit"] > 0
    assert 0 < found["explained"][1] <= found["explained"][0] < 1
