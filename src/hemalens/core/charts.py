"""From plain data to figures in the house style, and from figures to inline SVG that reads on light and dark paper.

Figures are made object by object (never through pyplot), so nothing is drawn on a screen and nothing is shared between
threads but Matplotlib's settings while a figure is made. Needs Matplotlib; no torch.
"""

import hashlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hemalens.core.text import thousands
from hemalens.core.types import FloatArray, IntArray

__all__ = [
    "CLASS_COLOURS",
    "FALLBACK_COLOURS",
    "INK",
    "bar_counts",
    "class_colours",
    "figure_svg",
    "house_style",
    "print_svg",
    "scatter_map",
]

INK = "#1d2126"
"""Text and axes; inline SVG says ``currentColor`` in its place, so that it follows the page."""

# Found by a search over sRGB for the largest least distance in OKLab under normal, protan, deutan and tritan sight
# (Machado et al. 2009): 0.08, the Okabe-Ito eight have 0.076 and three of them vanish on one of the papers.
# Every colour has a contrast of 3 : 1 or more on #fdfdfb and on #15181c.
CLASS_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "basophil": "#3c60e4",
        "eosinophil": "#fc6018",
        "erythroblast": "#c03c0c",
        "ig": "#9c78b4",
        "lymphocyte": "#4890fc",
        "monocyte": "#786c6c",
        "neutrophil": "#9c3ca8",
        "platelet": "#789c78",
    }
)
"""A colour for each of the eight cells, told apart by colour-blind eyes too."""

FALLBACK_COLOURS = ("#3c60e4", "#fc6018", "#9c3ca8", "#789c78", "#4890fc", "#c03c0c", "#786c6c", "#9c78b4")
"""For classes and groups of other names, in turn."""

_MARKERS = "osD^vPX*"
_RASTER_POINTS = 2000  # more points than this make an SVG heavier than an image of them
_FADED = 0.3
_FONT, _PLAIN = "DejaVu Sans", "system-ui, sans-serif"  # that figures are laid out for, that a page shows

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "font.family": _FONT,
    "font.size": 9,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "hemalens",
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "a$b"
    "xtick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": INK,
    "ytick.labelsize": 8.5,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Make figures inside the block in the house style; Matplotlib's own settings come back after it."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def class_colours(names: Mapping[str, object] | list[str] | tuple[str, ...]) -> list[str]:
    """Return a colour for each name: the cell's own, or the fallbacks in turn where any name is no known cell.

    >>> class_colours(["platelet"]), class_colours(["a", "platelet"])
    (['#789c78'], ['#3c60e4', '#fc6018'])
    """
    if all(name in CLASS_COLOURS for name in names):
        return [CLASS_COLOURS[name] for name in names]
    return [FALLBACK_COLOURS[index % len(FALLBACK_COLOURS)] for index, _ in enumerate(names)]


def figure_svg(figure: Figure, *, label: str) -> str:
    """Return a figure as one ``<svg>`` element to stand inside an HTML page.

    A figure made from the same data gives the same bytes. Ids are made unique to the figure, text stays text (set in
    the page's plain font; the layout is computed for a wider one), the background is transparent and ink takes the
    page's text colour.

    Args:
        figure: made in the house style.
        label: says in words what is drawn, for those who do not see it.
    """
    buffer = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with house_style(), warnings.catch_warnings():  # the style again: ticks are made while drawing
        # A script that DejaVu lacks is only measured wrongly here: the browser has the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Matplotlib's one rule for "*" would reach the whole page; inherited from the root it says the same.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    svg = svg.replace(f"'{_FONT}'", _PLAIN)
    prefix = f"f{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{prefix}", svg)
    words = html.escape(" ".join(label.split()))
    root = f'<svg role="img" aria-label="{words}" style="stroke-linejoin: round; stroke-linecap: butt"'
    return svg.replace("<svg", root, 1)


def print_svg(svg: str) -> str:
    """Return an inline ``<svg>`` as a drawing of its own for paper: our ink, in the font it was laid out for."""
    return svg.replace("currentColor", INK).replace(_PLAIN, f"'{_FONT}'")


def bar_counts(before: Mapping[str, int], after: Mapping[str, int] | None = None) -> Figure:
    """Draw how many samples each class has, one bar a class in the mapping's order.

    Args:
        before: class name -> count.
        after: the counts after cleaning, drawn full over the faded ones before; None draws ``before`` alone.
    """
    names = list(before)
    full = before if after is None else after
    colours = class_colours(names)
    with house_style():
        figure = Figure(figsize=(6.6, 0.6 + 0.29 * max(len(names), 1)))
        axes = figure.add_subplot()
        rows = np.arange(len(names))
        if after is not None:
            axes.barh(rows, [before[name] for name in names], color=colours, alpha=_FADED, height=0.66)
        axes.barh(rows, [full.get(name, 0) for name in names], color=colours, height=0.66)
        for row, name in enumerate(names):
            old, new = before[name], full.get(name, 0)
            text = thousands(new) if old == new else f"{thousands(old)} \N{RIGHTWARDS ARROW} {thousands(new)}"
            axes.annotate(text, (max(old, new), row), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set_yticks(rows, names)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        axes.set_xlabel("samples")
        axes.grid(axis="x")
    return figure


def scatter_map(
    points: FloatArray,
    groups: Mapping[str, IntArray],
    *,
    rest: str = "other samples",
    axes_labels: tuple[str, str] = ("first component", "second component"),
) -> Figure:
    """Draw samples as points in a plane, named groups of them in colour, all others faded.

    Every group has a marker of its own beside its colour. Points beyond 2,000 are drawn as one image inside the SVG.

    Args:
        points: positions (N, 2); rows that are not finite are left out.
        groups: name -> row numbers of its members.
        rest: what the unmarked samples are called in the legend.
        axes_labels: of x and y.
    """
    finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=1))
    unmarked = finite.copy()
    for members in groups.values():
        unmarked[members] = False
    raster = int(finite.sum()) > _RASTER_POINTS
    with house_style():
        figure = Figure(figsize=(6.6, 4.6))
        axes: Axes = figure.add_subplot()
        if unmarked.any():
            axes.scatter(
                points[unmarked, 0],
                points[unmarked, 1],
                s=7,
                color="#8a9097",
                alpha=0.45,
                lw=0,
                rasterized=raster,
                label=rest,
            )
        for index, (name, colour) in enumerate(zip(groups, class_colours(groups), strict=True)):
            members = np.asarray(groups[name], dtype=np.int64)
            chosen = points[members[finite[members]]]
            marker = _MARKERS[index % len(_MARKERS)]
            label = f"{name} ({len(members)})"
            axes.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=16,
                color=colour,
                alpha=0.85,
                lw=0,
                marker=marker,
                rasterized=raster,
                label=label,
            )
        axes.set_xlabel(axes_labels[0])
        axes.set_ylabel(axes_labels[1])
        axes.grid()
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside right upper", markerscale=1.5)
    return figure
