"""An ONNX model to the plain list of operations that ``submitted.numpy_runtime`` runs, without onnx in between.

What no output needs is left out, what depends on constants alone is computed once, and a ReLU joins the operation
before it. Needs onnx (extra ``train``).
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, helper, numpy_helper

from hemalens.core.errors import ConfigError
from hemalens.export.submission.submitted.numpy_operations import OPERATIONS
from hemalens.export.submission.submitted.numpy_runtime import Graph

__all__ = ["graph_bytes", "to_graph"]

_Array = npt.NDArray[Any]
_Node = dict[str, Any]
_BEFORE_RELU = frozenset({"Add", "Conv", "Gemm", "MatMul", "Mul", "Sub"})  # their outputs are arrays of their own
# Said by weights and pads (pooling keeps its kernel_shape), or without a meaning once training is over.
_DROPPED = frozenset({"auto_pad", "kernel_shape", "momentum", "stash_type", "storage_order", "training_mode"})
_FOLDED = 1 << 20  # values; a constant spread over a large shape would bloat the file


def to_graph(model: onnx.ModelProto, outputs: Sequence[str] = ("logits",), *, name: str = "network") -> Graph:
    """Return what a model does up to the named outputs.

    Raises ConfigError that names the operations which numpy's runtime does not know.
    """
    constants: dict[str, _Array] = {}
    nodes = _nodes(model.graph, constants)
    needed, kept = set(outputs), list[_Node]()
    for node in reversed(nodes):
        if needed & set(node["outputs"]):
            kept.append(node)
            needed |= _asked(node)
    kept.reverse()
    _refuse_unknown(kept, constants, name)
    kept = _join_relus(_fold(kept, constants), outputs)
    needed = set(outputs).union(*(_asked(node) for node in kept))
    _turn_weights(kept, constants)
    inputs = [value.name for value in model.graph.input]
    return Graph(kept, inputs, list(outputs), {key: value for key, value in constants.items() if key in needed})


def graph_bytes(graph: Graph) -> bytes:
    """Return a graph as the bytes of the .npz that ``numpy_runtime.open_graph`` reads."""
    facts = {"nodes": graph.nodes, "inputs": graph.inputs, "outputs": graph.outputs, "constants": list(graph.constants)}
    arrays = {str(index): value for index, value in enumerate(graph.constants.values())}
    arrays["graph"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _nodes(graph: onnx.GraphProto, constants: dict[str, _Array]) -> list[_Node]:
    """Return the nodes of a graph and put its constants, those of inner graphs too, among the others."""
    for value in graph.initializer:
        assert value.name not in constants  # ONNX allows a name once, inner graphs included
        constants[value.name] = numpy_helper.to_array(value)
    nodes = []
    for node in graph.node:
        attributes = {one.name: _attribute(one, constants) for one in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = np.asarray(next(iter(attributes.values())))
            continue
        op = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        if op == "Cast":
            attributes = {"to": helper.tensor_dtype_to_np_dtype(attributes["to"]).name}
        if attributes.get("auto_pad", "NOTSET") != "NOTSET":
            op = f"{op} with auto_pad"
        dropped = _DROPPED - {"kernel_shape"} if op.endswith("Pool") else _DROPPED
        attributes = {key: value for key, value in attributes.items() if key not in dropped}
        nodes.append({"op": op, "inputs": list(node.input), "outputs": list(node.output), "attributes": attributes})
    return nodes


def _attribute(attribute: onnx.AttributeProto, constants: dict[str, _Array]) -> Any:  # noqa: ANN401  # of any kind
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.GRAPH:
        return {"nodes": _nodes(value, constants), "outputs": [output.name for output in value.output]}
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def _inner(node: _Node) -> Iterable[Mapping[str, Any]]:
    return (value for value in node["attributes"].values() if isinstance(value, dict))


def _asked(node: _Node) -> set[str]:
    """Return the names that a node and the graphs inside it ask for."""
    names = set(node["inputs"]) - {""}
    for graph in _inner(node):
        names |= set(graph["outputs"]).union(*(_asked(one) for one in graph["nodes"]))
    return names


def _everything(nodes: Iterable[_Node]) -> Iterable[_Node]:
    for node in nodes:
        yield node
        for graph in _inner(node):
            yield from _everything(graph["nodes"])


def _refuse_unknown(nodes: Sequence[_Node], constants: Mapping[str, _Array], name: str) -> None:
    known = OPERATIONS.keys() | {"If"}
    unknown = {node["op"] for node in _everything(nodes)} - known
    for node in _everything(nodes):
        if node["op"] == "Conv" and (node["inputs"][1] not in constants or constants[node["inputs"][1]].ndim != 4):
            unknown.add("Conv of other than two axes and constant weights")
        unknown |= {f"{node['op']} with {key}" for key, value in node["attributes"].items() if _is_array(value)}
    if unknown:
        rule = f"needs operations that the numpy runtime does not know ({', '.join(sorted(unknown))})"
        raise ConfigError(f"network {name}", rule, "package it with --runtime onnx, or train another model")


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def _fold(nodes: Sequence[_Node], constants: dict[str, _Array]) -> list[_Node]:
    """Compute what depends on constants alone; return the nodes that are left."""
    left = []
    for node in nodes:
        if node["op"] in ("If", "Conv") or not set(node["inputs"]) - {""} <= constants.keys():
            left.append(node)
            continue
        found = Graph([node], [], node["outputs"], constants).run()
        if sum(value.size for value in found) > _FOLDED:
            left.append(node)
        else:
            constants |= {key: np.asarray(value) for key, value in zip(node["outputs"], found, strict=True)}
    return left


def _join_relus(nodes: Sequence[_Node], outputs: Sequence[str]) -> list[_Node]:
    """Let an operation whose only use is a ReLU do that too, in place."""
    uses = Counter(name for node in nodes for name in _asked(node))
    uses.update(outputs)
    maker = {node["outputs"][0]: node for node in nodes if node["op"] in _BEFORE_RELU}
    left = []
    for node in nodes:
        before = maker.get(node["inputs"][0]) if node["op"] == "Relu" else None
        if before is not None and uses[node["inputs"][0]] == 1 and "then" not in before:
            before["outputs"], before["then"] = node["outputs"], "Relu"
        else:
            left.append(node)
    return left


def _turn_weights(nodes: Sequence[_Node], constants: dict[str, _Array]) -> None:
    """Put the weights of convolutions into the order (kh, kw, in, out)."""
    names = {node["inputs"][1] for node in _everything(nodes) if node["op"] == "Conv"}
    others = {
        name for node in _everything(nodes) for k, name in enumerate(node["inputs"]) if node["op"] != "Conv" or k != 1
    }
    assert not names & others  # no exporter shares a filter with another operation
    for name in names:
        constants[name] = np.ascontiguousarray(constants[name].transpose(2, 3, 1, 0))
