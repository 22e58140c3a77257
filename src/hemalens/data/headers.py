"""From a file's first bytes to what it really is: its format, its size in pixels and its bit depth, before decoding.

Reads headers only, so a file that would unpack to gigabytes costs nothing here. Needs the standard library only.
"""

import re
import struct
from dataclasses import dataclass

__all__ = ["MOST_FRAMES", "MOST_PARTS", "PICTURE_FORMATS", "Header", "foreign_content", "read_header"]

PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""The formats that are decoded; everything else is refused by name."""

MOST_PARTS = 100_000
"""Pieces that a file may be cut into: libpng cuts 25 million noisy pixels into 9,200. Each costs Pillow 2 us."""
MOST_FRAMES = 100
"""Frames that are counted."""

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

# Seen in folders of pictures, and worth a name in the message; longer signatures first where one begins another.
_FOREIGN = (
    (0, b"%PDF-", "a PDF document"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\xfd7zXZ\x00", "an xz file"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"\x7fELF", "a program"),
    (0, b"\xff\xd8", "a JPEG picture cut short"),
    (4, b"ftyp", "an AVIF, HEIC or video file"),
    (128, b"DICM", "a DICOM file"),
    (257, b"ustar", "a tar archive"),
)

# Chunks and segments that only hold pixels or plain numbers. With no other in a file Pillow parses no metadata, no
# animation and no second picture, which are the only places where it warns while decoding PNG and JPEG.
_PLAIN_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"bKGD", b"sBIT", b"tIME"}
)
_APP0, _APP15, _APP14_ADOBE = 0xE0, 0xEF, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF_ONE_PASS = frozenset({0xC0, 0xC1})  # the others keep all coefficients in memory
_SOS = 0xDA
_WITH_ALPHA, _PNG_RGB = (4, 6), 2
_GIF_FRAME, _GIF_EXTENSION = 0x2C, 0x21
_TIFF_LISTS = frozenset({273, 279, 324, 325})  # offsets and lengths of strips and tiles


@dataclass(frozen=True, slots=True)
class Header:
    """What a picture says of itself before it is decoded.

    Attributes:
        format: one of PICTURE_FORMATS.
        size: (width, height) in pixels, None where only the decoder's own parser can tell (TIFF, BMP, PPM).
        depth: bits per channel of a PNG, else None.
        plain: True for a PNG or JPEG without metadata, animation or second picture.
        weight: how much more a pixel costs than one of a plain JPEG: 2 of colour, interlaced or keyed PNG, GIF and
            JPEG of four colours (time); 4 of transparent or 16-bit colour PNG (time), progressive JPEG and WebP (both
            time and memory).
        parts: chunks, segments, blocks or strips that it is cut into, each of which the decoder visits by itself;
            counted up to MOST_PARTS + 1.
        frames: pictures in a TIFF or GIF, counted up to MOST_FRAMES + 1; None for other formats.
    """

    format: str
    size: tuple[int, int] | None = None
    depth: int | None = None
    plain: bool = False
    weight: int = 1
    parts: int = 0
    frames: int | None = None


def read_header(data: bytes) -> Header | None:
    """Return the header of an encoded picture, None where the bytes are none of PICTURE_FORMATS.

    >>> read_header(b"GIF89a" + bytes([96, 0, 64, 0]))
    Header(format='GIF', size=(96, 64), depth=None, plain=False, weight=1, parts=0, frames=None)
    >>> read_header(b"<svg/>") is None
    True
    """
    for magic, name in _MAGIC:
        if data.startswith(magic):
            if name == "PNG":
                return _png(data)
            if name == "JPEG":
                return _jpeg(data)
            if name == "GIF":
                return _gif(data)
            return _tiff(data) if name == "TIFF" else Header(name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Header("WEBP", _webp_size(data), weight=4)
    return Header("PPM") if _PPM.match(data) else None


def foreign_content(data: bytes) -> str:
    """Name the content of a file that is not a picture we decode, with its article.

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
    return "text" if _is_text(data[:4096]) else "no known picture format"


