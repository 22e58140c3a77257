"""From several runs to the tables of experiments: settings and scores, F1 of each class, what differences are worth.

Needs neither torch nor anything of training.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import polars as pl

from hemalens.core.page import ABSENT, duration, number, percent, thousands
from hemalens.evaluation.compare import Difference, holm, paired_difference, unpaired_difference
from hemalens.evaluation.report_inputs import Evaluation, RunInputs
from hemalens.evaluation.report_results import perturbed_accuracy

__all__ = ["augmentation_words", "experiments_context", "experiments_table", "verdicts"]

_LEVEL = 0.05
_SCORES = ("accuracy", "perturbed", "macro_f1")
_COMPARED = ("accuracy", "perturbed")
_MIXES = {"mixup": "mixup", "cutmix": "CutMix", "both": "mixup/CutMix"}
_NO_BREAK = "\N{NO-BREAK SPACE}"

Cell = str | dict[str, Any]
"""What stands in a table: a text, or ``lines`` (the later ones small) and whether it is the ``best`` of its column."""


def experiments_table(runs: Sequence[RunInputs]) -> pl.DataFrame:
    """Return one row a run in the order given: settings, scores with 95 % intervals in [0, 1], F1 of each class.

    With several runs also how far each lies from the best one in ``accuracy`` and in ``perturbed``: the difference
    ``..._less_best`` with its interval, its p-value after Holm, and whether the two were compared sample by sample.
    """
    rows = [_settings(run) | _scores(run.evaluation) for run in runs]
    for score in _COMPARED:
        _add_differences(rows, [run.evaluation for run in runs], score)
    # Twelve digits hold every score whole and leave out the noise of adding in binary.
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.selectors.float().round(12))


def experiments_context(runs: Sequence[RunInputs]) -> dict[str, Any]:
    """Collect what the report says of its runs beside each other: rows of cells, best values marked, and sentences."""
    table = experiments_table(runs).to_dicts()
    best = _best(table)
    classes = [key.removeprefix("f1_") for key in table[0] if key.startswith("f1_")]
    known = [run.evaluation for run in runs if run.evaluation]
    sizes_differ = len({one.scores["n"] for one in known}) > 1
    return {
        "rows": [_row(one, best, counted=sizes_differ) for one in table],
        "classes": classes,
        "class_rows": [_class_row(one, classes, best) for one in table] if classes else [],
        "difference_rows": [_difference_row(one) for one in table] if len(known) > 1 else [],
        "verdicts": verdicts(table),
        "same_samples": all(_same_samples(known[0], other) for other in known[1:]),
        "sizes_differ": sizes_differ,
    }


def verdicts(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of rows of the experiments table which are worse than the best one and which are not told apart from it."""
    return [verdict for score in _COMPARED if (verdict := _verdict(table, score))]


def augmentation_words(config: Mapping[str, Any]) -> str:
    """Write a configuration's augmentation in a few words: the names of its steps, mixing and consistency.

    >>> augmentation_words({"augment": [{"name": "flip"}, {"name": "augmix"}], "mix": "both"})
    'flip, augmix, mixup/CutMix'
    """
    if "augment" not in config:
        return ABSENT
    names = [str(step.get("name", "")) if isinstance(step, Mapping) else str(step) for step in config["augment"]]
    mix = str(config.get("mix") or "none")
    names += [] if mix == "none" else [_MIXES.get(mix, mix)]
    names += ["consistency"] if config.get("jsd") else []
    return ", ".join(dict.fromkeys(names)) or "none"


def _settings(run: RunInputs) -> dict[str, Any]:
    config, model = run.config, run.model
    balance = config.get("balance")
    if balance == "replicate" and config.get("per_class"):
        balance = f"replicate {config['per_class']}"
    seconds = model.get("train_seconds")
    return {
        "run": run.name,
        "model": str(model["model"]),
        "parameters": int(model["parameters"]),
        "weights": _start(config),
        "image_size": model.get("image_size") or config.get("image_size"),
        "augmentation": augmentation_words(config),
        "balance": balance,
        "precision": model.get("precision") or config.get("precision"),
        "epochs": len(run.history["epoch"]),
        "train_minutes": None if seconds is None else round(seconds / 60, 3),
        "device": model.get("device"),
    }


def _start(config: Mapping[str, Any]) -> str:
    """Name the weights that a training began from: a file by its name alone."""
    weights = config.get("weights")
    if weights in (None, "", "none", False):
        return "scratch"
    name = PurePath(str(weights)).name.removesuffix(".safetensors")
    frozen = config.get("freeze")
    return name if frozen in (None, "none", False) else f"{name}, frozen: {frozen}"


