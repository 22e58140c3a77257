"""ONNX models as lists of operations: the same logits as onnxruntime's, nothing left in them that is not needed."""

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper

from hemalens.core.errors import ConfigError
from hemalens.export.network import assemble, trace_network
from hemalens.export.submission.graph import graph_bytes, to_graph
from hemalens.export.submission.submitted.numpy_runtime import Network, open_graph, open_network
from hemalens.inference.model import open_session
from hemalens.training.models import Normalised
from tests.exported import Fp32

TWO_BLOCKS = {"img_size": 32, "depth": 2}
MEAN, STD = torch.tensor([0.6, 0.5, 0.7]), torch.tensor([0.2, 0.25, 0.3])


@pytest.mark.parametrize("shape", [(5, 96, 96, 3), (3, 16, 16, 3), (2, 9, 70, 3), (1, 200, 30, 3)])
def test_a_run_says_what_onnxruntime_says_for_images_of_any_size(fp32: Fp32, shape) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    session = open_session(fp32.onnx.read_bytes(), threads=1, name="export")
    wanted = session.run(["logits"], {"images": images})[0]
    found = Network(to_graph(onnx.load(fp32.onnx)))(images)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("name", "options"), [("lcnet_035", {}), ("vit_tiny_patch16_224", TWO_BLOCKS)])
def test_networks_of_timm_run(name: str, options: dict[str, int]) -> None:
    """Depthwise convolutions, squeeze and excitation, hard swish; attention, layer normalisation, GELU."""
    module = Normalised(timm.create_model(name, num_classes=4, **options), MEAN, STD).eval()
    model = assemble(trace_network(module, 32), module, 32)
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    wanted = open_session(model.SerializeToString(), threads=1, name=name).run(["logits"], {"images": images})[0]
    np.testing.assert_allclose(Network(to_graph(model))(images), wanted, atol=1e-5)


def small(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("logits",), **constants: np.ndarray) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in outputs]
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "small", given, made, kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_what_no_output_needs_is_left_out_and_constants_are_computed_once() -> None:
    model = small(
        helper.make_node("Exp", ["images"], ["unused"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["images", "c"], ["logits"]),
        a=np.float32([1, 2, 3]),
        b=np.float32([1, 1, 1]),
        unused_too=np.float32([0]),
    )
    graph = to_graph(model)
    assert [node["op"] for node in graph.nodes] == ["Mul"]
    assert {name: value.tolist() for name, value in graph.constants.items()} == {"c": [2, 3, 4]}


def test_a_relu_joins_the_operation_before_it_unless_others_look_at_that_too() -> None:
    add, relu = helper.make_node("Add", ["images", "a"], ["b"]), helper.make_node("Relu", ["b"], ["logits"])
    one = np.float32([[-3, 0, 3]])
    joined = to_graph(small(add, relu, a=np.float32([1, 1, 1])))
    assert [(node["op"], node.get("then")) for node in joined.nodes] == [("Add", "Relu")]
    assert joined.run(images=one)[0].tolist() == [[0, 1, 4]]
    both = to_graph(small(add, relu, outputs=("logits", "b"), a=np.float32([1, 1, 1])), ("logits", "b"))
    assert [value.tolist() for value in both.run(images=one)] == [[[0, 1, 4]], [[-2, 1, 4]]]


def test_unknown_operations_are_refused_by_name_with_the_next_step() -> None:
    model = small(helper.make_node("CumSum", ["images", "axis"], ["logits"]), axis=np.int64(1))
    with pytest.raises(ConfigError, match=r"network x: needs operations .* \(CumSum\); package it with --runtime onnx"):
        to_graph(model, name="x")


def test_a_graph_reads_back_as_it_was_written(fp32: Fp32, tmp_path) -> None:
    graph = to_graph(onnx.load(fp32.onnx))
    (tmp_path / "net.npz").write_bytes(graph_bytes(graph))
    again = open_graph(tmp_path / "net.npz")
    assert (again.nodes, again.inputs, again.outputs) == (graph.nodes, graph.inputs, graph.outputs)
    images = np.zeros((2, 20, 20, 3), np.uint8)
    np.testing.assert_array_equal(open_network(tmp_path / "net")(images), Network(graph)(images))


def test_values_are_forgotten_after_their_last_use() -> None:
    model = small(
        helper.make_node("Exp", ["images"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Sin", ["b"], ["logits"]),
    )
    assert to_graph(model)._dead == [["images"], ["a"], ["b"]]
