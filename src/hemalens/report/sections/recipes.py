"""From several runs to recipes: trainings that differ in the seed alone are one row, and differences are judged.

Needs neither torch nor anything of training.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from hemalens.core.metrics import accuracy, macro_f1
from hemalens.core.types import FloatArray, IntArray
from hemalens.evaluation.compare import (
    Difference,
    bootstrap_scores,
    drawn_difference,
    holm,
    paired_difference,
    seeded_difference,
    unpaired_difference,
)
from hemalens.report.inputs import Evaluated, RunInputs

__all__ = ["COMPARED", "Recipe", "add_differences", "find_recipes", "merge_rows", "same_samples"]

COMPARED = ("accuracy", "macro_f1", "distorted")
"""The scores in which recipes are compared, with the best of each."""

# Where a training ran and how it was watched makes it no other recipe.
_NO_RECIPE = frozenset({"seed", "threads", "device", "memory_gb", "track", "compile"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """Trainings of one recipe.

    Attributes:
        name: what their rows are called together.
        indices: of its runs among all runs.
        runs: one for each seed.
    """

    name: str
    indices: tuple[int, ...]
    runs: tuple[RunInputs, ...]


def find_recipes(runs: Sequence[RunInputs]) -> list[Recipe]:
    """Return the recipes in the order of their first runs; runs of one recipe have distinct seeds and the same classes.

    A run whose seed was there before begins a recipe of its own: to train twice with one seed shows no spread.
    """
    found: list[tuple[str, list[int]]] = []
    for index, run in enumerate(runs):
        key = _recipe_key(run)
        seed = run.config.seed
        known = (indices for name, indices in found if name == key)
        fitting = (indices for indices in known if all(runs[one].config.seed != seed for one in indices))
        home = next(fitting, None)
        if home is None:
            found.append((key, [index]))
        else:
            home.append(index)
    return [
        Recipe(
            _recipe_name([runs[index].name for index in indices], runs), tuple(indices), tuple(runs[p] for p in indices)
        )
        for _, indices in found
    ]


def same_samples(first: Evaluated, second: Evaluated) -> bool:
    """Tell whether two evaluations hold answers for the same samples of the same source under the same labels."""
    sources = [one.provenance.get("inputs", {}).get("source") for one in (first, second)]
    if first.answers is None or second.answers is None or None in sources or sources[0] != sources[1]:
        return False
    labels = ["sample_id", "label"]
    return first.answers.height > 0 and first.answers.select(labels).equals(second.answers.select(labels))


def merge_rows(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one row for a recipe: its only run's, or means over seeds with ``..._sd``, ``..._min``, ``..._max``."""
    mine = [rows[index] for index in recipe.indices]
    merged = dict(mine[0]) | {"run": recipe.name, "seeds": [one.get("seed") for one in mine]}
    if len(mine) == 1:
        return merged
    for column, first in mine[0].items():
        values = [one.get(column) for one in mine]
        if column in ("seed", "parameters", "image_size") or not isinstance(first, float):
            continue
        if any(value is None for value in values):
            merged[column] = None
            continue
        numbers = np.array(values, np.float64)
        merged |= {
            column: float(numbers.mean()),
            f"{column}_sd": float(numbers.std(ddof=1)),
            f"{column}_min": float(numbers.min()),
            f"{column}_max": float(numbers.max()),
        }
    merged["epochs"] = round(float(np.mean([one["epochs"] for one in mine])))
    merged["n"] = mine[0]["n"] if len({one["n"] for one in mine}) == 1 else None
    return merged


def add_differences(
    rows: Sequence[dict[str, Any]], recipes: Sequence[Recipe], score_of: Callable[[Evaluated, str], float | None]
) -> None:
    """Add to each recipe's row how far it lies from the one with the highest score, the first of equals."""
    draws = _Draws()
    for score in COMPARED:
        indices = [index for index, row in enumerate(rows) if row[score] is not None]
        if len(indices) < 2:
            continue
        leader = max(indices, key=lambda index: round(rows[index][score], 9))  # means of equals differ by rounding
        rows[leader].setdefault("leads", []).append(score)
        found = {}
        for index in indices:
            pair = recipes[index], recipes[leader]
            if index != leader and (difference := _difference(*pair, score, score_of, draws)) is not None:
                found[index] = difference
        for (index, one), p in zip(found.items(), holm([one.p for one in found.values()]), strict=True):
            rows[index] |= {
                f"{score}_less_best": one.value,
                f"{score}_less_best_low": one.low,
                f"{score}_less_best_high": one.high,
                f"{score}_p": p,
                f"{score}_paired": one.paired,
            }


