"""A RUN directory or an .onnx file to one thing that answers and explains: logits and heat maps of classes.

An exported model explains itself without torch, by class activation maps; a run does it by Grad-CAM. Both are the same
where the head is one linear layer on the mean of the last map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hemalens.core.calibration import fit_temperature
from hemalens.core.errors import ArtifactError, MissingExtraError
from hemalens.core.heatmaps import class_activation_map
from hemalens.core.metrics import softmax
from hemalens.core.provenance import sha256_file
from hemalens.core.types import FloatArray, Images, IntArray
from hemalens.deployment.classifier import Classifier
from hemalens.deployment.sidecar import EMBEDDED, find_onnx

__all__ = ["Explainer", "open_explainer"]


@dataclass(frozen=True, slots=True)
class Explainer:
    """A model that can be asked why.

    Attributes:
        classes: names in the order of the logits.
        image_size: pixels per side that it sees.
        method: how its maps are made, in words.
        sha256: of the file of its weights.
        probabilities: of pictures (N, S, S, 3) uint8, calibrated (N, C).
        maps: of pictures and one class of each (N,): (N, h, w), not below 0.
    """

    classes: tuple[str, ...]
    image_size: int
    method: str
    sha256: str
    probabilities: Callable[[Images], FloatArray]
    maps: Callable[[Images, IntArray], FloatArray]


def open_explainer(model: Path) -> Explainer:
    """Open a RUN directory (needs torch), an .onnx file with its sidecar, or ``embedded``.

    Raises ArtifactError where it is missing, damaged or an export that holds no weights for maps.
    """
    exported = str(model) == EMBEDDED or model.suffix == ".onnx"
    return _open_exported(model) if exported else _open_run(model)


def _open_exported(model: Path) -> Explainer:
    try:
        classifier = Classifier.open(model)
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingExtraError(f"model {model}", "serve") from None
    sidecar = classifier.sidecar
    if sidecar.head is None:
        rule = "has no class activation maps (its head is more than one linear layer on the mean of the last map)"
        raise ArtifactError(f"model {model}", rule, "explain the run it was exported from")
    weight, _ = sidecar.head

    def maps(pictures: Images, classes: IntArray) -> FloatArray:
        return class_activation_map(classifier.run(pictures).feature_map, weight, classes)

    return Explainer(
        classes=sidecar.classes,
        image_size=sidecar.image_size,
        method="class activation maps (Zhou et al. 2016) of the exported model",
        sha256=sha256_file(find_onnx(model)),
        probabilities=classifier.predict_proba,
        maps=maps,
    )


def _open_run(model: Path) -> Explainer:
    import torch  # here: an exported model is explained without it

    from hemalens.evaluation.gradcam import grad_cam
    from hemalens.training.checkpoint import load_model, model_directory, read_validation
    from hemalens.training.predicting import predict_logits

    loaded = load_model(model)
    temperature = fit_temperature(*read_validation(model_directory(model)))

    def probabilities(pictures: Images) -> FloatArray:
        logits = predict_logits(loaded.module, torch.from_numpy(np.ascontiguousarray(pictures)))
        return softmax(logits.reshape(-1, len(loaded.classes)) / temperature)

    return Explainer(
        classes=loaded.classes,
        image_size=loaded.image_size,
        method="Grad-CAM (Selvaraju et al. 2017) on the last map",
        sha256=sha256_file(model_directory(model) / "model.safetensors"),
        probabilities=probabilities,
        maps=lambda pictures, classes: grad_cam(loaded.module, pictures, classes),
    )
