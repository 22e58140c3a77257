"""A traced network to 8-bit integers by static quantisation, and both timed in turn.

Activations become uint8 by the least and largest values over calibration images, weights int8 channel by channel.
Needs onnx and onnxruntime.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hemalens.core.types import FloatArray, Images
from hemalens.inference.model import open_session

__all__ = ["quantise", "time_in_turn"]

_BATCH = 32
_ROUNDS = 7


def quantise(network: onnx.ModelProto, normalised: FloatArray) -> onnx.ModelProto:
    """Return a network in 8 bits, its ranges taken over calibration images (N, 3, S, S) float32 as it takes them."""
    name = network.graph.input[0].name
    root = logging.getLogger()
    level = root.level
    copied = onnx.ModelProto()
    copied.CopyFrom(network)  # onnxruntime moves the weights of what it is given into a file
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)  # it advises on the root logger to optimise what is optimised already
        try:
            made = Path(folder) / "quantised.onnx"
            quantize_static(
                copied,
                made,
                _Batches(name, normalised),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return onnx.load(made)
        finally:
            root.setLevel(level)


def time_in_turn(models: dict[str, bytes], images: Images, *, rounds: int = _ROUNDS) -> dict[str, float]:
    """Return images a second of processor time of each model with one thread: medians of rounds in turn.

    Takes images (N, S, S, 3) uint8. Processor time, since whatever else runs must not decide.
    """
    sessions = {name: open_session(data, threads=1, name=name) for name, data in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, session in sessions.items():
            started = time.process_time()
            for start in range(0, len(images), _BATCH):
                session.run(["logits"], {"images": images[start : start + _BATCH]})
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - started)
    return {name: len(images) / float(np.median(found)) for name, found in seconds.items()}


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Calibration images, batch by batch."""

    def __init__(self, name: str, images: FloatArray) -> None:
        self._batches: Iterator[dict[str, Any]] = iter(
            [{name: images[start : start + _BATCH]} for start in range(0, len(images), _BATCH)]
        )

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, None after the last."""
        return next(self._batches, None)