def _recipe_key(run: RunInputs) -> str:
    config = {key: value for key, value in run.config.model_dump(mode="json").items() if key not in _NO_RECIPE}
    model = [run.model.model, run.model.parameters, list(run.model.classes)]
    return json.dumps([config, model], sort_keys=True, default=str)


def _recipe_name(names: Sequence[str], runs: Sequence[RunInputs]) -> str:
    """Name several seeds by what their names begin with alike, unless another run is called so."""
    if len(names) == 1:
        return names[0]
    alike = "".join(takewhile(bool, (one[0] * (len(set(one)) == 1) for one in zip(*names, strict=False))))
    alike = alike.rstrip("-_. (0123456789").removesuffix("seed").rstrip("-_. ")
    taken = {run.name for run in runs} - set(names)
    return alike if alike and alike not in taken else names[0]


class _Draws:
    """Bootstrap draws of each evaluation's scores, made once for all that are scored on the same samples."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], FloatArray] = {}

    def of(self, evaluation: Evaluated, score: str) -> FloatArray:
        """Return the draws (B,); evaluations of the same samples get the same draws of them."""
        key = id(evaluation), score
        if key not in self._known:
            labels, predicted = _coded(evaluation)
            measure = macro_f1 if score == "macro_f1" else accuracy
            size = len(evaluation.scores.classes)
            self._known[key] = bootstrap_scores(labels, [predicted], size, measure)[0]
        return self._known[key]


def _coded(evaluation: Evaluated) -> tuple[IntArray, IntArray]:
    assert evaluation.answers is not None
    codes = {name: index for index, name in enumerate(evaluation.scores.classes)}
    columns = (evaluation.answers["label"], evaluation.answers["predicted"])
    labels, predicted = (np.array([codes[name] for name in column.to_list()], np.int64) for column in columns)
    return labels, predicted


def _difference(
    first: Recipe,
    second: Recipe,
    score: str,
    score_of: Callable[[Evaluated, str], float | None],
    draws: _Draws,
) -> Difference | None:
    """Return how much higher the first recipe scores: by pairs where single answers are kept, else by counts."""
    recipes = [[run.evaluation for run in recipe.runs if run.evaluation] for recipe in (first, second)]
    # Answers for distorted images are not kept one by one.
    paired = score != "distorted" and all(same_samples(recipes[0][0], one) for recipe in recipes for one in recipe)
    if len(recipes[0]) == len(recipes[1]) == 1:
        return _single(recipes[0][0], recipes[1][0], score, score_of, draws, paired=paired)
    values = [[value for one in recipe if (value := score_of(one, score)) is not None] for recipe in recipes]
    if any(len(found) < len(recipe) for found, recipe in zip(values, recipes, strict=True)):
        return None
    if paired:
        means = [np.mean([draws.of(one, score) for one in recipe], axis=0) for recipe in recipes]
        return seeded_difference(*values, samples=float(np.var(means[0] - means[1])), paired=True)
    if score == "macro_f1":
        return None
    # Seeds scored on samples of their own differ by these too: then the choice of samples is in their spread already.
    samples = sum(
        float(np.mean(found) * (1 - np.mean(found)) / recipe[0].scores.n)
        for recipe, found in zip(recipes, values, strict=True)
        if len(recipe) == 1 or all(one.scores.n and same_samples(recipe[0], one) for one in recipe)
    )
    return seeded_difference(*values, samples=samples, paired=False)


def _single(
    first: Evaluated,
    second: Evaluated,
    score: str,
    score_of: Callable[[Evaluated, str], float | None],
    draws: _Draws,
    *,
    paired: bool,
) -> Difference | None:
    if paired and score == "accuracy":
        right = [labels == predicted for labels, predicted in map(_coded, (first, second))]
        return paired_difference(*right)
    if paired:
        values = [score_of(one, score) or 0.0 for one in (first, second)]
        return drawn_difference(values[0] - values[1], draws.of(first, score) - draws.of(second, score))
    if score == "macro_f1":
        return None
    counts = [(round((score_of(one, score) or 0.0) * one.scores.n), one.scores.n) for one in (first, second)]
    return unpaired_difference(*counts) if all(n for _, n in counts) else None