def _is_text(start: bytes) -> bool:
    if b"\x00" in start:
        return False
    # The cut at 4,096 bytes may split one character, of four bytes at most.
    text = start.decode("utf-8", "ignore")
    lost = len(start) - len(text.encode())
    return lost <= 3 and all(sign.isprintable() or sign.isspace() for sign in text)


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR" or len(data) < 33:
        return Header("PNG")
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    position, plain, parts, keyed = 8, True, 0, False
    while position + 8 <= len(data) and parts <= MOST_PARTS:
        length, kind = struct.unpack_from(">I4s", data, position)
        plain, parts, keyed = plain and kind in _PLAIN_CHUNKS, parts + 1, keyed or kind == b"tRNS"
        if kind == b"IEND":
            break
        position += length + 12
    if colour in _WITH_ALPHA or (depth == 16 and colour != 0):
        weight = 4
    else:
        weight = 2 if interlaced or keyed or colour == _PNG_RGB else 1
    return Header("PNG", (width, height), depth, plain, weight, parts)


def _jpeg(data: bytes) -> Header:
    size, plain, weight, position, parts = None, True, 1, 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF and parts <= MOST_PARTS:
        marker = data[position + 1]
        parts += 1
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _SOS:
            break
        if marker in _SOF and position + 10 <= len(data):
            height, width, colours = struct.unpack_from(">HHB", data, position + 5)
            size, weight = (width, height), 2 if colours > 3 else 1
            weight = weight if marker in _SOF_ONE_PASS else 4
        if _APP0 < marker <= _APP15 and marker != _APP14_ADOBE:
            plain = False
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return Header("JPEG", size, None, plain and size is not None, weight, parts)


def _gif(data: bytes) -> Header:
    """Walk through the blocks, of 255 bytes at most, that a GIF is cut into."""
    if len(data) < 13:
        return Header("GIF", struct.unpack_from("<HH", data, 6) if len(data) >= 10 else None)
    most = MOST_PARTS + len(data) // 64
    position, parts, frames = 13 + _colours(data[10]), 0, 0
    while position < len(data) and parts <= most and frames <= MOST_FRAMES:
        kind = data[position]
        if kind == _GIF_FRAME and position + 10 <= len(data):
            frames += 1
            position += 11 + _colours(data[position + 9])
        elif kind == _GIF_EXTENSION:
            position += 2
        else:  # the end, or damage
            break
        while position < len(data) and data[position] and parts <= most:
            position += 1 + data[position]
            parts += 1
        position += 1
    cut = MOST_PARTS + 1 if parts > most else 0
    return Header("GIF", struct.unpack_from("<HH", data, 6), weight=2, parts=cut, frames=frames)


def _colours(flags: int) -> int:
    """Return the bytes of a GIF's colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _tiff(data: bytes) -> Header:
    """Count directories, and the values of the longest entry of the first: its strips, if it is honest."""
    order = "<" if data[:2] == b"II" else ">"
    large = data[2:4] in (b"+\x00", b"\x00+")
    count, entry, link = ("Q", "HHQ8x", "Q") if large else ("H", "HHI4x", "I")
    parts, seen = 0, set[int]()
    try:
        (position,) = struct.unpack_from(order + link, data, 8 if large else 4)
        while position and position not in seen and len(seen) <= MOST_FRAMES:
            (entries,) = struct.unpack_from(order + count, data, position)
            first = not seen
            seen.add(position)
            start = position + struct.calcsize(order + count)
            each = struct.calcsize(order + entry)
            if first:
                found = (
                    struct.unpack_from(order + entry, data, start + k * each) for k in range(min(entries, 1 << 16))
                )
                parts = max((number for tag, _, number in found if tag in _TIFF_LISTS), default=0)
            (position,) = struct.unpack_from(order + link, data, start + entries * each)
    except (struct.error, OverflowError):  # cut short: what Pillow makes of it will be said
        pass
    return Header("TIFF", parts=min(parts, MOST_PARTS + 1), frames=max(len(seen), 1))


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
