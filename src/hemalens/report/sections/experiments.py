"""From several runs to the experiments: settings and scores, F1 of each class, what differences are worth.

Needs neither torch nor anything of training.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import polars as pl

from hemalens.core.config import TrainConfig
from hemalens.core.text import ABSENT, duration, listed, number, percent, thousands
from hemalens.evaluation.figures import learning_curves
from hemalens.report.document.blocks import Block, Cell, Section, Sentence, Table, paragraph, reference
from hemalens.report.inputs import Evaluated, RunInputs
from hemalens.report.parts import drawn
from hemalens.report.sections.recipes import COMPARED, add_differences, find_recipes, merge_rows, same_samples

__all__ = ["augmentation_words", "experiments_context", "experiments_section", "experiments_table", "verdicts"]

_LEVEL = 0.05
_SCORES = ("accuracy", "distorted", "macro_f1")
_MIXES = {"mixup": "mixup", "cutmix": "CutMix", "both": "mixup/CutMix"}
_NO_BREAK = "\N{NO-BREAK SPACE}"


def experiments_table(runs: Sequence[RunInputs]) -> pl.DataFrame:
    """Return one row a run in the order given: settings, scores with 95 % intervals in [0, 1], F1 of each class.

    ``recipe`` tells which runs differ in the seed alone. With several recipes also how far each lies from the best one
    in ``accuracy``, ``macro_f1`` and ``distorted``: the difference ``..._less_best`` with its interval, its p-value
    after Holm, and whether the two were compared sample by sample.
    """
    rows, merged = _rows(runs)
    for recipe, one in zip(find_recipes(runs), merged, strict=True):
        found = {key: value for key, value in one.items() if "_less_best" in key or key.endswith(("_p", "_paired"))}
        for index in recipe.indices:
            rows[index] |= {"recipe": recipe.name} | found
    # Twelve digits hold every score whole and leave out the noise of adding in binary.
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.selectors.float().round(12))


def experiments_section(runs: Sequence[RunInputs], found: Mapping[str, Any]) -> Section:
    """Return the section on how the first run was trained and on all runs, of which ``experiments_context`` found."""
    run = runs[0]
    seconds, epochs, best = run.model.train_seconds, len(run.history["epoch"]), run.model.best_epoch
    planned = run.config.epochs
    allowed = f" of the {planned} allowed" if planned and planned != epochs else ""
    took = f" and took {duration(seconds)}" if seconds is not None else ""
    blocks: list[Block] = [
        paragraph(
            f"Training ran for {_plural(epochs, 'epoch')}{allowed}{took}.",
            f"The weights of epoch {best} were kept." if best is not None else None,
            (reference("curves"), " shows the way there." if len(runs) == 1 else f" shows the way of {run.name}.")
            if epochs
            else None,
            (reference("runs"), " has the settings and scores" + (" of all runs." if len(runs) > 1 else ".")),
        )
    ]
    if epochs:
        curves = learning_curves(run.history, best_epoch=best)
        label = f"Loss and accuracy over {epochs} epochs"
        caption = f"Learning curves of {run.name}."
        blocks.append(drawn("curves", caption, curves, label, paper=(7.2, 2.5), wide=True))
    blocks.append(_runs_table(run, found))
    if len(runs) > 1:
        blocks += _comparison(found)
    return Section("experiments", "Experiments", tuple(blocks))


def experiments_context(runs: Sequence[RunInputs]) -> dict[str, Any]:
    """Collect what the report says of its runs beside each other: rows of cells, best values marked, and sentences."""
    rows, table = _rows(runs)
    classes = [key.removeprefix("f1_") for key in rows[0] if key.startswith("f1_")]
    best = _best(table, classes)
    known = [run.evaluation for run in runs if run.evaluation]
    sizes_differ = len({one.scores.n for one in known}) > 1
    return {
        "table": table,
        "rows": [_row(one, best, counted=sizes_differ) for one in table],
        "classes": classes,
        "class_rows": [_class_row(one, classes, best) for one in table] if classes else [],
        "difference_rows": [_difference_row(one) for one in table] if len(known) > 1 and len(table) > 1 else [],
        "verdicts": verdicts(table),
        "same_samples": all(same_samples(known[0], other) for other in known[1:]),
        "sizes_differ": sizes_differ,
        "seeds": [len(one["seeds"]) for one in table],
        "spreads": [sentence for one in table if (sentence := _over_seeds(one))],
    }


def verdicts(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of rows of the experiments table which are worse than the best one and which are not told apart from it."""
    return [verdict for score in COMPARED if (verdict := _verdict(table, score))]


