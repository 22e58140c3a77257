"""Zips that are refused before anything in them is run, each with the reason."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from hemalens.core.errors import ArtifactError
from hemalens.deployment.submission_zip import read_facts, unpack

MODEL = b"class Model: ..."


def packed(*members: tuple[str | zipfile.ZipInfo, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted() -> bytes:
    """Set the flag of encryption in both headers."""
    data = bytearray(packed(("model.py", MODEL)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def damaged() -> bytes:
    data = packed(("model.py", MODEL))
    return data.replace(MODEL, MODEL[:-1] + b"!")


def understated() -> bytes:
    """Say in the directory that a member of 1 MB has 1 byte."""
    data = bytearray(packed(("model.py", MODEL), ("zeros", bytes(1 << 20)), compress=zipfile.ZIP_DEFLATED))
    place = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[place + 24 : place + 28] = struct.pack("<I", 1)
    return bytes(data)


def overlapping() -> bytes:
    """Let the directory name one member's bytes twice."""
    data = bytearray(packed(("model.py", MODEL), ("a", b"x" * 30), ("b", b"y" * 30)))
    first, second = (data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x01\x02")), data.rindex(b"PK\x01\x02"))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def many(count: int) -> bytes:
    """Make a zip of so many empty members, named in its directory only."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%05x" % number for number in range(count))
    return directory + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(directory), 0, 0)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: packed(("mine/model.py", MODEL)), "in the folder 'mine', not at its root; pack the folder's content"),
        (lambda: packed(("model.py", MODEL), ("__MACOSX/._model.py", b"")), "which macOS packs beside the files"),
        (lambda: packed(("weights.npz", b"")), r"no model\.py at its root"),
        (lambda: packed(("model.py", MODEL), ("../out.py", b"")), r"'\.\./out\.py' whose name leads out"),
        (lambda: packed(("model.py", MODEL), ("/etc/x", b"")), "leads out of its folder"),
        (lambda: packed(("model.py", MODEL), ("a\\..\\b", b"")), "leads out of its folder"),
        (lambda: packed(("model.py", MODEL), ("C:/b", b"")), "leads out of its folder"),
        (encrypted, "encrypted member 'model.py'"),
        (lambda: packed(("model.py", MODEL), (link("weights"), b"/etc/passwd")), "a link or device"),
        (lambda: packed(("model.py", MODEL), ("model.py", b"x")), r"2 members named 'model\.py'"),
        (lambda: packed(("model.py", MODEL), ("Model.py", b"x")), r"2 members named 'model\.py'"),
        (damaged, "is damaged or no zip.*CRC"),
        (lambda: packed(("model.py", MODEL))[:-30], "is damaged or no zip"),
        (lambda: b"not a zip", "is damaged or no zip"),
        (lambda: packed(("model.py", bytes(20 << 20)), compress=zipfile.ZIP_DEFLATED), "is a zip bomb"),
        (understated, "is damaged or no zip|more in 'zeros' than it says"),
        (lambda: packed(*((f"m{k}", b"") for k in range(10_001))), "10,001 members"),
        (lambda: many(400_000), "has a directory of 20,400,000 bytes for 65,535 members or more"),
        (overlapping, "that lies inside another one"),
        (lambda: packed(("model.py", MODEL), ("a", b""), ("a/b", b"")), "is damaged or no zip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "zip",
)
def test_a_wrong_zip_is_refused_with_the_reason(make, words, tmp_path: Path) -> None:
    (tmp_path / "wrong.zip").write_bytes(make())
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match=words):
        unpack(tmp_path / "wrong.zip", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"wrong.zip", "out"}, "something was written outside"


def test_a_missing_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        unpack(tmp_path / "no.zip", tmp_path)


def test_folders_and_files_are_unpacked_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "good.zip").write_bytes(packed(("model.py", MODEL), ("data/", b""), ("data/weights", b"123")))
    (tmp_path / "out").mkdir()
    assert unpack(tmp_path / "good.zip", tmp_path / "out") == len(MODEL) + 3
    assert (tmp_path / "out/data/weights").read_bytes() == b"123"
    assert read_facts(tmp_path / "good.zip", tmp_path / "out") is None
