"""Images that are no cells, of eleven kinds, made here from a seed or cut from photographs that libraries ship."""

import io
import string
from collections.abc import Callable

import numpy as np
from matplotlib import cbook
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from scipy import ndimage
from sklearn.datasets import load_sample_images

from hemalens.core.types import Images
from hemalens.data.synthetic.foreign import colour_chart, landscape

SIDE = 96
# A smear's own colours, so that colour alone gives nothing away: paper, plasma, red cells, nuclei.
STAINS = ((250, 225, 200), (232, 200, 198), (225, 160, 150), (110, 60, 140), (90, 50, 120))
Draw = np.random.Generator


def foreign_images(per_kind: int, *, seed: int = 0) -> dict[str, Images]:
    """Return so many images (per_kind, 96, 96, 3) uint8 of each kind.

    Half of the texts, textures, blanks, stripes and drawings wear the colours of a smear, so that colour alone does
    not tell.
    """
    found = {}
    for number, (kind, make) in enumerate(KINDS.items()):
        draw = np.random.default_rng([seed, number])
        found[kind] = np.stack([np.asarray(make(draw, place), np.uint8) for place in range(per_kind)])
    return found


def photograph(draw: Draw, place: int) -> np.ndarray:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        whole = [*load_sample_images().images, np.asarray(Image.open(file).convert("RGB"))]
    return part_of(whole[place % len(whole)], draw)


def part_of(image: np.ndarray, draw: Draw) -> np.ndarray:
    """Return a square part of an image, of 20 to 100 % of its shorter side, as (96, 96, 3)."""
    side = int(min(image.shape[:2]) * draw.uniform(0.2, 1.0))
    top, left = (int(draw.integers(0, image.shape[axis] - side + 1)) for axis in (0, 1))
    return np.asarray(Image.fromarray(image[top : top + side, left : left + side]).resize((SIDE, SIDE)))


def chart(draw: Draw, place: int) -> np.ndarray:
    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    values = draw.random((9, 9))
    if place % 3 == 0:
        axes.bar(range(5), values[0, :5])
    elif place % 3 == 1:
        axes.plot(values[:3].T)
    else:
        axes.imshow(values)
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return np.asarray(Image.open(buffer).convert("RGB").resize((SIDE, SIDE)))


def text(draw: Draw, place: int) -> np.ndarray:
    paper, ink = _two_colours(draw, place)
    page = Image.new("RGB", (SIDE, SIDE), paper)
    step = int(draw.integers(10, 16))
    for top in range(2, SIDE, step):
        words = "".join(draw.choice(list(string.ascii_letters + "    "), 18))
        ImageDraw.Draw(page).text((2, top), words, fill=ink)
    return np.asarray(page)


def white_noise(draw: Draw, place: int) -> np.ndarray:
    if place % 2:
        return draw.integers(0, 256, (SIDE, SIDE, 3))
    grey = draw.normal(draw.uniform(60, 200), draw.uniform(20, 60), (SIDE, SIDE, 1 if place % 4 else 3))
    return np.broadcast_to(grey.clip(0, 255), (SIDE, SIDE, 3))


def texture(draw: Draw, place: int) -> np.ndarray:
    """Noise of several scales between two colours: clouds, marble, foam."""
    field = sum(
        scale**0.7 * ndimage.gaussian_filter(draw.normal(size=(SIDE, SIDE)), scale, mode="wrap") * scale
        for scale in draw.choice([1, 2, 4, 8, 16], 3, replace=False)
    )
    share = ((field - field.min()) / np.ptp(field))[..., None]
    first, second = (np.array(colour, float) for colour in _two_colours(draw, place))
    return first + share * (second - first)


def blank(draw: Draw, place: int) -> np.ndarray:
    first, second = (np.array(colour, float) for colour in _two_colours(draw, place))
    if place % 2:
        second = first
    angle = draw.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    share = (0.5 + 0.7 * (rows * np.sin(angle) + columns * np.cos(angle))).clip(0, 1)[..., None]
    return (first + share * (second - first) + draw.normal(0, 2, (SIDE, SIDE, 3))).clip(0, 255)


def stripes(draw: Draw, place: int) -> np.ndarray:
    """Stripes, boards and rings."""
    first, second = (np.array(colour, float) for colour in _two_colours(draw, place))
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(float)
    width, angle = draw.uniform(3, 20), draw.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    rings = np.hypot(rows - draw.uniform(0, SIDE), columns - draw.uniform(0, SIDE))
    wave = (along // width, along // width + across // width, rings // width)[place % 3] % 2
    return first + wave[..., None] * (second - first)


def drawing(draw: Draw, place: int) -> np.ndarray:
    """Polygons, frames and lines."""
    paper, _ = _two_colours(draw, place)
    page = Image.new("RGB", (SIDE, SIDE), paper)
    pen = ImageDraw.Draw(page)
    for _ in range(int(draw.integers(2, 7))):
        points = [tuple(point) for point in draw.integers(0, SIDE, (int(draw.integers(2, 6)), 2)).tolist()]
        ink = _two_colours(draw, place)[1]
        if len(points) == 2:
            pen.line(points, fill=ink, width=int(draw.integers(1, 8)))
        else:
            pen.polygon(points, fill=ink)
    return np.asarray(page)


def shuffled_smear(draw: Draw) -> np.ndarray:
    """Squares of a smear's colours at random places: a smear's colours without its shapes."""
    side = int(draw.choice([4, 6, 8, 12, 16]))
    colours = np.array(STAINS, float)[draw.integers(0, len(STAINS), (SIDE // side, SIDE // side))]
    image = colours.repeat(side, axis=0).repeat(side, axis=1)
    return (image + draw.normal(0, 6, image.shape)).clip(0, 255)


def _two_colours(draw: Draw, place: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if place % 4 < 2:
        first, second = draw.choice(len(STAINS), 2, replace=False)
        return STAINS[first], STAINS[second]
    return tuple(draw.integers(0, 256, 3).tolist()), tuple(draw.integers(0, 256, 3).tolist())


KINDS: dict[str, Callable[[Draw, int], np.ndarray]] = {
    "photographs": photograph,
    "landscapes": lambda draw, _: part_of(landscape(2 * SIDE, int(draw.integers(1 << 30))), draw),
    "test charts": lambda draw, _: part_of(colour_chart(2 * SIDE, int(draw.integers(1 << 30))), draw),
    "plots": chart,
    "text": text,
    "white noise": white_noise,
    "textures": texture,
    "blanks": blank,
    "stripes": stripes,
    "drawings": drawing,
    "shuffled smears": lambda draw, _: shuffled_smear(draw),
}
"""Kind -> what draws one image from a stream of chance and its number."""
