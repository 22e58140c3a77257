"""Images that are hard to see: dark, bright, blurry. All are for review, none is dropped unseen."""

import numpy as np

from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.statistics import Statistics

__all__ = ["find_blurry", "find_bright", "find_dark"]

_DARK, _BRIGHT = 90.0, 215.0
# Robust standard deviations of the log sharpness below the median. Of the real cells 0.1 % lie beyond 4.
_BLURRED = 4.5


def find_dark(statistics: Statistics) -> list[Finding]:
    """Report images without light: their 95th percentile of luminance is under 90 of 255."""
    return [
        _finding(
            index,
            "dark",
            1 - row.bright_tail / 255,
            f"95 % of the pixels are darker than {row.bright_tail:.0f} (0 is black, 255 is white)",
        )
        for index, row in enumerate(statistics.measurements)
        if row is not None and row.bright_tail < _DARK
    ]


def find_bright(statistics: Statistics) -> list[Finding]:
    """Report washed-out images: their 5th percentile of luminance is over 215 of 255."""
    return [
        _finding(
            index,
            "bright",
            row.dark_tail / 255,
            f"95 % of the pixels are brighter than {row.dark_tail:.0f} (0 is black, 255 is white)",
        )
        for index, row in enumerate(statistics.measurements)
        if row is not None and row.dark_tail > _BRIGHT
    ]


def find_blurry(statistics: Statistics) -> list[Finding]:
    """Report images far less sharp than the rest: log sharpness 4.5 robust deviations under the median.

    Sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000) over that of the luminance. Being relative,
    the check needs at least 20 images.
    """
    rows = [(index, row.sharpness) for index, row in enumerate(statistics.measurements) if row is not None]
    if len(rows) < 20:
        return []
    logs = np.log(np.array([sharpness for _, sharpness in rows]) + 1e-4)
    median = np.median(logs)
    # The upper half sets the scale: blurred images must not widen their own limit.
    deviation = max(float(np.median(logs[logs >= median] - median)) * 1.4826, 0.1)
    findings = []
    for (index, _), value in zip(rows, logs, strict=True):
        distance = float(median - value) / deviation
        if distance > _BLURRED:
            reason = f"{np.exp(median - value):.0f} times less sharp than the median image"
            findings.append(_finding(index, "blurry", 1 - np.exp(-distance / _BLURRED), reason))
    return findings


def _finding(index: int, issue: str, score: float, reason: str) -> Finding:
    return Finding(index, issue, round(float(np.clip(score, 0, 1)), 4), "", "review", reason)
