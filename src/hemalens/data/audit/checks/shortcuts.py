"""Does anything but the cell predict the label: image size, colour mode, background, file size, order in the file?

A model takes the easiest way to the label, and keeps to it where the way leads astray. Each attribute alone is given to
a small decision tree; what the tree then knows of labels that it has not seen is compared with chance. Needs SciPy and
scikit-learn.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeClassifier

from hemalens.core.audit_summary import ClassShare, Leak, Shortcut
from hemalens.core.metrics import Interval, balanced_accuracy, confusion_matrix
from hemalens.core.types import FloatArray, IntArray, Sample
from hemalens.data.audit.checks.duplicates import distinct
from hemalens.data.audit.statistics import Statistics

__all__ = ["ATTRIBUTES", "collect_attributes", "find_shortcuts", "permutation_p_value", "rank_test"]

ATTRIBUTES: dict[str, bool] = {
    "image size": False,
    "colour mode": False,
    "background colour": False,
    "file size": True,
    "order in the source": False,
    "brightness": True,
    "sharpness": True,
}
"""Whether an attribute also depends on the cell itself, so that knowing the label from it is no proof of a shortcut."""

# More samples would cost time and call ever smaller differences certain.
_MOST = 12_000
_FOLDS = 3
_DEPTH = 4
# A leaf holds at least so many samples, or strays would become rules.
_LEAF = 8
_FEWEST = 10  # samples of a class: with fewer nothing can be said of it
_CERTAIN = 0.01  # after multiplying by the number of tests (Bonferroni)
_WORTH = 0.51  # area under the ROC curve: less is not worth a word, however certain


def find_shortcuts(
    statistics: Statistics,
    samples: Sequence[Sample],
    *,
    ordered: bool,
    without: frozenset[int] | set[int] = frozenset(),
    seed: int = 0,
) -> tuple[Shortcut, ...]:
    """Return what each attribute that is not the same everywhere tells of the label; nothing with fewer than 2 classes.

    Args:
        statistics: of the source.
        samples: their labels.
        ordered: whether the order of the samples is the source's own, not one by names that hold the label.
        without: places to leave out, such as images that are suggested to drop.
        seed: of the draw of at most 12,000 samples and of the folds.
    """
    indices = np.setdiff1d(distinct(statistics), list(without))
    indices = indices[[samples[index].label is not None for index in indices.tolist()]]
    names, coded = np.unique(
        np.array([samples[p].label or "" for p in indices.tolist()], dtype=str), return_inverse=True
    )
    enough = np.bincount(coded, minlength=len(names)) >= _FEWEST
    kept = np.flatnonzero(enough[coded])
    if enough.sum() < 2:
        return ()
    generator = np.random.default_rng(seed)
    if len(kept) > _MOST:
        kept = np.sort(generator.choice(kept, _MOST, replace=False))
    classes, labels = np.unique(coded[kept], return_inverse=True)
    columns = collect_attributes(statistics, indices[kept], ordered=ordered)
    varying = {name: facts for name, facts in columns.items() if any(np.ptp(fact) > 0 for fact in facts.values())}
    tests = len(varying) * (len(classes) + 1)
    return tuple(
        _judge(name, facts, labels, [str(names[index]) for index in classes], tests=tests, seed=seed)
        for name, facts in varying.items()
    )


def collect_attributes(statistics: Statistics, indices: IntArray, *, ordered: bool) -> dict[str, dict[str, FloatArray]]:
    """Return attribute -> what it is made of -> values (M,) of readable samples at some places."""
    rows = [row for index in indices.tolist() if (row := statistics.measurements[index]) is not None]
    assert len(rows) == len(indices)

    def column(name: str) -> FloatArray:
        return np.array([getattr(row, name) for row in rows], np.float64)

    red, green, blue = (column(f"background_{colour}") for colour in ("red", "green", "blue"))
    width, height = column("width"), column("height")
    modes = [row.mode for row in rows]
    facts: dict[str, dict[str, FloatArray]] = {
        "image size": {"width": width, "height": height, "width over height": width / height},
        "colour mode": {mode: np.array([one == mode for one in modes], np.float64) for mode in sorted(set(modes))},
        "background colour": {
            "lightness": (red + green + blue) / 3,
            "red - green": red - green,
            "green - blue": green - blue,
        },
        "file size": {"bytes": column("bytes")},
        "brightness": {name: column(name) for name in ("brightness", "contrast")},
        "sharpness": {"sharpness": column("sharpness")},
    }
    if ordered:
        facts["order in the source"] = {"index": indices.astype(np.float64)}
    return {name: facts[name] for name in ATTRIBUTES if name in facts}


def permutation_p_value(matrix: IntArray) -> float:
    """Return the chance that labels shuffled against the predictions reach a confusion matrix's balanced accuracy.

    How many of class c are called c is hypergeometric under shuffling, so the mean and variance of the recalls' sum are
    exact; it is taken as normal, which holds for some dozens of samples. 1 where nothing can vary.

    >>> permutation_p_value(np.array([[50, 50], [50, 50]])), permutation_p_value(np.array([[0, 100], [0, 100]]))
    (0.5, 1.0)
    """
    support, called = matrix.sum(axis=1).astype(np.float64), matrix.sum(axis=0).astype(np.float64)
    there = support > 0
    support, called = support[there], called[there]
    total = float(matrix.sum())
    recalls = float((np.diagonal(matrix)[there] / support).sum())
    own = called * (total - support) * (total - called) / support
    variance = (own.sum() + called.sum() ** 2 - np.square(called).sum()) / (total**2 * max(total - 1, 1))
    if variance <= 0:
        return 1.0
    return float(norm.sf((recalls - called.sum() / total) / math.sqrt(variance)))


def rank_test(scores: Sequence[FloatArray], own: Sequence[npt.NDArray[np.bool_]]) -> tuple[float, float]:
    """Return the area under the ROC curve, and the p-value of Mann and Whitney that it is 0.5 or less.

    Args:
        scores: of the samples of each fold, compared within their fold only: another fold's tree has another scale.
        own: which of them belong to the class.
    """
    wins = pairs = variance = 0.0
    for values, mine in zip(scores, own, strict=True):
        total, count = len(values), int(mine.sum())
        ties = np.unique(values, return_counts=True)[1].astype(np.float64)
        spread = total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1))
        wins += float(rankdata(values)[mine].sum()) - count * (count + 1) / 2
        pairs += count * (total - count)
        variance += count * (total - count) / 12 * spread
    excess = wins - pairs / 2
    return wins / pairs, float(norm.sf(excess / math.sqrt(variance))) if variance > 0 else 1.0


def _judge(
    name: str, facts: Mapping[str, FloatArray], labels: IntArray, classes: Sequence[str], *, tests: int, seed: int
) -> Shortcut:
    """Cross-validate one attribute; p-values are multiplied by the number of tests."""
    features = np.stack(list(facts.values()), axis=1).astype(np.float32)
    folds = list(StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(features, labels))
    predicted = [_tree(seed).fit(features[a], labels[a]).predict_proba(features[b]) for a, b in folds]
    truth = [labels[held] for _, held in folds]
    named = np.concatenate([one.argmax(axis=1) for one in predicted])
    matrix = confusion_matrix(np.concatenate(truth), named, len(classes))
    leaks = []
    for number, label in enumerate(classes):
        own = [part == number for part in truth]
        auroc, p_value = rank_test([one[:, number] for one in predicted], own)
        if tests * p_value < _CERTAIN and auroc >= _WORTH:
            leaks.append(Leak(label=label, auroc=float(auroc), p_value=float(tests * p_value)))
    found = Shortcut(
        attribute=name,
        accuracy=_interval(matrix),
        chance=1 / len(classes),
        p_value=min(1.0, tests * permutation_p_value(matrix)),
        leaks=tuple(sorted(leaks, key=lambda leak: -leak.auroc)),
        where="",
        samples=0,
        shares=(),
    )
    return _with_example(found, facts, features, labels, classes, seed) if leaks else found


def _tree(seed: int) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=_DEPTH, min_samples_leaf=_LEAF, class_weight="balanced", random_state=seed)


def _interval(matrix: IntArray) -> Interval:
    """Return the balanced accuracy of counts with a normal 95 % interval from the recalls' binomial variances."""
    support = np.maximum(matrix.sum(axis=1), 1)
    recalls = np.diagonal(matrix) / support
    half = 1.96 * math.sqrt(float((recalls * (1 - recalls) / support).sum())) / len(recalls)
    value = float(balanced_accuracy(matrix))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def _with_example(
    found: Shortcut,
    facts: Mapping[str, FloatArray],
    features: FloatArray,
    labels: IntArray,
    classes: Sequence[str],
    seed: int,
) -> Shortcut:
    """Add the values that tell most: the leaf whose classes differ most from those of all, by likelihood ratio."""
    leaves = np.unique(_tree(seed).fit(features, labels).apply(features), return_inverse=True)[1]
    counts = np.stack([np.bincount(labels[leaves == leaf], minlength=len(classes)) for leaf in range(leaves.max() + 1)])
    usual = np.bincount(labels, minlength=len(classes)) / len(labels)
    sizes = counts.sum(axis=1)
    shares = counts / sizes[:, None]
    gain = (counts * np.log(np.where(counts > 0, shares / usual, 1.0))).sum(axis=1)
    best = int(np.argmax(gain))
    members = leaves == best
    more = [number for number in np.argsort(-shares[best]) if shares[best, number] > 1.5 * usual[number]]
    values = _in_words({name: values[members] for name, values in facts.items()}, facts)
    told = tuple(ClassShare(label=classes[n], share=float(shares[best, n]), usual=float(usual[n])) for n in more)
    return found.model_copy(update={"where": values, "samples": int(sizes[best]), "shares": told})


def _in_words(inside: Mapping[str, FloatArray], everywhere: Mapping[str, FloatArray]) -> str:
    """Return the usual range (5th to 95th percentile) of a group's values, of those facts that set it apart.

    >>> _in_words({"width": np.array([80.0, 82.0])}, {"width": np.array([80.0, 96.0])})
    'width 80 to 82'
    """
    said = []
    for name, values in inside.items():
        if values.min() == everywhere[name].min() and values.max() == everywhere[name].max():
            continue
        if set(np.unique(everywhere[name])) <= {0.0, 1.0}:  # one of several modes
            said += [name] if values.min() == 1 else []
            continue
        low, high = (_rounded(float(value)) for value in np.quantile(values, (0.05, 0.95), method="nearest"))
        said.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return ", ".join(said)


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
