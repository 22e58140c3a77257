"""Random numbers as a pure function of (seed, epoch, sample, stream): no state, no order, no device dependence.

Two rounds of splitmix64 (Steele, Lea and Flood 2014) over the mixed-in key, in int64 arithmetic that wraps the same way
on every device. So an image gets the same augmentation in whatever batch, process or resumed run it appears.
"""

import zlib

import torch
from torch import Tensor

__all__ = ["stream_id", "uniform"]

# The constants of splitmix64 as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def stream_id(name: str) -> int:
    """Return a stable number for a named stream of draws."""
    return zlib.crc32(name.encode("utf-8"))


def uniform(keys: Tensor, *, seed: int, epoch: int, stream: str, count: int = 1) -> Tensor:
    """Return uniform numbers (N, count) float32 in [0, 1) for sample keys (N,) int64.

    The 24 highest bits of the hash become the number, so every value is exact in float32.
    """
    device = keys.device
    state = torch.full((), seed, dtype=torch.int64, device=device)
    for part in (epoch, stream_id(stream)):
        state = _mix(state + _GOLDEN + part)
    state = _mix(keys.to(torch.int64) * _GOLDEN + state)
    counters = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _GOLDEN
    bits = _mix(_mix(state[:, None] + counters))
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift int64 right without the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)
