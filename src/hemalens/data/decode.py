"""From the bytes of one picture file, or one row of an array, to (H, W, 3) uint8 by stated rules, or a refusal.

Every departure from plain 8-bit RGB is either converted by a rule and noted in ``Picture.conversions``, or refused by
name with a DecodeError; nothing else is ever raised and no warning escapes. The pixel count is checked in the header,
before a pixel is unpacked: a PNG of 0.5 MB can hold 179 million. Colour profiles (ICC) are not applied: cell pictures
rarely carry one and a network sees the stored values. Needs numpy and Pillow.
"""

import io
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from hemalens.core.errors import DecodeError, TooLargeError
from hemalens.core.types import Images
from hemalens.data.headers import MOST_FRAMES, MOST_PARTS, Header, foreign_content, read_header
from hemalens.data.libtiff import silence_libtiff
from hemalens.data.resize import resize, resize_image

__all__ = ["MAX_ASPECT", "MAX_PIXELS", "MAX_SIDE", "Picture", "check_size", "decode", "decode_array"]

MAX_PIXELS = 25_000_000
"""Pixels a picture may have unless told otherwise: 5000 x 5000; 175 MB at the peak, 75 MB as RGB."""
MAX_SIDE = 16_384
"""Pixels a side may have, whatever the other: Pillow keeps an address for each row, and a resize weights for each."""
MAX_ASPECT = 100
"""How many times longer one side may be than the other."""
# The same for kinds of which the decoder itself keeps 10 to 17 bytes a pixel (headers: weight 4), and for TIFFs that
# Pillow turns, or that are transparent.
_MAX_BULKY = MAX_PIXELS // 2

# What Pillow 13 and the libraries below it raise for damaged files (found by mutating valid ones, and listed one by
# one so that a defect of ours, a NameError say, is not mistaken for a damaged picture).
_DAMAGE = (
    OSError,  # truncated data, broken streams, and UnidentifiedImageError
    SyntaxError,  # Pillow's own word for a broken header
    ValueError,  # sizes and modes out of range, text chunks too large, UnicodeError
    struct.error,  # headers shorter than their fields
    EOFError,  # frames that are announced and missing
    IndexError,  # offsets behind the end
    KeyError,  # unknown tags and compression numbers
    TypeError,  # tags holding another type than announced
    AttributeError,  # parts that a broken header left unset
    AssertionError,  # Pillow's checks of its own parser
    zlib.error,  # broken PNG and TIFF streams
    OverflowError,  # sizes that do not fit a C integer
    ZeroDivisionError,  # resolutions and sampling factors of 0
    RuntimeError,  # RecursionError, NotImplementedError: loops and unknown variants
    SystemError,  # C code that failed without saying why
    Image.DecompressionBombError,  # above Pillow's own limit, in formats whose header we do not parse
)

_EXTENSIONS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
}
_CONVERTED = {
    "1": "black and white expanded",
    "L": "grey repeated to three channels",
    "LA": "grey repeated to three channels",
    "P": "palette expanded",
    "PA": "palette expanded",
    "CMYK": "CMYK converted to RGB",
    "YCbCr": "YCbCr converted to RGB",
    "RGBX": "padding channel dropped",
}
_16_BIT = "16-bit grey scaled by 1/257"
_16_BIT_COLOUR = "16-bit colour reduced to 8 bits"
_FLOAT = "float in [0, 1] scaled by 255"
_GREY = _CONVERTED["L"]
_WHITE = "alpha composited on white"
_OPAQUE = "opaque alpha dropped"
_ROTATED = "rotated by its EXIF orientation"

_Converted = tuple[npt.NDArray[Any], str]
_Turn = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

# EXIF orientation -> how to turn the stored rows upright (1 is upright already).
_TURNS: dict[Any, _Turn] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}

# A scan of 9 bytes costs a pass over all pixels, so a JPEG of 9 MB could take hours; encoders write 14 at most.
_MOST_SCANS = 40
_SCAN = b"\xff\xda"

_ORIENTATION = 0x0112
_SIDEWAYS = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))
_STRIP = 1 << 19  # pixels that are turned at a time
_TRANSPARENT = ("RGBA", "LA", "RGBa", "La", "PA")
_BULKY = 4
_CUT = "make it smaller or cut it up"
_BITS_PER_SAMPLE = 258
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "Raw profile type xmp")

