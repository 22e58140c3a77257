"""What the server's worker processes do: bytes to rows of answers, tensors to tensors, a zip to its images.

A hostile file can only harm the process that opens it. Needs numpy, Pillow and onnxruntime; no torch, no FastAPI.
"""

import io
import json
import resource
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from hemalens.core.abstention import Judgement
from hemalens.core.errors import DecodeError, RequestError, TooLargeError
from hemalens.core.heatmaps import class_activation_map, normalise, overlay
from hemalens.core.page import image_uri
from hemalens.core.types import FloatArray, Images
from hemalens.data.reading.decode import Decoded, decode
from hemalens.data.reading.headers import read_header
from hemalens.data.reading.resize import resize
from hemalens.data.sources.archives import DAMAGED_ZIP, leads_out
from hemalens.data.sources.entries import escape, set_aside
from hemalens.inference.model import Model
from hemalens.inference.serve.limits import Limits
from hemalens.inference.serve.tensors import Framing, answer_tensors, read_tensors

__all__ = [
    "Answer",
    "ImageTask",
    "InferTask",
    "Task",
    "UnpackTask",
    "Upload",
    "Work",
    "limit_memory",
    "refuse",
    "too_much",
    "unpack",
    "unreadable_row",
]

_SHOWN_SIDE = 256  # pixels of an image that is sent back for the page
_ZIP_STEP = "pack it again"
_MEMBER = b"PK\x01\x02"  # begins each entry of a zip's directory


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it came: its name, for people to read only, its bytes, and why it is refused if it is already."""

    name: str
    data: bytes
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image to answer; with ``heat_map`` the answer holds it and its map for the page."""

    upload: Upload
    heat_map: bool = False

    @property
    def cost(self) -> int:
        """Pixels to unpack, as far as the header tells; where it does not, the bytes, or all one batch may have."""
        header = read_header(self.upload.data)
        if header is None:
            return 0
        if header.size is None:
            return 8 * len(self.upload.data) if header.format != "TIFF" else 1 << 31
        return header.size[0] * header.size[1]


@dataclass(frozen=True, slots=True)
class InferTask:
    """A tensor request of the Open Inference Protocol, and how its body is to be read."""

    body: bytes
    framing: Framing = field(default_factory=Framing)
    cost: int = field(default=1 << 31, init=False)  # alone in its batch


@dataclass(frozen=True, slots=True)
class UnpackTask:
    """A zip to open."""

    upload: Upload
    cost: int = field(default=1 << 31, init=False)


