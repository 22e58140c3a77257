"""Blocks that several sections of a report are built from.

Needs neither torch nor anything of training.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Drawing
from PIL import Image, UnidentifiedImageError

from hemalens.core.charts import figure_svg
from hemalens.core.document import Figure
from hemalens.core.page import picture_uri
from hemalens.core.records import open_record

__all__ = ["drawn", "stored_picture"]


def drawn(
    anchor: str, caption: str, figure: Drawing, label: str, *, paper: tuple[float, float], wide: bool = False
) -> Figure:
    """Return a figure drawn twice: as large as it was made for a screen, and ``paper`` inches wide and high.

    On paper a column has 3.4 inches and a page 7; drawn for that width, letters come out as large as they were meant.
    """
    screen = figure_svg(figure, label=label)
    figure.set_size_inches(*paper)
    return Figure(anchor, caption, screen, label, figure_svg(figure, label=label), wide=wide)


def stored_picture(directory: Path, name: str | None) -> str | None:
    """Return a picture that a stage left inside its directory as a ``data:`` address, None where it is not there."""
    record = open_record(directory)
    for inside in (name, f"mistakes/{name}") if name else ():
        if inside not in record.outputs:
            continue
        try:
            with Image.open(io.BytesIO(record.bytes(inside)), formats=("JPEG", "PNG")) as picture:
                return picture_uri(np.asarray(picture.convert("RGB")))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            return None
    return None
