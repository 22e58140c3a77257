"""One run of the compact network on a tiny set and one export of it, made once for all tests of the phase."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hemalens.data.synthetic import synthetic_set
from hemalens.deployment.export import bind, export, export_once
from hemalens.training.train import train

QUICK = ("image_size=16", "epochs=1", "batch_size=16", "per_class=16", "threads=1", "device=cpu", "precision=fp32")


def bind_again(path: Path, facts: dict[str, Any], model: bytes) -> Path:
    """Write a model under another sidecar as if it had been exported so."""
    proto = onnx.load_from_string(model)
    del proto.metadata_props[:]
    data, sidecar = bind(proto.SerializeToString(), facts)
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    return path


@dataclass(frozen=True)
class Exported:
    """A run, what it was trained on, and its export; nobody may write to them."""

    run: Path
    source: Path
    onnx: Path
    parity: dict[str, Any]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    made = synthetic_set({"basophil": 30, "lymphocyte": 30, "platelet": 30}, size=24, seed=1)
    source = folder / "clean.npz"
    np.savez(source, images=made.images, labels=made.labels)
    train(source, folder / "train", settings=QUICK)
    onnx = folder / "models" / "cells.onnx"
    parity = export(folder / "train", onnx, int8=True)
    return Exported(folder / "train", source, onnx, parity)


@dataclass(frozen=True)
class Fp32:
    """A copy of the run with its export in full precision; nobody may write to them."""

    run: Path
    onnx: Path


@pytest.fixture(scope="session")
def fp32(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Fp32:
    run = tmp_path_factory.mktemp("fp32") / "train"
    shutil.copytree(exported.run, run)
    return Fp32(run, export_once(run))
