"""The first part of an exported graph: uint8 images of any size to what the network takes, in plain ONNX operations.

The resize is Pillow 13's antialiased bicubic one, recomputed as two matrix products of which every step is exact:
weights are rounded to 22 bits as Pillow's are (``Resample.c``), so that float64 sums, whole multiples of 2**-22 below
2**31, have no rounding error whatever their order, and both passes round half up to uint8. Which pass comes first
matters, and is chosen as Pillow does. Images that have the size already pass by all of it. Needs onnx (extra
``train``).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OPSET", "preprocessing", "resize_model"]

OPSET = 20
# Precision of Pillow's weights: 32 bits less the 8 of a value and 2 for sums above 1.
_BITS = 22
_SUPPORT_SLOPE = -0.5  # the a of the cubic kernel (Keys 1981, equation 4)


class _Graph:
    """Nodes and constants under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.prefix = prefix
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> str:
        """Return the name of a constant; equal ones are kept once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{self.prefix}constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def add(self, operation: str, *inputs: str, output: str = "", **attributes: int | Sequence[int]) -> str:
        """Append a node of one output and return the name of that."""
        output = output or f"{self.prefix}{operation.lower()}_{len(self.nodes)}"
        node = helper.make_node(operation, inputs, [output], output)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)
        return output

    def choose(self, condition: str, then: "_Graph", other: "_Graph") -> str:
        """Append a choice between the last values of two graphs and return the name of the chosen one."""
        parts = {"then_branch": then.as_branch(), "else_branch": other.as_branch()}
        name = f"{self.prefix}if_{len(self.nodes)}"
        self.nodes.append(helper.make_node("If", [condition], [name], name, **parts))
        return name

    def as_branch(self) -> onnx.GraphProto:
        """Return the nodes as a graph whose one output, (N, 3, S, S) float32, is the last node's."""
        made = helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)
        return helper.make_graph(self.nodes, self.prefix.rstrip("_"), [], [made], self.constants)


