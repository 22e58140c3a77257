"""The experiments of the course report and the ablation of `compact`, one after the other, into two tables.

The challenge file is audited, cleaned and split once; each experiment trains on that split, which also chooses its
epoch, and is scored on the validation file, which takes no part in any choice. A finished experiment is not run again,
a stopped one goes on from its last epoch: give the same command again. Writes `results/experiments.json` and
`docs/experiments.md`; with another --source, --out or any --set both go into the --out folder instead.

    python benchmarks/bench_experiments.py --list
    python benchmarks/bench_experiments.py --only compact
    python benchmarks/bench_experiments.py --summarise
"""

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conditions import BUILD, RESULTS, challenge, real_data, record
from hemalens.core.artifacts import read_provenance, write_text
from hemalens.core.provenance import sha256_file
from hemalens.core.text import duration, markdown, percent, thousands
from hemalens.evaluation.evaluate import evaluate
from hemalens.report.inputs import RunInputs, load_inputs
from hemalens.report.report import report
from hemalens.report.sections.experiments import experiments_table, verdicts
from hemalens.training.recipes import recipe_names
from hemalens.training.train import train
from prepared import prepare

ABLATION_EPOCHS = 6
# Under `replicate` an epoch is 16,000 images, 125 steps of 128, whatever the set holds; without balancing it is one
# pass over the training samples, 77 steps. Ten such epochs have 770 steps, six of the others 750.
UNBALANCED_EPOCHS = 10
PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
MOBILENET, VGG16 = "mobilenetv2_100.imagenet.safetensors", "HEMALENS_VGG16_WEIGHTS"
FLIPS = ("flip", "quarter")
EXPERIMENTS, ABLATION, ABLATED = "experiments", "ablation", "compact"


@dataclass(frozen=True)
class Weights:
    """A file of weights: where it lies here (None: nowhere), how commands name it, what it is."""

    path: Path | None
    shown: str
    words: str


@dataclass(frozen=True)
class Experiment:
    """One row: a recipe, what is set over it, and the weights that it starts from."""

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    table: str = EXPERIMENTS
    weights: Weights | None = None

    def folder(self, out: Path) -> Path:
        """Return where its run lies; the last part is its name in the tables."""
        return out / "runs" / self.table / self.name

    def why_not(self) -> str | None:
        """Say why it cannot be run here, None where it can."""
        if self.recipe not in recipe_names():
            return f"not run: there is no recipe {self.recipe}"
        if self.weights and not (self.weights.path and self.weights.path.is_file()):
            return f"not run: needs {self.weights.words} ({self.weights.shown})"
        return None

    def all_settings(self) -> tuple[str, ...]:
        """Return every setting over the recipe."""
        return (*self.settings, f"weights={self.weights.path}") if self.weights else self.settings

    def commands(self) -> list[str]:
        """Return the commands that do the same by hand."""
        words = ["hemalens", "train", "clean.npz", "--splits", "splits.csv", "--recipe", self.recipe]
        words += [word for setting in self.settings for word in ("--set", setting)]
        start = f' --set "weights={self.weights.shown}"' if self.weights else ""
        out = self.folder(Path()).as_posix()
        score = ["hemalens", "evaluate", out, "val_set.npz", "--out", f"{out}/evaluation"]
        return [f"{shlex.join(words)}{start} --out {out}", shlex.join(score)]


def ablation(name: str, steps: Sequence[str], *settings: str, epochs: int = ABLATION_EPOCHS) -> Experiment:
    augment = ",".join(f'{{name="{step}"}}' for step in steps)
    own = (f"epochs={epochs}", f"augment=[{augment}]", *settings)
    return Experiment(name, ABLATED, own, ABLATION)


def experiments() -> list[Experiment]:
    data = os.environ.get("HEMALENS_DATA")
    home = os.environ.get("HEMALENS_WEIGHTS") or (str(Path(data).resolve().parent / "weights") if data else None)
    mobilenet = Weights(
        Path(home) / MOBILENET if home else None, f"$HEMALENS_WEIGHTS/{MOBILENET}", "ImageNet weights of MobileNetV2"
    )
    given = os.environ.get(VGG16)
    vgg16 = Weights(Path(given) if given else None, f"${VGG16}", "ImageNet weights of VGG16")
    return [
        Experiment("baseline", "baseline"),
        Experiment("compact", "compact"),
        Experiment("robust", "robust"),
        Experiment("mobilenet-transfer", "mobilenet-transfer", weights=mobilenet),
        Experiment("vgg16-transfer", "vgg16-transfer", weights=vgg16),
        Experiment("vgg16-finetune", "vgg16-finetune", weights=vgg16),
        ablation("no-augmentation", ()),
        ablation("flips", FLIPS),
        ablation("randaugment", (*FLIPS, "randaugment")),
        ablation("augmix", (*FLIPS, "augmix")),
        ablation("augmix-mix", (*FLIPS, "augmix"), "mix=both"),
        ablation("augmix-mix-cutout", (*FLIPS, "augmix", "cutout"), "mix=both"),
        ablation("flips-unbalanced", FLIPS, "balance=none", epochs=UNBALANCED_EPOCHS),
        ablation("flips-fp32", FLIPS, "precision=fp32"),
    ]


