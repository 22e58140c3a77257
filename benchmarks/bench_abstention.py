"""What a trained model abstains on: foreign images, unknown cells, hopeless images, and how few valid cells.

Every RUN is what ``hemalens run`` wrote (``clean.npz`` beside ``train/``), or a training with its source by --source.
Limits and temperature come from the run's own validation cells; the public validation file is only scored. The scores
that ours is compared with are pytorch-ood's.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_ood.detector import KNN, EnergyBased, MaxSoftmax, ViM
from scipy import ndimage
from scipy.stats import betabinom, binom

from conditions import challenge, real_data, record, trained_runs
from foreign_images import foreign_images
from hemalens.core.abstention import Abstention, judge
from hemalens.core.artifacts import read_json
from hemalens.core.calibration import aps_scores, lac_scores, prediction_sets, set_thresholds
from hemalens.core.metrics import expected_calibration_error, softmax
from hemalens.core.scores import Gaussians
from hemalens.core.types import encode_labels
from hemalens.data.selection import choose_split
from hemalens.data.sources import open_source
from hemalens.data.split import read_splits
from hemalens.evaluation.openset import aurc, auroc
from hemalens.training.checkpoint import load_model, model_directory
from hemalens.training.heads import classifier
from hemalens.training.predicting import predict_features
from hemalens.training.tensors import load_images, resize

PER_KIND = 60
SPLITS, COVERAGE, WANTED = 20, 0.9, 0.95
NEIGHBOURS = {"per_class": 100, "k": 5}


@dataclass(frozen=True, slots=True)
class Seen:
    """Images as the network sees them: features (N, D), logits (N, C), labels (N,) or -1."""

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray

    def part(self, chosen: np.ndarray) -> "Seen":
        """Return the chosen images."""
        return Seen(self.features[chosen], self.logits[chosen], self.labels[chosen])


def together(parts: Mapping[str, Seen]) -> Seen:
    columns = (np.concatenate([getattr(part, name) for part in parts.values()]) for name in Seen.__slots__)
    return Seen(*columns)


def hopeless(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return images of cells on which nobody could name a cell, (N, 96, 96, 3) uint8 each."""
    draw = np.random.default_rng(0)
    plain = images.astype(np.float64)
    rows, columns = images.shape[1:3]
    tiles = images.reshape(-1, 8, rows // 8, 8, columns // 8, 3)
    mixed = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), 64, rows // 8, columns // 8, 3)
    mixed = np.stack([one[draw.permutation(64)] for one in mixed]).reshape(-1, 8, 8, rows // 8, columns // 8, 3)
    few = [Image.fromarray(one).resize((6, 6), Image.Resampling.BOX) for one in images]
    found = {
        "blurred beyond sight (sigma 6 px)": ndimage.gaussian_filter(plain, (0, 6, 6, 0)),
        "noise over all (sd 120)": plain + draw.normal(0, 120, plain.shape),
        "nearly black (6 %)": 0.06 * plain,
        "nearly white (5 %)": 255 - 0.05 * (255 - plain),
        "6 x 6 pixels": np.stack([one.resize((columns, rows), Image.Resampling.NEAREST) for one in few]),
        "tiles shuffled": mixed.transpose(0, 1, 3, 2, 4, 5).reshape(plain.shape),
        "negative": 255 - plain,
    }
    return {name: np.clip(np.rint(values), 0, 255).astype(np.uint8) for name, values in found.items()}


def look(run: Path, source: Path, data: Path) -> dict[str, Any]:
    """Return the figures of one run."""
    loaded = load_model(run)
    size, classes = loaded.image_size, loaded.classes

    def seen(images: np.ndarray, labels: np.ndarray | None = None) -> Seen:
        sized = np.stack([resize(image, size) for image in images])
        features, logits = predict_features(loaded.module, torch.from_numpy(sized))
        return Seen(features, logits, np.full(len(sized), -1) if labels is None else labels)

    def of_source(path: Path, indices: list[int] | None = None) -> Seen:
        opened = open_source(path)
        chosen = list(range(len(opened))) if indices is None else indices
        labels = encode_labels([opened.samples[index].label for index in chosen], classes)
        return seen(load_images(opened, chosen, size=size), labels)

    opened = open_source(source)
    splits = read_splits(model_directory(run) / "splits.csv", opened.samples)
    training = of_source(source, choose_split(opened, splits, "train")[1])
    lmu = of_source(data / "lmu" / "lmu-000.tar")
    with np.load(challenge(validation=True)) as file:
        public = seen(file["images"], file["labels"].reshape(-1).astype(np.int64))
        spoiled = {name: seen(images) for name, images in hopeless(file["images"][::4]).items()}
    foreign = {kind: seen(images) for kind, images in foreign_images(PER_KIND).items()}
    photos = [Image.open(path).convert("RGB").resize((96, 96)) for path in sorted((data / "foreign").glob("*.png"))]
    others = {
        "myeloblasts of another laboratory": lmu.part(lmu.labels < 0),
        "neutrophils of another laboratory": lmu.part(lmu.labels >= 0),
        "foreign": together(foreign),
        "two photographs": seen(np.stack(photos)),
        **foreign,
        **spoiled,
    }
    abstention = Abstention.from_json(read_json(model_directory(run) / "abstention.json"))
    return {
        "run": run.name,
        "model": loaded.card["model"],
        "scores": compared(loaded.module, abstention, training, public, others),
        "abstained": abstained(abstention, public, others),
        "calibration": calibrated(abstention, public),
        "sets": sets_kept(softmax(public.logits / abstention.temperature), public.labels),
        "abstention_bytes": len(str(abstention.to_json())),
    }


class Detectors:
    """Five scores of strangeness fitted on the same training features, higher is stranger."""

    def __init__(self, training: Seen, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Fit to training samples before a last layer of weight (C, D) and bias (C,)."""
        features, labels = training.features, training.labels
        draw = np.random.default_rng(0)
        chosen = [draw.permutation(np.flatnonzero(labels == c))[: NEIGHBOURS["per_class"]] for c in np.unique(labels)]
        bank = np.sort(np.concatenate(chosen))
        self.gaussians = Gaussians.fit(features, labels)
        self.neighbours = KNN(None, k=NEIGHBOURS["k"])
        self.neighbours.fit_features(torch.from_numpy(features[bank]), torch.from_numpy(labels[bank]))
        self.virtual = ViM(None, features.shape[1] // 2, weight, bias)
        self.virtual.fit_features(torch.from_numpy(features), torch.from_numpy(labels))

    def scores(self, seen: Seen) -> dict[str, np.ndarray]:
        """Return each score (N,)."""
        features, logits = torch.from_numpy(seen.features), torch.from_numpy(seen.logits)
        found = {
            "least_confidence": MaxSoftmax.score(logits),
            "energy": EnergyBased.score(logits),
            "neighbours": self.neighbours.predict_features(features),
            "vim": self.virtual.predict_features(features),
        }
        return {name: values.numpy() for name, values in found.items()} | {
            "mahalanobis": self.gaussians.score(seen.features)
        }


def compared(
    module: torch.nn.Module, abstention: Abstention, training: Seen, public: Seen, others: Mapping[str, Seen]
) -> dict[str, Any]:
    """Return the area under the curve and FPR95 of each score, for each kind of image against the public cells."""
    last = classifier(module)
    weight, bias = last.weight.detach(), last.bias.detach()
    detectors = Detectors(training, weight, bias)

    def every(seen: Seen) -> dict[str, np.ndarray]:
        judged = judge(abstention, seen.features, seen.logits)
        return detectors.scores(seen) | {"distance": judged.distance}

    known, neutrophils = every(public), every(others["neutrophils of another laboratory"])
    found: dict[str, Any] = {}
    for name, seen in others.items():
        scores = every(seen)
        found[name] = {score: told_apart(known[score], scores[score]) for score in scores}
        if name.startswith("myeloblasts"):
            same = {score: told_apart(neutrophils[score], scores[score]) for score in scores}
            found["myeloblasts against neutrophils, both of another laboratory"] = same
    wrong = (public.logits.argmax(axis=1) != public.labels).astype(float)
    found["aurc"] = {score: round(aurc(values, wrong), 6) for score, values in known.items()}
    return found


def false_acceptance(known: np.ndarray, unknown: np.ndarray, *, kept: float = 0.95) -> float:
    """Return the share of unknown samples (M,) that stay where ``kept`` of the known ones (N,) do (FPR95)."""
    return float((unknown <= np.quantile(known, kept, method="inverted_cdf")).mean())


def told_apart(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    area = {name: round(value, 4) for name, value in asdict(auroc(known, unknown)).items()}
    return area | {"fpr95": round(false_acceptance(known, unknown), 4)}


def abstained(abstention: Abstention, public: Seen, others: Mapping[str, Seen]) -> dict[str, Any]:
    """Return the share of each kind that gets no answer, and of the public cells what that gains."""
    judged = judge(abstention, public.features, public.logits)
    right, kept = judged.predicted == public.labels, ~judged.abstained
    low, high = binom.interval(WANTED, len(kept), 1 - kept.mean())
    found: dict[str, Any] = {
        "valid cells": round(1 - kept.mean(), 4),
        "valid cells, 95 % interval": [round(low / len(kept), 4), round(high / len(kept), 4)],
        "valid cells of each class": [
            round(judged.abstained[public.labels == c].mean(), 4) for c in np.unique(public.labels)
        ],
        "accuracy": round(right.mean(), 4),
        "accuracy of what is kept": round(right[kept].mean(), 4),
        "accuracy of what is not": round(right[~kept].mean(), 4),
    }
    for name, seen in others.items():
        found[name] = round(judge(abstention, seen.features, seen.logits).abstained.mean(), 4)
    return found


def calibrated(abstention: Abstention, public: Seen) -> dict[str, float]:
    before, after = (
        expected_calibration_error(softmax(public.logits / one), public.labels) for one in (1.0, abstention.temperature)
    )
    return {
        "temperature": round(abstention.temperature, 4),
        "ece_before": round(before, 5),
        "ece_after": round(after, 5),
    }


def sets_kept(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return in how many of 20 splits of the public cells 90 % sets cover what they promise.

    Thresholds come from one half, the other is counted. The share held is beta-binomial (Vovk 2012): it varies with
    both halves. ``within`` counts splits inside its interval at 95 % each; ``within_all`` inside that at 95 % for
    all statements together (Bonferroni), which is the one that 20 of 20 can be asked of.
    """
    draw = np.random.default_rng(0)
    methods: dict[str, Any] = {}
    for name, by_class in (("lac", False), ("lac_by_class", True), ("aps", False), ("aps_by_class", True)):
        scores = (
            lac_scores(probabilities) if name.startswith("lac") else aps_scores(probabilities, draw.random(len(labels)))
        )
        shares, inside, inside_all, sizes = [], [], [], []
        statements = SPLITS * (1 + (len(np.unique(labels)) if by_class else 0))
        for _ in range(SPLITS):
            half = draw.permutation(len(labels)) < len(labels) // 2
            thresholds = set_thresholds(scores[half], labels[half], coverage=COVERAGE, by_class=by_class)
            sets = prediction_sets(scores[~half], thresholds)
            held = sets[np.arange(len(sets)), labels[~half]]
            sizes.append(sets.sum(axis=1).mean())
            shares.append(held.mean())
            groups = [(labels[half] == c, labels[~half] == c) for c in np.unique(labels)] if by_class else []
            counts = [
                (int(own.sum()), held[other]) for own, other in [*groups, (np.full(half.sum(), True), held | True)]
            ]
            inside.append([promised(n, part, WANTED) for n, part in counts])
            inside_all.append([promised(n, part, 1 - (1 - WANTED) / statements) for n, part in counts])
        methods[name] = {
            "mean": round(float(np.mean(shares)), 4),
            "least": round(float(np.min(shares)), 4),
            "most": round(float(np.max(shares)), 4),
            "mean_size": round(float(np.mean(sizes)), 4),
            "splits_within_overall": int(np.array(inside)[:, -1].sum()),
            "statements_within": f"{int(np.sum(inside))} of {np.size(inside)}",
            "splits_within_all": int(np.all(inside_all, axis=1).sum()),
        }
    return methods | {"splits": SPLITS}


def promised(n: int, held: np.ndarray, level: float) -> bool:
    """Tell whether the share held of new samples lies in the interval that n calibrating samples promise."""
    index = int(np.ceil(round((n + 1) * COVERAGE, 9)))
    low, high = betabinom.interval(level, len(held), index, n + 1 - index)
    return bool(low <= held.sum() <= high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="those of bench_run.py by default")
    parser.add_argument("--source", type=Path, help="what the runs were trained on, where it is not beside them")
    options = parser.parse_args()
    data = real_data()
    torch.set_num_threads(1)
    figures = []
    for run in options.runs or trained_runs():
        source = options.source or model_directory(run).parent / "clean.npz"
        figures.append(look(run, source, data))
    record("abstention", {"runs": figures}, foreign_per_kind=PER_KIND, splits=SPLITS, neighbours=NEIGHBOURS)


if __name__ == "__main__":
    main()
