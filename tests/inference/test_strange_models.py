"""Models that hemalens did not export: each is refused when it is opened, by what is wrong with it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hemalens.cli import main
from hemalens.core.errors import ArtifactError
from hemalens.inference import model as classifier
from hemalens.inference.model import Model
from hemalens.inference.sidecar import SCHEMA_VERSION, array_to_json
from tests.exported import bind_again

CLASSES, WIDTH, SIZE = ["a", "b"], 3, 4
FACTS: dict[str, Any] = {
    "schema_version": SCHEMA_VERSION,
    "classes": CLASSES,
    "image_size": SIZE,
    "model": {},
    "run": {},
    "abstention": None,
    "temperature": 1.0,
    "threshold": 0.0,
    "head": {
        "weight": array_to_json(np.ones((2, WIDTH), np.float32)),
        "bias": array_to_json(np.zeros(2, np.float32)),
    },
}


def value(name: str, kind: int = TensorProto.FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


INPUT = value("images", TensorProto.UINT8, ["batch", "height", "width", 3])
LOGITS, FEATURES = value("logits", shape=["batch", 2]), value("features", shape=["batch", WIDTH])
MAP = value("feature_map", shape=["batch", WIDTH, "h", "w"])
OUTPUTS = [LOGITS, FEATURES, MAP]
NODES = [
    helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("Transpose", ["floats"], ["feature_map"], perm=[0, 3, 1, 2]),
    helper.make_node("ReduceMean", ["feature_map", "axes"], ["features"], keepdims=0),
    helper.make_node("MatMul", ["features", "weight"], ["logits"]),
]
CONSTANTS = [
    numpy_helper.from_array(np.array([2, 3]), "axes"),
    numpy_helper.from_array(np.ones((WIDTH, 2), np.float32), "weight"),
]


def endless(name: str) -> list[onnx.NodeProto]:
    """Nodes that go round and round before they give back the map."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["before", "before"], ["sum"]),
            helper.make_node("Mul", ["sum", "half"], ["after"]),
        ],
        "body",
        [value("round", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("before")],
        [value("go_on", TensorProto.BOOL, []), value("after")],
        [numpy_helper.from_array(np.array(0.5, np.float32), "half")],
    )
    loop = helper.make_node("Loop", ["", "always", "floats"], ["round_and_round"], body=body)
    turn = helper.make_node("Transpose", ["round_and_round"], [name], perm=[0, 3, 1, 2])
    return [NODES[0], loop, turn, *NODES[2:]]


