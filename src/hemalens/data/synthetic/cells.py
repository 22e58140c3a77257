"""The cell in the middle: what each of the eight classes looks like, and how a look becomes stain on the slide.

A nucleus is a chain of discs along a bent path: short and thick gives a round nucleus, bent a kidney, long a band,
pinched the lobes of a granulocyte. The ranges overlap between neighbours on purpose: no class is told by one number.
Needs numpy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hemalens.core.types import FloatArray
from hemalens.data.synthetic.fields import Plane, coverage, distance_to_discs, grain_noise, lay_over, smoothstep
from hemalens.data.synthetic.scene import density_of

__all__ = ["LOOKS", "Granules", "Look", "Nucleus", "paint_cell"]

Range = tuple[float, float]
Colour = tuple[float, float, float]

_CHROMATIN: Colour = (60.0, 20.0, 126.0)
_LIGHT_CHROMATIN: Colour = (136.0, 78.0, 152.0)
_DISCS = 16


@dataclass(frozen=True, slots=True)
class Nucleus:
    """Ranges a nucleus is drawn from.

    Attributes:
        lobes: numbers of lobes, equally likely unless repeated.
        thickness: radius of the chain relative to the cell's.
        length: path in radii of the chain; 0 is a round nucleus.
        turn: radians the path turns from end to end.
        pinch: how much the chain thins between lobes, 0 to 1.
        eccentric: place between the cell's centre (0) and its edge (1).
        darkness: how condensed the chromatin is, about 0.5 to 1.1.
        clumps: contrast of the chromatin's grains.
        opacity: 1 covers what lies below.
    """

    lobes: tuple[int, ...]
    thickness: Range
    length: Range = (0.0, 0.5)
    turn: Range = (0.0, 0.6)
    pinch: Range = (0.0, 0.1)
    eccentric: Range = (0.0, 0.6)
    darkness: Range = (0.8, 1.0)
    clumps: Range = (0.20, 0.36)
    opacity: Range = (1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Granules:
    """Ranges of one kind of granule: its colour, width, threshold on unit noise (lower is denser) and strength."""

    colour: Colour
    grain: float
    level: Range
    opacity: Range
    on_nucleus: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """Ranges one class is drawn from: lengths in 96ths of the side, two cytoplasm colours to mix."""

    radius: Range
    cytoplasm: tuple[Colour, Colour]
    stretch: Range = (1.0, 1.12)
    bend: Range = (0.3, 1.2)
    ragged: Range = (0.2, 0.7)
    mottle: Range = (0.05, 0.12)
    nucleus: Nucleus | None = None
    granules: tuple[Granules, ...] = ()
    vacuoles: tuple[int, int] = (0, 0)


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "basophil": Look(
            radius=(26, 33),
            cytoplasm=((205, 168, 188), (170, 125, 168)),
            ragged=(0.4, 0.9),
            nucleus=Nucleus(
                (1, 2, 2, 3), (0.36, 0.56), length=(0.8, 3.6), turn=(0.5, 4.0), pinch=(0.1, 0.4), opacity=(0.6, 0.9)
            ),
            granules=(Granules((54, 18, 112), 1.3, (-0.9, 0.2), (0.8, 1.0), on_nucleus=0.8),),
        ),
        "eosinophil": Look(
            radius=(27, 36),
            cytoplasm=((204, 160, 178), (178, 140, 176)),
            nucleus=Nucleus(
                (2, 2, 2, 3, 3), (0.30, 0.42), length=(2.2, 4.8), turn=(0.6, 4.2), pinch=(0.35, 0.8),
                eccentric=(0.2, 0.9),
            ),
            granules=(Granules((190, 92, 112), 1.4, (-1.3, 0.0), (0.7, 1.0)),),
        ),
        "erythroblast": Look(
            radius=(16, 26),
            cytoplasm=((186, 152, 168), (124, 112, 172)),
            bend=(0.4, 1.8),
            nucleus=Nucleus(
                (1,), (0.46, 0.72), length=(0.0, 0.25), eccentric=(0.0, 0.9), darkness=(0.92, 1.15), clumps=(0.06, 0.31)
            ),
        ),
        "ig": Look(
            radius=(27, 39),
            cytoplasm=((198, 164, 180), (142, 116, 172)),
            bend=(0.5, 2.0),
            nucleus=Nucleus(
                (1,), (0.46, 0.74), length=(0.2, 1.6), turn=(0.0, 2.4), eccentric=(0.3, 1.0), darkness=(0.68, 0.95),
                clumps=(0.28, 0.50),
            ),
            granules=(Granules((112, 48, 136), 1.2, (0.2, 1.9), (0.4, 0.9), on_nucleus=0.4),),
        ),
        "lymphocyte": Look(
            radius=(19, 27),
            cytoplasm=((150, 136, 186), (112, 98, 170)),
            bend=(0.5, 2.0),
            ragged=(0.3, 1.3),
            nucleus=Nucleus(
                (1,), (0.74, 0.92), length=(0.0, 0.5), turn=(0.0, 1.0), eccentric=(0.2, 1.0), darkness=(0.85, 1.05),
                clumps=(0.17, 0.39),
            ),
        ),
        "monocyte": Look(
            radius=(28, 40),
            cytoplasm=((176, 154, 186), (142, 122, 178)),
            stretch=(1.0, 1.25),
            bend=(1.0, 4.0),
            ragged=(0.2, 0.8),
            nucleus=Nucleus(
                (1, 1, 2, 3), (0.40, 0.64), length=(0.8, 4.0), turn=(0.8, 4.6), pinch=(0.05, 0.35),
                eccentric=(0.0, 0.8), darkness=(0.62, 0.88), clumps=(0.28, 0.50),
            ),
            granules=(Granules((140, 84, 156), 1.1, (0.6, 2.0), (0.3, 0.6)),),
            vacuoles=(0, 9),
        ),
        "neutrophil": Look(
            radius=(28, 37),
            cytoplasm=((230, 192, 190), (204, 162, 178)),
            bend=(0.5, 1.8),
            nucleus=Nucleus(
                (1, 2, 3, 3, 4), (0.25, 0.34), length=(4.2, 7.6), turn=(2.4, 5.6), pinch=(0.2, 0.7),
                eccentric=(0.0, 0.8),
            ),
            granules=(Granules((166, 98, 142), 1.1, (0.4, 1.6), (0.3, 0.7)),),
        ),
        "platelet": Look(
            radius=(7, 13),
            cytoplasm=((196, 152, 176), (160, 128, 178)),
            stretch=(1.0, 1.3),
            bend=(0.6, 2.0),
            ragged=(0.4, 1.1),
            granules=(Granules((98, 36, 142), 1.2, (-1.0, 0.4), (0.7, 1.0)),),
        ),
    }
)  # fmt: skip


def paint_cell(
    plane: Plane,
    density: FloatArray,
    look: Look,
    rng: np.random.Generator,
    *,
    radius: float,
    centre: tuple[float, float],
) -> FloatArray:
    """Return the density (3, H, W) with one cell of the look painted over it, at ``centre``, of mean ``radius``."""
    bend = rng.uniform(*look.bend)
    x = plane.x - np.float32(centre[0]) + np.float32(bend) * grain_noise(plane, rng, 24)
    y = plane.y - np.float32(centre[1]) + np.float32(bend) * grain_noise(plane, rng, 24)
    granules = [(kind, grain_noise(plane, rng, kind.grain)) for kind in look.granules]
    edge = grain_noise(plane, rng, 7) + (0.5 * granules[0][1] if granules else 0)
    distance = _outline(x, y, look, rng, radius) + np.float32(rng.uniform(*look.ragged)) * edge
    body = coverage(plane, distance, 1.6)
    density = lay_over(density, body, _cytoplasm(plane, look, rng, distance))
    for hole in _vacuoles(look, rng, radius):
        density = lay_over(
            density, 0.85 * coverage(plane, distance_to_discs(x, y, hole[None]), 1.5), density_of((240, 218, 205))
        )
    if look.nucleus is not None:
        shape = distance_to_discs(x, y, _nucleus_discs(look.nucleus, rng, radius))
        inside = coverage(plane, shape, 1.4) * coverage(plane, distance, 1.0)
        stain = _chromatin(plane, look.nucleus, rng, shape)
        density = lay_over(density, inside * np.float32(rng.uniform(*look.nucleus.opacity)), stain)
    else:
        inside = np.zeros_like(body)
    for kind, noise in granules:
        grains = smoothstep((noise - np.float32(rng.uniform(*kind.level))) / 1.7 + 0.5)
        alpha = grains * body * (1 - (1 - kind.on_nucleus) * inside) * np.float32(rng.uniform(*kind.opacity))
        density = lay_over(density, alpha, density_of(kind.colour))
    # A cell is not equally thick everywhere; without this the granules look like flat paint.
    uneven = 0.11 * grain_noise(plane, rng, 1.2) + 0.06 * grain_noise(plane, rng, 4)
    return density * (1 + body * uneven)


def _outline(x: FloatArray, y: FloatArray, look: Look, rng: np.random.Generator, radius: float) -> FloatArray:
    """Return the signed distance to the cell's edge, an ellipse in bent coordinates."""
    angle, stretch = rng.uniform(0, np.pi), np.sqrt(rng.uniform(*look.stretch))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = (x * cos + y * sin) / np.float32(stretch), (y * cos - x * sin) * np.float32(stretch)
    distance: FloatArray = np.sqrt(along**2 + across**2) - np.float32(radius)
    return distance


