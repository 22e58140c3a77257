"""ONNX's operations in numpy, one function for each.

Images and maps have ONNX's axes (N, C, H, W), but convolutions and pooling leave them as views of memory in the order
(N, H, W, C), which numpy's operations on elements keep: a matrix product then reads whole rows of channels and nothing
is copied in between. Needs numpy 1.26 or later and Python 3.10; goes into submissions as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OPERATIONS"]

Array = npt.NDArray[Any]
_Pair = Sequence[int]


def _conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    group: int = 1,
    strides: _Pair = (1, 1),
    pads: _Pair = (0, 0, 0, 0),
    dilations: _Pair = (1, 1),
) -> Array:
    kernel, inner, outer = weight.shape[:2], weight.shape[2], weight.shape[3]
    x = _padded(x.transpose(0, 2, 3, 1), pads)
    shape = (len(x), *_steps(x, kernel, strides, dilations))
    if inner == 1 and outer == group > 1:  # a filter for each channel
        out = np.zeros((*shape, outer), x.dtype)
        for tap, row in zip(_taps(x, kernel, strides, dilations), weight.reshape(-1, outer), strict=True):
            out += tap * row
    else:
        out = np.empty((math.prod(shape), outer), x.dtype)
        step = outer // group
        for number in range(group):
            seen = x[..., number * inner : (number + 1) * inner]
            chosen = slice(number * step, (number + 1) * step)
            table = weight[..., chosen].reshape(-1, step)
            np.matmul(_patches(seen, kernel, strides, dilations), table, out=out[:, chosen])
        out = out.reshape(*shape, outer)
    if bias is not None:
        out += bias
    return out.transpose(0, 3, 1, 2)


def _padded(x: Array, pads: _Pair, value: float = 0.0) -> Array:
    """Return (N, H, W, C) with a rim; ``pads`` are top, left, bottom, right."""
    if not any(pads):
        return x
    top, left, bottom, right = pads
    n, height, width, channels = x.shape
    out = np.full((n, top + height + bottom, left + width + right, channels), value, x.dtype)
    out[:, top : top + height, left : left + width] = x
    return out


def _patches(x: Array, kernel: _Pair, strides: _Pair, dilations: _Pair) -> Array:
    """Return the values under a filter at each of its places (N * H' * W', kh * kw * C)."""
    if tuple(kernel) == (1, 1):
        return x[:, :: strides[0], :: strides[1]].reshape(-1, x.shape[3])
    shape = (len(x), *_steps(x, kernel, strides, dilations), *kernel, x.shape[3])
    along = x.strides
    places = (along[0], along[1] * strides[0], along[2] * strides[1])
    within = (along[1] * dilations[0], along[2] * dilations[1], along[3])
    view = np.lib.stride_tricks.as_strided(x, shape, (*places, *within), writeable=False)
    return view.reshape(math.prod(shape[:3]), -1)


def _taps(x: Array, kernel: _Pair, strides: _Pair, dilations: _Pair) -> list[Array]:
    """Return what each of a filter's values meets: kh * kw views (N, H', W', C)."""
    high, wide = _steps(x, kernel, strides, dilations)
    return [
        x[
            :,
            top : top + (high - 1) * strides[0] + 1 : strides[0],
            left : left + (wide - 1) * strides[1] + 1 : strides[1],
        ]
        for top in range(0, kernel[0] * dilations[0], dilations[0])
        for left in range(0, kernel[1] * dilations[1], dilations[1])
    ]


