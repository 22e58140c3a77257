"""Bad zips."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.data.corpus.case import SOUND, Pile
from tests.data.corpus.packing import GOOD, OTHER, PNG, directory_changed, liar, tar_bytes, zip_bytes, zip_of


def _link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("ig/link.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


def _overlapping() -> bytes:
    """Return a zip whose second entry points at the first one's data, as zip bombs do that are packed once."""
    data = zip_bytes(GOOD, ("ig/twin.png", PNG))
    return directory_changed(data, 42, bytes(4))


def zips() -> list[Pile]:
    """Return them all."""
    outside, unpacked = "leads out of the archive", "cannot be unpacked"
    two = zip_bytes(GOOD, ("ig/last.png", OTHER))
    flipped = bytearray(two)
    flipped[two.rindex(OTHER) + 60] ^= 0xFF
    encrypted = directory_changed(two, 8, struct.pack("<H", 1), local=6)
    huge = directory_changed(two, 24, b"\xfe\xff\xff\xff")
    good = {"ig/good.png": SOUND}

    def bytes_of(data: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(data)

    return [
        Pile(
            "names-that-lead-out.zip",
            zip_of(GOOD, ("/etc/passwd.png", PNG), ("../up.png", PNG), ("ig\\..\\..\\up.png", PNG), ("C:/x.png", PNG)),
            entries=good
            | dict.fromkeys(("/etc/passwd.png", "../up.png", "ig/../../up.png", "C:/x.png"), ("unreadable", outside)),
        ),
        Pile(
            "link.zip",
            zip_of(GOOD, (_link(), b"/etc/passwd")),
            entries=good | {"ig/link.png": ("unreadable", "a link")},
        ),
        Pile(
            "wrong-checksum.zip", bytes_of(bytes(flipped)), entries=good | {"ig/last.png": ("unreadable", "Bad CRC-32")}
        ),
        Pile("encrypted.zip", bytes_of(encrypted), entries=good | {"ig/last.png": ("unreadable", "is encrypted")}),
        Pile(
            "huge-by-its-directory.zip", bytes_of(huge), entries=good | {"ig/last.png": ("unreadable", "the limit is")}
        ),
        Pile(
            "liar.zip",
            lambda path: path.write_bytes(liar(8, 200_000_000)),
            entries=good | {"ig/liar.png": ("unreadable", unpacked)},
        ),
        Pile(
            "bzip2-liar.zip",
            lambda path: path.write_bytes(liar(zipfile.ZIP_BZIP2, 20_000_000)),
            entries=dict.fromkeys(("ig/good.png", "ig/liar.png"), ("unreadable", "packed by method 12")),
        ),
        Pile(
            "overlapping.zip",
            bytes_of(_overlapping()),
            entries=good | {"ig/twin.png": ("unreadable", "overlaps another member")},
        ),
        Pile(
            "unknown-method.zip",
            bytes_of(directory_changed(two, 10, b"\x63\x00", local=8)),
            entries=good | {"ig/last.png": ("unreadable", "packed by method 99")},
        ),
        Pile(
            "behind-the-end.zip",
            bytes_of(directory_changed(two, 42, struct.pack("<I", 1 << 30))),
            entries=good | {"ig/last.png": ("unreadable", unpacked)},
        ),
        Pile(
            "another-name-inside.zip",
            bytes_of(directory_changed(two, 46, b"ig/LAST.png")),
            entries=good | {"ig/LAST.png": SOUND},
        ),
        Pile(
            "names-met-twice.zip",
            lambda path: path.write_bytes(two.replace(b"ig/last.png", b"ig/good.png")),
            entries=good | {"ig/good.png#2": ("unreadable", "duplicate id")},
        ),
        Pile(
            "names-of-all-kinds.zip",
            zip_of(
                GOOD, ("ig/line\nend.png", PNG), ("ig/CASE.png", PNG), ("ig/case.png", PNG), ("ig/\u202egnp.x", PNG)
            ),
            entries=dict.fromkeys(
                ("ig/good.png", r"ig/line\nend.png", "ig/CASE.png", "ig/case.png", r"ig/\u202egnp.x"), SOUND
            ),
        ),
        Pile("zip64-lie.zip", bytes_of(_zip64_lie()), error="is no zip archive, or one cut short"),
        Pile("cut.zip", bytes_of(two[:-10]), error="is no zip archive, or one cut short"),
        Pile("more-members-than-there-are.zip", bytes_of(_count_lie(two)), entries=good | {"ig/last.png": SOUND}),
        Pile("empty.zip", bytes_of(b""), error="is no zip archive"),
        Pile("no-members.zip", bytes_of(zip_bytes()), error="holds no file that could be an image"),
        Pile("folders-alone.zip", zip_of(("ig/", b"")), error="holds no file that could be an image"),
        Pile("behind-a-image.zip", bytes_of(PNG + two), entries=good | {"ig/last.png": SOUND}),
        Pile(
            "archives-in-an-archive.zip",
            zip_of(GOOD, ("ig/inner.zip", two), ("ig/inner.tar", tar_bytes()), ("ig/large.zip", liar(8, 1_000_000))),
            entries=good
            | dict.fromkeys(("ig/inner.zip", "ig/large.zip"), ("unreadable", "is a zip archive, not an image"))
            | {"ig/inner.tar": ("unreadable", "is a tar archive, not an image")},
        ),
    ]


def _zip64_lie() -> bytes:
    """Return a zip whose large directory is said to lie where nothing is."""
    data = zip_bytes(GOOD)
    end = data.rindex(b"PK\x05\x06")
    large = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 60, 1 << 60, 1 << 60, 1 << 62)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    tail = bytearray(data[end:])
    tail[8:20] = b"\xff" * 12
    return data[:end] + large + locator + bytes(tail)


def _count_lie(data: bytes) -> bytes:
    end = data.rindex(b"PK\x05\x06")
    return data[:end] + data[end : end + 8] + b"\xe8\x03" * 2 + data[end + 12 :]
