"""Heat maps to the question whether they mean something: deletion and insertion against random maps.

Pixels are taken away from an image, hottest first, and put back onto a blurred copy, hottest first. If a map points at
what the model looks at, the class's probability falls sooner and rises sooner than under a random map. Needs numpy,
Pillow and SciPy; no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy.stats import wilcoxon

from hemalens.core.heatmaps import enlarge
from hemalens.core.run_summary import Game, MapCheck
from hemalens.core.types import FloatArray, Images, IntArray, Progress, no_progress

__all__ = ["Curves", "check_maps", "deletion_insertion", "random_maps"]

_STEPS = 16
_BLUR = 0.08  # of the side: a cell becomes a spot, its colour stays
_LEVEL = 0.01  # below this probability of chance a difference is called one


@dataclass(frozen=True, slots=True)
class Curves:
    """Probability of the asked class while pixels go or come: each (N, steps + 1), from none to all."""

    deletion: FloatArray
    insertion: FloatArray

    def areas(self) -> dict[str, FloatArray]:
        """Return the area under each image's curves (N,): a good map's is small in deletion, large in insertion."""
        return {"deletion": _area(self.deletion), "insertion": _area(self.insertion)}


Predict = Callable[[Images], FloatArray]
"""Images (N, S, S, 3) uint8 to probabilities (N, C)."""


def check_maps(
    predict: Predict,
    images: Images,
    maps: FloatArray,
    classes: IntArray,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> MapCheck:
    """Return how maps do against random ones of the same coarseness, and a verdict (Petsiuk et al. 2018, section 3.2).

    The verdict is ``meaningful`` where both games are won with p under 0.01 by a one-sided Wilcoxon signed-rank test
    over the images, else ``not shown``.

    Args:
        predict: the model.
        images: (N, S, S, 3) uint8 at the network's size.
        maps: (N, h, w).
        classes: the class that each map is of (N,).
        seed: of the random maps.
        progress: called for the two rounds.
    """
    if not len(images):
        return MapCheck(n=0, verdict="not shown")
    progress("checking maps", 0, 2)
    mine = deletion_insertion(predict, images, maps, classes).areas()
    progress("checking maps", 1, 2)
    chance = deletion_insertion(predict, images, random_maps(maps.shape, seed=seed), classes).areas()
    progress("checking maps", 2, 2)
    deletion = _play(mine["deletion"], chance["deletion"], smaller=True)
    insertion = _play(mine["insertion"], chance["insertion"], smaller=False)
    shown = deletion.p < _LEVEL and insertion.p < _LEVEL
    verdict: Literal["meaningful", "not shown"] = "meaningful" if shown else "not shown"
    return MapCheck(n=len(images), steps=_STEPS, deletion=deletion, insertion=insertion, verdict=verdict)


def deletion_insertion(predict: Predict, images: Images, maps: FloatArray, classes: IntArray) -> Curves:
    """Return both games' curves: pixels become the image's mean colour, or replace those of a blurred copy.

    Args:
        predict: the model.
        images: (N, S, S, 3) uint8 at the network's size.
        maps: (N, h, w); pixels of equal heat go in a fixed order that the image has no part in.
        classes: whose probability is followed (N,).
    """
    deletion = np.empty((len(images), _STEPS + 1))
    insertion = np.empty_like(deletion)
    for row, (image, heat, number) in enumerate(zip(images, maps, classes, strict=True)):
        rank = _ranks(enlarge(heat, image.shape[:2]))
        mean = np.round(image.mean(axis=(0, 1))).astype(np.uint8)
        radius = _BLUR * max(image.shape[:2])
        blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
        counts = np.linspace(0, rank.size, _STEPS + 1).round().astype(int)
        hot = [(rank < count)[..., None] for count in counts]
        steps = [np.where(chosen, mean, image) for chosen in hot] + [np.where(one, image, blurred) for one in hot]
        answers = predict(np.stack(steps))[:, number]
        deletion[row], insertion[row] = answers[: _STEPS + 1], answers[_STEPS + 1 :]
    return Curves(deletion, insertion)


def random_maps(shape: tuple[int, ...], *, seed: int = 0) -> FloatArray:
    """Return maps (N, h, w) of uniform noise: as coarse as the real ones, so as smooth at the image's size."""
    return np.random.default_rng(seed).random(shape, np.float32)


def _ranks(heat: FloatArray) -> npt.NDArray[np.intp]:
    """Return each pixel's place (H, W) when they are sorted by heat, hottest first, equals in a random fixed order."""
    shuffled = np.random.default_rng(0).permutation(heat.size)
    order = shuffled[np.argsort(-heat.ravel()[shuffled], kind="stable")]
    rank = np.empty(heat.size, np.intp)
    rank[order] = np.arange(heat.size)
    return rank.reshape(heat.shape)


def _area(curves: FloatArray) -> FloatArray:
    return np.asarray(np.trapezoid(curves, dx=1 / _STEPS, axis=1))


def _play(mine: FloatArray, chance: FloatArray, *, smaller: bool) -> Game:
    gain = chance - mine if smaller else mine - chance
    p = float(wilcoxon(gain, alternative="greater").pvalue) if np.any(gain) else 1.0
    better = float((gain > 0).mean())
    return Game(maps=float(mine.mean()), random=float(chance.mean()), better=better, p=p)
