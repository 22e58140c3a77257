import sys

import pytest

from hemalens.commands.options import onnx_of
from hemalens.core.errors import MissingExtraError
from tests.exported import Exported


def test_a_run_needs_torch_only_to_be_exported(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hemalens.export.export")
    monkeypatch.delitem(sys.modules, "hemalens.export.network")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match="a RUN to be exported first: needs the optional extra 'train'"):
        onnx_of(str(exported.run))


def test_a_run_is_a_model(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemalens.export.export.export_once", lambda _: exported.onnx)
    assert onnx_of(str(exported.run)) == exported.onnx


def test_files_and_the_embedded_model_stay_what_they_are() -> None:
    assert onnx_of("embedded") == "embedded"
    assert onnx_of("model.onnx") == "model.onnx"
