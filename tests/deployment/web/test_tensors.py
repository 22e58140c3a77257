"""Requests of the Open Inference Protocol, parsed: whatever comes, pictures or one kind of error, for little memory."""

import contextlib
import gzip
import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core.errors import RequestError
from hemalens.core.refusal import Judgement
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.tensors import (
    HEAD_LENGTH,
    OUTPUTS,
    Framing,
    TensorRequest,
    answer_tensors,
    read_framing,
    read_tensors,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))
LIMITS = Limits(pixels=100, pictures=50)
PLAIN = {"name": "pictures", "shape": [1, 1, 2, 3], "datatype": "UINT8"}


def asked(data: dict[str, object], **request: object) -> bytes:
    return json.dumps({"inputs": [data], **request}).encode()


def body(**changed: object) -> bytes:
    return asked({**PLAIN, "data": [1, 2, 3, 4, 5, 255], **changed})


def binary(values: bytes, size: object = 6, shape: object = (1, 1, 2, 3), **request: object) -> tuple[bytes, Framing]:
    head = asked({**PLAIN, "shape": shape, "parameters": {"binary_data_size": size}}, **request)
    return head + values, Framing(len(head))


def read(sent: tuple[bytes, Framing]) -> TensorRequest:
    return read_tensors(sent[0], LIMITS, sent[1])


def test_flat_and_nested_data_are_the_same_pictures() -> None:
    flat = read_tensors(body(), LIMITS)
    nested = read_tensors(body(data=[[[[1, 2, 3], [4, 5, 255]]]]), LIMITS)
    np.testing.assert_array_equal(flat.pictures, nested.pictures)
    assert flat.pictures.shape == (1, 1, 2, 3)
    assert flat.outputs == dict.fromkeys(OUTPUTS, False)
    assert flat.id is None


def test_bytes_are_the_same_pictures() -> None:
    request = read(binary(bytes([1, 2, 3, 4, 5, 255])))
    np.testing.assert_array_equal(request.pictures, read_tensors(body(), LIMITS).pictures)


@pytest.mark.parametrize("shape", [(1, 1, 101, 3), (51, 1, 1, 3), (101, 1, 1, 3)])
def test_too_much_is_refused_in_json_and_in_bytes(shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    data, framing = binary(bytes(count), count, shape)
    for one, way in ((body(shape=shape, data=[0] * count), None), (data, framing)):
        with pytest.raises(RequestError, match=r"the limit is|times the other") as caught:
            read_tensors(one, LIMITS, way)
        assert caught.value.status == 413


@given(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), ANYTHING)
def test_any_value_in_any_place_is_read_or_refused(key: str, value: object) -> None:
    with contextlib.suppress(RequestError):
        assert read_tensors(body(**{key: value}), LIMITS).pictures.dtype == np.uint8


@given(ANYTHING)
def test_any_json_is_read_or_refused(value: object) -> None:
    with pytest.raises(RequestError):
        read_tensors(json.dumps(value).encode(), LIMITS)


@given(st.binary(max_size=50))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        read_tensors(data, LIMITS)


@given(st.lists(st.sampled_from([0, 255, 256, -1, 10**300, True, 1.0, "1", None, [1]]), min_size=6, max_size=6))
def test_only_whole_numbers_of_a_byte_are_values(data: list[object]) -> None:
    good = all(type(value) is int and 0 <= value <= 255 for value in data)
    with contextlib.nullcontext() if good else pytest.raises(RequestError, match=r"^data: "):
        assert read_tensors(body(data=data), LIMITS).pictures.ravel().tolist() == data


@given(st.recursive(st.integers(0, 255), lambda inner: st.lists(inner, max_size=3), max_leaves=12))
def test_nested_data_must_have_the_shape_itself(data: object) -> None:
    whole = isinstance(data, list) and len(data) == 6 and all(isinstance(value, int) for value in data)
    with contextlib.suppress(RequestError):
        pictures = read_tensors(body(data=data), LIMITS).pictures
        assert whole or pictures.tolist() == data


