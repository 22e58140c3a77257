"""The competition's way in: ``Model().predict(X)``, from images (n, H, W, 3) of values 0-255 to labels (n,).

Everything it needs lies beside it, wherever that is. Needs numpy and the runtime that ``submission.json`` names.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Model"]

_HERE = Path(__file__).resolve().parent
_CODE = "hemalens_runtime"
Array = npt.NDArray[Any]


class Model:
    """The network or networks of ``submission.json``, ready to predict."""

    def __init__(self) -> None:
        facts = json.loads((_HERE / "submission.json").read_text(encoding="utf-8"))
        package = types.ModuleType(_CODE)  # a folder beside this file is found whatever the search path is
        package.__path__ = [str(_HERE / _CODE)]
        sys.modules[_CODE] = package
        runtime = importlib.import_module(f"{_CODE}.{facts['runtime']}_runtime")
        self._networks = [runtime.open_network(_HERE / name) for name in facts["models"]]
        self._temperatures = [float(value) for value in facts["temperatures"]]
        self._labels = np.array(facts["labels"], np.int64)
        self._symmetries = int(facts["symmetries"])
        self._batch = int(runtime.BATCH)

    def predict(self, X: Any) -> Array:  # noqa: ANN401, N803  # the competition's name; lists and tensors are taken
        """Return the label (n,) int64 of each image."""
        given = np.asarray(X)
        if given.ndim != 4 or given.shape[3] != 3 or given.dtype.kind not in "buif":
            raise ValueError(f"images must be (n, H, W, 3) of values 0-255, not {given.shape} {given.dtype}")
        chosen = [
            self._probabilities(_pixels(given[start : start + self._batch])).argmax(axis=1)
            for start in range(0, len(given), self._batch)
        ]
        return self._labels[np.concatenate(chosen)] if chosen else np.zeros(0, np.int64)

    def _probabilities(self, images: Array) -> Array:
        """Return the mean over networks and symmetries of the calibrated probabilities (n, C) float64."""
        parts = [
            _softmax(network(turned).astype(np.float64) / temperature)
            for turned in _turns(images, self._symmetries)
            for network, temperature in zip(self._networks, self._temperatures, strict=True)
        ]
        mean: Array = np.mean(parts, axis=0)
        return mean


def _pixels(given: Array) -> Array:
    """Return values 0-255 as uint8, rounded to the nearest."""
    if given.dtype == np.uint8:
        return np.ascontiguousarray(given)
    if not np.isfinite(given).all():
        raise ValueError("images must be of values 0-255, some are not finite")
    return np.clip(np.rint(given), 0, 255).astype(np.uint8)


def _turns(images: Array, count: int) -> Iterator[Array]:
    """Yield the images, and as many of their 8 symmetries as are asked for: quarter turns, and those mirrored."""
    for number in range(count):
        side = images[:, :, ::-1] if number >= 4 else images
        yield np.ascontiguousarray(np.rot90(side, number % 4, axes=(1, 2)))


def _softmax(logits: Array) -> Array:
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalised: Array = found / found.sum(axis=1, keepdims=True)
    return normalised
