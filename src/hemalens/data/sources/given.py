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

__all__ = ["PictureLike", "PictureSource", "Pictures", "open_pictures", "to_pixels"]

PictureLike = npt.NDArray[Any] | Image.Image | str | Path
"""One picture: an array (H, W, 3) uint8 (or what ``decode_array`` takes), a PIL image, or a path of a file."""
Pictures = PictureLike | Sequence[PictureLike]
"""Pictures: one, a sequence of any of these, or an array (N, H, W, 3)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureSource(Source):
    """Pictures that a program has handed over, in their order.

    Attributes:
        pictures: N of them; files are read when asked for.
    """

    pictures: Sequence[PictureLike]
    in_memory: ClassVar[bool] = True
    in_process: ClassVar[bool] = True

    def fingerprint(self) -> str:
        """Return the SHA-256 over (id, label, group, split, SHA-256 of the content) of the samples."""
        return digest_facts(
            (sample.sample_id, sample.label, sample.group, sample.split, content_sha256(self.read(place)))
            for place, sample in enumerate(self.samples)
        )

    def _read(self, index: int) -> bytes | npt.NDArray[Any]:
        return _read(self.pictures[index])


def open_pictures(
    pictures: Sequence[PictureLike] | npt.NDArray[Any],
    labels: Sequence[str] | None = None,
    *,
    classes: Sequence[str] = (),
    groups: Sequence[object] | None = None,
    name: str = "pictures",
) -> PictureSource:
    """Return a source of pictures in memory or in files named one by one.

    Args:
        pictures: an array (N, H, W, 3) uint8 (or what ``decode_array`` takes row by row), or a sequence of pictures of
            any sizes, each an array, a PIL image or a path.
        labels: N class names; None where they are not known.
        classes: the names in their order.
        groups: N of what must not be torn apart by a split (patients, slides); None where they are not known.
        name: what to call them in errors.

    Raises:
        SourceError: for one picture in the place of several, none at all, or things that are no pictures.
    """
    given = _as_sequence(pictures, name)
    ids, _ = number_repeats([escape(_name(picture, place)) for place, picture in enumerate(given)])
    samples = tuple(
        Sample(
            ids[place],
            None if labels is None else labels[place],
            None if groups is None else str(groups[place]),
        )
        for place in range(len(given))
    )
    return PictureSource(spec=name, kind="pictures", samples=samples, classes=tuple(classes), pictures=given)


def to_pixels(picture: PictureLike) -> Images:
    """Return one picture as (H, W, 3) uint8 by the rules of ``data.decode``; raise DecodeError where it is none."""
    raw = _read(picture)
    if isinstance(raw, np.ndarray):
        return decode_array(raw).pixels
    return decode(raw, name=str(picture) if isinstance(picture, (str, Path)) else "").pixels


def _read(picture: PictureLike) -> bytes | npt.NDArray[Any]:
    """Return a picture as a source reads it: the bytes of a file, or an array."""
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, Image.Image):
        upright = ImageOps.exif_transpose(picture)
        if upright.mode == "RGB" and "transparency" not in upright.info:
            return np.asarray(upright)
        buffer = io.BytesIO()
        upright.save(buffer, "TIFF")  # takes every mode there is a rule for, floats too
        return buffer.getvalue()
    path = Path(picture)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"picture {path}", f"cannot be read ({error.strerror})", "check the path") from error


def _as_sequence(pictures: Sequence[PictureLike] | npt.NDArray[Any], name: str) -> Sequence[PictureLike]:
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind not in "OU":
        what = f"{name} {pictures.shape}"
        if pictures.ndim not in (3, 4):
            rule = "are of no shape that pictures have, (N, H, W, 3) or (N, H, W)"
            raise SourceError(what, rule, "reshape them, for example pictures.reshape(-1, 96, 96, 3)")
        if pictures.ndim == 3 and pictures.shape[2] in (3, 4):
            raise SourceError(what, "is one picture, several are expected", "give it as picture[np.newaxis]")
    elif isinstance(pictures, (str, Path, Image.Image)):
        raise SourceError(f"{name} {pictures}", "is one picture, several are expected", "give a list of it")
    given = list(pictures)
    if not given:
        raise SourceError(name, "holds none", "give one picture at least")
    for place, picture in enumerate(given):
        if not isinstance(picture, (np.ndarray, Image.Image, str, Path)):
            rule = f"is of the type {type(picture).__name__}, a picture is an array, a PIL image or a path"
            raise SourceError(f"{name}[{place}]", rule, "convert it")
    return given


def _name(picture: PictureLike, place: int) -> str:
    return str(picture) if isinstance(picture, (str, Path)) else f"row-{place:06d}"
