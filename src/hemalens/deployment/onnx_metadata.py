"""The names and values that an ONNX file carries beside its graph, read and written without parsing the graph.

An ONNX file is a protobuf message: fields one after the other, each with its number, kind and length. The graph is one
of them and is passed over, so that nothing in it is believed before its hash is. Needs the standard library only.
"""

from collections.abc import Iterator

__all__ = ["read_metadata", "with_metadata"]

_METADATA = 14  # ModelProto.metadata_props: repeated { 1: key, 2: value }
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of an ONNX file; raise ValueError where it is none, or names a key twice."""
    found: dict[str, str] = {}
    for number, kind, start, stop in _fields(data, 0, len(data)):
        if number != _METADATA:
            continue
        if kind != _BYTES:
            raise ValueError("its metadata are of another kind")
        entry = {1: "", 2: ""}
        for inner, inner_kind, begin, end in _fields(data, start, stop):
            if inner in entry and inner_kind == _BYTES:
                entry[inner] = data[begin:end].decode("utf-8")
        if entry[1] in found:
            raise ValueError(f"it names {entry[1]!r:.40} twice")
        found[entry[1]] = entry[2]
    return found


def with_metadata(data: bytes, key: str, value: str) -> bytes:
    """Return an ONNX file with one more name and value at its end; its other bytes stay as they are."""
    if key in read_metadata(data):
        raise ValueError(f"it names {key!r} already")
    entry = b"".join(_record(number, text.encode()) for number, text in ((1, key), (2, value)))
    return data + _record(_METADATA, entry)


def _record(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, kind and the bounds of each field of a message that lies between two places."""
    while start < stop:
        tag, start = _read_varint(data, start, stop)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            end = _read_varint(data, start, stop)[1]
        elif kind == _BYTES:
            length, start = _read_varint(data, start, stop)
            end = start + length
        elif kind in (_FIXED64, _FIXED32):
            end = start + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError("a field of unknown kind")
        if end > stop or number == 0:
            raise ValueError("it ends in the middle of a field")
        yield number, kind, start, end
        start = end


def _read_varint(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Return a number and where the next byte is."""
    number = shift = 0
    for place in range(start, min(stop, start + 10)):
        number |= (data[place] & 0x7F) << shift
        if data[place] < 0x80:
            return number, place + 1
        shift += 7
    raise ValueError("it ends in the middle of a number")
