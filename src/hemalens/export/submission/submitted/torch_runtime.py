"""A network run by torch, on a GPU where there is one, its images resized by numpy as in training.

Needs numpy and torch; goes into submissions as it is, with ``numpy_runtime`` beside it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .numpy_runtime import open_graph

__all__ = ["BATCH", "Network", "open_network"]

BATCH = 256
"""As in evaluation, so that labels are those of ``evaluate`` to the last one."""
Array = npt.NDArray[Any]


class Network:
    """A TorchScript module of uint8 images (N, H, W, 3) to logits (N, C) float32."""

    def __init__(self, path: Path) -> None:
        self._resize = open_graph(path.with_name(f"{path.name}.npz"))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # every torch of the last years reads TorchScript
            script = torch.jit.load(  # type: ignore[no-untyped-call]  # torch leaves it untyped
                path.with_name(f"{path.name}.pt"), map_location=self._device
            )
        self._module = script.eval()

    def __call__(self, images: Array) -> Array:
        """Return logits (N, C)."""
        (resized,) = self._resize.run(images=images)
        batch = torch.from_numpy(np.ascontiguousarray(resized)).to(self._device)
        with torch.inference_mode():
            logits = self._module(batch.permute(0, 3, 1, 2).to(torch.float32).div_(255.0))
        found: Array = logits.float().cpu().numpy()
        return found


def open_network(path: Path) -> Network:
    """Open ``NAME.pt`` and ``NAME.npz``, given without their suffix."""
    return Network(path)