def perform(one: Experiment, cleaned: Path, splits: Path, given: argparse.Namespace) -> None:
    """Train and score an experiment, or go on with it; what is finished already is left alone."""
    out = one.folder(given.out)
    settings = (*one.all_settings(), *given.set)
    train(cleaned, out, splits=splits, recipe=one.recipe, settings=settings, resume=True, overwrite=True)
    if not scored(out):
        evaluate(out, given.validation, out / "evaluation", overwrite=True)


def scored(run: Path) -> bool:
    """Tell whether a run was trained to its end and its very model evaluated."""
    made = read_provenance(run / "evaluation") if (run / "evaluation").is_dir() else None
    if made is None or not run.is_dir() or read_provenance(run) is None:
        return False
    return sha256_file(run / "model.safetensors") in made["inputs"].values()


def summarise(listed: Sequence[Experiment], given: argparse.Namespace) -> None:
    """Write the tables and reports of all that is finished, and name what is not."""
    done = [one for one in listed if scored(one.folder(given.out))]
    if not done:
        print("nothing is finished yet: no table was written")
        return
    missing = {one.name: one.why_not() or "not run: its turn has not come" for one in listed if one not in done}
    figures: dict[str, Any] = {"not_run": missing}
    parts: list[str] = []
    for table, title in ((EXPERIMENTS, "Experiments"), (ABLATION, f"Ablation of `{ABLATED}`")):
        members = [one for one in done if one.table == table]
        if not members:
            continue
        folders = [one.folder(given.out) for one in members]
        runs = load_inputs(folders).runs
        rows = experiments_table(runs).to_dicts()
        figures[table] = [row | facts(run, one) for row, run, one in zip(rows, runs, members, strict=True)]
        parts += ["", f"## {title}", "", *markdown_table(rows)]
        parts += [line for verdict in verdicts(rows) for line in ("", verdict)]
        report(folders, given.out / f"report-{table}", overwrite=True)
    record(
        "experiments",
        figures,
        folder=RESULTS if given.usual else given.out,
        source=given.source.name,
        validation=given.validation.name,
        set_over_all=given.set,
        seeds=1,
    )
    write_text(PAGE if given.usual else given.out / PAGE.name, page(parts, done, missing, figures))


