"""Wrong labels planted among the real cells: how many are found at 1 % false alarms, beside cleanlab.

3 % of the labels of the cleaned challenge file (11,941 cells, none of them of the validation file) are exchanged: at
random for any other class, and, apart from that, along the confusions that the network really makes (pairs of classes
drawn as often as its out-of-fold answers on the untouched labels mix them up). Networks are trained on the labels as
they then stand; hemalens and cleanlab judge them by the same out-of-fold probabilities. Labels that are wrong in the
set itself count as false alarms, as nobody knows them.

Killed and started again it goes on where it was. `--sheet FILE` draws the most doubtful labels of the untouched set.

    python benchmarks/bench_label_issues.py --sheet docs/label-issues.jpg
"""

import argparse
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFont

from conditions import BUILD, challenge, peer_python, record
from hemalens.core.types import encode_labels
from hemalens.data.audit.audit import audit
from hemalens.data.audit.checks.labels import check_labels, doubt
from hemalens.data.audit.probabilities import read_probabilities
from hemalens.data.sources import open_source
from hemalens.training.out_of_fold import TABLE, out_of_fold
from prepared import prepare

PEER = "cleanlab==2.9.0"
SHARE, FALSE_ALARMS = 0.03, 0.01
HOME = BUILD / "label-issues"
METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
THEIRS = """
import json, sys, numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
data = np.load(sys.argv[1])
labels, chances = data["labels"], data["probabilities"]
scores = {m: get_label_quality_scores(labels, chances, method=m).tolist() for m in sys.argv[2:]}
print(json.dumps({"scores": scores, "found": find_label_issues(labels, chances, n_jobs=1).tolist()}))
"""