def _cytoplasm(plane: Plane, look: Look, rng: np.random.Generator, distance: FloatArray) -> FloatArray:
    """Return the cytoplasm's density (3, H, W): two colours mixed, mottled, darker at the membrane."""
    mixed = _between(look.cytoplasm, rng.uniform() + 0.25 * grain_noise(plane, rng, 14))
    mottle = rng.uniform(*look.mottle) * (grain_noise(plane, rng, 1.3) + 0.7 * grain_noise(plane, rng, 5))
    membrane = rng.uniform(0.05, 0.3) * np.exp(-((distance / 1.8) ** 2))
    textured: FloatArray = mixed * (1 + mottle + membrane).astype(np.float32)
    return textured


def _chromatin(plane: Plane, nucleus: Nucleus, rng: np.random.Generator, distance: FloatArray) -> FloatArray:
    """Return the nucleus's density (3, H, W): clumped, darker at the membrane."""
    clumps = rng.uniform(*nucleus.clumps) * (grain_noise(plane, rng, 1.2) + 0.5 * grain_noise(plane, rng, 3))
    membrane = rng.uniform(0.1, 0.4) * np.exp(-((distance / 1.8) ** 2))
    return _between((_LIGHT_CHROMATIN, _CHROMATIN), rng.uniform(*nucleus.darkness) + clumps + membrane)


