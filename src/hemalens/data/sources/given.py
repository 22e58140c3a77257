"""What a program holds in its hands (arrays, PIL images, paths of files) to pixels, or to a source like any other.

Needs numpy and Pillow.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from hemalens.core.errors import DecodeError, SourceError
from hemalens.core.types import Images, Sample
from hemalens.data.reading.decode import decode, decode_array
from hemalens.data.sources.entries import escape, number_repeats
from hemalens.data.sources.source import Source, content_sha256, digest_facts

__all__ = ["GivenSource", "ImageInput", "ImageLike", "open_images", "to_pixels"]

ImageLike = npt.NDArray[Any] | Image.Image | str | Path
"""One image: an array (H, W, 3) uint8 (or what ``decode_array`` takes), a PIL image, or a path of a file."""
ImageInput = ImageLike | Sequence[ImageLike]
"""Images: one, a sequence of any of these, or an array (N, H, W, 3)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenSource(Source):
    """Images that a program has handed over, in their order.

    Attributes:
        images: N of them; files are read when asked for.
    """

    images: Sequence[ImageLike]
    listed: ClassVar[tuple[str, ...]] = ("images",)
    in_memory: ClassVar[bool] = True
    in_process: ClassVar[bool] = True

    def fingerprint(self) -> str:
        """Return the SHA-256 over (id, label, group, split, SHA-256 of the content) of the samples."""
        return digest_facts(
            (sample.sample_id, sample.label, sample.group, sample.split, content_sha256(self.read(index)))
            for index, sample in enumerate(self.samples)
        )

    def _read(self, index: int) -> bytes | npt.NDArray[Any]:
        return _read(self.images[index])


def open_images(
    images: Sequence[ImageLike] | npt.NDArray[Any],
    labels: Sequence[str] | None = None,
    *,
    classes: Sequence[str] = (),
    groups: Sequence[object] | None = None,
    name: str = "images",
) -> GivenSource:
    """Return a source of images in memory or in files named one by one.

    Args:
        images: an array (N, H, W, 3) uint8 (or what ``decode_array`` takes row by row), or a sequence of images of
            any sizes, each an array, a PIL image or a path.
        labels: N class names; None where they are not known.
        classes: the names in their order.
        groups: N of what must not be torn apart by a split (patients, slides); None where they are not known.
        name: what to call them in errors.

    Raises:
        SourceError: for one image instead of several, none at all, or things that are no images.
    """
    given = _as_sequence(images, name)
    ids, _ = number_repeats([escape(_name(image, index)) for index, image in enumerate(given)])
    samples = tuple(
        Sample(
            ids[index],
            None if labels is None else labels[index],
            None if groups is None else str(groups[index]),
        )
        for index in range(len(given))
    )
    return GivenSource(spec=name, kind="images", samples=samples, classes=tuple(classes), images=given)


def to_pixels(image: ImageLike) -> Images:
    """Return one image as (H, W, 3) uint8 by the rules of ``data.decode``; raise DecodeError where it is none."""
    raw = _read(image)
    if isinstance(raw, np.ndarray):
        return decode_array(raw).pixels
    return decode(raw, name=str(image) if isinstance(image, (str, Path)) else "").pixels


def _read(image: ImageLike) -> bytes | npt.NDArray[Any]:
    """Return an image as a source reads it: the bytes of a file, or an array."""
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "RGB" and "transparency" not in upright.info:
            return np.asarray(upright)
        buffer = io.BytesIO()
        upright.save(buffer, "TIFF")  # takes every mode there is a rule for, floats too
        return buffer.getvalue()
    path = Path(image)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"image {path}", f"cannot be read ({error.strerror})", "check the path") from error


def _as_sequence(images: Sequence[ImageLike] | npt.NDArray[Any], name: str) -> Sequence[ImageLike]:
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OU":
        what = f"{name} {images.shape}"
        if images.ndim not in (3, 4):
            rule = "are of no shape that images have, (N, H, W, 3) or (N, H, W)"
            raise SourceError(what, rule, "reshape them, for example images.reshape(-1, 96, 96, 3)")
        if images.ndim == 3 and images.shape[2] in (3, 4):
            raise SourceError(what, "is one image, several are expected", "give it as image[np.newaxis]")
    elif isinstance(images, (str, Path, Image.Image)):
        raise SourceError(f"{name} {images}", "is one image, several are expected", "give a list of it")
    given = list(images)
    if not given:
        raise SourceError(name, "holds none", "give one image at least")
    for index, image in enumerate(given):
        if not isinstance(image, (np.ndarray, Image.Image, str, Path)):
            rule = f"is of the type {type(image).__name__}, an image is an array, a PIL image or a path"
            raise SourceError(f"{name}[{index}]", rule, "convert it")
    return given


def _name(image: ImageLike, index: int) -> str:
    return str(image) if isinstance(image, (str, Path)) else f"row-{index:06d}"
