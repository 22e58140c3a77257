"""A RUN directory or an .onnx file to one thing that is examined: what it says, what it refuses, and why it says so.

An exported model needs no torch and explains itself by class activation maps; a run needs it and does so by Grad-CAM.
Both maps are the same where the head is one linear layer on the mean of the last map.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemalens.core.errors import ConfigError, MissingExtraError
from hemalens.core.heatmaps import class_activation_map
from hemalens.core.metrics import softmax
from hemalens.core.provenance import sha256_file
from hemalens.core.records import open_record
from hemalens.core.refusal import Refusal, confidence_rule
from hemalens.core.types import FloatArray, Images, IntArray, Progress, no_progress
from hemalens.deployment.classifier import Classifier
from hemalens.deployment.sidecar import EMBEDDED

__all__ = ["Examinee", "open_examinee"]

_LOG = logging.getLogger(__name__)
_CHUNK = 256  # pictures of which an exported model's last maps are held at a time: at most some 100 MB


@dataclass(frozen=True, slots=True)
class Examinee:
    """A model that can be scored and asked why.

    Attributes:
        classes: names in the order of the logits.
        image_size: pixels per side that it sees.
        network: its name.
        sha256: of the file of its weights.
        refusal: its temperature, and when it refuses to answer.
        validation: logits (M, C) and labels (M,) of the samples that both were fitted on; None where it has them not.
        method: how its maps are made, in words.
        answer: pictures (N, S, S, 3) uint8, and who is told of them, to features (N, D) and logits (N, C).
        maps: pictures and one class of each (N,) to maps (N, h, w), not below 0; raises ConfigError where it has none.
    """

    classes: tuple[str, ...]
    image_size: int
    network: str
    sha256: str
    refusal: Refusal
    validation: tuple[FloatArray, IntArray] | None
    method: str
    answer: Callable[[Images, Progress], tuple[FloatArray, FloatArray]]
    maps: Callable[[Images, IntArray], FloatArray]

    def features(self, pictures: Images) -> FloatArray:
        """Return what the last layer sees (N, D) of pictures (N, S, S, 3) uint8."""
        return self.answer(pictures, no_progress)[0]

    def logits(self, pictures: Images) -> FloatArray:
        """Return the logits (N, C) of pictures (N, S, S, 3) uint8."""
        return self.answer(pictures, no_progress)[1]

    def probabilities(self, pictures: Images) -> FloatArray:
        """Return calibrated probabilities (N, C) of pictures (N, S, S, 3) uint8."""
        return softmax(self.logits(pictures) / self.refusal.temperature)


def open_examinee(model: str | Path) -> Examinee:
    """Open a RUN directory (needs torch), an .onnx file with its sidecar, or ``embedded``.

    Raises ArtifactError where it is missing or damaged, MissingExtraError for a RUN without torch.
    """
    exported = str(model) == EMBEDDED or Path(model).suffix == ".onnx"
    return _open_exported(model) if exported else _open_run(Path(model))


def _open_exported(model: str | Path) -> Examinee:
    classifier = Classifier.open(model)
    sidecar = classifier.sidecar

    def answer(pictures: Images, progress: Progress) -> tuple[FloatArray, FloatArray]:
        features, logits = [], []
        for start in range(0, max(1, len(pictures)), _CHUNK):
            progress("predicting", start, len(pictures))
            found = classifier.run(pictures[start : start + _CHUNK])
            features.append(found.features)
            logits.append(found.logits)
        progress("predicting", len(pictures), len(pictures))
        return np.concatenate(features), np.concatenate(logits)

    def maps(pictures: Images, classes: IntArray) -> FloatArray:
        if sidecar.head is None:
            rule = "has no class activation maps (its head is more than one linear layer on the mean of the last map)"
            raise ConfigError(f"model {model}", rule, "explain the run it was exported from")
        parts = [np.zeros((0, 1, 1), np.float32)]
        for start in range(0, len(pictures), _CHUNK):
            seen = classifier.run(pictures[start : start + _CHUNK]).feature_map
            parts.append(class_activation_map(seen, sidecar.head[0], classes[start : start + _CHUNK]))
        return np.concatenate(parts[1:] or parts)

    return Examinee(
        classes=sidecar.classes,
        image_size=sidecar.image_size,
        network=sidecar.facts.get("model", {}).get("network", "unknown"),
        sha256=sha256_file(classifier.path),
        refusal=sidecar.refusal,
        validation=None,
        method="class activation maps (Zhou et al. 2016) of the exported model",
        answer=answer,
        maps=maps,
    )


def _open_run(model: Path) -> Examinee:
    try:
        import torch  # here: an exported model is examined without it

        from hemalens.evaluation.gradcam import grad_cam
        from hemalens.training.checkpoint import load_model, model_directory, read_refusal, read_validation
        from hemalens.training.device import torch_threads
        from hemalens.training.predicting import predict_features
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "hemalens":
            raise
        step = "install it with: pip install 'hemalens[train]', or export the run elsewhere and give its .onnx file"
        raise MissingExtraError(f"model {model}, a RUN", "train", step) from error
    loaded, run = load_model(model), model_directory(model)
    validation = read_validation(run)

    def answer(pictures: Images, progress: Progress) -> tuple[FloatArray, FloatArray]:
        with torch_threads(0):
            return predict_features(loaded.module, torch.from_numpy(pictures), progress=progress)

    return Examinee(
        classes=loaded.classes,
        image_size=loaded.image_size,
        network=loaded.card["model"],
        sha256=open_record(run, "train").digest("model.safetensors"),
        refusal=read_refusal(run) or _by_confidence(run, validation),
        validation=validation,
        method="Grad-CAM (Selvaraju et al. 2017) on the last map",
        answer=answer,
        maps=lambda pictures, classes: grad_cam(loaded.module, pictures, classes),
    )


def _by_confidence(run: Path, validation: tuple[FloatArray, IntArray]) -> Refusal:
    """Return when a run of before refuses, which kept no features to tell by."""
    _LOG.warning("%s has no refusal.json: refused by confidence alone; train again to refuse what is no cell", run)
    return confidence_rule(*validation)