def _scores(evaluation: Evaluation | None) -> dict[str, Any]:
    scores: Mapping[str, Any] = evaluation.scores if evaluation else {}
    found: dict[str, Any] = {"n": scores.get("n")}
    for name in _SCORES:
        score = perturbed_accuracy(scores) if name == "perturbed" else scores.get(name)
        for column, key in ((name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")):
            found[column] = None if score is None else score[key]
    found["ece"] = scores.get("ece")
    return found | {f"f1_{name}": one["f1"] for name, one in scores.get("per_class", {}).items()}


def _same_samples(first: Evaluation, second: Evaluation) -> bool:
    """Tell whether two evaluations hold answers for the same samples of the same source under the same labels."""
    sources = [one.provenance.get("inputs", {}).get("source") for one in (first, second)]
    if first.answers is None or second.answers is None or None in sources or sources[0] != sources[1]:
        return False
    labels = ["sample_id", "label"]
    return first.answers.height > 0 and first.answers.select(labels).equals(second.answers.select(labels))


def _add_differences(rows: Sequence[dict[str, Any]], evaluations: Sequence[Evaluation | None], score: str) -> None:
    """Add to each row how far it lies from the row with the highest score, the first of equals."""
    places = [place for place, row in enumerate(rows) if row[score] is not None]
    if len(places) < 2:
        return
    leader = max(places, key=lambda place: rows[place][score])
    found = {
        place: difference
        for place in places
        if place != leader and (difference := _difference(evaluations[place], evaluations[leader], score))
    }
    for (place, one), p in zip(found.items(), holm([one.p for one in found.values()]), strict=True):
        rows[place] |= {
            f"{score}_less_best": one.value,
            f"{score}_less_best_low": one.low,
            f"{score}_less_best_high": one.high,
            f"{score}_p": p,
            f"{score}_paired": one.paired,
        }


def _difference(first: Evaluation | None, second: Evaluation | None, score: str) -> Difference | None:
    """Return how much more accurate the first one is: by pairs where single answers are kept, else by counts."""
    if first is None or second is None:
        return None
    a, b = first.answers, second.answers
    # Answers for perturbed pictures are not kept one by one.
    if score == "accuracy" and a is not None and b is not None and _same_samples(first, second):
        return paired_difference(*((one["label"] == one["predicted"]).to_numpy() for one in (a, b)))
    counts = [(round(_scores(one)[score] * one.scores["n"]), int(one.scores["n"])) for one in (first, second)]
    return unpaired_difference(*counts) if all(n for _, n in counts) else None


def _verdict(table: Sequence[Mapping[str, Any]], score: str) -> str | None:
    compared = {row["run"]: row[f"{score}_p"] for row in table if row.get(f"{score}_p") is not None}
    if not compared:
        return None
    best = max((row for row in table if row[score] is not None), key=lambda row: float(row[score]))["run"]
    same = [name for name, p in compared.items() if p >= _LEVEL]
    worse = [name for name, p in compared.items() if p < _LEVEL]
    on = "" if score == "accuracy" else " on perturbed pictures"
    sentences = [f"The highest accuracy{on} is that of {best}."]
    sentences += [f"No difference from it can be claimed for {_and(same)}."] if same else []
    sentences += [f"Worse than it {'is' if len(worse) == 1 else 'are'} {_and(worse)}."] if worse else []
    return " ".join(sentences)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _best(table: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the best value of each column that has one, as it is printed, where there are at least two to compare."""
    best = {}
    for column in [*_SCORES, "ece", *(key for key in table[0] if key.startswith("f1_"))]:
        found = {_printed(row, column) for row in table if row[column] is not None}
        if len(found) > 1:
            best[column] = min(found) if column == "ece" else max(found)
    return best


def _printed(row: Mapping[str, Any], column: str) -> float:
    """Round a value as the page prints it: what looks equal there is marked alike."""
    return round(float(row[column]), 3 if column.startswith("f1_") else 4)


def _cell(row: Mapping[str, Any], column: str, best: Mapping[str, float], *lines: str) -> Cell:
    if row[column] is None:
        return ABSENT
    return {"lines": lines, "best": _printed(row, column) == best.get(column)}


def _row(row: Mapping[str, Any], best: Mapping[str, float], *, counted: bool) -> list[Cell]:
    size = f"{row['image_size']}{_NO_BREAK}px" if row["image_size"] else None
    balance = "not balanced" if row["balance"] == "none" else row["balance"]
    seconds = None if row["train_minutes"] is None else 60 * row["train_minutes"]
    epochs = f"{row['epochs']}{_NO_BREAK}epoch{'' if row['epochs'] == 1 else 's'}"
    model = [row["model"], _listed(thousands(row["parameters"]), size), row["weights"]]
    method = [row["augmentation"], _listed(balance, row["precision"])]
    scores = []
    for score in _SCORES:
        lines = [percent(row[score], 2), _ends(row[f"{score}_low"], row[f"{score}_high"])]
        lines += [f"n = {thousands(row['n'])}"] if counted and score == "accuracy" else []
        scores.append(_cell(row, score, best, *lines))
    if row["n"] is None:
        scores[0] = "not evaluated"
    ece = ABSENT if row["ece"] is None else f"{row['ece']:.4f}"
    return [
        row["run"],
        *({"lines": lines, "best": False} for lines in (model, method)),
        *scores,
        _cell(row, "ece", best, ece),
        {"lines": [duration(seconds), epochs, *([row["device"]] if row["device"] else [])], "best": False},
    ]


def _class_row(row: Mapping[str, Any], classes: Sequence[str], best: Mapping[str, float]) -> list[Cell]:
    return [row["run"], *(_cell(row, f"f1_{name}", best, f"{row[f'f1_{name}'] or 0:.3f}") for name in classes)]


def _difference_row(row: Mapping[str, Any]) -> list[Cell]:
    cells: list[Cell] = [row["run"]]
    for score in _COMPARED:
        value, p = row.get(f"{score}_less_best"), row.get(f"{score}_p")
        if value is None or p is None:
            cells += [ABSENT if row[score] is None else "the best", ABSENT]
            continue
        ends = _ends(row[f"{score}_less_best_low"], row[f"{score}_less_best_high"], signed=True)
        cells.append({"lines": [_signed(value, 2), ends], "best": False})
        cells.append("<\N{NO-BREAK SPACE}0.001" if p < 0.001 else number(p, 2))
    return cells


def _ends(low: float | None, high: float | None, *, signed: bool = False) -> str:
    if low is None or high is None:
        return ABSENT
    ends = [_signed(end, 1) if signed else f"{100 * end:.1f}" for end in (low, high)]
    return f"[{ends[0]},{_NO_BREAK}{ends[1]}]"


def _signed(share: float, digits: int) -> str:
    return f"{100 * share:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _listed(*words: str | None) -> str:
    return ", ".join(word for word in words if word)
