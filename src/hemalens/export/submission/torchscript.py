"""A run's network to a TorchScript file, which every torch of the last years reads, and its resize to a numpy graph.

Needs the extra ``train``.
"""

import io
import warnings
from pathlib import Path

import torch

from hemalens.core.types import FloatArray, Images
from hemalens.export.preprocessing import resize_model
from hemalens.export.submission.graph import graph_bytes, to_graph
from hemalens.training.checkpoint import load_model
from hemalens.training.tensors import to_batch

__all__ = ["script_bytes"]


def script_bytes(run: Path, images: Images) -> tuple[bytes, bytes, FloatArray]:
    """Return TorchScript of (N, 3, S, S) in [0, 1] to logits, the resize to S as a graph, and the logits of images.

    Args:
        run: a RUN directory.
        images: (N, H, W, 3) uint8 of any size, run through both.
    """
    loaded = load_model(run)
    size = loaded.image_size
    resize = to_graph(resize_model(size), ("resized",))
    batch = to_batch(torch.from_numpy(resize.run(images=images)[0].copy()))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # TorchScript is not developed on; what is traced here needs nothing new, and export's own files need new torch.
        warnings.simplefilter("ignore")
        example = torch.zeros(2, 3, size, size)
        script = torch.jit.trace(loaded.module, example)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.jit.save(script, buffer)
        logits: FloatArray = script(batch).float().numpy()
    return buffer.getvalue(), graph_bytes(resize), logits
