"""Decoding: what is converted, by which rule, and what is refused, by which name."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hemalens.core.errors import DecodeError, TooLargeError
from hemalens.data.decode import MAX_ASPECT, MAX_PIXELS, MAX_SIDE, decode, decode_array
from hemalens.data.headers import PICTURE_FORMATS, read_header
from hemalens.data.resize import resize

from . import hostile

CELL = hostile.cell()


def refusal(data: bytes, name: str = "a.png") -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, name=name)
    text = str(caught.value)
    assert text.startswith(f"picture {name!r}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_as_they_were(file_format):
    picture = decode(hostile.encode(CELL, file_format))
    assert np.array_equal(picture.pixels, CELL)
    assert (picture.mode, picture.conversions) == ("RGB", ())
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.writeable
    assert picture.pixels.flags.c_contiguous


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_agree_with_bare_pillow(file_format):
    data = hostile.encode(CELL, file_format)
    assert np.array_equal(decode(data).pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_content_decides_where_the_name_lies():
    data = hostile.encode(Image.fromarray(CELL).quantize(16), "GIF")
    picture = decode(data, name="cell.jpg")
    assert picture.conversions == ("content is GIF, name says .jpg", "palette expanded")
    assert np.array_equal(picture.pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("name", ["cell.png", "cell.PNG", "cell", "cell.dat"])
def test_a_true_or_silent_name_is_no_conversion(name):
    assert decode(hostile.encode(CELL), name=name).conversions == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file (0 bytes)"),
        ("no picture, says Müller\n".encode() * 300, "is text"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<!DOCTYPE html><p>404</p>", "an HTML page"),
        (b"PK\x03\x04" + bytes(30), "a zip archive"),
        (bytes(128) + b"DICM" + bytes(8), "a DICOM file"),
        (b"\x00\x00\x00\x1cftypavif" + bytes(30), "an AVIF, HEIC or video file"),
        (b"\xff\xd8", "a JPEG picture cut short"),
        (bytes(range(256)), "no known picture format"),
    ],
)
def test_what_is_no_picture_is_named(data, words):
    assert words in refusal(data)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncated_files_are_refused_with_their_length(file_format):
    whole = hostile.encode(hostile.cell(32), file_format)
    half = whole[: len(whole) // 2]
    text = refusal(half)
    assert f"is a {file_format} file of {len(half):,} bytes that is damaged or cut short (" in text
    assert " at 0x" not in text, "a memory address would differ from run to run"


def test_16_bit_grey_is_scaled_by_257():
    deep = np.array([[0, 128, 129, 257], [65535, 65407, 65406, 32896]], np.uint16)
    expected = np.rint(deep / 257).astype(np.uint8)
    for file_format in ("PNG", "TIFF", "PPM"):
        picture = decode(hostile.encode(Image.fromarray(deep), file_format))
        assert np.array_equal(picture.pixels, np.stack([expected] * 3, axis=2)), file_format
        assert picture.conversions == ("16-bit grey scaled by 1/257", "grey repeated to three channels")


def test_big_endian_16_bit_grey_is_scaled_the_same():
    deep = np.array([[0, 256], [65535, 4660]], ">u2")
    data = hostile.encode(Image.frombytes("I;16B", (2, 2), deep.tobytes()), "TIFF")
    assert np.array_equal(decode(data).pixels[:, :, 0], np.rint(deep / 257))


def test_32_bit_grey_is_scaled_where_16_bits_hold_it_and_refused_above():
    deep = np.array([[0, 65535]], np.int32)
    assert decode(hostile.encode(Image.fromarray(deep), "TIFF")).pixels[0, :, 0].tolist() == [0, 255]
    assert "values 0 to 70000" in refusal(hostile.encode(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"))


def test_16_bit_colour_is_noted_though_pillow_strips_it_silently():
    deep = np.array([[[0, 32768, 65535], [255, 256, 511]]], np.uint16)
    picture = decode(hostile.png_16_bit_colour(deep))
    assert picture.conversions == ("16-bit colour reduced to 8 bits",)
    assert np.abs(picture.pixels - deep / 257).max() <= 1


def test_float_tiff_within_one_is_scaled_and_any_other_range_is_named():
    unit = np.array([[0.0, 0.5, 1.0]], np.float32)
    picture = decode(hostile.encode(Image.fromarray(unit), "TIFF"))
    assert picture.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert picture.mode == "F"
    assert "float values 0 to 300" in refusal(hostile.encode(Image.fromarray(unit * 300), "TIFF"))
    assert "NaN or infinity" in refusal(hostile.encode(Image.fromarray(unit * np.float32("nan")), "TIFF"))


def test_cmyk_is_converted():
    cmyk = Image.fromarray(CELL).convert("CMYK")
    picture = decode(hostile.encode(cmyk, "JPEG", quality=100, subsampling=0))
    assert picture.mode == "CMYK"
    assert picture.conversions == ("CMYK converted to RGB",)
    assert np.abs(picture.pixels.astype(int) - CELL).mean() < 6


def test_alpha_is_composited_on_white():
    values = np.dstack([CELL, np.full((8, 8), 128, np.uint8)])
    values[0, 0, 3], values[0, 1, 3] = 0, 255
    picture = decode(hostile.encode(values))
    expected = np.rint(CELL * (values[:, :, 3:] / 255) + 255 * (1 - values[:, :, 3:] / 255))
    assert np.array_equal(picture.pixels, expected)
    assert picture.pixels[0, 0].tolist() == [255, 255, 255]
    assert picture.conversions == ("alpha composited on white",)


def test_opaque_alpha_is_dropped_and_noted():
    picture = decode(hostile.encode(np.dstack([CELL, np.full((8, 8), 255, np.uint8)])))
    assert np.array_equal(picture.pixels, CELL)
    assert picture.conversions == ("opaque alpha dropped",)


def test_grey_with_alpha_is_repeated_and_composited():
    grey = Image.fromarray(np.array([[[10, 0], [10, 255]]], np.uint8), "LA")
    picture = decode(hostile.encode(grey))
    assert picture.pixels[0].tolist() == [[255] * 3, [10] * 3]
    assert picture.conversions == ("grey repeated to three channels", "alpha composited on white")


def test_palette_is_expanded_with_and_without_transparency():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    plain = decode(hostile.encode(palette))
    assert plain.pixels[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert plain.conversions == ("palette expanded",)
    clear = decode(hostile.encode(palette, transparency=0))
    assert clear.pixels[0].tolist() == [[255] * 3, [40, 50, 60]]
    assert clear.conversions == ("palette expanded", "alpha composited on white")


def test_bilevel_and_grey_are_repeated():
    assert decode(hostile.encode(Image.new("1", (2, 2), 1))).conversions == ("black and white expanded",)
    grey = decode(hostile.encode(CELL[:, :, 0]))
    assert grey.conversions == ("grey repeated to three channels",)
    assert np.array_equal(grey.pixels, np.stack([CELL[:, :, 0]] * 3, axis=2))


def test_a_colour_mode_without_a_rule_is_refused_by_name():
    assert "colour mode LAB" in refusal(hostile.encode(Image.new("LAB", (4, 4)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(orientation, file_format):
    data = hostile.exif_rotated(hostile.cell(16)[:, :8], orientation, file_format)
    picture = decode(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(picture.pixels, expected)
    assert picture.pixels.flags.c_contiguous
    assert ("rotated by its EXIF orientation" in picture.conversions) == (orientation > 1)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused_with_their_count(file_format):
    assert "holds 3 frames" in refusal(hostile.frames(3, file_format))


def test_the_first_picture_of_a_camera_jpeg_is_taken():
    picture = decode(hostile.frames(2, "MPO"), name="camera.jpg")
    assert picture.conversions == ("first of 2 pictures taken (MPO)",)


@pytest.mark.parametrize(
    "data",
    [hostile.png(20_000, 20_000), hostile.webp_header(16_000, 25_000), hostile.tiff_header(20_000, 20_000)],
    ids=["PNG", "WEBP", "TIFF"],
)
def test_a_header_of_400_megapixels_is_refused_by_its_count(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limit = "12,500,000" if data.startswith(b"RIFF") else "25,000,000"
        assert f"has 400,000,000 pixels, the limit is {limit}" in refusal(data)


def test_pixels_between_our_limit_and_pillows_give_no_warning():
    assert "has 100,000,000 pixels" in refusal(hostile.tiff_header(10_000, 10_000))


def test_the_limit_can_be_chosen():
    decode(hostile.encode(CELL), max_pixels=64)
    with pytest.raises(DecodeError, match="has 64 pixels, the limit is 63"):
        decode(hostile.encode(CELL), max_pixels=63)


_PEAK = """
import resource, sys
from hemalens.data.decode import DecodeError, decode
from hemalens.data.resize import resize
data = [open(name, "rb").read() for name in sys.argv[1:]]
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bytes_ in data:
    try:
        decode(bytes_)
    except DecodeError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_bombs_cost_no_memory(tmp_path):
    bomb, header, webp = tmp_path / "bomb.png", tmp_path / "header.png", tmp_path / "canvas.webp"
    bomb.write_bytes(hostile.png_bomb())
    assert bomb.stat().st_size < 600_000
    header.write_bytes(hostile.png(20_000, 20_000))
    webp.write_bytes(hostile.webp_header(16_000, 16_000))
    command = [sys.executable, "-c", _PEAK, str(bomb), str(header), str(webp)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [("has 179,000,000 pixels" in lines[0]), ("400,000,000" in lines[1]), ("256,000,000" in lines[2])] == [
        True
    ] * 3
    assert float(lines[3]) < 50, "MiB above idle"


def test_importing_the_decoder_stays_light():
    code = "import sys, hemalens.data.decode, hemalens.data.sources; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    heavy = {"torch", "polars", "scipy", "sklearn", "matplotlib", "pydantic", "urllib.request"}
    assert heavy & set(done.stdout.split()) == set()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_headers_mark_files_that_cannot_warn(file_format):
    assert read_header(hostile.encode(CELL, file_format)).plain
    assert not read_header(hostile.exif_rotated(CELL, 6, file_format)).plain


def test_header_sizes_agree_with_pillow():
    image = hostile.cell(16)[:, :8]
    for file_format in PICTURE_FORMATS:
        for options in ({}, {"lossless": True}) if file_format == "WEBP" else ({},):
            header = read_header(hostile.encode(image, file_format, **options))
            assert header.format == file_format
            assert header.size in (None, (8, 16))


def test_warnings_stay_inside_and_filters_survive_threads():
    broken = bytearray(hostile.exif_rotated(CELL, 6, "JPEG"))
    broken[broken.index(b"Exif") + 14] ^= 0xFF  # the number of its entries
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(io.BytesIO(broken)) as bare:
        bare.getexif()
    before = list(warnings.filters)
    failures = []

    def work():
        try:
            for _ in range(50):
                decode(bytes(broken))
        except Warning as warning:
            failures.append(warning)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warnings.filters == before


SEEDS = [
    hostile.encode(CELL, "PNG"),
    hostile.encode(CELL, "JPEG"),
    hostile.exif_rotated(CELL, 6, "JPEG"),
    hostile.encode(CELL, "TIFF"),
    hostile.encode(CELL, "WEBP"),
    hostile.encode(CELL, "BMP"),
    hostile.encode(CELL[:, :, 0], "PPM"),
    hostile.frames(2, "GIF"),
    hostile.frames(2, "PNG"),
    hostile.encode(Image.fromarray(CELL).quantize(16), "GIF"),
]


@given(which=st.sampled_from(range(len(SEEDS))), seed=st.integers(0, 2**32 - 1), changes=st.integers(1, 8))
@settings(max_examples=400, deadline=None)
def test_mutated_files_decode_or_are_refused_and_nothing_else(which, seed, changes):
    data = hostile.mutate(SEEDS[which], seed, changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = decode(data, name="mutated.png")
        except DecodeError:
            return
    assert picture.pixels.ndim == 3
    assert picture.pixels.shape[2] == 3
    assert picture.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("array", "expected", "conversions"),
    [
        (CELL, CELL, ()),
        (CELL[:, :, :1], np.repeat(CELL[:, :, :1], 3, axis=2), ("grey repeated to three channels",)),
        (CELL[:, :, 0], np.repeat(CELL[:, :, :1], 3, axis=2), ("grey repeated to three channels",)),
        (np.dstack([CELL, np.zeros((8, 8), np.uint8)]), np.full((8, 8, 3), 255), ("alpha composited on white",)),
        (CELL.astype(np.uint16) * 257, CELL, ("16-bit values scaled by 1/257",)),
        (CELL / 255, CELL, ("float in [0, 1] scaled by 255",)),
        ((CELL / 255).astype(np.float16), CELL, ("float in [0, 1] scaled by 255",)),
        (CELL.astype(np.float32), CELL, ("float whole numbers taken as 0-255",)),
        (CELL > 127, (CELL > 127) * 255, ("bool scaled by 255",)),
    ],
)
def test_rows_of_arrays_follow_the_rules(array, expected, conversions):
    picture = decode_array(array)
    assert np.array_equal(picture.pixels, expected)
    assert picture.conversions == conversions
    assert picture.mode == f"array:{array.dtype}"
    assert picture.pixels.flags.writeable
    assert not np.shares_memory(picture.pixels, array)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((8, 8, 3), np.int64), "type int64 with values 0 to 0"),
        (np.full((8, 8, 3), np.nan), "NaN or infinity"),
        (np.full((8, 8, 3), np.inf), "NaN or infinity"),
        (np.full((8, 8, 3), 1.5), "float values 1.5 to 1.5"),
        (np.full((8, 8, 3), -1.0), "float values -1 to -1"),
        (np.full((8, 8, 3), 256.0), "float values 256 to 256"),
        (np.zeros((8, 8, 2), np.uint8), "shape (8, 8, 2)"),
        (np.zeros((3, 8, 8), np.uint8), "move the channels to the last axis"),
        (np.zeros((0, 8, 3), np.uint8), "shape (0, 8, 3)"),
        (np.zeros(8, np.uint8), "shape (8,)"),
        (np.zeros((2, 2, 3), complex), "type complex128"),
        (np.broadcast_to(np.uint8(0), (6000, 6000)), "36,000,000 pixels"),
    ],
)
def test_other_rows_are_refused_with_type_and_range(array, words):
    with pytest.raises(DecodeError) as caught:
        decode_array(array, name="row-000007")
    assert words in str(caught.value)
    assert str(caught.value).startswith("picture 'row-000007': ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "turned", "alpha", "grey", "TIFF"])
def test_a_side_gives_what_resizing_after_decoding_gives(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 31, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = {"alpha": image.convert("RGBA"), "grey": image.convert("L")}.get(kind, image)
    buffer = io.BytesIO()
    if kind == "turned":
        image.save(buffer, "JPEG", exif=exif)
    else:
        image.save(buffer, kind if kind.isupper() else "PNG")
    wanted = decode(buffer.getvalue())
    found = decode(buffer.getvalue(), side=12)
    assert np.array_equal(found.pixels, resize(wanted.pixels, 12))
    assert (found.mode, found.conversions) == (wanted.mode, wanted.conversions)
    assert found.size == wanted.size == (wanted.pixels.shape[1], wanted.pixels.shape[0])
    assert found.pixels.flags.writeable


@given(
    st.sampled_from(["png", "webp", "tiff", "gif", "bmp", "ppm", "jpeg"]),
    st.integers(1, 70_000),
    st.integers(1, 70_000),
)
def test_any_size_that_a_header_announces_is_within_the_limits_or_refused_unseen(kind, width, height):
    sides = {"gif": 65_535, "jpeg": 65_535, "webp": 16_384}.get(kind, 70_000)
    width, height = min(width, sides), min(height, sides)
    makers = {
        "png": lambda: hostile.png(width, height),
        "webp": lambda: hostile.webp_header(width, height),
        "tiff": lambda: hostile.tiff_header(width, height),
        "gif": lambda: b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"\x2c" + bytes(20),
        "bmp": lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm": lambda: b"P6 %d %d 255 " % (width, height),
        "jpeg": lambda: b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9),
    }
    wrong = width * height > MAX_PIXELS or max(width, height) > MAX_SIDE
    wrong |= max(width, height) > MAX_ASPECT * min(width, height)
    with pytest.raises(TooLargeError) if wrong else contextlib.suppress(DecodeError):
        decode(makers[kind]())
    if wrong:
        with pytest.raises(TooLargeError):
            decode_array(np.broadcast_to(np.uint8(7), (height, width)))


@pytest.mark.parametrize(("width", "height"), [(1, 101), (MAX_SIDE + 1, 1000), (25_000_000, 1), (1, 25_000_000)])
def test_thin_pictures_are_refused(width, height):
    with pytest.raises(TooLargeError, match=r"has a side of|times the other|the limit is"):
        decode(hostile.png(width, height))


def cut_into_pieces():
    png = hostile.encode(CELL)
    jpeg = hostile.encode(CELL, "JPEG")
    strips = hostile.tiff_header(8, 8)
    place = strips.index(struct.pack("<HHI", 273, 4, 1))
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02"
    return {
        "PNG": png[:33] + hostile.png_chunk(b"abCd", b"") * 200_000 + png[33:],
        "JPEG": jpeg[:2] + b"\xff\xfe\x00\x02" * 200_000 + jpeg[2:],
        "JPEG filled": b"\xff\xd8" + b"\xff" * 200_000 + jpeg[2:],
        "GIF": b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + frame + b"\x01\x00" * 200_000 + b"\x00;",
        "TIFF": strips[: place + 4] + struct.pack("<I", 200_000) + strips[place + 8 :] + bytes(800_000),
    }


@pytest.mark.parametrize("kind", cut_into_pieces())
def test_a_file_cut_into_very_many_pieces_is_refused_quickly(kind):
    begin = time.process_time()
    assert "is cut into more than 100,000 pieces" in refusal(cut_into_pieces()[kind])
    assert time.process_time() - begin < 2, "with the making of all five"


def test_frames_are_counted_without_unpacking_them():
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    assert "holds more than 100 frames" in refusal(head + frame * 100_000 + b";")
    assert "holds 2 frames" in refusal(head + frame * 2 + b";")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("turned", [False, True])
def test_strips_make_no_difference(monkeypatch, mode, turned):
    random = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (23, 17), np.uint16))
    elif mode == "F":
        image = Image.fromarray(random.random((23, 17), np.float32))
    else:
        image = Image.fromarray(random.integers(0, 256, (23, 17, 4), np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if turned else {}
    data = hostile.encode(image, "TIFF", **options)
    whole = decode(data)
    monkeypatch.setattr("hemalens.data.decode._STRIP", 40)
    cut = decode(data)
    np.testing.assert_array_equal(cut.pixels, whole.pixels)
    assert (cut.mode, cut.size, cut.conversions) == (whole.mode, whole.size, whole.conversions)
    assert cut.size == cut.pixels.shape[1::-1]


def test_only_some_transparent_strips_are_composited_all_the_same(monkeypatch):
    values = np.full((40, 8, 4), 255, np.uint8)
    values[30:, :, 3] = 7
    monkeypatch.setattr("hemalens.data.decode._STRIP", 40)
    assert decode(hostile.encode(Image.fromarray(values))).conversions == ("alpha composited on white",)


_COST = """
import sys
from pathlib import Path
from hemalens.data.decode import DecodeError, decode
def kib(key):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
for name in sys.argv[1:]:
    data = Path(name).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    idle = kib("VmRSS")
    try:
        said = decode(data).mode
    except DecodeError as error:
        said = str(error)
    print((kib("VmHWM") - idle) // 1024, said)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_largest_pictures_that_are_taken_cost_less_than_200_mb(tmp_path):
    cases = {
        "RGB.png": Image.new("RGB", (5000, 5000)),
        "RGBA.png": Image.new("RGBA", (3535, 3535), (9, 9, 9, 9)),
        "L.jpg": Image.new("L", (5000, 5000)),
        "progressive.jpg": Image.new("RGB", (3535, 3535)),
        "RGB.webp": Image.new("RGB", (3535, 3535)),
        "RGBA.tif": Image.new("RGBA", (3535, 3535)),
    }
    for name, image in cases.items():
        options = {"progressive": True} if name.startswith("progressive") else {"method": 0} if "webp" in name else {}
        image.save(tmp_path / name, **options)
    command = [sys.executable, "-c", _COST, *(str(tmp_path / name) for name in cases)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["RGB", "RGBA", "L", "RGB", "RGB", "RGBA"], lines
    assert max(int(line.split()[0]) for line in lines) < 200, lines
