"""Archives byte by byte, so that they can lie."""

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.data.hostile import cell, encode, write_tar

PNG, OTHER = encode(cell(8, 1)), encode(cell(8, 2))
GOOD = ("ig/good.png", PNG)


def block(name: str, body: bytes = b"", *, kind: bytes = b"0", size: bytes | None = None) -> bytes:
    """Return a tar member as its bytes; ``size`` replaces the 12 bytes of the size field."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(body), kind
    header = bytearray(info.tobuf(format=tarfile.GNU_FORMAT))
    if size is not None:
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + body + bytes(-len(body) % 512)


def raw_tar(*parts: bytes) -> Callable[[Path], object]:
    """Return a writer of a tar from members as bytes, with the end mark that every whole one has."""
    return lambda path: path.write_bytes(b"".join(parts) + bytes(1024))


def pax(**facts: str) -> bytes:
    """Return an extended header that speaks for the next member."""
    body = b""
    for key, value in facts.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + len(str(len(record)))
        length += len(str(length)) - len(str(len(record)))
        body += str(length).encode() + record
    return block("pax", body, kind=b"x")


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tar_of(*members: tuple[str | tarfile.TarInfo, bytes]) -> Callable[[Path], object]:
    return lambda path: write_tar(path, members)


def tar_bytes() -> bytes:
    return block(*GOOD) + bytes(1024)


def zip_bytes(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(zip_bytes(*members))


def directory_changed(data: bytes, offset: int, value: bytes, *, local: int | None = None) -> bytes:
    """Change the last member's entry in the directory of a zip, and in its own header where that place is given."""
    changed = bytearray(data)
    entry = changed.rindex(b"PK\x01\x02")
    changed[entry + offset : entry + offset + len(value)] = value
    if local is not None:
        start = int.from_bytes(changed[entry + 42 : entry + 46], "little")
        changed[start + local : start + local + len(value)] = value
    return bytes(changed)


def liar(method: int, unpacked: int) -> bytes:
    """Return a zip whose last member announces 1,000 bytes and unpacks to so many."""
    data = zip_bytes(GOOD, ("ig/liar.png", bytes(unpacked)), method=method)
    return directory_changed(data, 24, struct.pack("<I", 1_000), local=22)
