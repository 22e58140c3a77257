"""From the bytes of one image file, or one row of an array, to (H, W, 3) uint8 by stated rules, or an error.

Every departure from plain 8-bit RGB is either converted by a rule and noted in ``Decoded.conversions``, or unreadable,
with a DecodeError that names it; nothing else is ever raised and no warning escapes. The header's pixels are counted
before a pixel is unpacked: a PNG of 0.5 MB can hold 179 million. Colour profiles (ICC) are not applied: cell images
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

from hemalens.core.errors import DecodeError
from hemalens.core.types import Images
from hemalens.data.reading.headers import Header, foreign_content, read_header
from hemalens.data.reading.libtiff import silence_libtiff
from hemalens.data.reading.resize import resize, resize_image

__all__ = ["MAX_PIXELS", "Decoded", "decode", "decode_array"]

MAX_PIXELS = 25_000_000
"""Pixels an image may have unless told otherwise: 5000 x 5000, 75 MB as RGB."""

# What Pillow 13 and the libraries below it raise for damaged files (found by mutating valid ones, and listed one by
# one so that a defect of ours, a NameError say, is not mistaken for a damaged image).
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
    MemoryError,  # sizes that cannot be allocated
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

# EXIF orientation -> how to turn the stored rows upright (1 is upright already).
_TURNS: dict[Any, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}

# A scan of 9 bytes costs a pass over all pixels, so a JPEG of 9 MB could take hours; encoders write 14 at most.
# Directories of a TIFF are walked one by one, 0.2 ms each: a long chain is not counted to its end.
_MOST_SCANS = 100
_MOST_COUNTED = 100
_SCAN = b"\xff\xda"

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_METADATA = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "Raw profile type xmp")

# warnings.catch_warnings changes one list for the whole process (until Python 3.14): two threads inside it could leave
# warnings switched off for good.
_QUIET = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One decoded image.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, 0-255, contiguous and writable.
        mode: Pillow's mode of the file ("RGB", "L", "I;16", ...), or "array:uint8" for a row of an array.
        size: width and height of the whole image, upright, before it was resized to a ``side``.
        conversions: each rule applied to come to RGB uint8, in words, in order; empty for plain RGB.
    """

    pixels: Images
    mode: str
    size: tuple[int, int]
    conversions: tuple[str, ...] = ()


def decode(data: bytes, *, name: str = "", max_pixels: int = MAX_PIXELS, side: int | None = None) -> Decoded:
    """Decode the bytes of one image file by its content, whatever its name says.

    Args:
        data: the file's bytes: PNG, JPEG, BMP, TIFF, WebP, GIF or PNM.
        name: what to call it in errors; its extension is compared with the content.
        max_pixels: the largest width x height to unpack.
        side: return (side, side, 3), what ``resize`` makes of the image; a fifth faster than one after the other.

    Raises:
        DecodeError: for anything that is not one whole image of a known mode within ``max_pixels``.

    >>> decode(b"P6 2 1 255 " + bytes(6), name="two.ppm").pixels.shape
    (1, 2, 3)
    """
    what = f"image {name!r}" if name else "image"
    header = read_header(data)
    if header is None:
        _raise_foreign(data, what)
    if header.size is not None:
        _check_pixels(header.size, max_pixels, what)
    if header.format == "JPEG" and (scans := data.count(_SCAN)) > _MOST_SCANS:
        raise DecodeError(what, f"has {scans:,} scans, the limit is {_MOST_SCANS}", "save it anew")
    notes = _name_notes(header.format, name)
    with nullcontext() if header.plain else _quietly():
        try:
            return _decode(data, header, max_pixels, what, notes, side)
        except DecodeError:
            raise
        except Image.DecompressionBombError as error:
            count = re.search(r"\((\d+) pixels\)", str(error))
            pixels = f"{int(count[1]):,}" if count else "more than 178,956,970"
            raise _too_large(pixels, max_pixels, what) from error
        except _DAMAGE as error:
            raise _damaged(error, header, len(data), what) from error


