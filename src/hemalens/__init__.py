"""hemalens: from a pile of labelled blood-cell pictures, dirty as they come, to a classifier its user can trust."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hemalens.deployment.classifier import Classifier

__all__ = ["load"]


def load(model: "str | Path" = "embedded", *, threads: int = 0) -> "Classifier":
    """Return an exported model ready to predict: ``embedded``, or the path of an .onnx file.

    Its ``predict`` and ``predict_proba`` take uint8 arrays, PIL images and paths; ``classes_`` names what they return.
    Needs no torch and no network.

    Args:
        model: ``embedded``, or an .onnx file that ``hemalens export`` wrote.
        threads: of each inference; 0 for one a core.

    Raises:
        ArtifactError: the model is not there or damaged.
    """
    from hemalens.deployment.classifier import Classifier  # here, so that importing hemalens stays free

    return Classifier.open(model, threads=threads)
