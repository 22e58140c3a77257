"""From one evaluation to what a report says about it: rows of text, figures, pictures of mistakes.

Needs neither torch nor anything of training.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.stats import binomtest

from hemalens.core.charts import figure_svg
from hemalens.core.metrics import Interval
from hemalens.core.page import ABSENT, interval, number, percent, picture_uri, thousands
from hemalens.core.types import IntArray
from hemalens.evaluation.figures import confusion_matrix_figure, per_class_f1, reliability_diagram
from hemalens.evaluation.report_inputs import Evaluation

__all__ = ["perturbed_accuracy", "results_context"]

_SCORES = (
    ("accuracy", "Accuracy"),
    ("balanced_accuracy", "Balanced accuracy (mean recall of the classes)"),
    ("macro_f1", "Macro-F1 (mean F1 of the classes)"),
)
_SPLIT_WORDS = {
    "test": "the test split",
    "val": "the validation split",
    "train": "the training split",
    "all": "all samples of the source",
}
_MISTAKES_SHOWN = 24


def results_context(evaluation: Evaluation) -> dict[str, Any]:
    """Collect what the templates say about one evaluation: rows of text, figures and facts."""
    scores = evaluation.scores
    matrix, classes = np.asarray(scores["confusion_matrix"], dtype=np.int64), scores["classes"]
    perturbed = perturbed_accuracy(scores)
    table = [[label, interval(scores[key])] for key, label in _SCORES]
    table.append(["Accuracy on perturbed pictures", interval(perturbed) if perturbed else "not measured"])
    table += [
        [label, number(scores.get(key))]
        for key, label in (
            ("loss", "Cross-entropy (nats)"),
            ("ece", "Expected calibration error, 15 bins"),
            ("ece_uncalibrated", "The same before temperature scaling"),
            ("temperature", "Temperature"),
        )
    ]
    bins = scores.get("reliability")
    support = {name: int(one["support"]) for name, one in scores["per_class"].items()}
    severities, corruptions = _corruption_table(scores.get("corruptions") or {})
    smallest = min(support, key=lambda name: support[name]) if support else None
    return {
        "scores": scores,
        "scored_on": _SPLIT_WORDS.get(str(evaluation.split), "the samples given to it"),
        "split": evaluation.split,
        "score_rows": table,
        "perturbed": perturbed,
        "perturbed_words": (scores.get("perturbed") or {}).get("description"),
        "abstention": scores.get("abstention"),
        "ece": scores.get("ece"),
        "unknown_labels": scores.get("n_unknown_label"),
        "flawless": int(np.trace(matrix)) == int(matrix.sum()) > 0,
        "class_rows": [_class_row(name, one) for name, one in scores["per_class"].items()],
        "smallest": smallest,
        "smallest_support": support.get(smallest) if smallest else None,
        "smallest_recall": _wilson(scores["per_class"][smallest]) if smallest and support[smallest] else None,
        "confusion": figure_svg(confusion_matrix_figure(matrix, classes), label=_confusion_words(matrix, classes)),
        "f1_figure": figure_svg(per_class_f1(scores["per_class"]), label="F1 of each class, as in the table above"),
        "worst_pair": _worst_pair(matrix, classes),
        "reliability": figure_svg(reliability_diagram(bins), label="Accuracy against confidence") if bins else None,
        "groups": _groups_context(scores.get("groups")),
        "mistakes": [_mistake(evaluation.directory, one) for one in scores.get("worst_mistakes", [])[:_MISTAKES_SHOWN]],
        "corruption_levels": severities,
        "corruption_rows": corruptions,
    }


def perturbed_accuracy(scores: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Return the accuracy on perturbed pictures with its interval, None where it was not measured."""
    perturbed = scores.get("perturbed") or {}
    found: Mapping[str, float] | None = perturbed.get("accuracy", perturbed if "value" in perturbed else None)
    return found


def _wilson(scores: Mapping[str, float]) -> Interval:
    """Return recall with its 95 % Wilson interval (Wilson 1927): honest for few samples, where a bootstrap is not."""
    support = int(scores["support"])
    low, high = binomtest(round(scores["recall"] * support), support).proportion_ci(method="wilson")
    return Interval(scores["recall"], float(low), float(high))


def _class_row(name: str, scores: Mapping[str, float]) -> list[str]:
    recall = interval(_wilson(scores)) if scores["support"] else ABSENT
    return [name, percent(scores["precision"]), recall, f"{scores['f1']:.3f}", thousands(int(scores["support"]))]


def _worst_pair(matrix: IntArray, classes: Sequence[str]) -> dict[str, Any] | None:
    wrong = matrix - np.diag(np.diag(matrix))
    if wrong.size == 0 or wrong.max() == 0:
        return None
    true, predicted = divmod(int(wrong.argmax()), wrong.shape[1])
    return {"true": classes[true], "predicted": classes[predicted], "count": int(wrong.max()), "all": int(wrong.sum())}


def _confusion_words(matrix: IntArray, classes: Sequence[str]) -> str:
    right = ", ".join(f"{name} {matrix[i, i]} of {matrix[i].sum()}" for i, name in enumerate(classes))
    return f"Confusion matrix; right predictions: {right}"


def _groups_context(groups: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Tell grey-background pictures from the others, where both were scored."""
    if not groups or any(not groups.get(name, {}).get("n") for name in ("grey_background", "other")):
        return None
    grey, other = groups["grey_background"], groups["other"]
    a, b = grey["accuracy"], other["accuracy"]
    return {
        "grey": grey,
        "other": other,
        "overlap": a["low"] <= b["high"] and b["low"] <= a["high"],
        "points": abs(a["value"] - b["value"]) * 100,
        "grey_worse": a["value"] < b["value"],
    }


def _mistake(directory: Path, mistake: Mapping[str, Any]) -> dict[str, Any]:
    words = f"{mistake['label']} \N{RIGHTWARDS ARROW} {mistake['predicted']}"
    return {
        "uri": _stored_picture(directory, mistake.get("picture")),
        "alt": f"{mistake['sample_id']}: {mistake['label']}, taken for {mistake['predicted']}",
        "lines": [words, f"{percent(mistake['confidence'], 0)} sure", str(mistake["sample_id"])],
    }


def _stored_picture(directory: Path, name: str | None) -> str | None:
    """Read a picture that ``evaluate`` left inside its directory; None where it is lost or lies elsewhere."""
    home = directory.resolve()
    for path in [(folder / name).resolve() for folder in (home, home / "mistakes")] if name else []:
        if not path.is_relative_to(home) or not path.is_file():
            continue
        try:
            with Image.open(io.BytesIO(path.read_bytes()), formats=("JPEG", "PNG")) as picture:
                return picture_uri(np.asarray(picture.convert("RGB")))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            return None
    return None


def _corruption_table(corruptions: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Turn name -> severity -> {balanced_error, ece} into severities and rows: name, its balanced error at each."""
    levels = {
        name: {str(level): one["balanced_error"] for level, one in found.items() if isinstance(one, Mapping)}
        for name, found in corruptions.items()
        if isinstance(found, Mapping)
    }
    severities = list(dict.fromkeys(severity for found in levels.values() for severity in found))
    return severities, [[name, *(percent(found.get(one)) for one in severities)] for name, found in levels.items()]