def decode_array(array: npt.NDArray[Any], *, name: str = "", max_pixels: int = MAX_PIXELS) -> Decoded:
    """Turn one row of an array of images into RGB uint8.

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
    what = f"image {name!r}" if name else "image"
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        step = "move the channels to the last axis" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise DecodeError(what, f"has the shape {shape}, images are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)", step)
    _check_pixels((shape[1], shape[0]), max_pixels, what)
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
    return Decoded(pixels, f"array:{array.dtype}", (shape[1], shape[0]), tuple(notes))


def _decode(data: bytes, header: Header, max_pixels: int, what: str, notes: list[str], side: int | None) -> Decoded:
    _register(header.format)
    with Image.open(io.BytesIO(data), formats=[header.format]) as image:
        _check_pixels(image.size, max_pixels, what)
        _check_frames(image, what, notes)
        # A TIFF is turned by Pillow itself while loading, and its tag is then gone.
        tiff_turn = image.getexif().get(_ORIENTATION, 1) if image.format == "TIFF" else 1
        if header.depth == 16 or _tiff_depth(image) == 16:
            notes.extend([_16_BIT_COLOUR] if image.mode in ("RGB", "RGBA", "LA", "CMYK") else [])
        image.load()
        mode, size = image.mode, image.size
        described = any(key in image.info for key in _METADATA)
        # Pixels that nothing will turn or convert need no way through an array to be resized.
        direct = side is not None and mode == "RGB" and not described and "transparency" not in image.info
        pixels = _to_rgb(resize_image(image, side) if direct and side else image, what, notes)
        if tiff_turn in _TURNS:
            notes.append(_ROTATED)
        elif image.format != "TIFF" and described:
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            if turn is not None:
                pixels = turn(pixels)
                notes.append(_ROTATED)
    whole = np.array(pixels, dtype=np.uint8, order="C")
    if not direct:
        size = whole.shape[1], whole.shape[0]
    return Decoded(whole if side is None else np.array(resize(whole, side)), mode, size, tuple(notes))


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


def _check_pixels(size: tuple[int, int], max_pixels: int, what: str) -> None:
    if size[0] * size[1] > max_pixels:
        raise _too_large(f"{size[0] * size[1]:,}", max_pixels, what)


def _too_large(pixels: str, max_pixels: int, what: str) -> DecodeError:
    return DecodeError(what, f"has {pixels} pixels, the limit is {max_pixels:,}", "make it smaller or cut it up")


def _check_frames(image: Image.Image, what: str, notes: list[str]) -> None:
    frames = _count_frames(image)
    if frames == 1:
        return
    if image.format != "MPO":  # a camera's JPEG with a preview or a second view behind it
        count = f"more than {_MOST_COUNTED}" if image.format == "TIFF" and frames > _MOST_COUNTED else f"{frames}"
        raise DecodeError(what, f"holds {count} frames, one image is expected", "save the frame you want alone")
    notes.append(f"first of {frames} images taken (MPO)")


def _count_frames(image: Image.Image) -> int:
    """Return the number of images in a file; of a TIFF at most one more than are counted."""
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    frames = 1
    try:
        while frames <= _MOST_COUNTED:
            image.seek(frames)
            frames += 1
    except EOFError:
        image.seek(0)
    return frames


def _name_notes(content: str, name: str) -> list[str]:
    suffix = PurePosixPath(name).suffix.lower()
    if _EXTENSIONS.get(suffix, content) == content:
        return []
    return [f"content is {content}, name says {suffix}"]


def _raise_foreign(data: bytes, what: str) -> NoReturn:
    step = "take it out of the source, or save it as PNG, JPEG, BMP, TIFF, WebP, GIF or PNM"
    raise DecodeError(what, f"is {foreign_content(data)}, not an image", step)


def _tiff_depth(image: Image.Image) -> int | None:
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(_BITS_PER_SAMPLE) if tags is not None else None
    return int(max(bits)) if isinstance(bits, tuple) and bits else None


def _to_rgb(image: Image.Image, what: str, notes: list[str]) -> npt.NDArray[Any]:
    """Return the loaded image as (H, W, 3) uint8 and write down the rules applied."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if mode == "I" or mode.startswith("I;16"):
        notes.extend((_16_BIT, _GREY))
        return _grey(_deep_to_bytes(np.asarray(image), what))
    if mode == "F":
        notes.extend((_FLOAT, _GREY))
        return _grey(_unit_to_bytes(np.asarray(image), what))
    if mode in ("RGBa", "La"):  # colours already multiplied by alpha
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[mode])
    elif mode not in ("RGB", "RGBA") and mode not in _CONVERTED:
        raise DecodeError(what, f"has the colour mode {mode}, for which there is no rule", "save it as RGB")
    if image.mode in _CONVERTED:
        notes.append(_CONVERTED[image.mode])
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    pixels, note = _on_white(np.asarray(image.convert("RGBA")))
    notes.append(note)
    return pixels


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


def _grey(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.stack((values, values, values), axis=2)


def _on_white(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], str]:
    """Lay (H, W, 4) uint8 over white: c * a + 255 * (1 - a), rounded; say whether that changed anything."""
    alpha = values[:, :, 3:].astype(np.uint16)  # 255 * 255 + 127 still fits
    if int(alpha.min()) == 255:
        return values[:, :, :3], _OPAQUE
    mixed = (values[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8), _WHITE


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Pillow's warnings from the caller: what they say of is unreadable or noted by our own rules."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
