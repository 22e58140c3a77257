"""An exported network run by numpy alone: a list of ONNX's operations, done one after the other.

Needs numpy 1.26 or later and Python 3.10; goes into submissions as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .numpy_operations import OPERATIONS

__all__ = ["BATCH", "Graph", "Network", "open_graph", "open_network"]

BATCH = 16
"""Images in one call: with more, the patches of a convolution leave the caches of a core."""

Array = npt.NDArray[Any]


class Graph:
    """Operations in the order in which they run, and their constants.

    Args:
        nodes: ``op``, ``inputs``, ``outputs``, ``attributes`` of each; ``then`` names an operation on its output.
        inputs: names of what ``run`` is given.
        outputs: names of what it returns.
        constants: values by name; weights of convolutions as (kh, kw, in, out).
    """

    def __init__(
        self,
        nodes: Sequence[Mapping[str, Any]],
        inputs: Sequence[str],
        outputs: Sequence[str],
        constants: Mapping[str, Array],
    ) -> None:
        self.nodes, self.inputs, self.outputs, self.constants = list(nodes), list(inputs), list(outputs), constants
        self._dead = _last_uses(self.nodes, self.outputs)

    def run(self, **given: Array) -> list[Array]:
        """Return the outputs for the inputs, each under its name."""
        values: dict[str, Array] = {name: given[name] for name in self.inputs}
        for node, dead in zip(self.nodes, self._dead, strict=True):
            self._step(node, values)
            for name in dead:
                values.pop(name, None)
        return [self._value(name, values) for name in self.outputs]

    def _step(self, node: Mapping[str, Any], values: dict[str, Array]) -> None:
        attributes = node["attributes"]
        inputs = [self._value(name, values) for name in node["inputs"]]
        if node["op"] == "If":
            branch = attributes["then_branch" if bool(inputs[0]) else "else_branch"]
            inner = dict(values)
            for one in branch["nodes"]:
                self._step(one, inner)
            found: Any = tuple(self._value(name, inner) for name in branch["outputs"])
        else:
            found = OPERATIONS[node["op"]](*inputs, **attributes)
        if node.get("then") == "Relu":
            np.maximum(found, 0, out=found)
        found = found if isinstance(found, tuple) else (found,)
        values.update(item for item in zip(node["outputs"], found, strict=False) if item[0])

    def _value(self, name: str, values: Mapping[str, Array]) -> Any:  # noqa: ANN401  # None for an input left out
        if not name:
            return None
        return values[name] if name in values else self.constants[name]


class Network:
    """A graph of uint8 images (N, H, W, 3) to logits (N, C) float32."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, images: Array) -> Array:
        """Return logits (N, C)."""
        (logits,) = self.graph.run(images=images)
        return logits


def open_network(path: Path) -> Network:
    """Open ``NAME.npz``, given without its suffix."""
    return Network(open_graph(path.with_name(f"{path.name}.npz")))


def open_graph(path: Path) -> Graph:
    """Read a graph: an archive of arrays ``0``, ``1``, ... and ``graph``, its nodes and names as JSON."""
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(bytes(file["graph"]))
        constants = {name: file[str(place)] for place, name in enumerate(facts["constants"])}
    return Graph(facts["nodes"], facts["inputs"], facts["outputs"], constants)


def _last_uses(nodes: Sequence[Mapping[str, Any]], outputs: Sequence[str]) -> list[list[str]]:
    """Return the names that nobody asks for after each node, so that their memory is given back."""
    seen, dead = set(outputs), []
    for node in reversed(nodes):
        names = _names(node) - seen
        seen |= names
        dead.append(sorted(names))
    return dead[::-1]


def _names(node: Mapping[str, Any]) -> set[str]:
    names = {*node["inputs"], *node["outputs"]}
    for value in node["attributes"].values():
        if isinstance(value, dict):
            names |= {*value["outputs"]}.union(*(_names(inner) for inner in value["nodes"]))
    return names
