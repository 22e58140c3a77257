"""hemalens: from a pile of labelled blood-cell images, dirty as they come, to a classifier its user can trust."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hemalens.inference.model import Model
    from hemalens.training.estimator import Classifier

    __version__: str

__all__ = ["Classifier", "Model", "__version__", "load"]


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
    from hemalens.inference.model import Model  # here, so that importing stays free

    return Model.open(model, threads=threads)


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: scikit-learn, which ``Classifier`` needs, takes half a second."""
    if name == "Classifier":
        from hemalens.training.estimator import Classifier

        return Classifier
    if name == "Model":
        from hemalens.inference.model import Model

        return Model
    if name == "__version__":
        from hemalens.core.provenance import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is there and what is imported when it is asked for."""
    return sorted({*globals(), *__all__})