def preprocessing(
    size: int, mean: npt.NDArray[np.floating], std: npt.NDArray[np.floating], *, source: str, target: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes and constants that turn ``source`` into ``target``.

    Args:
        size: S, pixels per side.
        mean: per channel (3,), of values in [0, 1].
        std: likewise.
        source: name of the images (N, H, W, 3) uint8.
        target: name of the normalised images (N, 3, S, S) float32.
    """
    graph = _Graph("preprocess_")
    resized = _resize(graph, source, size)
    # (value / 255 - mean) / std in one product and one sum.
    scale = graph.constant((1.0 / (255.0 * std.astype(np.float64))).reshape(1, 3, 1, 1), np.float32)
    shift = graph.constant((-mean.astype(np.float64) / std.astype(np.float64)).reshape(1, 3, 1, 1), np.float32)
    graph.add("Add", graph.add("Mul", resized, scale), shift, output=target)
    return graph.nodes, graph.constants


def resize_model(size: int) -> onnx.ModelProto:
    """Return the resize alone as a model, ``images`` (N, H, W, 3) uint8 to ``resized`` (N, S, S, 3) uint8."""
    graph = _Graph("resize_")
    whole = graph.add("Cast", _resize(graph, "images", size), to=TensorProto.UINT8)
    graph.add("Transpose", whole, output="resized", perm=(0, 2, 3, 1))
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])
    made = helper.make_tensor_value_info("resized", TensorProto.UINT8, ["batch", size, size, 3])
    whole_graph = helper.make_graph(graph.nodes, "resize", [given], [made], graph.constants)
    return helper.make_model(whole_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _resize(graph: _Graph, images: str, size: int) -> str:
    """Return whole values 0-255 (N, 3, S, S) float32."""
    shape = graph.add("Shape", images)
    height, width = (graph.add("Gather", shape, graph.constant(axis, np.int64), axis=0) for axis in (1, 2))
    wanted = graph.constant(size, np.int64)
    values = graph.add("Transpose", images, perm=(0, 3, 1, 2))
    same = graph.add("And", graph.add("Equal", height, wanted), graph.add("Equal", width, wanted))
    branches = [_Graph(f"{graph.prefix}{name}_") for name in ("same", "rows_first", "columns_first", "other")]
    plain, rows_first, columns_first, other = branches
    plain.add("Cast", values, to=TensorProto.FLOAT)
    for branch, vertical in ((rows_first, False), (columns_first, True)):
        whole = _two_passes(branch, values, (height, width), size, vertical=vertical)
        branch.add("Cast", whole, to=TensorProto.FLOAT)
    # Pillow takes columns first where the height loses more than twice the pixels that the width does.
    lost, across = other.add("Sub", height, wanted), other.add("Sub", width, wanted)
    much = other.add("Greater", lost, other.add("Mul", across, other.constant(2, np.int64)))
    tall = other.add("And", other.add("Greater", lost, other.constant(0, np.int64)), much)
    other.choose(tall, columns_first, rows_first)
    return graph.choose(same, plain, other)


def _two_passes(graph: _Graph, values: str, lengths: tuple[str, str], size: int, *, vertical: bool) -> str:
    """Return resized values (N, 3, S, S) float64; ``vertical`` tells which pass comes first."""
    values = graph.add("Cast", values, to=TensorProto.DOUBLE)
    down, across = (_weights(graph, length, size) for length in lengths)
    across = graph.add("Transpose", across, perm=(1, 0))
    for columns in (vertical, not vertical):
        values = graph.add("MatMul", down, values) if columns else graph.add("MatMul", values, across)
        whole = graph.add("Floor", graph.add("Add", values, graph.constant(0.5)))  # halves up
        values = graph.add("Clip", whole, graph.constant(0.0), graph.constant(255.0))
    return values


def _weights(graph: _Graph, length: str, size: int) -> str:
    """Return what each of L values counts in each of S (S, L) float64, as whole multiples of 2**-22."""
    one = graph.constant(1.0)
    count = graph.add("Cast", length, to=TensorProto.DOUBLE)
    scale = graph.add("Div", count, graph.constant(float(size)))
    stretch = graph.add("Div", one, graph.add("Max", scale, one))
    centres = graph.add("Mul", graph.constant(np.arange(size)[:, None] + 0.5), scale)
    indices = graph.add("Range", graph.constant(0.0), count, one)
    # In the order in which Pillow rounds: (place - centre + 0.5) * stretch.
    offsets = graph.add("Add", graph.add("Sub", indices, centres), graph.constant(0.5))
    weights = _cubic(graph, graph.add("Abs", graph.add("Mul", offsets, stretch)))
    total = graph.add("ReduceSum", weights, graph.constant([1], np.int64), keepdims=1)
    weights = graph.add("Div", weights, total)
    # Halves away from zero.
    bits = graph.add("Mul", graph.add("Abs", weights), graph.constant(2.0**_BITS))
    bits = graph.add("Floor", graph.add("Add", bits, graph.constant(0.5)))
    signed = graph.add("Mul", graph.add("Sign", weights), bits)
    return graph.add("Mul", signed, graph.constant(2.0**-_BITS))


def _cubic(graph: _Graph, x: str) -> str:
    """Return the cubic kernel at distances x, in the order of operations that Pillow has."""
    a = _SUPPORT_SLOPE
    one, zero = graph.constant(1.0), graph.constant(0.0)
    near = graph.add("Sub", graph.add("Mul", x, graph.constant(a + 2.0)), graph.constant(a + 3.0))
    near = graph.add("Add", graph.add("Mul", graph.add("Mul", near, x), x), one)
    far = graph.add("Add", graph.add("Mul", graph.add("Sub", x, graph.constant(5.0)), x), graph.constant(8.0))
    far = graph.add("Mul", graph.add("Sub", graph.add("Mul", far, x), graph.constant(4.0)), graph.constant(a))
    beyond = graph.add("Where", graph.add("Less", x, graph.constant(2.0)), far, zero)
    return graph.add("Where", graph.add("Less", x, one), near, beyond)
