"""A network's features and logits to answers and abstentions: what is unlike any training cell, and what is unsure.

Two criteria can make a model abstain: the distance of the features from the nearest class of training cells, measured
in how these vary from cell to cell and under other light, dye and size, and the calibrated confidence. Their limits are
set on validation samples, so that both together abstain on a stated share of these. Needs numpy and SciPy; no torch.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hemalens.core.calibration import abstention_threshold, fit_temperature, lac_scores, set_thresholds
from hemalens.core.errors import ArtifactError
from hemalens.core.metrics import softmax
from hemalens.core.scores import Gaussians
from hemalens.core.types import FloatArray, IntArray

__all__ = ["Abstention", "Judgement", "confidence_rule", "fit_abstention", "judge"]

_SCHEMA = 2
_COVERAGE = 0.9
# Of the directions of the features: 200,000 numbers are 1.1 MB in a sidecar; wider networks keep the leading ones.
_LARGEST_BASIS = 200_000
_LARGEST = 1e30  # of a number: its square is still one in float64
_HOME_RANK = 32  # directions; with all of them the same scales are found
_WHAT = "abstention data"
_STEP = "train the model again, or export it again"


@dataclass(frozen=True, slots=True)
class Abstention:
    """When a trained model abstains.

    Attributes:
        temperature: by which logits are divided.
        rejection_rate: share of validation samples that the limits abstain on.
        distance_limit: largest distance from the nearest class, in standard deviations of the training features.
        confidence_limit: least calibrated confidence.
        set_thresholds: (C,), one minus the least probability at which a class belongs into a 90 % set (LAC by class).
        gaussians: the classes of training features; None where they are not known and confidence alone decides.
        home: the same of undistorted training samples alone, by few directions; it tells how large other cells look
            (``data.scale``). None where ``gaussians`` is of these alone.
    """

    temperature: float
    rejection_rate: float
    distance_limit: float
    confidence_limit: float
    set_thresholds: FloatArray
    gaussians: Gaussians | None
    home: Gaussians | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; arrays as little-endian float32 in base64, with dtype and shape."""
        return {
            "schema_version": _SCHEMA,
            "temperature": self.temperature,
            "rejection_rate": self.rejection_rate,
            "distance_limit": self.distance_limit,
            "confidence_limit": self.confidence_limit,
            "set_coverage": _COVERAGE,
            "set_thresholds": _encoded(self.set_thresholds),
            "gaussians": None if self.gaussians is None else _gaussians_json(self.gaussians),
            "home": None if self.home is None else _gaussians_json(self.home),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what ``to_json`` was called on; raise ArtifactError where a part is missing or damaged."""
        if not isinstance(value, Mapping):
            raise ArtifactError(_WHAT, f"must be an object, they are {value!r:.40}", _STEP)
        version = value.get("schema_version")
        if version != _SCHEMA:
            raise ArtifactError(f"{_WHAT} of schema {version}", f"must be of schema {_SCHEMA}", _STEP)
        if "gaussians" not in value:
            raise ArtifactError(_WHAT, "lack 'gaussians'", _STEP)
        return cls(
            _number(value, "temperature", least=1e-6),
            _number(value, "rejection_rate", most=1.0),
            _number(value, "distance_limit"),
            _number(value, "confidence_limit", most=1.0),
            _decoded(value, "set_thresholds", 1),
            None if value["gaussians"] is None else _read_gaussians(value["gaussians"]),
            None if value.get("home") is None else _read_gaussians(value["home"]),
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a model says of N samples, and of which it says nothing.

    Attributes:
        probabilities: calibrated (N, C).
        predicted: class of the largest (N,).
        confidence: the largest (N,).
        distance: from the nearest class of training cells (N,); NaN where the model has no data to abstain by it.
        abstained: (N,) bool.
        reasons: N texts, empty where the answer stands.
    """

    probabilities: FloatArray
    predicted: IntArray
    confidence: FloatArray
    distance: FloatArray
    abstained: npt.NDArray[np.bool_]
    reasons: tuple[str, ...]


def fit_abstention(
    train_features: FloatArray,
    train_labels: IntArray,
    val_features: FloatArray,
    val_logits: FloatArray,
    val_labels: IntArray,
    *,
    varied_features: FloatArray | None = None,
    rejection_rate: float = 0.05,
) -> Abstention:
    """Fit what ``judge`` needs, from undistorted training and validation samples.

    Args:
        train_features: (N, D), what the last linear layer sees.
        train_labels: (N,), 0..C-1.
        val_features: (M, D).
        val_logits: (M, C).
        val_labels: (M,), 0..C-1.
        varied_features: (N, D), of the training samples after changes that the network was trained to see through.
        rejection_rate: share of validation samples that both criteria together are to abstain on.
    """
    width = train_features.shape[1]
    rank = max(1, _LARGEST_BASIS // width)
    gaussians = _rounded(Gaussians.fit(train_features, train_labels, varied=varied_features, rank=rank))
    temperature = fit_temperature(val_logits, val_labels)
    probabilities = softmax(val_logits / temperature)
    distance, confidence = gaussians.score(val_features), probabilities.max(axis=1)
    distance_limit, confidence_limit = _limits(distance, confidence, rejection_rate)
    thresholds = _set_thresholds(probabilities, val_labels)
    home = None if varied_features is None else _rounded(Gaussians.fit(train_features, train_labels, rank=_HOME_RANK))
    return Abstention(temperature, rejection_rate, distance_limit, confidence_limit, thresholds, gaussians, home)


def confidence_rule(val_logits: FloatArray, val_labels: IntArray, *, rejection_rate: float = 0.05) -> Abstention:
    """Return an abstention by confidence alone, for a network of whose training features nothing was kept.

    Takes validation logits (M, C) and labels (M,); ``rejection_rate`` is the share of them to get no answer.
    """
    temperature = fit_temperature(val_logits, val_labels)
    probabilities = softmax(val_logits / temperature)
    limit = abstention_threshold(probabilities.max(axis=1), share=rejection_rate)
    return Abstention(temperature, rejection_rate, 0.0, limit, _set_thresholds(probabilities, val_labels), None)


def judge(abstention: Abstention, features: FloatArray, logits: FloatArray) -> Judgement:
    """Return calibrated answers for features (N, D) and logits (N, C), and which get no answer, with the reason.

    Raises ArtifactError where the features have another width than those the abstention was fitted on.
    """
    probabilities = softmax(logits / abstention.temperature)
    confidence, distance = probabilities.max(axis=1), _distance(abstention, features)
    limit, least = abstention.distance_limit, abstention.confidence_limit
    strange, unsure = distance > limit, confidence < least
    reasons = []
    for index in range(len(features)):
        found = (
            [f"unlike any training cell (distance {distance[index]:.1f} over {limit:.1f})"] if strange[index] else []
        )
        found += [f"confidence {confidence[index]:.4f} under {least:.4f}"] if unsure[index] else []
        reasons.append("; ".join(found))
    predicted = probabilities.argmax(axis=1)
    return Judgement(probabilities, predicted, confidence, distance, strange | unsure, tuple(reasons))


def _distance(abstention: Abstention, features: FloatArray) -> FloatArray:
    if abstention.gaussians is None:
        return np.full(len(features), np.nan)
    wanted = abstention.gaussians.means.shape[1]
    if features.shape[1] != wanted:
        raise ArtifactError(f"features of width {features.shape[1]}", f"must have width {wanted}", _STEP)
    return abstention.gaussians.score(features)


def _set_thresholds(probabilities: FloatArray, labels: IntArray) -> FloatArray:
    found = set_thresholds(lac_scores(probabilities), labels, coverage=_COVERAGE, by_class=True)
    # A class with too few samples to say goes into every set: its score is at most 1.
    return np.minimum(found, 1.0).astype(np.float32)


def _limits(distance: FloatArray, confidence: FloatArray, rate: float) -> tuple[float, float]:
    """Return limits of distance and confidence that each abstain on the same share, both together ``rate``."""
    low, high = 0.0, rate  # the same share for each lies between half of the rate and the rate
    for _ in range(40):
        share = (low + high) / 2
        limits = float(np.quantile(distance, 1.0 - share)), float(np.quantile(confidence, share))
        abstained = ((distance > limits[0]) | (confidence < limits[1])).mean()
        low, high = (share, high) if abstained <= rate else (low, share)
    return float(np.quantile(distance, 1.0 - low)), float(np.quantile(confidence, low))


def _rounded(gaussians: Gaussians) -> Gaussians:
    """Return the numbers as a file holds them, so that limits are set on what is used later."""
    arrays = (gaussians.means, gaussians.basis, gaussians.precisions)
    means, basis, precisions = (np.ascontiguousarray(array, np.float32) for array in arrays)
    return Gaussians(means, basis, precisions, gaussians.rest)


def _gaussians_json(gaussians: Gaussians) -> dict[str, Any]:
    arrays = {"means": gaussians.means, "basis": gaussians.basis, "precisions": gaussians.precisions}
    return {name: _encoded(array) for name, array in arrays.items()} | {"rest": gaussians.rest}


def _read_gaussians(value: object) -> Gaussians:
    if not isinstance(value, Mapping):
        raise ArtifactError(_WHAT, f"must hold an object as 'gaussians', they hold {value!r:.40}", _STEP)
    means, basis = _decoded(value, "means", 2), _decoded(value, "basis", 2)
    precisions = _decoded(value, "precisions", 1)
    if basis.shape != (means.shape[1], len(precisions)):
        rule = f"do not fit together: means {means.shape}, basis {basis.shape}, precisions {precisions.shape}"
        raise ArtifactError(_WHAT, rule, _STEP)
    return Gaussians(means, basis, precisions, _number(value, "rest"))


def _encoded(array: FloatArray) -> dict[str, Any]:
    plain = np.ascontiguousarray(array, "<f4")
    return {"dtype": "float32", "shape": list(plain.shape), "base64": base64.b64encode(plain.tobytes()).decode("ascii")}


def _decoded(value: Mapping[str, Any], name: str, axes: int) -> FloatArray:
    try:
        part = value[name]
        shape = tuple(part["shape"] if isinstance(part["shape"], list) else ())
        plain = all(type(side) is int and 0 <= side < 1 << 31 for side in shape)
        data = base64.b64decode(part["base64"], validate=True)
        array = np.frombuffer(data, "<f4").reshape(shape if plain else (-1, -1)).astype(np.float32)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise ArtifactError(_WHAT, f"have no whole array '{name}' ({error})", _STEP) from error
    if part.get("dtype") != "float32" or array.ndim != axes or not np.isfinite(array).all():
        rule = f"must hold finite float32 with {axes} axes as '{name}', they hold {part.get('dtype')!r:.20} {shape}"
        raise ArtifactError(_WHAT, rule, _STEP)
    return array


def _number(value: Mapping[str, Any], name: str, *, least: float = 0.0, most: float = _LARGEST) -> float:
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not least <= found <= most:  # NaN too
        rule = f"must hold a number from {least:g} to {most:g} as '{name}', they hold {found!r:.40}"
        raise ArtifactError(_WHAT, rule, _STEP)
    return float(found)
