"""An exported network run by onnxruntime. Needs numpy and onnxruntime; goes into submissions as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime

__all__ = ["BATCH", "Network", "open_network"]

BATCH = 32
Array = npt.NDArray[Any]


class Network:
    """A session of uint8 images (N, H, W, 3) to logits (N, C) float32."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Array) -> Array:
        """Return logits (N, C)."""
        logits: Array = self._session.run(["logits"], {"images": images})[0]
        return logits


def open_network(path: Path) -> Network:
    """Open ``NAME.onnx``, given without its suffix."""
    return Network(path.with_name(f"{path.name}.onnx"))
