"""An exported model, opened: pictures to classes, probabilities, refusals and maps, by onnxruntime.

Needs numpy, Pillow and onnxruntime; no torch and no network.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from hemalens.core.errors import ArtifactError, DecodeError, MissingExtraError
from hemalens.core.metrics import softmax
from hemalens.core.refusal import Judgement, judge
from hemalens.core.types import FloatArray, Images
from hemalens.data.pictures import Pictures, to_pixels
from hemalens.data.resize import resize
from hemalens.deployment.sidecar import EMBEDDED, Sidecar, find_onnx, read_exported

__all__ = ["Classifier", "Outputs", "Session", "open_model", "open_session"]

# From 8 on the operations' own cost no longer shows (within 4 %), and few maps are held at a time.
_BATCH = 16
# For one batch: the slowest of ours takes 0.1 s on one core. A graph may hold a loop that never ends.
_SECONDS = 60.0
_FIRST_SECONDS = 20.0  # for one picture, when the model is opened
_LARGEST_SIDE = 4096  # pixels that a network sees
_INPUT = "pictures"
_OUTPUTS = {"logits": 2, "features": 2, "feature_map": 4}  # -> axes
_AGAIN = "export the run again: hemalens export RUN --out FILE.onnx"
# What onnxruntime raises for bytes that are no model it can run; none of these has a base but Exception.
_REFUSALS = (
    *("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NotImplemented"),
    "RuntimeException",
)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model says of N pictures: logits (N, C), features (N, D) and maps (N, D', h, w), float32."""

    logits: FloatArray
    features: FloatArray
    feature_map: FloatArray


class Session(Protocol):
    """What is used of onnxruntime's session, which has no types."""

    def run(
        self, outputs: list[str] | None, feed: Mapping[str, npt.NDArray[Any]], options: object = None
    ) -> list[npt.NDArray[Any]]:
        """Return the named outputs, all where None."""

    def get_inputs(self) -> Sequence[Any]:
        """Return the inputs' names, types and shapes."""

    def get_outputs(self) -> Sequence[Any]:
        """Return the outputs' names, types and shapes."""


