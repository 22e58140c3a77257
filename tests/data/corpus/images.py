"""Bad and odd image files, each with what must be said of it."""

import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from tests.data.corpus.case import Case
from tests.data.hostile import (
    cell,
    encode,
    exif_rotated,
    frames,
    mutate,
    png,
    png_16_bit_colour,
    png_bomb,
    png_chunk,
    tiff_header,
    webp_header,
)

CELL = cell(32, 5)
FORMATS = {"PNG": "png", "JPEG": "jpg", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "GIF": "gif", "PPM": "ppm"}
_DAMAGED = "damaged or cut short"


@cache
def images() -> tuple[Case, ...]:
    """Return every bad or odd image file, in no order that matters."""
    made = (*_cut(), *_flipped(), *_bombs(), *_foreign(), *_modes(), *_oriented(), *_metadata(), *_animated())
    assert len({case.name for case in made}) == len(made)
    return made


def _whole(file_format: str) -> bytes:
    image = Image.fromarray(CELL)
    return encode(image.quantize(16) if file_format == "GIF" else image, file_format)


def _cut() -> list[Case]:
    cases = []
    for file_format, suffix in FORMATS.items():
        whole = _whole(file_format)
        cases.append(Case(f"half.{suffix}", whole[: len(whole) // 2], "unreadable", _DAMAGED))
        cases.append(Case(f"magic-only.{suffix}", whole[:12], "unreadable", _DAMAGED))
    return [
        *cases,
        Case("two-bytes.jpg", b"\xff\xd8", "unreadable", "a JPEG image cut short"),
        Case("without-end.png", _whole("PNG")[:-12], "sound"),  # all pixels are there, only IEND is missing
        Case("one-byte-short.bmp", _whole("BMP")[:-1], "unreadable", _DAMAGED),
        Case("trailing-rubbish.jpg", _whole("JPEG") + bytes(1000), "sound"),
        Case("headless.png", _whole("PNG")[8:], "unreadable", "no known image format"),
        Case("zeros.png", bytes(2000), "unreadable", "no known image format"),
        Case("zeros-after-start.jpg", _whole("JPEG")[:200] + bytes(2000), "unreadable", _DAMAGED),
    ]


def _flipped() -> list[Case]:
    """Return files with seeded damage that each time is unreadable: found by trying, kept by seed."""
    crc = bytearray(_whole("PNG"))
    crc[crc.index(b"IDAT") + 30] ^= 0x10
    header = bytearray(_whole("PNG"))
    header[25] = 7  # a colour type that does not exist
    length = bytearray(_whole("PNG"))
    length[8:12] = b"\xff\xff\xff\xff"
    segment = _whole("JPEG").replace(b"\xff\xc0\x00\x11", b"\xff\xc0\x00\x02", 1)
    huffman = bytearray(_whole("JPEG"))
    huffman[huffman.index(b"\xff\xc4") + 5 : huffman.index(b"\xff\xc4") + 21] = b"\xff" * 16
    return [
        Case("scrambled.png", mutate(encode(cell(16)), 3, 12), "unreadable"),
        Case("wrong-checksum.png", bytes(crc), "unreadable", _DAMAGED),
        Case("unknown-colour-type.png", bytes(header), "unreadable", _DAMAGED),
        Case("endless-chunk.png", bytes(length), "unreadable", _DAMAGED),
        Case("short-segment.jpg", segment, "unreadable", _DAMAGED),
        Case("broken-tables.jpg", bytes(huffman), "unreadable", _DAMAGED),
        Case("no-size.jpg", jpeg_of(0, 0), "unreadable", _DAMAGED),
        Case("no-width.png", png(0, 10, rows=b"\x00" * 10), "unreadable", _DAMAGED),
        Case("negative-size.bmp", bmp_of(-32, 32), "unreadable", "pixels, the limit is"),
        Case("no-size.gif", b"GIF89a" + bytes(7) + b";", "unreadable", _DAMAGED),
        Case("tiff-that-points-behind-its-end.tif", b"II*\x00\xf0\xff\xff\xff", "unreadable", _DAMAGED),
        Case("tiff-that-points-at-itself.tif", looped_tiff(), "converted", "grey repeated"),
        Case("broken-deflate.tif", broken_tiff("tiff_deflate"), "unreadable", _DAMAGED),
        Case("broken-lzw.tif", broken_tiff("tiff_lzw"), "unreadable", _DAMAGED),
        Case("netpbm-of-words.ppm", b"P6 many few 255\n" + bytes(30), "unreadable", _DAMAGED),
        Case("netpbm-of-a-billion-signs.ppm", b"P6 " + b"9" * 5000 + b" 1 255\n", "unreadable", _DAMAGED),
    ]


def broken_tiff(compression: str) -> bytes:
    """Return a TIFF whose one packed strip is damaged: the C library below Pillow would write of it on stderr."""
    whole = bytearray(encode(CELL, "TIFF", compression=compression))
    before = int.from_bytes(whole[4:8], "little") > 1_000  # where the directory begins: behind the strip, or not
    start = 40 if before else len(whole) - 1_000
    whole[start : start + 20] = b"\xff" * 20
    return bytes(whole)


def jpeg_of(width: int, height: int) -> bytes:
    """Return a whole JPEG whose header was changed to another size."""
    whole = bytearray(_whole("JPEG"))
    index = whole.index(b"\xff\xc0")
    whole[index + 5 : index + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def bmp_of(width: int, height: int) -> bytes:
    whole = bytearray(_whole("BMP"))
    whole[18:26] = struct.pack("<ii", width, height)
    return bytes(whole)


def looped_tiff() -> bytes:
    """Return a TIFF whose first directory names itself as the next."""
    whole = bytearray(tiff_header(8, 8))
    whole[-4:] = (8).to_bytes(4, "little")
    return bytes(whole)


def _bombs() -> list[Case]:
    pixels = "pixels, the limit is 25,000,000"
    gif = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3) + b";"
    zeros = zlib.compress(bytes(70_000_000), 9)
    text = png_chunk(b"zTXt", b"Comment\x00\x00" + zeros)
    profile = png_chunk(b"iCCP", b"profile\x00\x00" + zeros)
    whole = _whole("PNG")
    return [
        Case("bomb.png", png_bomb(), "unreadable", "179,000,000 pixels"),
        Case("header-bomb.png", png(60_000, 60_000), "unreadable", "3,600,000,000 pixels"),
        Case("largest-header.png", png(2**31 - 1, 2**31 - 1), "unreadable", pixels),
        Case("bomb.gif", gif, "unreadable", pixels),
        Case("bomb.webp", webp_header(16_383, 16_383), "unreadable", "pixels, the limit is 12,500,000"),
        Case("bomb.tif", tiff_header(50_000, 50_000), "unreadable", "2,500,000,000 pixels"),
        Case("bomb.jpg", jpeg_of(65_500, 65_500), "unreadable", pixels),
        Case("bomb.bmp", bmp_of(100_000, 100_000), "unreadable", "10,000,000,000 pixels"),
        Case("bomb.ppm", b"P6 100000 100000 255\n" + bytes(100), "unreadable", "10,000,000,000 pixels"),
        Case("large-but-hollow.png", png(5_000, 5_000), "unreadable", _DAMAGED),
        Case("pixels-bomb-behind-a-small-header.png", stuffed_png(zeros), "sound"),
        Case("text-bomb.png", whole[:33] + text + whole[33:], "unreadable", _DAMAGED),
        Case("profile-bomb.png", whole[:33] + profile + whole[33:], "unreadable", _DAMAGED),
        Case("many-frames.gif", many_frames(20_000), "unreadable", "frames, one image is expected"),
        Case(
            "many-directories.tif",
            many_directories(20_000),
            "unreadable",
            "more than 100 frames, one image is expected",
        ),
        Case("many-scans.jpg", many_scans(2_000), "unreadable", "scans, the limit is 40"),
    ]


def stuffed_png(zeros: bytes) -> bytes:
    """Return a PNG of 8 x 8 black pixels whose compressed rows go on for 70 MB."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zeros) + png_chunk(b"IEND", b"")


def many_frames(count: int) -> bytes:
    """Return a GIF of many frames of one pixel."""
    start = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes((0, 0, 0, 255, 255, 255))
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return start + frame * count + b";"


def many_directories(count: int) -> bytes:
    """Return a TIFF whose directories form a long chain, each a whole image of 8 x 8."""
    tags = tiff_header(8, 8)[8:-4]
    size = len(tags) + 4
    follow = [8 + size * number for number in range(1, count)]
    return b"II*\x00" + struct.pack("<I", 8) + b"".join(tags + struct.pack("<I", index) for index in [*follow, 0])


def many_scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated: each costs a pass over the image."""
    whole = encode(Image.fromarray(cell(64, 9)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + b"\xff\xd9"


def _foreign() -> list[Case]:
    archive = b"PK\x03\x04" + bytes(40)
    return [
        Case("empty.png", b"", "unreadable", "an empty file (0 bytes)"),
        Case("empty.tif", b"", "unreadable", "an empty file (0 bytes)"),
        Case("drawing.png", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "unreadable", "an SVG"),
        Case("entities.png", billion_laughs(), "unreadable", "an SVG drawing"),
        Case("page.jpg", b"<!doctype html><script src=http://127.0.0.1:9/x></script>", "unreadable", "an HTML page"),
        Case("document.png", b"%PDF-1.7\n" + bytes(50), "unreadable", "a PDF document"),
        Case("words.jpg", b"404 not found\n", "unreadable", "text"),
        Case("archive.png", archive, "unreadable", "a zip archive"),
        Case("archive.jpg", b"\x1f\x8b\x08" + bytes(40), "unreadable", "a gzip file"),
        Case("array.png", b"\x93NUMPY\x01\x00" + bytes(40), "unreadable", "a numpy array"),
        Case("pickle.png", b"\x80\x04\x95cposix\nsystem\n.", "unreadable", "no known image format"),
        Case("program.bmp", b"\x7fELF" + bytes(60), "unreadable", "a program"),
        Case("photo.heic", b"\x00\x00\x00\x1cftypheic" + bytes(40), "unreadable", "AVIF, HEIC or video"),
        Case("slide.dcm", bytes(128) + b"DICM" + bytes(40), "unreadable", "a DICOM file"),
        Case("letter.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n(run me) print\n", "unreadable", "text"),
        Case("shop.psd", b"8BPS\x00\x01" + bytes(40), "unreadable", "a Photoshop file"),
        Case("icon.png", b"\x00\x00\x01\x00\x01\x00" + bytes(40), "unreadable", "an icon"),
        Case("newer.jpg", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40), "unreadable", "a JPEG 2000 image"),
        Case("polyglot.jpg", _whole("JPEG") + archive, "sound"),
        Case("script-inside.gif", _whole("GIF") + b"<script>alert(1)</script>", "converted", "palette expanded"),
        Case("lying.jpg", _whole("PNG"), "converted", "content is PNG, name says .jpg"),
        Case("lying.png", _whole("WEBP"), "converted", "content is WEBP, name says .png"),
        Case("no-suffix", _whole("PNG"), "sound"),
        Case("notes.txt", b"not a sample", "ignored", "metadata (.txt)"),
        Case("labels.csv", b"path,label\n../../etc/passwd,ig\n", "ignored", "metadata (.csv)"),
        Case(".hidden.png", _whole("PNG"), "ignored", "hidden"),
        Case("Thumbs.db", b"x", "ignored", "operating system"),
    ]


def billion_laughs() -> bytes:
    """Return an SVG whose entities would unfold to gigabytes in a parser that follows them."""
    entities = "".join(f"<!ENTITY l{n + 1} '{f'&l{n};' * 10}'>" for n in range(9))
    return f"<!DOCTYPE svg [<!ENTITY l0 'lol'>{entities}]><svg>&l9;</svg>".encode()


def _modes() -> list[Case]:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    clear = np.dstack([cell(8, 1), np.full((8, 8), 77, np.uint8)])
    palette = Image.fromarray(cell(8, 2)).quantize(16)
    lab = Image.fromarray(cell(8, 3)).convert("LAB")
    return [
        Case("deep-grey.png", encode(Image.fromarray(deep)), "converted", "16-bit grey scaled by 1/257"),
        Case("deep-grey.tif", encode(Image.fromarray(deep), "TIFF"), "converted", "16-bit grey"),
        Case("deep-colour.png", png_16_bit_colour(np.full((8, 8, 3), 9_000, np.uint16)), "converted", "16-bit colour"),
        Case("float.tif", encode(Image.fromarray(unit), "TIFF"), "converted", "float in [0, 1] scaled by 255"),
        Case("float-out-of-range.tif", encode(Image.fromarray(unit * 300), "TIFF"), "unreadable", "0 to 300"),
        Case("not-a-number.tif", encode(Image.fromarray(unit * np.nan), "TIFF"), "unreadable", "NaN or infinity"),
        Case("infinite.tif", encode(Image.fromarray(unit + np.inf), "TIFF"), "unreadable", "NaN or infinity"),
        Case(
            "whole-numbers.tif",
            encode(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"),
            "unreadable",
            "70000",
        ),
        Case("negative.tif", encode(Image.fromarray(np.full((4, 4), -5, np.int32)), "TIFF"), "unreadable", "-5"),
        Case("inks.jpg", encode(Image.fromarray(CELL).convert("CMYK"), "JPEG"), "converted", "CMYK converted"),
        Case("inks.tif", encode(Image.fromarray(CELL).convert("CMYK"), "TIFF"), "converted", "CMYK converted"),
        Case("lab.tif", encode(lab, "TIFF"), "unreadable", "colour mode LAB"),
        Case("grey.png", encode(cell(8, 4)[..., 0]), "converted", "grey repeated"),
        Case("grey-and-alpha.png", encode(Image.fromarray(cell(8, 4)).convert("LA")), "converted", "opaque alpha"),
        Case("bilevel.png", encode(Image.fromarray(cell(8, 4)).convert("1")), "converted", "black and white expanded"),
        Case("palette.png", encode(palette), "converted", "palette expanded"),
        Case("palette-with-alpha.png", encode(palette, transparency=bytes(range(0, 256, 16))), "converted", "on white"),
        Case("palette-with-a-hole.gif", encode(palette, "GIF", transparency=3), "converted", "palette expanded"),
        Case("short-palette.png", short_palette(), "converted", "palette expanded"),
        Case("clear.png", encode(clear), "converted", "alpha composited on white"),
        Case("clear.webp", encode(clear, "WEBP", lossless=True), "converted", "alpha composited on white"),
        Case("one-pixel.png", encode(cell(1, 1)), "sound"),
        Case("needle.png", encode(np.zeros((1, 5_000, 3), np.uint8)), "unreadable", "100 times the other"),
    ]


def short_palette() -> bytes:
    """Return a palette PNG whose pixels point behind the two colours that it has."""
    header = struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0)
    rows = zlib.compress(b"\x00\x00\x01" + b"\x00\xff\xf0")
    chunks = ((b"IHDR", header), (b"PLTE", bytes(6)), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def _oriented() -> list[Case]:
    turned = "rotated by its EXIF orientation"
    cases = [
        Case(
            f"orientation-{number}.{suffix}",
            exif_rotated(cell(16, number), number, file_format),
            "converted" if 1 < number <= 8 else "sound",
            turned if 1 < number <= 8 else "",
        )
        for number in range(10)
        for file_format, suffix in (("PNG", "png"), ("JPEG", "jpg"))
    ]
    return [*cases, Case("orientation-6.tif", exif_rotated(cell(16, 3), 6, "TIFF"), "converted", turned)]


def _metadata() -> list[Case]:
    rubbish = np.random.default_rng(6).bytes(3_000)
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + rubbish[:200]
    loop = b"Exif\x00\x00II*\x00" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, 8, 8)
    words = b"Exif\x00\x00II*\x00" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 2, b"6\x00", 0)
    return [
        Case("rubbish-profile.png", encode(CELL, icc_profile=rubbish), "sound"),
        Case("rubbish-profile.jpg", encode(CELL, "JPEG", icc_profile=rubbish), "sound"),
        Case("rubbish-profile.webp", encode(CELL, "WEBP", icc_profile=rubbish), "sound"),
        Case("rubbish-profile.tif", encode(CELL, "TIFF", icc_profile=rubbish), "sound"),
        Case("half-a-profile.jpg", with_segment(0xE2, b"ICC_PROFILE\x00\x02\x03" + rubbish), "sound"),
        Case("rubbish-exif.jpg", with_segment(0xE1, exif), "sound"),
        Case("looped-exif.jpg", with_segment(0xE1, loop), "sound"),
        Case("rubbish-xmp.jpg", with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta" + rubbish), "sound"),
        Case("orientation-as-text.jpg", with_segment(0xE1, words), "sound"),
        Case("rubbish-adobe.jpg", with_segment(0xEE, b"Adobe" + rubbish[:30]), "sound"),
        Case("no-resolution.bmp", _whole("BMP")[:38] + bytes(8) + _whole("BMP")[46:], "sound"),
    ]


def with_segment(marker: int, body: bytes) -> bytes:
    """Return a JPEG with one more segment behind its start."""
    whole = _whole("JPEG")
    return whole[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + whole[2:]


def _animated() -> list[Case]:
    several = "frames, one image is expected"
    return [
        Case("moving.gif", frames(3, "GIF"), "unreadable", f"3 {several}"),
        Case("moving.png", frames(3, "PNG"), "unreadable", f"3 {several}"),
        Case("moving.webp", frames(3, "WEBP"), "unreadable", f"3 {several}"),
        Case("pages.tif", frames(3, "TIFF"), "unreadable", f"3 {several}"),
        Case("camera.jpg", frames(2, "MPO"), "converted", "first of 2 images taken (MPO)"),
        Case("cut-while-moving.gif", frames(3, "GIF")[:-300], "unreadable"),
    ]