# warnings.catch_warnings changes one list for the whole process (until Python 3.14): two threads inside it could leave
# warnings switched off for good.
_QUIET = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, 0-255, contiguous and writable.
        mode: Pillow's mode of the file ("RGB", "L", "I;16", ...), or "array:uint8" for a row of an array.
        size: width and height of the whole picture, upright, before it was resized to a ``side``.
        conversions: each rule applied to come to RGB uint8, in words, in order; empty for plain RGB.
    """

    pixels: Images
    mode: str
    size: tuple[int, int]
    conversions: tuple[str, ...] = ()


def decode(data: bytes, *, name: str = "", max_pixels: int = MAX_PIXELS, side: int | None = None) -> Picture:
    """Decode the bytes of one picture file by its content, whatever its name says.

    Args:
        data: the file's bytes: PNG, JPEG, BMP, TIFF, WebP, GIF or PNM.
        name: what to call it in errors; its extension is compared with the content.
        max_pixels: the largest width x height to unpack.
        side: return (side, side, 3), what ``resize`` makes of the picture; a fifth faster than one after the other.

    Raises:
        DecodeError: for anything that is not one whole picture of a known mode within ``max_pixels``.

    >>> decode(b"P6 2 1 255 " + bytes(6), name="two.ppm").pixels.shape
    (1, 2, 3)
    """
    what = f"picture {name!r}" if name else "picture"
    header = read_header(data)
    if header is None:
        _refuse_foreign(data, what)
    most = min(max_pixels, _MAX_BULKY) if header.weight >= _BULKY else max_pixels
    if header.size is not None:
        check_size(header.size, most, what)
    if header.parts > MOST_PARTS:
        raise TooLargeError(what, f"is cut into more than {MOST_PARTS:,} pieces", "save it anew")
    _check_frames(header.frames or 1, header.format, what)
    if header.format == "JPEG" and (scans := data.count(_SCAN)) > _MOST_SCANS:
        raise DecodeError(what, f"has {scans:,} scans, the limit is {_MOST_SCANS}", "save it anew")
    notes = _name_notes(header.format, name)
    with nullcontext() if header.plain else _quietly():
        try:
            return _decode(data, header, most, what, notes, side)
        except DecodeError:
            raise
        except MemoryError as error:
            rule = "takes more memory to unpack than there is"
            raise TooLargeError(what, rule, _CUT) from error
        except Image.DecompressionBombError as error:
            count = re.search(r"\((\d+) pixels\)", str(error))
            pixels = f"{int(count[1]):,}" if count else "more than 178,956,970"
            raise _too_large(pixels, most, what) from error
        except _DAMAGE as error:
            raise _damaged(error, header, len(data), what) from error


def decode_array(array: npt.NDArray[Any], *, name: str = "", max_pixels: int = MAX_PIXELS) -> Picture:
    """Turn one row of an array of pictures into RGB uint8.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); uint8, uint16 (scaled by 1/257), bool (to 0 and 255), or
            float: within [0, 1] (scaled by 255), or whole numbers within [0, 255].
        name: what to call it in errors.
        max_pixels: the largest width x height.

    Raises:
        DecodeError: for any other shape, type or range, each named.

    >>> decode_array(np.full((2, 2), 65535, np.uint16)).conversions
    ('16-bit values scaled by 1/257', 'grey repeated to three channels')
    """
    what = f"picture {name!r}" if name else "picture"
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        step = "move the channels to the last axis" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise DecodeError(what, f"has the shape {shape}, pictures are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)", step)
    check_size((shape[1], shape[0]), max_pixels, what)
    values, notes = _array_to_bytes(array, what)
    if values.ndim == 2:
        values = values[:, :, np.newaxis]
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
        notes.append(_GREY)
    elif values.shape[2] == 4:
        values, note = _on_white(values)
        notes.append(note)
    pixels = np.array(values, dtype=np.uint8, order="C")
    return Picture(pixels, f"array:{array.dtype}", (shape[1], shape[0]), tuple(notes))


def check_size(size: tuple[int, int], max_pixels: int, what: str) -> None:
    """Raise TooLargeError where a picture of this width and height has too many pixels or too long a side."""
    if size[0] * size[1] > max_pixels:
        raise _too_large(f"{size[0] * size[1]:,}", max_pixels, what)
    if max(size) > MAX_SIDE:
        raise TooLargeError(what, f"has a side of {max(size):,} pixels, the limit is {MAX_SIDE:,}", _CUT)
    if max(size) > MAX_ASPECT * min(size) > 0:  # without a side it is damaged, as the decoder will say
        shape = f"{size[0]:,} x {size[1]:,}"
        raise TooLargeError(what, f"is {shape} pixels, one side may be {MAX_ASPECT} times the other", _CUT)


def _decode(data: bytes, header: Header, most: int, what: str, notes: list[str], side: int | None) -> Picture:
    pixels, mode, size, turn = _unpack(data, header, most, what, notes, side)
    # The picture as Pillow holds it, of 4 bytes a pixel, is gone by now.
    if turn is not None:
        pixels = np.ascontiguousarray(turn(pixels))
        notes.append(_ROTATED)
    if side is not None and pixels.shape[:2] != (side, side):
        pixels = np.array(resize(pixels, side))
    return Picture(pixels, mode, size if turn not in _SIDEWAYS else size[::-1], tuple(notes))


def _unpack(
    data: bytes, header: Header, most: int, what: str, notes: list[str], side: int | None
) -> tuple[Images, str, tuple[int, int], _Turn | None]:
    """Return pixels, mode, size and how to turn them upright; resized where nothing is to be done to them before."""
    _register(header.format)
    with Image.open(io.BytesIO(data), formats=[header.format]) as image:
        # A TIFF is turned by Pillow itself while loading, into a copy, and its tag is then gone.
        tiff_turn = image.getexif().get(_ORIENTATION, 1) if image.format == "TIFF" else 1
        bulky = header.format == "TIFF" and (tiff_turn in _TURNS or image.mode in _TRANSPARENT)
        check_size(image.size, min(most, _MAX_BULKY) if bulky else most, what)
        if image.format == "MPO" or header.frames is None:
            _check_frames(int(getattr(image, "n_frames", 1)), str(image.format), what, notes)
        if header.depth == 16 or _tiff_depth(image) == 16:
            notes.extend([_16_BIT_COLOUR] if image.mode in ("RGB", "RGBA", "LA", "CMYK") else [])
        image.load()
        mode, size = image.mode, image.size
        described = any(key in image.info for key in _METADATA)
        # Pixels that nothing will turn or convert need no way through an array to be resized.
        if side is not None and mode == "RGB" and not described and "transparency" not in image.info:
            pixels = np.array(resize_image(image, side))
        else:
            pixels = _to_rgb(image, what, notes)
        turn = None
        if tiff_turn in _TURNS:
            notes.append(_ROTATED)
        elif image.format != "TIFF" and described:
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return pixels, mode, size, turn


def _damaged(error: BaseException, header: Header, size: int, what: str) -> DecodeError:
    # Pillow's text for "none of my parsers" holds a memory address, which would differ from run to run.
    reason = "unreadable header" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
    rule = f"is a {header.format} file of {size:,} bytes that is damaged or cut short ({reason})"
    return DecodeError(what, rule, "replace it with an intact copy")


def _register(name: str) -> None:
    """Import the one plugin that Pillow leaves out at first; it would import all forty otherwise, 60 ms a process."""
    if name == "TIFF":
        from PIL import TiffImagePlugin  # noqa: F401 - registers itself

        # It logs damage as errors, which land on stderr where nobody has set up logging; our DecodeError says it.
        logger = logging.getLogger("PIL.TiffImagePlugin")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
        silence_libtiff()
    elif name == "WEBP":
        from PIL import WebPImagePlugin  # noqa: F401 - registers itself


def _too_large(pixels: str, max_pixels: int, what: str) -> TooLargeError:
    return TooLargeError(what, f"has {pixels} pixels, the limit is {max_pixels:,}", _CUT)


def _check_frames(frames: int, kind: str, what: str, notes: list[str] | None = None) -> None:
    if frames <= 1:
        return
    if kind != "MPO" or notes is None:  # a camera's JPEG with a preview or a second view behind it
        count = f"more than {MOST_FRAMES}" if frames > MOST_FRAMES else f"{frames}"
        raise DecodeError(what, f"holds {count} frames, one picture is expected", "save the frame you want alone")
    notes.append(f"first of {frames} pictures taken (MPO)")


def _name_notes(content: str, name: str) -> list[str]:
    suffix = PurePosixPath(name).suffix.lower()
    if _EXTENSIONS.get(suffix, content) == content:
        return []
    return [f"content is {content}, name says {suffix}"]


def _refuse_foreign(data: bytes, what: str) -> NoReturn:
    step = "take it out of the source, or save it as PNG, JPEG, BMP, TIFF, WebP, GIF or PNM"
    raise DecodeError(what, f"is {foreign_content(data)}, not a picture", step)


def _tiff_depth(image: Image.Image) -> int | None:
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(_BITS_PER_SAMPLE) if tags is not None else None
    return int(max(bits)) if isinstance(bits, tuple) and bits else None


def _to_rgb(image: Image.Image, what: str, notes: list[str]) -> Images:
    """Return the loaded picture as (H, W, 3) uint8 and write down the rules applied.

    It is turned strip by strip, so that what lies between costs little: 7 bytes a pixel at the peak, Pillow's 4
    included, where whole arrays took up to 23.
    """
    convert, rules = _rule(image, what)
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // max(width, 1))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        pixels[top:bottom], note = convert(strip)
        if note and note not in rules:
            rules.append(note)
    if _WHITE in rules and _OPAQUE in rules:  # one strip shows something of what lies behind
        rules.remove(_OPAQUE)
    notes.extend(rules)
    return pixels


def _rule(image: Image.Image, what: str) -> tuple[Callable[[Image.Image], _Converted], list[str]]:
    """Return what turns a strip of a picture to (h, w, 3) or (h, w, 1), and a further note; and the notes so far."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return lambda strip: (np.asarray(strip), ""), []
    if mode == "I" or mode.startswith("I;16"):
        return lambda strip: (_deep_to_bytes(np.asarray(strip), what)[..., np.newaxis], ""), [_16_BIT, _GREY]
    if mode == "F":
        return lambda strip: (_unit_to_bytes(np.asarray(strip), what)[..., np.newaxis], ""), [_FLOAT, _GREY]
    plain = {"RGBa": "RGBA", "La": "LA"}.get(mode, mode)  # colours already multiplied by alpha
    if plain not in ("RGB", "RGBA") and plain not in _CONVERTED:
        raise DecodeError(what, f"has the colour mode {mode}, for which there is no rule", "save it as RGB")
    rules = [_CONVERTED[plain]] if plain in _CONVERTED else []
    if not image.has_transparency_data:
        return lambda strip: (np.asarray(strip.convert("RGB")), ""), rules
    if plain != mode:
        return lambda strip: _on_white(np.asarray(strip.convert(plain).convert("RGBA"))), rules
    return lambda strip: _on_white(np.asarray(strip.convert("RGBA"))), rules


