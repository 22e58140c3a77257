"""Values of any kind that is accepted to (H, W, 3) uint8, by one stated rule for each. Needs numpy and Pillow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hemalens.core.errors import DecodeError
from hemalens.core.types import Images

__all__ = ["GREY_RULE", "array_to_bytes", "on_white", "to_rgb"]

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
_FLOAT = "float in [0, 1] scaled by 255"
GREY_RULE = _CONVERTED["L"]
_WHITE = "alpha composited on white"
_OPAQUE = "opaque alpha dropped"
_STRIP = 1 << 19  # pixels that are turned at a time

_Converted = tuple[npt.NDArray[Any], str]


def to_rgb(image: Image.Image, what: str, notes: list[str]) -> Images:
    """Return the loaded image as (H, W, 3) uint8 and write down the rules applied.

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
    """Return what turns a strip of an image to (h, w, 3) or (h, w, 1), and a further note; and the notes so far."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return lambda strip: (np.asarray(strip), ""), []
    if mode == "I" or mode.startswith("I;16"):
        return lambda strip: (_deep_to_bytes(np.asarray(strip), what)[..., np.newaxis], ""), [_16_BIT, GREY_RULE]
    if mode == "F":
        return lambda strip: (_unit_to_bytes(np.asarray(strip), what)[..., np.newaxis], ""), [_FLOAT, GREY_RULE]
    plain = {"RGBa": "RGBA", "La": "LA"}.get(mode, mode)  # colours already multiplied by alpha
    if plain not in ("RGB", "RGBA") and plain not in _CONVERTED:
        raise DecodeError(what, f"has the colour mode {mode}, for which there is no rule", "save it as RGB")
    rules = [_CONVERTED[plain]] if plain in _CONVERTED else []
    if not image.has_transparency_data:
        return lambda strip: (np.asarray(strip.convert("RGB")), ""), rules
    if plain != mode:
        return lambda strip: on_white(np.asarray(strip.convert(plain).convert("RGBA"))), rules
    return lambda strip: on_white(np.asarray(strip.convert("RGBA"))), rules


def array_to_bytes(array: npt.NDArray[Any], what: str) -> tuple[npt.NDArray[Any], list[str]]:
    """Return the values of an array of any shape as uint8, and the rules applied; raise DecodeError where none fits."""
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


def on_white(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], str]:
    """Lay (H, W, 4) uint8 over white: c * a + 255 * (1 - a), rounded; say whether that changed anything."""
    alpha = values[:, :, 3:].astype(np.uint16)  # 255 * 255 + 127 still fits
    if int(alpha.min()) == 255:
        return values[:, :, :3], _OPAQUE
    mixed = (values[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8), _WHITE
