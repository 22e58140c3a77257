"""The mistakes made with most confidence to images, each also under its heat map. Needs no torch of its own."""

from functools import partial
from pathlib import Path

from PIL import Image

from hemalens.core.artifacts import write_atomically
from hemalens.core.errors import ConfigError
from hemalens.core.evaluation_summary import Mistake
from hemalens.core.heatmaps import normalise, overlay
from hemalens.core.types import FloatArray, Images, IntArray
from hemalens.data.sources import Source
from hemalens.evaluation.chosen import Chosen, worst_mistakes
from hemalens.evaluation.examinee import Examinee

__all__ = ["write_mistakes"]

_WORST = 24


def write_mistakes(
    out: Path, source: Source, chosen: Chosen, examinee: Examinee, probabilities: FloatArray
) -> tuple[Mistake, ...]:
    """Write ``mistakes/`` and return what ``evaluation.json`` says of each, worst first.

    Args:
        out: the directory of the evaluation.
        source: where the samples are, in their own sizes.
        chosen: the N samples that were scored.
        examinee: the model; where it has no maps the images are written alone.
        probabilities: its own (N, C).
    """
    classes = examinee.classes
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    worst = worst_mistakes(chosen.labels, probabilities, _WORST)
    (out / "mistakes").mkdir(exist_ok=True)
    maps = _heat_maps(examinee, chosen.images[worst], predicted[worst])
    rows = []
    for rank, row in enumerate(worst.tolist(), 1):
        sample = source.samples[chosen.indices[row]]
        name, drawn = f"mistakes/{rank:02d}.png", None
        image = source.image(chosen.indices[row]).pixels
        write_atomically(out / name, partial(Image.fromarray(image).save, format="PNG"))
        if maps is not None:
            drawn = f"mistakes/{rank:02d}-map.png"
            heated = Image.fromarray(overlay(image, maps[rank - 1]))
            write_atomically(out / drawn, partial(heated.save, format="PNG"))
        assert sample.label is not None, "a mistake has a label that the model knows"
        rows.append(
            Mistake(
                sample_id=sample.sample_id,
                label=sample.label,
                predicted=classes[predicted[row]],
                confidence=float(confidence[row]),
                image=name,
                map=drawn,
            )
        )
    return tuple(rows)


def _heat_maps(examinee: Examinee, images: Images, classes: IntArray) -> FloatArray | None:
    """Return what speaks for the predicted classes (N, h, w) in [0, 1]; None where the model has no maps."""
    try:
        return normalise(examinee.maps(images, classes))
    except ConfigError:
        return None
