"""A submission tried from outside: what it is asked, what it answers, how long that takes; it can say nothing more."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hemalens.core.types import Images, IntArray
from hemalens.export.submission.check_process import ANSWER, NUMBERS, REQUEST
from hemalens.export.submission.process import Talk

__all__ = ["Trial"]

_PROBE = 16
_CALL = "the competition calls Model().predict(X)"
# What each kind of answer means; the submission chooses the kind and the detail, never the words.
_REFUSALS = {
    b"C": ("its model.py has no class Model", _CALL),
    b"A": ("its Model needs arguments ({detail})", "the competition calls Model()"),
    b"P": ("its Model has no method predict", _CALL),
    b"M": (
        "needs the package {detail} while {doing}, which the runtime {runtime} does not have",
        "pack it, leave it out, or check with another --runtime",
    ),
    b"F": (
        "does not find {detail} while {doing}",
        "look beside model.py whatever the working directory is: Path(__file__).parent",
    ),
    b"W": ("may not use {detail} while {doing}", "read what lies beside model.py, write below tempfile.gettempdir()"),
    b"N": ("needs the network while {doing}", "pack what it fetches"),
    b"o": ("needs more than {memory:g} GB of memory while {doing}", "predict in smaller batches, or raise --memory-gb"),
    b"x": ("ends the process (sys.exit) while {doing}", "return, or raise an error"),
    b"I": ("changes the images that it is given", "work on a copy: X = numpy.array(X)"),
    b"E": ("fails while {doing} ({detail})", "call it yourself with images as described, and correct it"),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """Questions to a submission's process, and the judgement of its answers."""

    talk: Talk
    runtime: str
    n_labels: int

    def run(self, sets: Sequence[Images]) -> tuple[list[IntArray], list[float], float]:
        """Return labels and seconds of each set of images, and those of the construction, after what fails most."""
        constructed = self._ask(b"i", "importing model.py")[1] + self._ask(b"c", "constructing Model()")[1]
        self._probe(sets[0][:_PROBE])
        found = [self._predict(images, f"predicting {len(images)} images") for images in sets]
        self.talk.watch()
        return [labels for labels, _ in found], [seconds for _, seconds in found], constructed

    def _probe(self, images: Images) -> None:
        n = len(images)
        first, _ = self._predict(images, f"predicting {n} images")
        if (first != self._predict(images, "predicting the same images again")[0]).any():
            step = "switch dropout and the like off, and seed what is drawn"
            self.talk.index.refuse("returns other labels for the same images when asked again", step)
        if (first != self._predict(images.astype(np.float32), "predicting images as float32 of 0-255")[0]).any():
            self.talk.index.refuse(
                "returns other labels for float than for uint8 images of the same values", "take both"
            )
        turned = self._predict(images[::-1], "predicting in another order")[0][::-1]
        alone = [self._predict(images[k : k + 1], "predicting one image")[0][0] for k in range(n)]
        if (first != turned).any() or list(first) != alone:
            step = "each label may depend on its own image only; is batch normalisation still learning?"
            self.talk.index.refuse("returns other labels when the images come alone or in another order", step)

    def _predict(self, images: Any, doing: str) -> tuple[IntArray, float]:  # noqa: ANN401  # uint8 or float32
        (sort, axes, lengths), seconds, labels = self._ask(b"p", doing, images)
        step, n = f"return integers (n,) from 0 to {self.n_labels - 1}", len(images)
        if NUMBERS.fullmatch(sort) is None:
            self.talk.index.refuse(f"returns text or objects ({sort}), no numbers", step)
        if axes == 2 and lengths[0] == n and lengths[1] > 1:
            shape = f"({n}, {lengths[1]})"
            self.talk.index.refuse(f"returns {shape}, as of one-hot labels or probabilities", f"{step}: argmax(axis=1)")
        if axes == 1 and lengths[0] != n:
            self.talk.index.refuse(f"returns {lengths[0]} labels for {n} images", step)
        if labels is None:
            shape = str(tuple(lengths[:axes])) if axes <= len(lengths) else f"with {axes} axes"
            self.talk.index.refuse(f"returns an array of shape {shape}", step)
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            self.talk.index.refuse("returns NaN", step)
        if labels.dtype.kind not in "iu":
            self.talk.index.refuse(f"returns {labels.dtype} labels", f"{step}: .astype(int)")
        if n and not (labels.min() >= 0 and labels.max() < self.n_labels):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            self.talk.index.refuse(f"returns the label {wrong}", step)
        return labels.astype(np.int64), seconds

    def _ask(self, command: bytes, doing: str, images: Any = None) -> tuple[Any, float, Any]:  # noqa: ANN401  # arrays
        """Return the kind and shape of what came back, the seconds, and the numbers where there is one an image.

        The answer begins with the bytes that stand behind the last image: nobody answers before he has seen all.
        """
        talk, token = self.talk, os.urandom(8)
        talk.idle()
        talk.doing = doing
        n, side, sort = (0, 0, b"u1") if images is None else (*images.shape[:2], images.dtype.str[1:].encode())
        body = b"" if images is None else np.ascontiguousarray(images).data.cast("B")
        started = time.monotonic()
        answer = talk.exchange(ANSWER.size, REQUEST.pack(command, n, side, sort), body, token)
        echoed, kind, name, axes, *lengths, detail = ANSWER.unpack(answer)
        if echoed != token or kind not in {b"l" if command == b"p" else b".", *_REFUSALS}:
            talk.meddles()
        if kind in _REFUSALS:
            words = {"detail": detail.rstrip(b"\0").decode("utf-8", "replace"), "doing": doing}
            facts = {"runtime": self.runtime, "memory": talk.index.memory_gb}
            rule, step = (text.format(**words, **facts) for text in _REFUSALS[kind])
            talk.index.refuse(rule, step)
        dtype, numbers = name.rstrip(b"\0").decode("ascii", "replace"), b""
        if NUMBERS.fullmatch(dtype) and (axes, lengths[0]) == (1, n):
            numbers = talk.exchange(n * np.dtype(dtype).itemsize)
        seconds = time.monotonic() - started
        talk.idle()
        return (dtype, axes, lengths), seconds, np.frombuffer(numbers, dtype) if numbers else None