def augmentation_words(config: TrainConfig) -> str:
    """Write a configuration's augmentation in a few words: the names of its steps, mixing and consistency.

    >>> augmentation_words(TrainConfig.model_validate({"augment": [{"name": "flip"}, {"name": "blur"}], "mix": "both"}))
    'flip, blur, mixup/CutMix'
    """
    names = [step.name for step in config.augment]
    names += [] if config.mix == "none" else [_MIXES[config.mix]]
    names += ["consistency"] if config.jsd else []
    return ", ".join(dict.fromkeys(names)) or "none"


def _rows(runs: Sequence[RunInputs]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each run and a row for each recipe, the latter with its differences from the best one."""
    rows = [_settings(run) | _scores(run.evaluation) for run in runs]
    columns = dict.fromkeys(column for row in rows for column in row)
    rows = [{column: row.get(column) for column in columns} for row in rows]
    recipes = find_recipes(runs)
    merged = [merge_rows(recipe, rows) for recipe in recipes]
    add_differences(merged, recipes, _score_of)
    return rows, merged


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _runs_table(run: RunInputs, found: Mapping[str, Any]) -> Table:
    several, seeded = len(found["rows"]) > 1, max(found["seeds"]) > 1
    counted = run.evaluation is not None and not found["sizes_differ"]
    caption = [
        "One row a " + ("recipe" if seeded else "run"),
        ", in the order given; the best value of a column is bold and marked ●" if several else "",
        ". Scores on the samples that the run was evaluated on",
        f" (n = {thousands(run.evaluation.scores.n)})" if counted and run.evaluation else "",
        ", below them 95 % intervals",
        ", or for several seeds the mean, its standard deviation (SD) and the range" if seeded else "",
        "; ECE: expected calibration error.",
    ]
    headers = ["run", "model, parameters, size, start", "augmentation, balance, precision"]
    headers += ["accuracy", "distorted", "macro-F1", "ECE", "training"]
    return Table("runs", "".join(caption), headers, found["rows"], left=(1, 2), wide=True)


def _comparison(found: Mapping[str, Any]) -> list[Block]:
    """Return the tables and sentences that several runs need."""
    seeded = max(found["seeds"]) > 1
    blocks: list[Block] = []
    if found["class_rows"]:
        mean = "Mean F1" if seeded else "F1"
        best = "; the best of a class is bold and marked ●" if len(found["rows"]) > 1 else ""
        caption = f"{mean} of each class{best}."
        headers = ["run", *found["classes"]]
        blocks.append(Table("runs-by-class", caption, headers, found["class_rows"], wide=True))
    if found["difference_rows"]:
        caption = (
            "Differences: percentage points by which a run is below the best one of the column, with the 95 % "
            "interval below, and the probability p that equally good models differ as much by chance."
        )
        headers = ["run", "accuracy", "p", "macro-F1", "p", "distorted", "p"]
        blocks.append(Table("runs-apart", caption, headers, found["difference_rows"], wide=True))
    if found["spreads"]:
        blocks.append(paragraph(*found["spreads"]))
    blocks += [paragraph(verdict) for verdict in found["verdicts"]]
    blocks.append(paragraph(*_footing(found)))
    return blocks


def _over_seeds(row: Mapping[str, Any]) -> str | None:
    """Say the mean accuracy of several seeds and its spread."""
    if len(row["seeds"]) < 2 or row["accuracy"] is None:
        return None
    low, high = (f"{100 * row[f'accuracy_{end}']:.2f}" for end in ("min", "max"))
    return (
        f"Over {len(row['seeds'])} seeds of {row['run']} the accuracy is {percent(row['accuracy'], 2)} on average, "
        "with "
        f"a standard deviation of {100 * row['accuracy_sd']:.2f} points and a range from {low} to {high}{_NO_BREAK}%."
    )


def _footing(found: Mapping[str, Any]) -> list[Sentence]:
    """Say what the comparison of runs rests on."""
    how = (
        "All runs answered for the same samples, so they are compared sample by sample (accuracies of single "
        "trainings by McNemar's exact test, macro-F1 and all intervals by a bootstrap over pairs)"
        if found["same_samples"]
        else "Not all runs have answers for the same samples; where they have, they are compared sample by sample "
        "(McNemar's exact test, a bootstrap over pairs), else accuracies by the counts of right answers (Fisher's "
        "exact test), which sees only larger differences, and macro-F1 not at all"
    )
    seeds = [count for count in found["seeds"] if count > 1]
    return [
        f"{how}; accuracies on distorted images by counts."
        if len(found["rows"]) > 1
        else "There is one recipe, so nothing is compared.",
        "Recipes of several seeds are compared by Student's t over the spread of the seeds and of the samples together."
        if seeds and len(found["rows"]) > 1
        else None,
        "The p-values are adjusted for several comparisons (Holm). A run with p under 0.05 counts as worse than "
        "the best; for all other runs a difference is not shown, however large it looks."
        if len(found["rows"]) > 1
        else None,
        "One training a run says nothing about the spread between seeds."
        if not seeds
        else "Of recipes trained once the spread between seeds is not known."
        if len(seeds) < len(found["seeds"])
        else None,
        "Choosing the best of several by this table makes its score optimistic." if len(found["rows"]) > 1 else None,
        "The runs were scored on different numbers of samples, so their rows do not compare like with like."
        if found["sizes_differ"]
        else None,
    ]


def _settings(run: RunInputs) -> dict[str, Any]:
    config, model = run.config, run.model
    balance = f"replicate {config.per_class}" if config.balance == "replicate" else config.balance
    seconds = model.train_seconds
    return {
        "run": run.name,
        "seed": config.seed,
        "model": model.model,
        "parameters": model.parameters,
        "weights": _start(config),
        "image_size": model.image_size,
        "augmentation": augmentation_words(config),
        "balance": balance,
        "precision": model.precision,
        "epochs": len(run.history["epoch"]),
        "train_minutes": None if seconds is None else round(seconds / 60, 3),
        "device": model.device,
    }


def _start(config: TrainConfig) -> str:
    """Name the weights that a training began from: a file by its name alone."""
    if config.weights == "none":
        return "scratch"
    name = PurePath(config.weights).name.removesuffix(".safetensors")
    return name if config.freeze == "none" else f"{name}, frozen: {config.freeze}"


def _scores(evaluation: Evaluated | None) -> dict[str, Any]:
    scores = evaluation.scores if evaluation else None
    found: dict[str, Any] = {"n": scores.n if scores else None}
    for name in _SCORES:
        score = getattr(scores, name) if scores else None
        for column, key in ((name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")):
            found[column] = None if score is None else getattr(score, key)
    found["ece"] = scores.ece if scores else None
    return found | {f"f1_{name}": one.f1 for name, one in (scores.per_class if scores else {}).items()}


def _score_of(evaluation: Evaluated, score: str) -> float | None:
    found: float | None = _scores(evaluation)[score]
    return found


def _verdict(table: Sequence[Mapping[str, Any]], score: str) -> str | None:
    compared = {row["run"]: row[f"{score}_p"] for row in table if row.get(f"{score}_p") is not None}
    if not compared:
        return None
    best = next(row["run"] for row in table if score in row.get("leads", ()))
    same = [name for name, p in compared.items() if p >= _LEVEL]
    worse = [name for name, p in compared.items() if p < _LEVEL]
    what = {"accuracy": "accuracy", "distorted": "accuracy on distorted images", "macro_f1": "macro-F1"}[score]
    sentences = [f"The highest {what} is that of {best}."]
    sentences += [f"No difference from it can be claimed for {listed(same)}."] if same else []
    sentences += [f"Worse than it {'is' if len(worse) == 1 else 'are'} {listed(worse)}."] if worse else []
    return " ".join(sentences)


def _best(table: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, float]:
    """Return the best value of each column that has one, as it is printed, where there are at least two to compare."""
    best = {}
    for column in [*_SCORES, "ece", *(f"f1_{name}" for name in classes)]:
        found = {_printed(row, column) for row in table if row.get(column) is not None}
        if len(found) > 1:
            best[column] = min(found) if column == "ece" else max(found)
    return best


def _printed(row: Mapping[str, Any], column: str) -> float:
    """Round a value as the page prints it: what looks equal there is marked alike."""
    return round(float(row[column]), 3 if column.startswith("f1_") else 4)


def _cell(row: Mapping[str, Any], column: str, best: Mapping[str, float], *lines: str) -> Cell:
    if row.get(column) is None:
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
        lines = [percent(row[score], 2), *_spread(row, score)]
        lines += [f"n = {thousands(row['n'])}"] if counted and score == "accuracy" and row["n"] else []
        scores.append(_cell(row, score, best, *lines))
    if row["accuracy"] is None:
        scores[0] = "not evaluated"
    ece = ABSENT if row["ece"] is None else f"{row['ece']:.4f}"
    seeds = row["seeds"]
    name = {"lines": [row["run"], f"seeds {', '.join(map(str, seeds))}"], "best": False}
    return [
        name if len(seeds) > 1 else row["run"],
        *({"lines": lines, "best": False} for lines in (model, method)),
        *scores,
        _cell(row, "ece", best, ece),
        {"lines": [duration(seconds), epochs, *([row["device"]] if row["device"] else [])], "best": False},
    ]


def _class_row(row: Mapping[str, Any], classes: Sequence[str], best: Mapping[str, float]) -> list[Cell]:
    return [row["run"], *(_cell(row, f"f1_{name}", best, f"{row.get(f'f1_{name}') or 0:.3f}") for name in classes)]


def _difference_row(row: Mapping[str, Any]) -> list[Cell]:
    cells: list[Cell] = [row["run"]]
    for score in COMPARED:
        value, p = row.get(f"{score}_less_best"), row.get(f"{score}_p")
        if value is None or p is None:
            cells += ["the best" if score in row.get("leads", ()) else ABSENT, ABSENT]
            continue
        ends = _ends(row[f"{score}_less_best_low"], row[f"{score}_less_best_high"], signed=True)
        cells.append({"lines": [_signed(value, 2), ends], "best": False})
        cells.append("<\N{NO-BREAK SPACE}0.001" if p < 0.001 else number(p, 2))
    return cells


def _spread(row: Mapping[str, Any], score: str) -> list[str]:
    """Return the lines under a score: its interval, or over several seeds its standard deviation and range."""
    if len(row["seeds"]) == 1:
        return [_ends(row[f"{score}_low"], row[f"{score}_high"])]
    if row[score] is None:
        return []
    low, high = (f"{100 * row[f'{score}_{end}']:.2f}" for end in ("min", "max"))
    return [f"SD{_NO_BREAK}{100 * row[f'{score}_sd']:.2f}", f"{low} to {high}"]


def _ends(low: float | None, high: float | None, *, signed: bool = False) -> str:
    if low is None or high is None:
        return ABSENT
    ends = [_signed(end, 1) if signed else f"{100 * end:.1f}" for end in (low, high)]
    return f"[{ends[0]},{_NO_BREAK}{ends[1]}]"


def _signed(share: float, digits: int) -> str:
    return f"{round(100 * share, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _listed(*words: str | None) -> str:
    return ", ".join(word for word in words if word)