def write(
    folder: Path,
    *,
    inputs: Any = (INPUT,),
    outputs: Any = OUTPUTS,
    nodes: Any = NODES,
    constants: Any = CONSTANTS,
    **facts: Any,
) -> Path:
    graph = helper.make_graph(list(nodes), "hand-made", list(inputs), list(outputs), list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bind_again(folder / "model.onnx", FACTS | facts, model.SerializeToString())


def head(weight: tuple[int, ...], bias: tuple[int, ...]) -> dict[str, Any]:
    return {"weight": array_to_json(np.ones(weight, np.float32)), "bias": array_to_json(np.ones(bias, np.float32))}


def more(name: str) -> onnx.NodeProto:
    return helper.make_node("Identity", ["logits"], [name])


TRUE = numpy_helper.from_array(np.array(True), "always")
STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "an input of another name": (
        {
            "inputs": [value("pixels", TensorProto.UINT8, ["n", "h", "w", 3])],
            "nodes": [helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT), *NODES[1:]],
        },
        r"takes 'pixels' tensor\(uint8\)",
    ),
    "an input of floats": (
        {"inputs": [value("images", shape=["n", "h", "w", 3])]},
        r"takes 'images' tensor\(float",
    ),
    "an input of three axes": (
        {
            "inputs": [value("images", TensorProto.UINT8, ["h", "w", 3])],
            "outputs": [value("floats"), *OUTPUTS],
            "nodes": NODES[:1],
        },
        "cannot be opened|takes 'images'",
    ),
    "channels first": ({"inputs": [value("images", TensorProto.UINT8, ["n", 3, "h", "w"])]}, "takes 'images'"),
    "two inputs": ({"inputs": [INPUT, value("more", shape=[1])]}, "takes 'images' .*, 'more'"),
    "one output": ({"outputs": [LOGITS]}, "gives 'logits'"),
    "a fourth output": ({"outputs": [*OUTPUTS, value("x", shape=None)], "nodes": [*NODES, more("x")]}, "gives .*'x'"),
    "outputs in another order": ({"outputs": OUTPUTS[::-1]}, "gives 'feature_map'"),
    "200 outputs": (
        {
            "outputs": [*OUTPUTS, *(value(f"x{k}", shape=["n", 2]) for k in range(200))],
            "nodes": [*NODES, *(more(f"x{k}") for k in range(200))],
        },
        "and 199 more",
    ),
    "another number of classes": (
        {"classes": ["a", "b", "c"], "head": None},
        "has 2 outputs, its sidecar names 3 classes",
    ),
    "a head that is too narrow": ({"head": head((2, 2), (2,))}, r"has a head of shapes \(2, 2\) and \(2,\)"),
    "a head of other classes": ({"head": head((3, WIDTH), (3,))}, r"\(head of \(3, 3\)"),
    "a head of three axes": ({"head": head((2, WIDTH, 1), (2,))}, r"\(head of \(2, 3, 1\)"),
    "a head without a bias for each": ({"head": head((2, WIDTH), (1,))}, r"\(head of \(2, 3\) float32 and \(1,\)"),
    "a network that sees 10**6 pixels": ({"image_size": 10**6}, "as 'image_size', it holds 1000000"),
    "NaN": (
        {
            "constants": [
                CONSTANTS[0],
                numpy_helper.from_array(np.full((WIDTH, 2), np.nan, np.float32), "weight"),
            ]
        },
        "answers a grey image by NaN",
    ),
    "shapes that do not fit": (
        {"constants": [CONSTANTS[0], numpy_helper.from_array(np.ones((9, 2), np.float32), "weight")]},
        "cannot be (run|opened) by onnxruntime",
    ),
    "an image answered by ten rows": (
        {
            "nodes": [*NODES[:3], helper.make_node("MatMul", ["tall", "weight"], ["logits"])],
            "constants": [*CONSTANTS, numpy_helper.from_array(np.ones((10, WIDTH), np.float32), "tall")],
        },
        "answers one image by arrays of the shapes",
    ),
    "more zeros than there are addresses": (
        {
            "nodes": [
                *NODES[:3],
                helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
                helper.make_node("MatMul", ["zeros", "weight"], ["logits"]),
            ],
            "constants": [*CONSTANTS, numpy_helper.from_array(np.array([10**14, WIDTH]), "many")],
        },
        "cannot be (run|opened) by onnxruntime",
    ),
    "a loop without an end": (
        {"nodes": endless("feature_map"), "constants": [*CONSTANTS, TRUE]},
        r"is not done with 1 images after 0\.5 s; it may loop for ever",
    ),
}


def test_the_hand_made_model_itself_is_taken(tmp_path: Path) -> None:
    opened = Model.open(write(tmp_path), threads=1)
    assert opened.predict(np.zeros((2, 9, 7, 3), np.uint8)).tolist() == ["a", "a"]


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_model_is_refused_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(classifier, "_FIRST_SECONDS", 0.5)
    parts, text = STRANGE[name]
    path = write(tmp_path, **parts)
    with pytest.raises(ArtifactError, match=text) as caught:
        Model.open(path, threads=1)
    assert caught.value.step
    assert len(str(caught.value)) < 1200


def loops_at(shade: int) -> list[onnx.NodeProto]:
    """A loop that only an image of one shade starts."""
    nodes = endless("feature_map")
    nodes[1].input[1] = "starts"
    asks = [
        helper.make_node("ReduceMax", ["floats"], ["largest"], keepdims=0),
        helper.make_node("Equal", ["largest", "shade"], ["starts"]),
    ]
    return [nodes[0], *asks, *nodes[1:]]


def test_a_loop_that_some_image_starts_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shade = numpy_helper.from_array(np.array(7, np.float32), "shade")
    opened = Model.open(write(tmp_path, nodes=loops_at(7), constants=[*CONSTANTS, shade]), threads=1)
    monkeypatch.setattr(classifier, "_SECONDS", 0.5)
    assert opened.predict(np.full((1, 4, 4, 3), 8, np.uint8)).tolist() == ["a"]
    with pytest.raises(ArtifactError, match="is not done with 1 images"):
        opened.predict(np.full((1, 4, 4, 3), 7, np.uint8))


@pytest.mark.parametrize("command", ["predict", "serve"])
def test_commands_end_with_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(classifier, "_FIRST_SECONDS", 0.5)
    np.save(tmp_path / "source.npy", np.zeros((2, 8, 8, 3), np.uint8))
    model = write(tmp_path, nodes=endless("feature_map"), constants=[*CONSTANTS, TRUE])
    words = {"predict": [str(tmp_path / "source.npy"), "--out", str(tmp_path / "out.csv")], "serve": ["--port", "0"]}
    monkeypatch.setattr("sys.argv", ["hemalens", command, *words[command], "--model", str(model)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "may loop for ever" in said
    assert said.count("\n") == 1