def _steps(x: Array, kernel: _Pair, strides: _Pair, dilations: _Pair) -> tuple[int, int]:
    high, wide = ((x.shape[1 + k] - dilations[k] * (kernel[k] - 1) - 1) // strides[k] + 1 for k in (0, 1))
    return high, wide


def _pool(
    x: Array,
    value: float,
    kernel: _Pair,
    strides: _Pair | None,
    pads: _Pair,
    dilations: _Pair,
    ceil: int,
) -> tuple[list[Array], _Pair]:
    """Return the views that pooling goes over, and the rim of them: top, left, bottom, right."""
    strides = strides or (1, 1)
    rim = list(pads)
    for k in (0, 1):
        length, reach = x.shape[2 + k], dilations[k] * (kernel[k] - 1) + 1
        free = length + pads[k] + pads[2 + k] - reach
        count = (-(-free // strides[k]) if ceil else free // strides[k]) + 1
        if ceil and (count - 1) * strides[k] >= length + pads[k]:
            count -= 1  # a window that would begin behind the image does not count
        rim[2 + k] += max(0, (count - 1) * strides[k] - free)
    return _taps(_padded(x.transpose(0, 2, 3, 1), rim, value), kernel, strides, dilations), rim


def _max_pool(
    x: Array,
    *,
    kernel_shape: _Pair,
    strides: _Pair | None = None,
    pads: _Pair = (0, 0, 0, 0),
    dilations: _Pair = (1, 1),
    ceil_mode: int = 0,
) -> Array:
    taps, _ = _pool(x, -math.inf, kernel_shape, strides, pads, dilations, ceil_mode)
    out = taps[0].copy()
    for tap in taps[1:]:
        np.maximum(out, tap, out=out)
    return out.transpose(0, 3, 1, 2)


def _average_pool(
    x: Array,
    *,
    kernel_shape: _Pair,
    strides: _Pair | None = None,
    pads: _Pair = (0, 0, 0, 0),
    dilations: _Pair = (1, 1),
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Array:
    taps, rim = _pool(x, 0.0, kernel_shape, strides, pads, dilations, ceil_mode)
    out = taps[0].copy()
    for tap in taps[1:]:
        out += tap
    # What counts: the image, and its rim if that is asked for, but never what only rounding up has added.
    ones = np.ones((1, *x.shape[2:], 1), x.dtype)
    ones = _padded(ones, pads if count_include_pad else (0, 0, 0, 0), 1.0)
    rest = [wide - (pad if count_include_pad else 0) for wide, pad in zip(rim, pads, strict=True)]
    out /= sum(_taps(_padded(ones, rest), kernel_shape, strides or (1, 1), dilations))
    return out.transpose(0, 3, 1, 2)


def _gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  # ONNX's name
    transB: int = 0,  # noqa: N803  # likewise
) -> Array:
    out = (a.T if transA else a) @ (b.T if transB else b)
    out = out if alpha == 1.0 else out * a.dtype.type(alpha)
    return out if c is None else out + (c if beta == 1.0 else c * a.dtype.type(beta))


def _matmul(a: Array, b: Array) -> Array:
    # One product instead of one for each image: BLAS's threads, if it has several, meet once and not a hundred times.
    if b.ndim == 2 < a.ndim:
        return np.asarray(a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[1])
    if a.ndim == 2 < b.ndim:
        return _matmul(b.swapaxes(-1, -2), a.T).swapaxes(-1, -2)
    return np.asarray(a @ b)


def _batch_norm(x: Array, scale: Array, shift: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5) -> Array:
    factor = scale / np.sqrt(variance + np.float32(epsilon))
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return x * factor.reshape(shape) + (shift - mean * factor).reshape(shape)


def _layer_norm(x: Array, scale: Array, shift: Array | None = None, *, axis: int = -1, epsilon: float = 1e-5) -> Array:
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    out: Array = centred / np.sqrt(variance + np.float32(epsilon)) * scale
    return out if shift is None else out + shift


def _softmax(x: Array, *, axis: int = -1) -> Array:
    out: Array = np.exp(x - x.max(axis=axis, keepdims=True))
    out /= out.sum(axis=axis, keepdims=True)
    return out


def _sigmoid(x: Array) -> Array:
    out: Array = np.tanh(x * np.float32(0.5))  # as 1 / (1 + exp(-x)), which overflows
    out *= np.float32(0.5)
    out += np.float32(0.5)
    return out


def _hard_sigmoid(x: Array, *, alpha: float = 0.2, beta: float = 0.5) -> Array:
    out: Array = x * np.float32(alpha)
    out += np.float32(beta)
    return np.clip(out, 0, 1, out=out)


def _hard_swish(x: Array) -> Array:
    out = _hard_sigmoid(x, alpha=1.0 / 6.0)
    out *= x
    return out


def _erf(x: Array) -> Array:
    """Return the error function within 2e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * size)
    total = np.float32(1.061405429) * t
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = (total + np.float32(factor)) * t
    found: Array = np.copysign(1 - total * np.exp(-size * size), x)
    return found


def _gelu(x: Array, *, approximate: str = "none") -> Array:
    if approximate == "tanh":
        inner = np.float32(math.sqrt(2.0 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        share: Array = np.tanh(inner)
    else:
        share = _erf(x * np.float32(math.sqrt(0.5)))
    out: Array = (share + 1) * x
    out *= np.float32(0.5)
    return out


def _reduce(function: Callable[..., Array]) -> Callable[..., Array]:
    def reduced(x: Array, axes: Array | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
        if axes is None or axes.size == 0:
            return x if noop_with_empty_axes else function(x, axis=None, keepdims=bool(keepdims))
        return function(x, axis=tuple(axes.tolist()), keepdims=bool(keepdims))

    return reduced


def _reshape(x: Array, shape: Array, *, allowzero: int = 0) -> Array:
    wanted = shape.tolist()
    return x.reshape([x.shape[k] if side == 0 and not allowzero else side for k, side in enumerate(wanted)])


def _slice(x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    places = range(len(starts)) if axes is None else axes.tolist()
    parts: list[slice] = [slice(None)] * x.ndim
    for k, axis in enumerate(places):
        step = 1 if steps is None else int(steps[k])
        end: int | None = int(ends[k])
        if step < 0 and int(ends[k]) < -x.shape[axis]:
            end = None
        parts[axis] = slice(int(starts[k]), end, step)
    return x[tuple(parts)]


def _split(x: Array, sizes: Array | None = None, *, axis: int = 0, num_outputs: int = 0) -> tuple[Array, ...]:
    if sizes is None:
        each = -(-x.shape[axis] // num_outputs)
        return tuple(np.split(x, list(range(each, x.shape[axis], each)), axis))
    return tuple(np.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


def _pad(
    x: Array, pads: Array, value: Array | None = None, axes: Array | None = None, *, mode: str = "constant"
) -> Array:
    places = list(range(x.ndim)) if axes is None else axes.tolist()
    rims = [(0, 0)] * x.ndim
    for k, axis in enumerate(places):
        rims[axis] = (int(pads[k]), int(pads[len(places) + k]))
    if mode == "constant":
        return np.pad(x, rims, constant_values=0 if value is None else value.item())
    return np.pad(x, rims, "wrap" if mode == "wrap" else "edge" if mode == "edge" else "reflect")


def _unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(axes.tolist()))


def _clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    out = x if low is None else np.maximum(x, low)
    return out if high is None else np.minimum(out, high)


def _flatten(x: Array, *, axis: int = 1) -> Array:
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _expand(x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _divide(a: Array, b: Array) -> Array:
    return a / b if a.dtype.kind == "f" else (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


def _shape(x: Array, *, start: int = 0, end: int | None = None) -> Array:
    return np.array(x.shape[start:end], np.int64)


def _range(start: Array, end: Array, step: Array) -> Array:
    return np.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, *, to: x.astype(to),
    "Ceil": np.ceil,
    "Clip": _clip,
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Conv": _conv,
    "Cos": np.cos,
    "Div": _divide,
    "Einsum": lambda *parts, equation: np.einsum(equation, *parts),
    "Equal": np.equal,
    "Erf": _erf,
    "Exp": np.exp,
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": np.floor,
    "Gather": lambda x, places, *, axis=0: np.take(x, places, axis),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(axis=(2, 3), keepdims=True),
    "GlobalMaxPool": lambda x: x.max(axis=(2, 3), keepdims=True),
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": lambda x: x,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: np.where(x < 0, x * np.float32(alpha), x),
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "MatMul": _matmul,
    "Max": lambda *parts: parts[0] if len(parts) == 1 else np.maximum.reduce(np.broadcast_arrays(*parts)),
    "MaxPool": _max_pool,
    "Min": lambda *parts: parts[0] if len(parts) == 1 else np.minimum.reduce(np.broadcast_arrays(*parts)),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Pad": _pad,
    "Pow": lambda x, power: np.power(x, power).astype(x.dtype),
    "Range": _range,
    "Reciprocal": lambda x: 1 / x,
    "ReduceL2": _reduce(lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis=axis, keepdims=keepdims))),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _sigmoid,
    "Sign": np.sign,
    "Sin": np.sin,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": lambda x: np.logaddexp(x, np.float32(0)),
    "Split": _split,
    "Sqrt": np.sqrt,
    "Squeeze": lambda x, axes=None: np.squeeze(x, None if axes is None else tuple(axes.tolist())),
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "Tile": lambda x, times: np.tile(x, times.tolist()),
    "Transpose": lambda x, *, perm=None: x.transpose(perm),
    "Unsqueeze": _unsqueeze,
    "Where": np.where,
}
"""Each of ONNX's operations that is known: from inputs and attributes to the output, or a tuple of them."""
