"""Images to their field-like distorted copies, the same for every model; drawn by torch, where that is installed."""

import logging

from hemalens.core.types import Images

__all__ = ["FIELD", "distorted"]

FIELD = "rotation, zoom, shear, shift, stain, white balance, contrast, blur, noise and cutout, strong and mixed, seeded"
"""What is done to them, in words."""

_LOG = logging.getLogger(__name__)


def distorted(images: Images) -> Images | None:
    """Return a strongly distorted copy of images, both (N, S, S, 3) uint8; None and a warning without torch."""
    try:
        import torch  # here: all else of an exported model is scored without it

        from hemalens.training.device import torch_threads
        from hemalens.training.predicting import distort
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "hemalens":
            raise
        _LOG.warning("not scored under distortions, which torch draws; install it with: pip install 'hemalens[train]'")
        return None
    with torch_threads(0):
        return distort(torch.from_numpy(images)).numpy()