def _between(colours: tuple[Colour, Colour], share: FloatArray) -> FloatArray:
    """Return the density (3, H, W) between two colours, the second where ``share`` is 1; it may go a little beyond."""
    first, second = density_of(colours[0]), density_of(colours[1])
    return first + np.clip(share, -0.3, 1.3).astype(np.float32) * (second - first)


def _vacuoles(look: Look, rng: np.random.Generator, radius: float) -> FloatArray:
    """Return (K, 3) discs of vacuoles, most of them towards the edge."""
    count = int(rng.integers(look.vacuoles[0], look.vacuoles[1] + 1))
    angle, reach = rng.uniform(0, 2 * np.pi, count), radius * rng.uniform(0.5, 0.9, count)
    return np.column_stack([reach * np.cos(angle), reach * np.sin(angle), rng.uniform(0.9, 3.0, count)])


def _nucleus_discs(nucleus: Nucleus, rng: np.random.Generator, radius: float) -> FloatArray:
    """Return (K, 3) discs along the nucleus's path, inside a cell of the radius centred at 0."""
    lobes = int(rng.choice(nucleus.lobes))
    thick = rng.uniform(*nucleus.thickness) * radius
    ends = 0.5 / lobes if lobes > 1 else 0.0
    place = np.linspace(ends, 1 - ends, _DISCS)
    heading = rng.uniform(*nucleus.turn) * (place - 0.5) + rng.normal(0, 0.45) * np.sin(2 * np.pi * place)
    heading += rng.uniform(0, 2 * np.pi)
    step = rng.uniform(*nucleus.length) * thick / len(place)
    path = np.cumsum(step * np.column_stack([np.cos(heading), np.sin(heading)]), axis=0)
    waist = (0.5 + 0.5 * np.cos(2 * np.pi * lobes * place)) if lobes > 1 else 0.0
    swell = 1 + 0.15 * np.sin(2 * np.pi * (place * rng.uniform(0.5, 1.5) + rng.uniform()))
    thickness = thick * swell * (1 - rng.uniform(*nucleus.pinch) * waist)
    path -= np.average(path, axis=0, weights=thickness**2)
    extent = float((np.hypot(*path.T) + thickness).max())
    shrink = min(1.0, 0.93 * radius / extent)
    angle, room = rng.uniform(0, 2 * np.pi), radius * 0.96 - extent * shrink
    shift = room * rng.uniform(*nucleus.eccentric) * np.array([np.cos(angle), np.sin(angle)])
    return np.column_stack([path * shrink + shift, thickness * shrink])
