"""Predictions by Ray: the same rows as this process gives."""

import sys
from pathlib import Path

import pytest

from hemalens.core.errors import MissingExtraError
from hemalens.data.sources import open_source
from hemalens.inference.model import Model
from hemalens.inference.predict import predict
from hemalens.inference.ray import ray_frames
from tests.exported import Exported


def test_without_ray_the_extra_is_named(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"engine ray: .*hemalens\[ray\]"):
        next(ray_frames(open_source(exported.source), Model.open(exported.onnx)))


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_rays_table_is_the_same(exported: Exported, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    try:
        predict(exported.source, tmp_path / "ray.csv", model=exported.onnx, engine="ray", workers=1)
    finally:
        ray.shutdown()
    predict(exported.source, tmp_path / "local.csv", model=exported.onnx, workers=0)
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
