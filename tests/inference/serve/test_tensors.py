"""Requests of the Open Inference Protocol, parsed: whatever comes, images or one kind of error."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core.errors import RequestError
from hemalens.inference.serve.tensors import OUTPUTS, read_tensors

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))


def body(**changed: object) -> bytes:
    tensor = {"name": "images", "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": [1, 2, 3, 4, 5, 255], **changed}
    return json.dumps({"inputs": [tensor]}).encode()


def test_flat_and_nested_data_are_the_same_images() -> None:
    flat = read_tensors(body(), 100)
    nested = read_tensors(body(data=[[[[1, 2, 3], [4, 5, 255]]]]), 100)
    np.testing.assert_array_equal(flat.images, nested.images)
    assert flat.images.shape == (1, 1, 2, 3)
    assert flat.outputs == tuple(OUTPUTS)
    assert flat.id is None


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(RequestError, match="has 2 pixels, the limit is 1") as caught:
        read_tensors(body(), 1)
    assert caught.value.status == 413


@given(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), ANYTHING)
def test_any_value_in_any_place_is_read_or_refused(key: str, value: object) -> None:
    with contextlib.suppress(RequestError):
        assert read_tensors(body(**{key: value}), 100).images.dtype == np.uint8


@given(ANYTHING)
def test_any_json_is_read_or_refused(value: object) -> None:
    with pytest.raises(RequestError):
        read_tensors(json.dumps(value).encode(), 100)


@given(st.binary(max_size=50))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        read_tensors(data, 100)