Task = ImageTask | InferTask | UnpackTask


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process says of a task.

    Attributes:
        status: 200, or the HTTP status that fits where this is all that was asked for.
        body: JSON: a row, or the answer itself; where a request was refused, ``error`` says why.
        head: bytes of the body that are JSON, where tensors follow behind; else None.
        kind: answered, abstained, unreadable, or empty where no image was judged.
        error: why it was refused, in the house's form.
        uploads: the members of a zip.
    """

    status: int
    body: bytes = b""
    kind: str = ""
    error: RequestError | None = None
    uploads: tuple[Upload, ...] = ()
    head: int | None = None


class Work:
    """A model and what is done with it; pickled by the model's path, so that each process opens it for itself."""

    def __init__(self, model: Path, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self._classifier: Model | None = None

    def open(self) -> None:
        """Open the model and use it once, so that the first request waits for neither."""
        # Threads of numpy's that wait for their part of a small product take the cores from the other processes.
        threadpool_limits(1, user_api="blas")
        self._classifier = Model.open(self.model, threads=1)
        size = self._classifier.image_size
        self._judge([np.zeros((size, size, 3), np.uint8)])

    def __call__(self, tasks: Sequence[Task]) -> list[Answer]:
        """Return the answers to tasks, in order."""
        images = [task for task in tasks if isinstance(task, ImageTask)]
        try:
            answers = iter(self._answer_images(images))
            return [next(answers) if isinstance(task, ImageTask) else self._single(task) for task in tasks]
        except MemoryError:
            if len(tasks) > 1:  # together too much: one by one
                return [answer for task in tasks for answer in self([task])]
            return [refuse(tasks[0], too_much())]

    def _single(self, task: InferTask | UnpackTask) -> Answer:
        try:
            if isinstance(task, UnpackTask):
                return Answer(200, uploads=unpack(task.upload, self.limits))
            request = read_tensors(task.body, self.limits, task.framing)
            judged, logits, _ = self._judge(request.images)
            body, head = answer_tensors(request, judged, logits, self._opened().classes_, self.model.stem)
            return Answer(200, body, head=head)
        except RequestError as error:
            return Answer(error.status, error=error)

    def _answer_images(self, tasks: list[ImageTask]) -> list[Answer]:
        """Return a row for each image: those that can be read are judged in one go."""
        answers: list[Answer | None] = []
        small: list[Images] = []
        shown: list[Images | None] = []
        rows: list[dict[str, Any]] = []
        for task in tasks:
            try:
                image = self._decode(task)
            except RequestError as error:
                answers.append(Answer(error.status, unreadable_row(task.upload.name, error), "unreadable", error))
                continue
            answers.append(None)
            small.append(resize(image.pixels, self._opened().image_size))
            shown.append(_shrink(image.pixels) if task.heat_map else None)
            rows.append({"sample_id": task.upload.name, "width": image.size[0], "height": image.size[1]})
        if rows:
            judged, _, maps = self._judge(small)
            fresh = iter([self._row(*one, judged, maps) for one in zip(range(len(rows)), rows, shown, strict=True)])
            answers = [answer if answer is not None else next(fresh) for answer in answers]
        return [answer for answer in answers if answer is not None]

    def _decode(self, task: ImageTask) -> Decoded:
        """Return an image, whole where it will be shown, else as the network takes it, which is faster."""
        upload = task.upload
        if upload.refused:
            raise RequestError(422, f"image {upload.name!r}", upload.refused)
        header = read_header(upload.data)
        try:
            side = None if task.heat_map else self._opened().image_size
            most = self.limits.pixels // (1 if header is None else header.weight)
            return decode(upload.data, name=upload.name, max_pixels=most, side=side)
        except DecodeError as error:
            status = 415 if header is None else 413 if isinstance(error, TooLargeError) else 422
            step = error.step if header is not None else "send it as PNG, JPEG, BMP, TIFF, WebP, GIF or PNM"
            raise RequestError(status, error.what, error.rule, step) from error

    def _judge(self, images: Sequence[Images] | Images) -> tuple[Judgement, FloatArray, FloatArray]:
        """Return judgement, logits (N, C) and maps (N, D, h, w)."""
        classifier = self._opened()
        outputs = classifier.run(images)
        return classifier.judge_outputs(outputs), outputs.logits, outputs.feature_map

    def _row(
        self, index: int, row: dict[str, Any], shown: Images | None, judged: Judgement, maps: FloatArray
    ) -> Answer:
        names = self._opened().classes_
        refused = bool(judged.abstained[index])
        facts = {
            "sample_id": row["sample_id"],
            "predicted": str(names[judged.predicted[index]]),
            "confidence": _rounded(judged.confidence[index]),
            "abstained": refused,
            "reason": judged.reasons[index],
        }
        facts |= {f"p_{name}": _rounded(p) for name, p in zip(names, judged.probabilities[index], strict=True)}
        facts |= {"width": row["width"], "height": row["height"]}
        if shown is not None:
            heat = self._heat(maps[index : index + 1], judged.predicted[index : index + 1])
            facts |= {
                "image": image_uri(shown, max_side=_SHOWN_SIDE),
                "heat_map": None if heat is None else image_uri(overlay(shown, heat), max_side=_SHOWN_SIDE),
            }
        return Answer(200, _json(facts), "abstained" if refused else "answered")

    def _heat(self, maps: FloatArray, predicted: Any) -> FloatArray | None:  # noqa: ANN401 - numpy's indices
        """Return the map (h, w) in [0, 1] of the predicted class; None where the model's head has no such map."""
        head = self._opened().sidecar.head
        return None if head is None else normalise(class_activation_map(maps, head[0], predicted))[0]

    def _opened(self) -> Model:
        assert self._classifier is not None
        return self._classifier

    def __reduce__(self) -> tuple[type["Work"], tuple[Path, Limits]]:
        """Pickle without the model, which each process opens."""
        return Work, (self.model, self.limits)


def unpack(upload: Upload, limits: Limits) -> tuple[Upload, ...]:
    """Return the images of a zip, which stay in memory; those that may not be read carry the reason.

    Folders, hidden files, metadata and what systems leave behind are passed over, as in sources.

    Raises:
        RequestError: it is damaged (422), or holds too many files or bytes (413).
    """
    what = f"zip {upload.name!r}"
    # What the end record says of their number may be a lie; zipfile asks for this mark before each, 20 us apiece.
    if (members := upload.data.count(_MEMBER)) > limits.members:
        rule = f"holds {members:,} members, the limit is {limits.members:,}"
        raise RequestError(413, what, rule, "cut it up, or use: hemalens predict FILE.zip")
    try:
        with zipfile.ZipFile(io.BytesIO(upload.data)) as archive:
            found = [info for info in archive.infolist() if not info.is_dir()]
            found = [info for info in found if set_aside(info.filename.replace("\\", "/")) is None]
            if len(found) > limits.images:
                rule = f"holds {len(found):,} images, the limit is {limits.images:,}"
                raise RequestError(413, what, rule, "cut it up, or use: hemalens predict FILE.zip")
            left, uploads = limits.unpacked_bytes, []
            for info in found:
                one = _member(archive, info, left, limits)
                left -= len(one.data)
                uploads.append(one)
    except DAMAGED_ZIP as error:
        raise RequestError(422, what, f"is damaged or no zip ({error})"[:300], _ZIP_STEP) from error
    if not uploads:
        raise RequestError(422, what, "holds no file that could be an image", "add images to it")
    return tuple(uploads)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, left: int, limits: Limits) -> Upload:
    name = escape(info.filename.replace("\\", "/"))[:255] or "(no name)"
    if leads_out(info.filename.replace("\\", "/")):
        return Upload(name, b"", "has a name that leads out of the archive")
    if info.flag_bits & 1:
        return Upload(name, b"", "is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return Upload(name, b"", "is packed otherwise than plain or deflated; pack it again")
    try:
        with archive.open(info) as file:
            data = file.read(left + 1)  # whatever its header says: no more than what may still come
    except DAMAGED_ZIP as error:
        return Upload(name, b"", f"cannot be unpacked ({error})"[:200])
    if len(data) > left:
        rule = f"unpacks to more than {limits.unpacked_bytes:,} bytes"
        raise RequestError(413, f"zip member {name!r}", rule, "cut it up, or use: hemalens predict FILE.zip")
    return Upload(name, data)


def limit_memory(more: int) -> None:
    """Let this process take no more than so many bytes of address space beyond what it has; only Linux holds to it."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def too_much() -> RequestError:
    """Return the error of what does not fit into a worker's memory."""
    return RequestError(413, "request", "takes more memory than a worker process may have", "send less at a time")


def refuse(task: Task, error: RequestError) -> Answer:
    """Return the answer to a task that is refused: a row for an image, else the error alone."""
    if not isinstance(task, ImageTask):
        return Answer(error.status, error=error)
    named = RequestError(error.status, f"image {task.upload.name!r}", error.rule, error.step, retry=error.retry)
    return Answer(error.status, unreadable_row(task.upload.name, named), "unreadable", named)


def unreadable_row(name: str, error: RequestError) -> bytes:
    """Return the row of an image that cannot be read, as ``predictions.csv`` has it."""
    row = {"sample_id": name, "predicted": None, "confidence": None, "abstained": True}
    return _json({**row, "reason": f"unreadable: {error.rule}", "error": str(error)})


def _shrink(pixels: Images) -> Images:
    image = Image.fromarray(pixels)
    if max(image.size) <= _SHOWN_SIDE:
        return pixels
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