def exchange_at_random(labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """Return labels (N,) of which a share is another class, drawn evenly."""
    draw = np.random.default_rng(seed)
    changed = labels.copy()
    chosen = draw.choice(len(labels), round(SHARE * len(labels)), replace=False)
    changed[chosen] = (labels[chosen] + draw.integers(1, n_classes, len(chosen))) % n_classes
    return changed


def exchange_along(labels: np.ndarray, confusions: np.ndarray, seed: int) -> np.ndarray:
    """Return labels (N,) of which a share is exchanged as often from class to class as ``confusions`` (C, C) counts."""
    draw = np.random.default_rng(seed)
    rates = confusions.astype(np.float64)
    np.fill_diagonal(rates, 0.0)
    pairs = draw.choice(rates.size, round(SHARE * len(labels)), p=(rates / rates.sum()).ravel())
    changed = labels.copy()
    free = {number: draw.permutation(np.flatnonzero(labels == number)).tolist() for number in range(len(rates))}
    for given, other in zip(*np.unravel_index(pairs, rates.shape), strict=True):
        changed[free[int(given)].pop()] = other
    return changed


def judged(cells: Path, labels: np.ndarray, name: str, given: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (M, C) and indices (M,) of the judged cells under labels (N,) in place of theirs."""
    path = HOME / f"{name}.npz"
    if not path.exists():
        with np.load(cells) as file:
            arrays = dict(file) | {"labels": labels.astype(np.uint8)[:, None]}
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **arrays)
        partial.rename(path)
    folder = HOME / f"{name}-out-of-fold"
    print(name, out_of_fold(path, folder, folds=given.folds, settings=given.set, workers=0), flush=True)
    source = open_source(path)
    values = read_probabilities(folder / TABLE, source.samples, source.classes)
    indices = np.flatnonzero(np.isfinite(values).all(axis=1))
    return values[indices], indices


def compare(
    name: str, labels: np.ndarray, changed: np.ndarray, values: np.ndarray, indices: np.ndarray
) -> dict[str, Any]:
    """Return what both find of the exchanged labels: by rank at 1 % false alarms, and by their own limits."""
    source = open_source(HOME / f"{name}.npz")
    whole = np.full((len(source), values.shape[1]), np.nan)
    whole[indices] = values
    checked = check_labels(source.samples, source.classes, whole)
    assert checked is not None
    now, wrong = changed[indices], (changed != labels)[indices]
    reported = np.isin(indices, [finding.index for finding in checked.findings])
    np.savez(HOME / "peer.npz", labels=now, probabilities=values)
    words = [peer_python("peer-cleanlab", PEER), "-c", THEIRS, HOME / "peer.npz", *METHODS]
    theirs = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    pairs = Counter(zip(labels[changed != labels].tolist(), changed[changed != labels].tolist(), strict=True))
    return {
        "judged": len(indices),
        "exchanged": int(wrong.sum()),
        "commonest": {f"{source.classes[a]} as {source.classes[b]}": n for (a, b), n in pairs.most_common(5)},
        "agreement_with_the_true_label": round(float((values.argmax(axis=1) == labels[indices]).mean()), 4),
        "hemalens": at_limit(doubt(now, values), wrong) | reported_as(reported, wrong),
        "cleanlab": {
            **{method: at_limit(-np.array(theirs["scores"][method]), wrong) for method in METHODS},
            "find_label_issues": reported_as(np.array(theirs["found"]), wrong),
        },
    }


def at_limit(score: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Return the share of wrong labels that score above all but 1 % of the right ones, and the area under the curve."""
    limit = np.quantile(score[~wrong], 1 - FALSE_ALARMS)
    order = np.searchsorted(np.sort(score[~wrong]), score[wrong])
    return {
        "found_percent": round(100 * float((score[wrong] > limit).mean()), 2),
        "auroc": round(float(order.mean() / (~wrong).sum()), 4),
    }


def reported_as(reported: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    return {
        "reported": int(reported.sum()),
        "reported_found_percent": round(100 * float(reported[wrong].mean()), 2),
        "reported_false_alarms_percent": round(100 * float(reported[~wrong].mean()), 2),
    }


def sheet(folder: Path, cells: Path, out: Path, *, columns: int = 8, most: int = 40, side: int = 96) -> None:
    """Draw the most doubtful labels of an audit, each with its label and the class that it looks like."""
    issues = pl.read_csv(folder / "issues.csv").filter(pl.col("issue") == "label_issue").head(most)
    rows = -(-issues.height // columns)
    source = open_source(cells)
    indices = {sample.sample_id: index for index, sample in enumerate(source.samples)}
    font = ImageFont.load_default(11)
    step, line = side + 6, 13
    paper = Image.new("RGB", (columns * step, rows * (step + 2 * line)), "white")
    pen = ImageDraw.Draw(paper)
    for number, (sample_id, label, reason) in enumerate(issues.select("sample_id", "label", "reason").iter_rows()):
        left, top = number % columns * step + 3, number // columns * (step + 2 * line) + 3
        paper.paste(Image.fromarray(source.image(indices[sample_id]).pixels).resize((side, side)), (left, top))
        pen.text((left, top + side), label, "#000000", font)
        pen.text((left, top + side + line - 2), f"{reason.split()[2]}?", "#b04000", font)
    paper.save(out, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the recipe")
    parser.add_argument("--sheet", type=Path, help="where to draw the most doubtful labels of the untouched set")
    given = parser.parse_args()
    cells, _ = prepare(challenge(), HOME / "data")
    source = open_source(cells)
    labels = encode_labels([sample.label for sample in source.samples], source.classes)
    values, indices = judged(cells, labels, "untouched", given)
    n_classes = len(source.classes)
    flat = labels[indices] * n_classes + values.argmax(axis=1)
    confusions = np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)
    kinds = {
        "random": exchange_at_random(labels, n_classes, given.seed),
        "confusions": exchange_along(labels, confusions, given.seed),
    }
    answers = {name: judged(cells, changed, name, given) for name, changed in kinds.items()}
    summary = audit(
        HOME / "untouched.npz", HOME / "audit", probabilities=HOME / "untouched-out-of-fold" / TABLE, overwrite=True
    ).to_json()
    if given.sheet:
        sheet(HOME / "audit", HOME / "untouched.npz", given.sheet)
    figures: dict[str, Any] = {"untouched": summary["labels"] | {"issues": summary["issues"].get("label_issue")}}
    for name, changed in kinds.items():
        figures[name] = compare(name, labels, changed, *answers[name])
    record(
        "label_issues",
        figures,
        folds=given.folds,
        seed=given.seed,
        set=given.set,
        share=SHARE,
        false_alarms=FALSE_ALARMS,
        peer=PEER,
    )


if __name__ == "__main__":
    main()
