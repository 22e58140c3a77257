"""Each operation of the numpy runtime against onnxruntime's, on one node at a time."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemalens.export.submission.graph import to_graph
from hemalens.export.submission.submitted.numpy_operations import OPERATIONS
from hemalens.inference.model import open_session

DRAW = np.random.default_rng(0)
MAP = DRAW.normal(size=(2, 6, 9, 8)).astype(np.float32)
ROWS = DRAW.normal(size=(3, 5)).astype(np.float32)
POSITIVE = np.abs(ROWS) + np.float32(0.1)


def normal(*shape):
    return DRAW.normal(size=shape).astype(np.float32)


def whole(*values):
    return np.array(values, np.int64)


def case(op, *inputs, outputs=1, **attributes):
    inputs = [np.asarray(value) for value in inputs]
    given = " ".join(f"{key}={value}" for key, value in attributes.items())
    return pytest.param(op, inputs, attributes, outputs, id=f"{op} {given}".strip())


CASES = [
    *(case(op, ROWS) for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity")),
    *(case(op, ROWS) for op in ("LeakyRelu", "Neg", "Reciprocal", "Relu", "Shape", "Sigmoid", "Sign", "Sin")),
    *(case(op, ROWS) for op in ("Softplus", "Tanh", "Flatten", "Gelu")),
    *(case(op, POSITIVE) for op in ("Log", "Sqrt")),
    *(case(op, MAP) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    *(case(op, ROWS, normal(5)) for op in ("Add", "Div", "Max", "Min", "Mul", "Sub", "Greater", "GreaterOrEqual")),
    *(case(op, ROWS, ROWS.copy()) for op in ("Equal", "Less", "LessOrEqual")),
    *(case(op, ROWS > 0, ROWS < 1) for op in ("And", "Or")),
    case("Not", ROWS > 0),
    case("Div", whole(-7, 7, 8), whole(2, -2, 4)),
    case("Pow", POSITIVE, np.float32(1.5)),
    case("Cast", ROWS, to=TensorProto.INT64),
    case("Clip", ROWS, np.float32(-0.5), np.float32(0.5)),
    case("Concat", ROWS, normal(3, 2), axis=1),
    case("Einsum", ROWS, normal(5, 4), equation="ij,jk->ik"),
    case("Expand", normal(3, 1), whole(2, 1, 4)),
    case("Gather", MAP, whole(2, 0), axis=1),
    case("Gelu", ROWS, approximate="tanh"),
    case("HardSigmoid", ROWS, alpha=1 / 6),
    case("Gemm", ROWS, normal(4, 5), normal(4), transB=1),
    case("Gemm", normal(5, 3), normal(5, 4), normal(4), transA=1, alpha=0.5, beta=2.0),
    case("MatMul", normal(2, 3, 5), normal(5, 4)),
    case("MatMul", normal(4, 3), normal(2, 6, 3, 5)),
    case("MatMul", normal(2, 4, 3), normal(2, 3, 5)),
    case("MatMul", normal(3), normal(3, 5)),
    case("Softmax", MAP, axis=1),
    case("LayerNormalization", ROWS, normal(5), normal(5), axis=-1, epsilon=1e-6),
    case("BatchNormalization", MAP, normal(6), normal(6), normal(6), np.abs(normal(6))),
    *(case(f"Reduce{name}", MAP, whole(2, 3), keepdims=0) for name in ("L2", "Max", "Mean", "Min", "Prod", "Sum")),
    case("ReduceMean", MAP, keepdims=1),
    case("ReduceSum", ROWS, whole(), noop_with_empty_axes=1),
    case("Reshape", MAP, whole(0, -1, 4)),
    case("Slice", MAP, whole(1, -1), whole(5, -100), whole(1, 2), whole(2, -1)),
    case("Slice", MAP, whole(0), whole(1)),
    case("Split", MAP, whole(1, 5), outputs=2, axis=1),
    case("Split", MAP, outputs=2, axis=3, num_outputs=2),
    case("Squeeze", normal(1, 3, 1), whole(2)),
    case("Squeeze", normal(1, 3, 1)),
    case("Unsqueeze", ROWS, whole(0, 3)),
    case("Tile", ROWS, whole(2, 1)),
    case("Transpose", MAP, perm=[0, 3, 1, 2]),
    case("Where", ROWS > 0, ROWS, np.float32(2)),
    case("Range", np.float32(1), np.float32(4), np.float32(0.5)),
    case("Pad", MAP, whole(0, 0, 1, 2, 0, 0, 3, 0), np.float32(1.5)),
    case("Pad", MAP, whole(1, 2), np.float32(0), whole(2), mode="reflect"),
    case("Pad", MAP, whole(1, 2), np.float32(0), whole(2), mode="edge"),
    case("Conv", MAP, normal(4, 6, 3, 3), normal(4), pads=[1, 0, 2, 1]),
    case("Conv", MAP, normal(4, 6, 3, 2), strides=[2, 1], dilations=[2, 3]),
    case("Conv", MAP, normal(4, 6, 1, 1), normal(4), strides=[2, 2]),
    case("Conv", MAP, normal(6, 1, 3, 3), normal(6), pads=[1, 1, 1, 1], group=6, strides=[2, 2]),
    case("Conv", MAP, normal(12, 1, 3, 3), pads=[1, 1, 1, 1], group=6),
    case("Conv", MAP, normal(8, 3, 3, 3), normal(8), group=2),
    *(
        case(op, MAP, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=ceil)
        for op in ("MaxPool", "AveragePool")
        for ceil in (0, 1)
    ),
    case("AveragePool", MAP, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
    case("AveragePool", MAP, kernel_shape=[2, 2]),
    case("MaxPool", MAP, kernel_shape=[2, 2], dilations=[2, 2]),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "outputs"), CASES)
def test_an_operation_does_what_onnxruntime_does(op, inputs, attributes, outputs):
    names, made = [f"in_{k}" for k in range(len(inputs))], [f"out_{k}" for k in range(outputs)]
    kept = 1 if op == "Conv" else len(inputs)  # filters are constants
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names[:kept], inputs, strict=False)
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in zip(names[kept:], inputs[kept:], strict=True)]
    results = [helper.make_empty_tensor_value_info(name) for name in made]
    graph = helper.make_graph([helper.make_node(op, names, made, **attributes)], "one", values, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    given = dict(zip(names[:kept], inputs, strict=False))
    wanted = open_session(model.SerializeToString(), threads=1, name=op).run(None, given)
    found = to_graph(model, made).run(**given)
    for one, other in zip(found, wanted, strict=True):
        assert np.asarray(one).dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_every_operation_is_tried():
    tried = {parameters.values[0] for parameters in CASES}
    assert OPERATIONS.keys() == tried | {"Constant"} - {"Constant"}


def test_maps_stay_channels_last_in_memory():
    weight = normal(3, 3, 6, 4)
    found = OPERATIONS["Relu"](OPERATIONS["Conv"](MAP, weight) + np.float32(1))
    assert found.transpose(0, 2, 3, 1).flags["C_CONTIGUOUS"]
    assert onnx.defs.onnx_opset_version() >= 20
