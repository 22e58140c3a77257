"""A RUN directory or an .onnx file to one thing that is examined: what it says, where it abstains, and why it says so.

An exported model needs no torch and explains itself by class activation maps; a run needs it and does so by Grad-CAM.
Both maps are the same where the head is one linear layer on the mean of the last map.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemalens.core.abstention import Abstention, confidence_rule
from hemalens.core.errors import ConfigError, MissingExtraError
from hemalens.core.heatmaps import class_activation_map
from hemalens.core.metrics import softmax
from hemalens.core.provenance import sha256_file
from hemalens.core.recorded import open_record
from hemalens.core.types import FloatArray, Images, IntArray, Progress, no_progress
from hemalens.inference.model import Model
from hemalens.inference.sidecar import EMBEDDED

__all__ = ["Examinee", "open_examinee"]

_LOG = logging.getLogger(__name__)
_CHUNK = 256  # images of which an exported model's last maps are held at a time: at most some 100 MB


@dataclass(frozen=True, slots=True)
class Examinee:
    """A model that can be scored and asked why.

    Attributes:
        classes: names in the order of the logits.
        image_size: pixels per side that it sees.
        network: its name.
        sha256: of the file of its weights.
        abstention: its temperature, and when it abstains.
        validation: logits (M, C) and labels (M,) of the samples that both were fitted on; None where it has them not.
        method: how its maps are made, in words.
        answer: images (N, S, S, 3) uint8, and who is told of them, to features (N, D) and logits (N, C).
        maps: images and one class of each (N,) to maps (N, h, w), not below 0; raises ConfigError where it has none.
    """

    classes: tuple[str, ...]
    image_size: int
    network: str
    sha256: str
    abstention: Abstention
    validation: tuple[FloatArray, IntArray] | None
    method: str
    answer: Callable[[Images, Progress], tuple[FloatArray, FloatArray]]
    maps: Callable[[Images, IntArray], FloatArray]

    def features(self, images: Images) -> FloatArray:
        """Return what the last layer sees (N, D) of images (N, S, S, 3) uint8."""
        return self.answer(images, no_progress)[0]

    def logits(self, images: Images) -> FloatArray:
        """Return the logits (N, C) of images (N, S, S, 3) uint8."""
        return self.answer(images, no_progress)[1]

    def probabilities(self, images: Images) -> FloatArray:
        """Return calibrated probabilities (N, C) of images (N, S, S, 3) uint8."""
        return softmax(self.logits(images) / self.abstention.temperature)


def open_examinee(model: str | Path) -> Examinee:
    """Open a RUN directory (needs torch), an .onnx file with its sidecar, or ``embedded``.

    Raises ArtifactError where it is missing or damaged, MissingExtraError for a RUN without torch.
    """
    exported = str(model) == EMBEDDED or Path(model).suffix == ".onnx"
    return _open_exported(model) if exported else _open_run(Path(model))


def _open_exported(model: str | Path) -> Examinee:
    classifier = Model.open(model)
    sidecar = classifier.sidecar

    def answer(images: Images, progress: Progress) -> tuple[FloatArray, FloatArray]:
        features, logits = [], []
        for start in range(0, max(1, len(images)), _CHUNK):
            progress("predicting", start, len(images))
            found = classifier.run(images[start : start + _CHUNK])
            features.append(found.features)
            logits.append(found.logits)
        progress("predicting", len(images), len(images))
        return np.concatenate(features), np.concatenate(logits)

    def maps(images: Images, classes: IntArray) -> FloatArray:
        if sidecar.head is None:
            rule = "has no class activation maps (its head is more than one linear layer on the mean of the last map)"
            raise ConfigError(f"model {model}", rule, "explain the run it was exported from")
        parts = [np.zeros((0, 1, 1), np.float32)]
        for start in range(0, len(images), _CHUNK):
            seen = classifier.run(images[start : start + _CHUNK]).feature_map
            parts.append(class_activation_map(seen, sidecar.head[0], classes[start : start + _CHUNK]))
        return np.concatenate(parts[1:] or parts)

    return Examinee(
        classes=sidecar.classes,
        image_size=sidecar.image_size,
        network=sidecar.facts.get("model", {}).get("network", "unknown"),
        sha256=sha256_file(classifier.path),
        abstention=sidecar.abstention,
        validation=None,
        method="class activation maps (Zhou et al. 2016) of the exported model",
        answer=answer,
        maps=maps,
    )


def _open_run(model: Path) -> Examinee:
    try:
        import torch  # here: an exported model is examined without it

        from hemalens.evaluation.gradcam import grad_cam
        from hemalens.training.checkpoint import load_model, model_directory, read_abstention, read_validation
        from hemalens.training.device import torch_threads
        from hemalens.training.predicting import predict_features
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "hemalens":
            raise
        step = "install it with: pip install 'hemalens[train]', or export the run elsewhere and give its .onnx file"
        raise MissingExtraError(f"model {model}, a RUN", "train", step) from error
    loaded, run = load_model(model), model_directory(model)
    validation = read_validation(run)

    def answer(images: Images, progress: Progress) -> tuple[FloatArray, FloatArray]:
        with torch_threads(0):
            return predict_features(loaded.module, torch.from_numpy(images), progress=progress)

    return Examinee(
        classes=loaded.classes,
        image_size=loaded.image_size,
        network=loaded.card["model"],
        sha256=open_record(run, "train").digest("model.safetensors"),
        abstention=read_abstention(run) or _by_confidence(run, validation),
        validation=validation,
        method="Grad-CAM (Selvaraju et al. 2017) on the last map",
        answer=answer,
        maps=lambda images, classes: grad_cam(loaded.module, images, classes),
    )


def _by_confidence(run: Path, validation: tuple[FloatArray, IntArray]) -> Abstention:
    """Return when a run of before refuses, which kept no features to tell by."""
    _LOG.warning(
        "%s has no abstention.json: it abstains by confidence alone; train again to abstain on what is no cell",
        run,
    )
    return confidence_rule(*validation)
