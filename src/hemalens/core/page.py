"""From templates and plain data to self-contained HTML pages: nothing is fetched when one is opened.

One frame (``base.html``), one stylesheet and a few parts (``macros.html``) serve every page of the project. Needs
Jinja2 and Pillow; neither torch nor a running server.
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from hemalens.report.document.blocks import Document, numbers
from hemalens.core.types import Images

__all__ = [
    "ABSENT",
    "contact_sheet_uri",
    "duration",
    "encode_picture",
    "interval",
    "markdown",
    "number",
    "percent",
    "picture_uri",
    "render_document",
    "render_page",
    "thousands",
]

ABSENT = "\N{EN DASH}"
"""What stands in a table where nothing was measured."""

_TINY = 32  # pixels: below this a PNG is smaller than the tables that a JPEG carries (about 600 bytes)
_GAP = 2  # pixels between the pictures of a contact sheet
_GAP_GREY = 128  # reads on light and dark paper alike
_NO_BREAK = "\N{NO-BREAK SPACE}"
_THIN = "\N{NARROW NO-BREAK SPACE}"


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


def render_document(document: Document) -> str:
    """Return a document as one self-contained page with a list of its sections beside it."""
    sections = {section.anchor: section.title for section in document.sections}
    context = {"title": document.title, "document": document, "sections": sections, "names": numbers(document)}
    return render_page("document.html", "hemalens.core", context)


def picture_uri(pixels: Images, *, quality: int = 85, max_side: int = 192) -> str:
    """Return one picture (H, W, 3) uint8 as a ``data:`` address, see ``encode_picture``.

    >>> picture_uri(np.zeros((8, 8, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """
    data, kind = encode_picture(pixels, quality=quality, max_side=max_side)
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def encode_picture(pixels: Images, *, quality: int = 85, max_side: int = 192) -> tuple[bytes, str]:
    """Return one picture (H, W, 3) uint8 as a file for a page and its media type: JPEG, or PNG where it is tiny.

    Larger pictures are scaled down, so that the longer side has ``max_side`` pixels. Raises ValueError where the array
    is no such picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ValueError(f"pixels {pixels.shape} {pixels.dtype}: must be (H, W, 3) uint8 and not empty")
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    tiny = max(picture.size) <= _TINY
    buffer = io.BytesIO()
    if tiny:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue(), "image/png" if tiny else "image/jpeg"


def contact_sheet_uri(images: Sequence[Images] | Images, columns: int, *, side: int = 96) -> str:
    """Return pictures laid out row by row on one sheet, as a ``data:`` address.

    Args:
        images: pictures (H, W, 3) uint8, of any sizes; each is fitted into a square, its proportions kept.
        columns: pictures in a row.
        side: of the squares, in pixels.
    """
    if columns < 1 or len(images) == 0:
        raise ValueError(f"contact sheet of {len(images)} pictures in {columns} columns: both must be at least 1")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    step = side + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, rows * step - _GAP), (_GAP_GREY,) * 3)
    for index, pixels in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        scale = side / max(picture.size)
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * step + (side - size[0]) // 2, row * step + (side - size[1]) // 2))
    return picture_uri(np.asarray(sheet), max_side=max(sheet.size))


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as a percentage; a dash where it is None.

    >>> percent(0.9862).replace("\N{NO-BREAK SPACE}", " ")
    '98.6 %'
    """
    return ABSENT if share is None else f"{100 * share:.{digits}f}{_NO_BREAK}%"


def interval(score: object, digits: int = 1) -> str:
    """Write a score in [0, 1] with its interval; ``score`` has value, low and high (fields or keys), or is None.

    >>> interval({"value": 0.9862, "low": 0.98, "high": 0.991}).replace("\N{NO-BREAK SPACE}", " ")
    '98.6 % [98.0, 99.1]'
    """
    if score is None:
        return ABSENT
    value, low, high = (score[k] if isinstance(score, Mapping) else getattr(score, k) for k in ("value", "low", "high"))
    return f"{percent(value, digits)} [{100 * low:.{digits}f},{_NO_BREAK}{100 * high:.{digits}f}]"


def thousands(count: int | None) -> str:
    """Write a whole number with a thin space between groups of three digits, from five digits on.

    >>> thousands(13759).replace("\N{NARROW NO-BREAK SPACE}", " "), thousands(1600)
    ('13 759', '1600')
    """
    if count is None:
        return ABSENT
    return f"{count:,}".replace(",", _THIN) if abs(count) >= 10_000 else str(count)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits, without a trailing power of ten where it can be helped.

    >>> number(0.04567), number(12), number(0.00001)
    ('0.0457', '12', '1e-05')
    """
    return ABSENT if value is None else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Write a time span in its two largest units.

    >>> [duration(s).replace("\N{NO-BREAK SPACE}", " ") for s in (0.84, 42, 125, 3725)]
    ['0.8 s', '42 s', '2 min 5 s', '1 h 2 min']
    """
    if seconds is None:
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f}{_NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        parts = [(hours, "h"), (minutes, "min")]
    elif minutes:
        parts = [(minutes, "min"), (rest, "s")]
    else:
        parts = [(rest, "s")]
    return _NO_BREAK.join(f"{amount}{_NO_BREAK}{unit}" for amount, unit in parts if amount)


def markdown(text: object) -> str:
    r"""Escape text for a line of Markdown, so that a class called ``a|b`` or ``<b>`` stays what it is.

    >>> markdown("a|b_c\n<i>")
    'a\\|b\\_c \\<i\\>'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|$~&])", r"\\\1", " ".join(str(text).split()))


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
        "thousands": thousands,
        "number": number,
        "duration": duration,
        "markdown": markdown,
    }
    environment.filters |= filters
    return environment