def _array_to_bytes(array: npt.NDArray[Any], what: str) -> tuple[npt.NDArray[Any], list[str]]:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array, []
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255), ["bool scaled by 255"]
    if kind == "u" and array.dtype.itemsize == 2:
        return _deep_to_bytes(array, what), ["16-bit values scaled by 1/257"]
    if kind == "f":
        low, high = _finite_range(array, what)
        if 1 < high <= 255 and low >= 0 and bool((array == np.rint(array)).all()):
            return array.astype(np.uint8), ["float whole numbers taken as 0-255"]
        return _unit_to_bytes(array, what), [_FLOAT]
    limits = f" with values {array.min()} to {array.max()}" if kind in "iu" else ""
    raise DecodeError(what, f"has the type {array.dtype}{limits}, for which there is no rule", "save it as uint8")


def _deep_to_bytes(values: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Scale 0-65535 to 0-255 by 1/257, rounded to the nearest."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DecodeError(what, f"holds values {low} to {high}, the rule is for 0 to 65535", "save it as 8 or 16 bits")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _unit_to_bytes(values: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    low, high = _finite_range(values, what)
    if low < 0 or high > 1:
        raise DecodeError(what, f"holds float values {low:g} to {high:g}, the rule is for 0 to 1", "save it as uint8")
    scaled: npt.NDArray[np.float32] = np.rint(values.astype(np.float32) * np.float32(255))
    return scaled.astype(np.uint8)


def _finite_range(values: npt.NDArray[Any], what: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DecodeError(what, "holds NaN or infinity", "save it as uint8")
    return low, high


def _on_white(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], str]:
    """Lay (H, W, 4) uint8 over white: c * a + 255 * (1 - a), rounded; say whether that changed anything."""
    alpha = values[:, :, 3:].astype(np.uint16)  # 255 * 255 + 127 still fits
    if int(alpha.min()) == 255:
        return values[:, :, :3], _OPAQUE
    mixed = (values[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8), _WHITE


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Pillow's warnings from the caller: what they say of is refused or noted by our own rules."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