@given(
    st.binary(max_size=12),
    st.integers(-3, 12) | st.booleans() | st.none() | st.text(max_size=3),
    st.lists(st.integers(0, 3), min_size=3, max_size=5),
    st.integers(0, 400),
)
def test_any_framing_is_read_or_refused(values: bytes, size: object, shape: list[int], head: int) -> None:
    data, framing = binary(values, size, shape)
    for way in (framing, Framing(head), None):
        with contextlib.suppress(RequestError):
            pictures = read_tensors(data, LIMITS, way).pictures
            assert way == framing
            assert pictures.tobytes() == values
            assert [*pictures.shape] == shape


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (binary(bytes(5)), "must be the bytes of the shape, 6, and behind the JSON are 5"),
        (binary(bytes(7)), "and behind the JSON are 7"),
        (binary(b"", 0), "must be the bytes of the shape"),
        (binary(bytes(6), 6.0), "must be the bytes of the shape"),
        (binary(bytes(6), 10**400), "binary_data_size a number of more than 128 bits"),
        (binary(bytes(6), 6, [1 << 30] * 3 + [3]), "must be the bytes of the shape"),
        ((body() + b"more", Framing(len(body()))), "4 bytes behind its JSON, which no binary_data_size announces"),
        ((body(), Framing(10**9)), "is more than the body's"),
        ((body(parameters={"binary_data_size": 0}), Framing(0)), "is no JSON"),
        (binary(bytes(6), outputs=[{"name": "logits", "parameters": {"binary_data": 1}}]), "must be true or false"),
        (binary(bytes(6), parameters={"binary_data_output": "yes"}), "must be true or false"),
    ],
)
def test_bytes_that_do_not_fit_their_head_are_named(sent: tuple[bytes, Framing], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        read(sent)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, Framing()),
        ({"content-type": "Application/JSON; charset=utf-8"}, Framing()),
        ({"content-type": "application/octet-stream"}, Framing()),
        ({HEAD_LENGTH: "12"}, Framing(12)),
        ({HEAD_LENGTH: "12", "content-type": "application/x-www-form-urlencoded"}, Framing(12)),
        ({HEAD_LENGTH: "12", "content-encoding": "GZIP"}, Framing(12, "gzip")),
        ({"content-encoding": "identity"}, Framing()),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-encoding": "br"}, 415),
        ({HEAD_LENGTH: "-1"}, 400),
        ({HEAD_LENGTH: "1e3"}, 400),
        ({HEAD_LENGTH: "9" * 5000}, 400),
        ({HEAD_LENGTH: "\u0663"}, 400),
        ({HEAD_LENGTH: ""}, 400),
    ],
)
def test_headers_say_how_a_body_is_read(headers: dict[str, str], wanted: Framing | int) -> None:
    if isinstance(wanted, Framing):
        assert read_framing(headers) == wanted
        return
    with pytest.raises(RequestError) as caught:
        read_framing(headers)
    assert caught.value.status == wanted


def test_packed_bodies_are_unpacked_within_their_limit() -> None:
    limits = Limits(infer_bytes=1000)
    data, framing = binary(bytes(6))
    for name, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        way = Framing(framing.head, name)
        assert read_tensors(pack(data), limits, way).pictures.shape == (1, 1, 2, 3)
        with pytest.raises(RequestError, match="unpacks to more than 1,000 bytes"):
            read_tensors(pack(bytes(10**8)), limits, way)
        for damaged in (pack(data)[:-3], pack(data) + b"x", b"x" + pack(data), data):
            with pytest.raises(RequestError, match="body: is") as caught:
                read_tensors(damaged, limits, way)
            assert caught.value.status == 400


def test_answers_come_as_bytes_where_they_are_asked_for() -> None:
    judged = Judgement(
        np.array([[0.25, 0.75]]), np.array([1]), np.array([0.75]), np.zeros(1), np.array([True]), ("unlike ä",)
    )
    some = [{"name": "predicted"}, {"name": "confidence", "parameters": {"binary_data": False}}]
    for outputs in (None, some):
        request = read(binary(bytes(6), parameters={"binary_data_output": True}, outputs=outputs, id="7"))
        data, head = answer_tensors(request, judged, np.array([[1, 2]], np.float32), np.array(["a", "bb"]), "m")
        said = json.loads(data[:head])
        assert said["id"] == "7"
        found, place = {}, head or 0
        for one in said["outputs"]:
            if "data" not in one:
                size = one["parameters"]["binary_data_size"]
                found[one["name"]], place = data[place : place + size], place + size
        assert place == len(data)
        assert found["predicted"] == b"\2\0\0\0bb"
        if outputs is None:
            assert found["reason"] == b"\x09\0\0\0" + "unlike ä".encode()
            assert np.frombuffer(found["probabilities"], "<f4").tolist() == [0.25, 0.75]
            assert found["abstained"] == b"\1"
        else:
            assert said["outputs"][1]["data"] == [0.75]


_PEAK = """
import sys
from pathlib import Path
from hemalens.core.errors import RequestError
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.tensors import read_tensors
def kib(key):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
HEAD = b'{"inputs": [{"name": "pictures", "datatype": "UINT8", "shape": [1, 1, 1000, 3], "data": [%s]}]}'
NEST = HEAD.replace(b"[1, 1, 1000, 3]", b"[1, 1000, 1000, 3]")
SIZE = 8_300_000
def filled(piece, head=HEAD):
    return head % (piece * (SIZE // len(piece)) + b"0")
row = b"[" + b"[0,0,0]," * 999 + b"[0,0,0]],"
cases = [
    HEAD % (b'"' + b"x" * 30_000 + b'",' + b"1," * 50_000 + b"1"),
    filled(b"[],"), filled(b"{},"), filled(b'"",'), filled(b'"ab",'), filled(b"999,"), filled(b"1.5,"), filled(b"0,"),
    filled(b"[0,0,0],"), filled(b"null,"), HEAD % (b"9" * SIZE), HEAD % (b"[" * SIZE), filled(b"-1,"),
    NEST % (b"[" + (row * 1000)[:-1] + b"]"), NEST % (b"[" + (row * 999)[:-1] + b",[1]]"),
    b"{" + b'"aa":1,' * (SIZE // 7), b" " * SIZE, HEAD % (b'"' + "\U0001f600".encode() * (SIZE // 4) + b'"'),
]
for case in cases:
    Path("/proc/self/clear_refs").write_text("5")
    idle = kib("VmRSS")
    try:
        said = str(read_tensors(case, Limits()).pictures.shape)
    except RequestError as error:
        said = str(error)
    print((kib("VmHWM") - idle) // 1024, said[:60])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_costliest_json_costs_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 18
    assert "(1, 1000, 1000, 3)" in lines[13]
    assert max(int(line.split()[0]) for line in lines) < 200, done.stdout
