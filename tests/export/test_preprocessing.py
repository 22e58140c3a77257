"""The resize inside a model: Pillow's to the bit, whatever the size and whichever pass comes first."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemalens.data.reading.resize import resize
from hemalens.export.preprocessing import preprocessing, resize_model
from hemalens.inference.model import Session, open_session

SIDE = 12


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session(resize_model(SIDE).SerializeToString(), threads=1, name="resize")


def noise(shape: tuple[int, int], *, seed: int, hard: bool) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    return np.where(values < 128, np.uint8(0), np.uint8(255)) if hard else values


@given(shape=st.tuples(st.integers(1, 80), st.integers(1, 80)), seed=st.integers(0, 2**16), hard=st.booleans())
@settings(max_examples=120, deadline=None)
def test_it_is_pillows_to_the_bit(session: Session, shape: tuple[int, int], seed: int, hard: bool) -> None:
    image = noise(shape, seed=seed, hard=hard)
    found = session.run(None, {"images": image[None]})[0][0]
    assert np.array_equal(found, resize(image, SIDE))


@pytest.mark.parametrize("shape", [(300, 20), (SIDE + 1, SIDE), (2 * SIDE + 1, SIDE + 6), (20, 300), (1, 1), (SIDE, 9)])
def test_it_takes_the_passes_in_pillows_order(session: Session, shape: tuple[int, int]) -> None:
    images = np.stack([noise(shape, seed=seed, hard=True) for seed in range(3)])
    found = session.run(None, {"images": images})[0]
    assert np.array_equal(found, np.stack([resize(image, SIDE) for image in images]))


def test_images_of_the_size_pass_unchanged(session: Session) -> None:
    image = noise((SIDE, SIDE), seed=1, hard=False)
    assert np.array_equal(session.run(None, {"images": image[None]})[0][0], image)


def test_few_plain_operations_are_used() -> None:
    def operations(graph: onnx.GraphProto) -> set[str]:
        found = {node.op_type for node in graph.node}
        for node in graph.node:
            for attribute in node.attribute:
                found |= operations(attribute.g) if attribute.HasField("g") else set()
        return found

    model = resize_model(SIDE)
    arithmetic = {"Abs", "Add", "Clip", "Div", "Floor", "MatMul", "Max", "Mul", "ReduceSum", "Sign", "Sub"}
    logic = {"And", "Equal", "Greater", "If", "Less", "Where"}
    assert operations(model.graph) == arithmetic | logic | {"Cast", "Gather", "Range", "Shape", "Transpose"}


def test_values_are_normalised_as_the_network_takes_them() -> None:
    mean, std = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    nodes, constants = preprocessing(SIDE, mean, std, source="images", target="normalised")
    given_ = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", "h", "w", 3])
    made = onnx.helper.make_tensor_value_info("normalised", onnx.TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    graph = onnx.helper.make_graph(nodes, "test", [given_], [made], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    image = noise((30, 20), seed=2, hard=False)
    found = open_session(model.SerializeToString(), threads=1, name="test").run(None, {"images": image[None]})[0]
    wanted = (resize(image, SIDE) / 255.0 - mean) / std
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], wanted.transpose(2, 0, 1), atol=1e-5)