def facts(run: RunInputs, one: Experiment) -> dict[str, Any]:
    """Return what tells where a row came from: commands, commit, machine, steps of training."""
    kept = {key: run.provenance.get(key) for key in ("time", "commit", "dirty", "hardware")}
    config, model = run.config, run.model
    shown = len(model.classes) * config.per_class if config.balance == "replicate" else model.n_train
    steps = len(run.history["epoch"]) * max(shown // config.batch_size, 1)
    return {"commands": one.commands(), "steps": steps, "threads": model.threads, **kept}


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write the rows of an experiments table as Markdown: settings and scores, then F1 of each class."""
    head = ["run", "model", "parameters", "start", "px", "augmentation", "balance", "precision", "epochs"]
    head += ["accuracy [95 %]", "distorted [95 %]", "macro-F1", "ECE", "training"]
    best = {name: max(row[name] for row in rows) for name in ("accuracy", "distorted", "macro_f1")}
    best["ece"] = min(row["ece"] for row in rows)
    body = []
    for row in rows:
        cells = [row["run"], row["model"], thousands(row["parameters"]), row["weights"]]
        cells += [row["image_size"], row["augmentation"], row["balance"], row["precision"], row["epochs"]]
        cells = [markdown(cell) for cell in cells]
        for name in ("accuracy", "distorted"):
            ends = f" [{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]"
            cells.append(strong(percent(row[name], 2), bold=row[name] == best[name]) + ends)
        cells.append(strong(percent(row["macro_f1"], 2), bold=row["macro_f1"] == best["macro_f1"]))
        cells.append(strong(f"{row['ece']:.4f}", bold=row["ece"] == best["ece"]))
        body.append([*cells, duration(60 * row["train_minutes"])])
    classes = [key for key in rows[0] if key.startswith("f1_")]
    most = {key: max(round(row[key], 3) for row in rows) for key in classes}
    scores = [
        [
            markdown(row["run"]),
            *(strong(f"{row[key]:.3f}", bold=round(row[key], 3) == most[key]) for key in classes),
        ]
        for row in rows
    ]
    by_class = lines(["F1", *(key.removeprefix("f1_") for key in classes)], scores)
    return [*lines(head, body), "", *by_class]


def lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def strong(text: str, *, bold: bool) -> str:
    return f"**{text}**" if bold else text


def page(
    parts: Sequence[str], done: Sequence[Experiment], missing: Mapping[str, str], figures: Mapping[str, Any]
) -> str:
    """Put the page together: the tables, what was not run, the conditions, the command of every row."""
    rows = [row for table in (EXPERIMENTS, ABLATION) for row in figures.get(table, [])]
    machines = sorted({f"{row['hardware'].get('cpu')}, {row['threads']} threads, {row['device']}" for row in rows})
    commits = sorted({str(row["commit"])[:10] + (" with changes" if row["dirty"] else "") for row in rows})
    steps = "; ".join(f"{row['run'].removeprefix('ablation-')} {row['steps']}" for row in figures.get(ABLATION, []))
    text = [
        "# Experiments",
        "",
        "Written by `benchmarks/bench_experiments.py` from what its runs left; every figure is in",
        "`benchmarks/results/experiments.json`. All train on one split of the cleaned challenge file, which also",
        f"chooses the epoch, and are scored on the validation file (n = {rows[0]['n']}), which takes no part in any",
        "choice. One seed each: the spread between seeds is not in the intervals. Distorted: the same images under",
        "strong, mixed, seeded distortions. ECE: expected calibration error. Bold: the best of a column. P-values:",
        "McNemar's exact test on the same samples, for distorted images Fisher's on counts, adjusted by Holm's",
        "method; a run is called worse under 0.05.",
        *parts,
    ]
    if steps:
        text += [
            "",
            f"All rows of the ablation are set to {ABLATION_EPOCHS} epochs of 2000 images a class; the unbalanced",
            f"one to {UNBALANCED_EPOCHS} passes over the training samples, which are as many steps. Steps: {steps}.",
        ]
    if missing:
        text += ["", "## Left out", "", *(f"- {markdown(name)}: {markdown(why)}" for name, why in missing.items())]
    text += ["", "## Conditions", "", f"- machine: {'; '.join(machines)}", f"- commit: {', '.join(commits)}"]
    text += ["", "## The command of every row", "", "    hemalens audit training_set.npz --out audit"]
    text += ["    hemalens clean training_set.npz --audit audit --out clean.npz"]
    text += ["    hemalens split clean.npz --out splits.csv"]
    text += [f"    {command}" for one in done for command in one.commands()]
    return "\n".join(text) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the experiments and how far they are")
    parser.add_argument("--only", metavar="NAME", action="append", help="run this one; may be repeated")
    parser.add_argument("--summarise", action="store_true", help="write the tables anew, run nothing")
    parser.add_argument("--source", type=Path, help="labelled source in place of the challenge file")
    parser.add_argument("--validation", type=Path, help="what to score on then")
    parser.add_argument("--out", type=Path, default=BUILD / "experiments", help="folder of the runs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over every experiment")
    given = parser.parse_args()
    if (given.source is None) != (given.validation is None):
        parser.error("--source and --validation: give both or neither")
    known = [one.name for one in experiments()]
    if unknown := [name for name in given.only or () if name not in known]:
        parser.error(f"--only {unknown[0]}: must be one of {', '.join(known)}")
    given.usual = not (given.source or given.set) and given.out == BUILD / "experiments"
    return given


def main() -> None:
    given, listed = arguments(), experiments()
    if given.list:
        for one in listed:
            state = "finished" if scored(one.folder(given.out)) else one.why_not() or "to run"
            print(f"{one.name}: {state}\n    {one.commands()[0]}")
        return
    if given.source is None:
        real_data()
        given.source, given.validation = challenge(), challenge(validation=True)
    if not given.summarise:
        cleaned, splits = prepare(given.source, given.out / "data")
        for one in listed:
            if given.only and one.name not in given.only:
                continue
            print(f"== {one.name}: {one.why_not() or 'runs'}", flush=True)
            if one.why_not() is None:
                perform(one, cleaned, splits, given)
    summarise(listed, given)


if __name__ == "__main__":
    main()
