"""From a file's first bytes to what it really is: its format, its size in pixels and its bit depth, before decoding.

Reads headers only, so a file that would unpack to gigabytes costs nothing here. Needs the standard library only.
"""

import re
import struct
from dataclasses import dataclass

__all__ = ["IMAGE_FORMATS", "Header", "foreign_content", "read_header"]

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""The formats that are decoded; everything else is named unreadable."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
)
_PPM = re.compile(rb"P[1-6f][\s#]")

# Seen in folders of images, and worth a name in the message; longer signatures first where one begins another.
_FOREIGN = (
    (0, b"%PDF-", "a PDF document"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\xfd7zXZ\x00", "an xz file"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"\x7fELF", "a program"),
    (0, b"\xff\xd8", "a JPEG image cut short"),
    (4, b"ftyp", "an AVIF, HEIC or video file"),
    (128, b"DICM", "a DICOM file"),
    (257, b"ustar", "a tar archive"),
)

# Chunks and segments that only hold pixels or plain numbers. With no other in a file Pillow parses no metadata, no
# animation and no second image, which are the only places where it warns while decoding PNG and JPEG.
_PLAIN_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"bKGD", b"sBIT", b"tIME"}
)
_APP0, _APP15, _APP14_ADOBE = 0xE0, 0xEF, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOS = 0xDA


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says of itself before it is decoded.

    Attributes:
        format: one of IMAGE_FORMATS.
        size: (width, height) in pixels, None where only the decoder's own parser can tell (TIFF, BMP, PPM).
        depth: bits per channel of a PNG, else None.
        plain: True for a PNG or JPEG without metadata, animation or second image.
    """

    format: str
    size: tuple[int, int] | None = None
    depth: int | None = None
    plain: bool = False


def read_header(data: bytes) -> Header | None:
    """Return the header of an encoded image, None where the bytes are none of IMAGE_FORMATS.

    >>> read_header(b"GIF89a" + bytes([96, 0, 64, 0]))
    Header(format='GIF', size=(96, 64), depth=None, plain=False)
    >>> read_header(b"<svg/>") is None
    True
    """
    for magic, name in _MAGIC:
        if data.startswith(magic):
            if name == "PNG":
                return _png(data)
            if name == "JPEG":
                return _jpeg(data)
            if name == "GIF" and len(data) >= 10:
                return Header("GIF", struct.unpack_from("<HH", data, 6))
            return Header(name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Header("WEBP", _webp_size(data))
    return Header("PPM") if _PPM.match(data) else None


def foreign_content(data: bytes) -> str:
    """Name the content of a file that is not an image we decode, with its article.

    >>> foreign_content(b"%PDF-1.7"), foreign_content(b"hello"), foreign_content(b"")
    ('a PDF document', 'text', 'an empty file (0 bytes)')
    """
    if not data:
        return "an empty file (0 bytes)"
    for offset, magic, name in _FOREIGN:
        if data.startswith(magic, offset):
            return name
    start = data[:4096].lower()
    if b"<svg" in start:
        return "an SVG drawing"
    if b"<!doctype html" in start or b"<html" in start:
        return "an HTML page"
    return "text" if _is_text(data[:4096]) else "no known image format"


def _is_text(start: bytes) -> bool:
    if b"\x00" in start:
        return False
    # The cut at 4,096 bytes may split one character, of four bytes at most.
    text = start.decode("utf-8", "ignore")
    lost = len(start) - len(text.encode())
    return lost <= 3 and all(sign.isprintable() or sign.isspace() for sign in text)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR" or len(data) < 26:
        return Header("PNG")
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    position, plain = 8, True
    while plain and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        plain = kind in _PLAIN_CHUNKS
        if kind == b"IEND":
            break
        position += length + 12
    return Header("PNG", (width, height), depth, plain)


def _jpeg(data: bytes) -> Header:
    size, plain, position = None, True, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _SOS:
            break
        if marker in _SOF and position + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = (width, height)
        if _APP0 < marker <= _APP15 and marker != _APP14_ADOBE:
            plain = False
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return Header("JPEG", size, None, plain and size is not None)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:  # 24-bit canvas sides, stored less one
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25:  # two 14-bit sides, stored less one
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