class Classifier:
    """A model that ``hemalens export`` wrote, or the embedded one.

    Attributes:
        classes_: names in the order of the logits, (C,) str.
        image_size: pixels per side that the network sees; pictures of any size are taken and resized as in training.
        sidecar: everything known of the model.
    """

    def __init__(self, path: Path, data: bytes, sidecar: Sidecar, *, threads: int = 0) -> None:
        self.path, self.sidecar, self.threads = path, sidecar, threads
        self.classes_ = np.array(sidecar.classes)
        self.image_size = sidecar.image_size
        self._session = open_session(data, threads=threads, name=str(path))
        self._check_signature()
        self._check_answer()

    @classmethod
    def open(cls, model: str | Path = EMBEDDED, *, threads: int = 0) -> "Classifier":
        """Open ``embedded`` or an .onnx file with its sidecar beside it.

        Args:
            model: ``embedded``, or the path.
            threads: of each inference; 0 for one a core.

        Raises:
            ArtifactError: the model is not there, damaged, or of another version of hemalens.
        """
        path = find_onnx(model)
        return cls(path, *read_exported(path), threads=threads)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the path: the other process opens it again."""
        return _reopen, (str(self.path), self.threads)

    def run(self, pictures: Sequence[Images] | Images) -> Outputs:
        """Return logits, features and maps of pictures: N of (H, W, 3) uint8, or one array (N, H, W, 3)."""
        parts = [self._run(batch, _SECONDS) for batch in self._batches(pictures)]
        return Outputs(*(np.concatenate(one) for one in zip(*parts, strict=True)))

    def predict(self, pictures: Pictures) -> npt.NDArray[np.str_]:
        """Return the class names (N,) of pictures.

        Raises DecodeError for the first that is no picture.
        """
        names: npt.NDArray[np.str_] = self.classes_[self.predict_proba(pictures).argmax(axis=1)]
        return names

    def predict_proba(self, pictures: Pictures) -> FloatArray:
        """Return calibrated probabilities (N, C) of pictures, in the order of ``classes_``.

        Raises DecodeError for the first that is no picture.
        """
        return softmax(self.run(_as_list(pictures)).logits / self.sidecar.refusal.temperature)

    def judge(self, pictures: Pictures) -> Judgement:
        """Return what is claimed of pictures, calibrated, and of which nothing is, with the reason.

        Raises DecodeError for the first that is no picture.
        """
        return self.judge_outputs(self.run(_as_list(pictures)))

    def judge_outputs(self, outputs: Outputs) -> Judgement:
        """Return what ``judge`` says of pictures that went through ``run``."""
        return judge(self.sidecar.refusal, outputs.features, outputs.logits)

    def _check_signature(self) -> None:
        """Raise ArtifactError where the model takes or gives something else than ours do."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        given = [(one.name, one.type, len(one.shape), one.shape[-1:]) for one in inputs]
        if given != [(_INPUT, "tensor(uint8)", 4, [3])]:
            rule = f"takes {_described(inputs)}, it must take '{_INPUT}' (N, H, W, 3) uint8 and nothing else"
            raise ArtifactError(f"model {self.path}", rule, _AGAIN)
        found = {one.name: len(one.shape) for one in outputs}
        if list(found.items()) != list(_OUTPUTS.items()) or {one.type for one in outputs} != {"tensor(float)"}:
            wanted = ", ".join(f"'{name}' of {axes} axes" for name, axes in _OUTPUTS.items())
            rule = f"gives {_described(outputs)}, it must give {wanted}, all float32"
            raise ArtifactError(f"model {self.path}", rule, _AGAIN)
        if outputs[0].shape[-1] != len(self.classes_):
            rule = f"has {outputs[0].shape[-1]} outputs, its sidecar names {len(self.classes_)} classes"
            raise ArtifactError(f"model {self.path}", rule, _AGAIN)
        if not 1 <= self.image_size <= _LARGEST_SIDE:
            rule = f"has image_size {self.image_size}, networks see 1 to {_LARGEST_SIDE:,} pixels a side"
            raise ArtifactError(f"sidecar of model {self.path}", rule, _AGAIN)

    def _check_answer(self) -> None:
        """Ask about one grey picture; raise ArtifactError where the answer does not fit the sidecar, or never comes."""
        picture = np.full((1, self.image_size, self.image_size, 3), 128, np.uint8)
        outputs = Outputs(*self._run(picture, _FIRST_SECONDS))
        shapes = [one.shape for one in (outputs.logits, outputs.features, outputs.feature_map)]
        if [len(shape) for shape in shapes] != list(_OUTPUTS.values()) or {shape[0] for shape in shapes} != {1}:
            raise ArtifactError(f"model {self.path}", f"answers one picture by arrays of the shapes {shapes}", _AGAIN)
        if not all(np.isfinite(one).all() for one in (outputs.logits, outputs.features, outputs.feature_map)):
            raise ArtifactError(f"model {self.path}", "answers a grey picture by NaN or infinity", _AGAIN)
        classes, width = len(self.classes_), outputs.feature_map.shape[1]
        head = self.sidecar.head
        if head is not None and (head[0].shape, head[1].shape) != ((classes, width), (classes,)):
            rule = (
                f"has a head of shapes {head[0].shape} and {head[1].shape}, for {classes} classes and maps of {width} "
                f"channels they must be {(classes, width)} and {(classes,)}"
            )
            raise ArtifactError(f"sidecar of model {self.path}", rule, _AGAIN)
        self.judge_outputs(outputs)  # raises where the features have another width than the refusal's

    def _run(self, batch: Images, seconds: float) -> list[npt.NDArray[Any]]:
        """Return all outputs of a batch; raise ArtifactError where the model fails, or does not end in time."""
        import onnxruntime  # loaded by now

        options = onnxruntime.RunOptions()
        clock = threading.Timer(seconds, setattr, (options, "terminate", True))
        clock.daemon = True
        clock.start()
        try:
            return self._session.run(None, {_INPUT: batch}, options)
        except _refusals() as error:
            if options.terminate:
                rule = f"is not done with {len(batch)} pictures after {seconds:g} s"
                raise ArtifactError(f"model {self.path}", rule, f"it may loop for ever; {_AGAIN}") from error
            rule = f"cannot be run by onnxruntime ({_first_line(error)})"
            raise ArtifactError(f"model {self.path}", rule, _AGAIN) from error
        finally:
            clock.cancel()

    def _batches(self, pictures: Sequence[Images] | Images) -> list[Images]:
        size = self.image_size
        if isinstance(pictures, np.ndarray) and (pictures.ndim != 4 or pictures.dtype != np.uint8):
            rule = "must be (N, H, W, 3) uint8"
            raise DecodeError(f"pictures {pictures.shape} {pictures.dtype}", rule, "use predict, which converts them")
        # At least one batch, be it empty, so that the shapes of the outputs are known.
        starts = range(0, max(1, len(pictures)), _BATCH)
        empty = np.zeros((0, size, size, 3), np.uint8)
        # Pillow's resize visits only the weights that are not 0, the model's own all of them; they agree to the bit.
        resized = ([resize(picture, size) for picture in pictures[start : start + _BATCH]] for start in starts)
        return [np.stack(batch) if batch else empty for batch in resized]


def open_model(model: str | Path = EMBEDDED, *, threads: int = 0) -> Classifier:
    """Open any MODEL: ``embedded``, an .onnx file, or a RUN directory, which is exported into ``RUN/exported`` once.

    Raises MissingExtraError where a RUN must be exported and torch is not there, else what ``Classifier.open`` raises.
    """
    if not Path(model).is_dir():
        return Classifier.open(model, threads=threads)
    try:
        from hemalens.deployment.export import export_once  # here: it imports torch, which nothing else needs
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "hemalens":
            raise
        step = "install it with: pip install 'hemalens[train]', or export the run elsewhere and give its .onnx file"
        raise MissingExtraError(f"model {model}, a RUN to be exported first", "train", step) from error
    return Classifier.open(export_once(Path(model)), threads=threads)


def open_session(data: bytes, *, threads: int, name: str) -> Session:
    """Open a model's bytes for inference on the CPU; raise ArtifactError where onnxruntime cannot."""
    # Here, since importing it takes 0.1 s and the sidecar may be all that is wanted.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session: Session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except _refusals() as error:
        rule = f"cannot be opened by onnxruntime ({_first_line(error)})"
        raise ArtifactError(f"model {name}", rule, "export the run again, or update onnxruntime") from error
    return session


def _refusals() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (*(getattr(state, refusal) for refusal in _REFUSALS), MemoryError, RuntimeError)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _described(values: Sequence[Any]) -> str:
    """Return inputs or outputs in words."""
    shown = [f"'{value.name:.40}' {value.type} {value.shape}"[:120] for value in values[:4]]
    return ", ".join(shown) + (f" and {len(values) - 4} more" if len(values) > 4 else "") or "nothing"


def _as_list(pictures: Pictures) -> list[Images]:
    if isinstance(pictures, (Image.Image, str, Path)) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        return [to_pixels(pictures)]
    return [to_pixels(picture) for picture in pictures]


def _reopen(path: str, threads: int) -> Classifier:
    return Classifier.open(path, threads=threads)
