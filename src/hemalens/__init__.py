"""hemalens: from a pile of labelled blood-cell images, dirty as they come, to a classifier its user can trust."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hemalens.inference.model import Model as Model
    from hemalens.training.estimator import Classifier

__all__ = ["Classifier", "load"]


def load(model: "str | Path" = "embedded", *, threads: int = 0) -> "Model":
    """Return an exported model ready to predict: ``embedded``, or the path of an .onnx file.

    Its ``predict``, ``predict_proba`` and ``judge``, which also abstains, take uint8 arrays, PIL images and paths;
    ``classes_`` names what they return. Needs no torch and no network.

    Args:
        model: ``embedded``, or an .onnx file that ``hemalens export`` wrote.
        threads: of each inference; 0 for one a core.

    Raises:
        ArtifactError: the model is not there or damaged.
    """
    from hemalens.inference.model import Model as Model  # here, so that importing stays free

    return Model.open(model, threads=threads)


def __getattr__(name: str) -> object:
    """Import ``Classifier`` when it is asked for: scikit-learn takes half a second."""
    if name == "Classifier":
        from hemalens.training.estimator import Classifier

        return Classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
