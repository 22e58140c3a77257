"""Unlabelled images of another microscope to the zoom at which a model's training cells are met again.

Cells look smaller or larger from one laboratory to the next. Where many images are unlike any training cell, that
one of a few zooms is taken at which their features lie nearest; no label is looked at and no weight changes. Needs
numpy and Pillow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from hemalens.core.abstention import Abstention
from hemalens.core.errors import ArtifactError, DecodeError, SourceError
from hemalens.core.types import FloatArray, Images, Progress, no_progress
from hemalens.data.reading.resize import resize
from hemalens.data.sources import Source

__all__ = ["FEWEST", "ZOOMS", "Scale", "choose_scale", "find_scale", "zoomed"]

ZOOMS = (0.71, 0.8, 0.9, 1.0, 1.12, 1.25, 1.4, 1.6)
"""Magnifications tried, a factor of about 1.12 apart: between two of them no network loses a point."""
FEWEST = 50
"""Readable images below which nothing is said of a source's scale."""

_MOST = 512
# Beyond the limit lie 3 to 4 % at home, of single classes up to 9 %; of another laboratory 40 % and more.
_AT_HOME = 0.2
_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Scale:
    """How a source was brought to the size of the training cells.

    Attributes:
        zoom: by which the middle of every image is enlarged; 1 where they stay as they are.
        n_images: looked at.
        unlike: share of them that is unlike any training cell as they are, beyond the model's limit of distance.
        distances: median distance from the nearest class of undistorted training cells at each zoom.
    """

    zoom: float
    n_images: int
    unlike: float
    distances: dict[float, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        distances = {f"{zoom:g}": round(value, 4) for zoom, value in self.distances.items()}
        facts = {"zoom": self.zoom, "n_images": self.n_images, "unlike": round(self.unlike, 4)}
        return {**facts, "distances": distances, "words": self.words()}

    def words(self) -> str:
        """Return in one sentence what was done and why."""
        before, after = self.distances[1.0], self.distances[self.zoom]
        found = f"{100 * self.unlike:.0f} % of {self.n_images} images are unlike the training cells"
        if self.unlike <= _AT_HOME:
            return f"not needed: {found}"
        if self.zoom == 1.0:
            return f"not possible: {found}, and no zoom makes them clearly more alike"
        return (
            f"zoomed by {self.zoom:g}: {found}; the zoom lowers their median distance from {before:.1f} to {after:.1f}"
        )


def zoomed(image: Images, zoom: float, size: int) -> Images:
    """Return an image (H, W, 3) uint8 as (size, size, 3), its middle enlarged ``zoom`` times.

    Where that asks for more than there is, the border is continued by its last pixels.
    """
    if zoom == 1.0:
        return resize(image, size)
    if zoom < 1.0:
        rows, columns = (round(side * (1.0 / zoom - 1.0) / 2.0) for side in image.shape[:2])
        return resize(np.pad(image, ((rows, rows), (columns, columns), (0, 0)), mode="edge"), size)
    height, width = image.shape[:2]
    left, top = width * (1.0 - 1.0 / zoom) / 2.0, height * (1.0 - 1.0 / zoom) / 2.0
    box = (left, top, width - left, height - top)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box))


def find_scale(
    source: Source,
    size: int,
    abstention: Abstention,
    features: Callable[[Images], FloatArray],
    *,
    progress: Progress = no_progress,
) -> Scale:
    """Return the zoom for a source's images, of which at most 512, evenly spread over it, are looked at.

    Args:
        source: images of any size; labels are not looked at.
        size: pixels per side that the network sees.
        abstention: what the model knows of its training cells.
        features: images (N, size, size, 3) uint8 to features (N, D).
        progress: called for each zoom.

    Raises:
        ArtifactError: the model knows nothing of its training cells.
        SourceError: fewer than 50 images can be read.
    """
    if abstention.gaussians is None:
        rule = "has no statistics of its training cells, so the scale of other images cannot be found"
        raise ArtifactError("model", rule, "train it again, or leave --adapt out")
    images = _readable(source)
    if len(images) < FEWEST:
        rule = f"has {len(images)} readable images, at least {FEWEST} are needed to find the scale of its cells"
        raise SourceError(f"source {source.spec}", rule, "add images of the same laboratory, or leave --adapt out")
    found = {}
    for done, zoom in enumerate(ZOOMS):
        progress("measuring scale", done, len(ZOOMS))
        found[zoom] = features(np.stack([zoomed(one, zoom, size) for one in images]))
    progress("measuring scale", len(ZOOMS), len(ZOOMS))
    return choose_scale(found, abstention)


def choose_scale(features: Mapping[float, FloatArray], abstention: Abstention) -> Scale:
    """Return the zoom of the least median distance; features (N, D) are of the same images at each, 1 among them.

    The distance is from undistorted training cells: one that sees through other sizes cannot tell the size. The zoom
    stays 1 where at most a fifth of the images would get no answer for their distance, and where the other is nearer in
    less than 99 % of the paired bootstrap draws (Efron and Tibshirani 1993, ch. 13).
    """
    assert abstention.gaussians is not None
    home = abstention.home or abstention.gaussians
    distances = {zoom: home.score(values) for zoom, values in features.items()}
    medians = {zoom: float(np.median(values)) for zoom, values in distances.items()}
    unlike = float((abstention.gaussians.score(features[1.0]) > abstention.distance_limit).mean())
    best = min(medians, key=lambda zoom: (medians[zoom], abs(zoom - 1.0)))
    count = len(distances[1.0])
    draws = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    nearer = np.median(distances[best][draws], axis=1) < np.median(distances[1.0][draws], axis=1)
    changed = unlike > _AT_HOME and nearer.mean() >= 0.99
    return Scale(best if changed else 1.0, count, unlike, medians)


def _readable(source: Source) -> list[Images]:
    indices = np.unique(np.linspace(0, len(source) - 1, min(_MOST, len(source))).round().astype(int))
    images = []
    for index in indices.tolist():
        try:
            images.append(source.image(index).pixels)
        except DecodeError:
            continue  # it has its row and its reason in the predictions
    return images
