"""Scores of a classifier from labels and predictions, with bootstrap intervals; numpy only.

Everything is multiclass with classes 0..C-1. Most scores are functions of the confusion matrix, so their bootstrap
resamples the matrix: drawing n samples with replacement and counting them is one multinomial draw over its cells.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hemalens.core.types import FloatArray, IntArray

__all__ = [
    "Interval",
    "accuracy",
    "balanced_accuracy",
    "bootstrap_interval",
    "confusion_matrix",
    "cross_entropy",
    "expected_calibration_error",
    "macro_f1",
    "per_class_scores",
    "reliability_bins",
    "softmax",
]


@dataclass(frozen=True, slots=True)
class Interval:
    """A score with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def softmax(logits: FloatArray) -> FloatArray:
    """Return softmax probabilities (N, C) of logits (N, C), float64, each row summing to 1."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def confusion_matrix(labels: IntArray, predicted: IntArray, n_classes: int) -> IntArray:
    """Return counts (C, C) int64: rows are true classes, columns predicted ones.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = labels.astype(np.int64) * n_classes + predicted.astype(np.int64)
    return np.bincount(flat, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def accuracy(matrix: IntArray) -> FloatArray:
    """Return the share of right predictions of confusion matrices (..., C, C) -> (...)."""
    right = np.trace(matrix, axis1=-2, axis2=-1)
    return np.asarray(right / np.maximum(matrix.sum(axis=(-2, -1)), 1))


def balanced_accuracy(matrix: IntArray) -> FloatArray:
    """Return the mean recall over the classes that occur, of confusion matrices (..., C, C) -> (...)."""
    support = matrix.sum(axis=-1)
    recall = np.diagonal(matrix, axis1=-2, axis2=-1) / np.maximum(support, 1)
    return np.asarray(recall.sum(axis=-1) / np.maximum((support > 0).sum(axis=-1), 1))


def macro_f1(matrix: IntArray) -> FloatArray:
    """Return the mean F1 over the classes that occur or are predicted, of confusion matrices (..., C, C) -> (...)."""
    touched = matrix.sum(axis=-1) + matrix.sum(axis=-2)
    f1 = 2 * np.diagonal(matrix, axis1=-2, axis2=-1) / np.maximum(touched, 1)
    return np.asarray(f1.sum(axis=-1) / np.maximum((touched > 0).sum(axis=-1), 1))


def per_class_scores(matrix: IntArray) -> dict[str, npt.NDArray[np.number]]:
    """Return ``precision``, ``recall``, ``f1`` and ``support``, each (C,), of one confusion matrix (C, C).

    A score whose denominator is zero is 0, as in scikit-learn with ``zero_division=0``.
    """
    hits = np.diagonal(matrix)
    support, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
        "support": support,
    }


def cross_entropy(probabilities: FloatArray, labels: IntArray) -> float:
    """Return the mean negative log-likelihood in nats of probabilities (N, C) for labels (N,)."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())


def reliability_bins(confidence: FloatArray, correct: IntArray, *, bins: int = 15) -> dict[str, npt.NDArray[np.number]]:
    """Return ``count``, mean ``confidence`` and ``accuracy`` (bins,) of equal-width bins (low, high] over [0, 1].

    Empty bins have zeros. ``correct`` is (N,) of 0 or 1.
    """
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = np.maximum(count, 1)
    return {
        "count": count,
        "confidence": np.bincount(index, weights=confidence, minlength=bins) / filled,
        "accuracy": np.bincount(index, weights=correct, minlength=bins) / filled,
    }


def expected_calibration_error(probabilities: FloatArray, labels: IntArray, *, bins: int = 15) -> float:
    """Return the expected calibration error in [0, 1] of the top class (Guo et al. 2017, equation 3).

    >>> expected_calibration_error(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    0.5
    """
    confidence, correct = probabilities.max(axis=1), (probabilities.argmax(axis=1) == labels).astype(np.int64)
    table = reliability_bins(confidence, correct, bins=bins)
    gaps = np.abs(table["accuracy"] - table["confidence"])
    return float((table["count"] * gaps).sum() / max(len(labels), 1))


def bootstrap_interval(
    matrix: IntArray,
    score: Callable[[IntArray], FloatArray],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a confusion-matrix score with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    Args:
        matrix: counts (C, C).
        score: one of this module's scores that take matrices (..., C, C).
        resamples: bootstrap draws.
        seed: of the draws; the same seed gives the same interval.
    """
    total = int(matrix.sum())
    if total == 0:
        return Interval(0.0, 0.0, 1.0)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(total, matrix.reshape(-1) / total, size=resamples).reshape(-1, *matrix.shape)
    low, high = np.quantile(score(draws), [0.025, 0.975])
    return Interval(float(score(matrix)), float(low), float(high))
