"""From templates and plain data to self-contained HTML pages: nothing is fetched when one is opened.

One frame (``base.html``), one stylesheet and a few parts (``macros.html``) serve every page of the project. Needs
Jinja2 and Pillow; neither torch nor a running server.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from hemalens.core.text import duration, interval, markdown, number, percent, spelled, thousands
from hemalens.core.types import Images

__all__ = ["contact_sheet_uri", "encode_image", "image_uri", "render_page"]

_TINY = 32  # pixels: below this a PNG is smaller than the tables that a JPEG carries (about 600 bytes)
_GAP = 2  # pixels between the images of a contact sheet
_GAP_GREY = 128  # reads on light and dark paper alike


def render_page(template: str, package: str, context: Mapping[str, object]) -> str:
    """Render a template of a package, with the shared frame, parts and filters at hand.

    HTML is escaped; a template whose name ends in ``.md`` is not (use the filter ``markdown`` there). A name that the
    context lacks is an error, not an empty string.

    Args:
        template: file name in the package's ``templates`` folder.
        package: dotted name of the calling package, for example ``"hemalens.evaluation"``.
        context: what the template speaks of; pages on ``base.html`` need ``title``.
    """
    return _environment(package).get_template(template).render(context)


def image_uri(pixels: Images, *, quality: int = 85, max_side: int = 192) -> str:
    """Return one image (H, W, 3) uint8 as a ``data:`` address, see ``encode_image``.

    >>> image_uri(np.zeros((8, 8, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """
    data, kind = encode_image(pixels, quality=quality, max_side=max_side)
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def encode_image(pixels: Images, *, quality: int = 85, max_side: int = 192) -> tuple[bytes, str]:
    """Return one image (H, W, 3) uint8 as a file for a page and its media type: JPEG, or PNG where it is tiny.

    Larger images are scaled down, so that the longer side has ``max_side`` pixels. Raises ValueError where the array
    is no such image.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ValueError(f"pixels {pixels.shape} {pixels.dtype}: must be (H, W, 3) uint8 and not empty")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    tiny = max(image.size) <= _TINY
    buffer = io.BytesIO()
    if tiny:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue(), "image/png" if tiny else "image/jpeg"


def contact_sheet_uri(images: Sequence[Images] | Images, columns: int, *, side: int = 96) -> str:
    """Return images laid out row by row on one sheet, as a ``data:`` address.

    Args:
        images: images (H, W, 3) uint8, of any sizes; each is fitted into a square, its proportions kept.
        columns: images in a row.
        side: of the squares, in pixels.
    """
    if columns < 1 or len(images) == 0:
        raise ValueError(f"contact sheet of {len(images)} images in {columns} columns: both must be at least 1")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    step = side + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, rows * step - _GAP), (_GAP_GREY,) * 3)
    for index, pixels in enumerate(images):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        scale = side / max(image.size)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        if size != image.size:
            image = image.resize(size, Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        sheet.paste(image, (column * step + (side - size[0]) // 2, row * step + (side - size[1]) // 2))
    return image_uri(np.asarray(sheet), max_side=max(sheet.size))


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("hemalens.core")]),
        autoescape=select_autoescape(default=True, disabled_extensions=("md",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "percent": percent,
        "interval": interval,
        "spelled": spelled,
        "thousands": thousands,
        "number": number,
        "duration": duration,
        "markdown": markdown,
    }
    environment.filters |= filters
    return environment
