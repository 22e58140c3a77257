"""From a run's configuration to sentences on how the model was made.

Needs neither torch nor anything of training.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hemalens.core.config import AugmentStep, TrainConfig
from hemalens.core.text import listed, number, percent, thousands
from hemalens.core.types import CELL_CLASSES
from hemalens.report.document.blocks import (
    Block,
    Equation,
    Heading,
    Paragraph,
    Section,
    Span,
    Table,
    code,
    emphasis,
    paragraph,
    reference,
)
from hemalens.report.inputs import RunInputs, Splits

__all__ = ["method_facts", "method_section", "plain", "splits_table"]

_PRECISIONS = {
    "fp32": "32-bit floating point",
    "bf16": "mixed precision with bfloat16",
    "fp16": "mixed precision with 16-bit floating point and loss scaling",
}
_MIXES = {
    "mixup": "Pairs of images and of their labels were blended (mixup).",
    "cutmix": "Rectangles were exchanged between images and their labels mixed by area (CutMix).",
}


def method_facts(run: RunInputs) -> dict[str, Any]:
    """Return sentences on ``balance``, ``augmentation``, ``model`` and ``training``, and the facts of the loss."""
    config = run.config
    return {
        "balance": _balance(config),
        "augmentation": _augmentation(config),
        "model": _model(run),
        "training": [sentence for make in _TRAINING if (sentence := make(config))],
        "classes": len(run.model.classes),
        "smoothing": config.label_smoothing or None,
        "weighted": config.balance == "weights",
    }


def method_section(run: RunInputs) -> Section:
    """Return the section on how the model was made: cleaning, splits, augmentation, model, loss, training."""
    facts = method_facts(run)
    blocks: list[Block] = [*_cleaning(run), Heading("Splits and balance")]
    if run.splits is not None:
        groups = run.splits.groups
        where = reference("splits")
        divided = (
            f"The samples were divided into {_shares(run.splits)}; every class is spread over the splits alike "
            "(stratified), copies of one image stay in one split, and the numbers of "
        )
        blocks.append(
            paragraph(
                (divided, where, " are counted in splits.csv."),
                f"Samples carry {thousands(groups)} group names, and a group always stays in one split."
                if groups
                else "No sample carries a group name.",
            )
        )
        blocks.append(splits_table(run.splits))
    else:
        words = (
            "There is no table of splits beside this run (",
            code("splits.csv"),
            "): how the samples were divided ",
        )
        blocks.append(paragraph((*words, "is not known here."), note=True))
    blocks += [paragraph(facts["balance"])] if facts["balance"] else []
    if facts["augmentation"]:
        blocks += [Heading("Augmentation"), paragraph(*facts["augmentation"])]
    blocks += [Heading("Model"), paragraph(*facts["model"]), Heading("Loss"), *_loss(facts, run)]
    blocks += [Heading("Training"), _overfit(run)]
    blocks += [paragraph(*facts["training"])] if facts["training"] else []
    return Section("method", "Method", tuple(blocks))


def splits_table(splits: Splits) -> Table:
    """Return the table of how many samples of each class each part has, with the shares of the parts."""
    totals = {split: sum(counts.values()) for split, counts in splits.counts.items()}
    whole = max(sum(totals.values()), 1)
    labels = list(next(iter(splits.counts.values()), {}))
    rows = [[label, *(thousands(splits.counts[split][label]) for split in totals)] for label in labels]
    rows.append(["all", *(f"{thousands(n)} ({percent(n / whole)})" for n in totals.values())])
    return Table("splits", "Samples of each class in each split.", ("class", *totals), rows)


def plain(value: object) -> str:
    """Write a configuration value in words.

    >>> plain([{"name": "blur", "sigma": 1.5}, "flip"]), plain(None), plain([])
    ('blur (sigma 1.5); flip', 'none', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        rest = {key: one for key, one in value.items() if key != "name"}
        words = ", ".join(f"{key} {plain(one)}" for key, one in rest.items())
        if "name" not in value:
            return words
        return f"{value['name']} ({words})" if words else str(value["name"])
    if isinstance(value, (list, tuple)):
        inner = [plain(one) for one in value]
        if value and all(isinstance(one, (int, float)) for one in value):
            return " to ".join(inner) if len(inner) == 2 else ", ".join(inner)
        return "; ".join(inner) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cleaning(run: RunInputs) -> list[Block]:
    """Say what was left out; a run without a list of it says nothing."""
    if run.dropped is None:
        return []
    total = sum(run.dropped.values())
    ways = "; ".join(f"{thousands(count)} as {_found_as(run, issues)}" for issues, count in run.dropped.items())
    return [
        Heading("Cleaning"),
        paragraph(
            f"{thousands(total)} samples were left out before anything else, each with its reason in dropped.csv"
            + (f" ({ways})." if total else "."),
            "Of exact copies the first is kept; an image under several labels goes whole, since none of them can be "
            "believed; what shows no cell goes."
            if total
            else None,
            "What was kept is not changed.",
        ),
    ]


def _found_as(run: RunInputs, issues: str) -> str:
    """Write issues joined by ``; `` by the titles that the audit gives them."""
    known = run.audit.issues if run.audit else {}
    titles = [known[name].title.lower() if name in known else name.replace("_", " ") for name in issues.split("; ")]
    return listed(titles)


def _shares(splits: Splits) -> str:
    """Write the parts with their shares."""
    words = {"train": "training", "val": "validation", "test": "test"}
    totals = {split: sum(counts.values()) for split, counts in splits.counts.items()}
    whole = max(sum(totals.values()), 1)
    parts = [f"{words.get(split, split)} ({percent(count / whole)})" for split, count in totals.items()]
    return listed(parts)


def _loss(facts: Mapping[str, Any], run: RunInputs) -> list[Block]:
    """Return the loss as a formula over the classes that there are, and what stands in it."""
    smoothing, size = facts["smoothing"], facts["classes"]
    epsilon = "\N{GREEK SMALL LETTER EPSILON}"
    target: list[str | Span] = ["is 1 for the labelled class and 0 for every other"]
    if smoothing:
        target = [
            f"the label smoothed by {epsilon} = {number(smoothing)}: 1 \N{MINUS SIGN} {epsilon} + {epsilon}/",
            emphasis("C"),
            f" for the labelled class, {epsilon}/",
            emphasis("C"),
            " for every other",
        ]
    weight: list[str | Span] = ["; ", emphasis("w"), _below("c"), " is the weight of the class"]
    return [
        paragraph(
            (
                "Training minimises the cross-entropy between the labels and the predicted probabilities, over ",
                emphasis("N"),
                " samples and ",
                emphasis("C"),
                f" = {size} classes:",
            )
        ),
        _WEIGHTED if facts["weighted"] else _UNWEIGHTED,
        paragraph(
            (
                "Here ",
                emphasis("p"),
                _below("nc"),
                " is the softmax probability of class ",
                emphasis("c"),
                " for sample ",
                emphasis("n"),
                ", and ",
                emphasis("y"),
                _below("nc"),
                " ",
                *target,
                *(weight if facts["weighted"] else []),
                ".",
            ),
            "The original report on these data sums over 12 classes, a slip: there are 8."
            if set(run.model.classes) == set(CELL_CLASSES)
            else None,
        ),
    ]


def _below(text: str) -> Span:
    return Span(text, "subscript")


def _overfit(run: RunInputs) -> Paragraph:
    """Say whether the network was first shown to learn a few samples by heart."""
    found = run.overfit
    if found is None:
        words = (
            "Whether the network can learn a few samples of each class by heart, the check that comes before any "
            "regularisation, is not recorded beside this run ("
        )
        return paragraph((words, code("hemalens overfit-check"), ")."))
    learned = (
        f"learned all of them by heart after {found.epoch} epochs, so labels, loss and network fit together"
        if found.reached
        else f"named {percent(found.accuracy)} of them rightly after {found.epoch} epochs and did not learn them all"
    )
    return paragraph(
        f"First, with nothing to prevent learning by heart, it was trained on {thousands(found.n_samples)} "
        f"training samples: it {learned}."
    )


def _balance(config: TrainConfig) -> str:
    size = thousands(config.per_class)
    return {
        "none": "The classes were left at their natural frequencies.",
        "replicate": f"The training classes were balanced by replication, to {size} samples a class.",
        "weights": "Every class weighs in the loss by the inverse of its frequency.",
        "sampler": "Training samples were drawn with a probability inverse to the frequency of their class.",
    }[config.balance]


def _augmentation(config: TrainConfig) -> list[str]:
    if not config.augment:
        sentences = ["No augmentation was used."]
    else:
        words = "; ".join(_operation(one) for one in config.augment)
        sentences = [f"Training images were augmented on the fly, each with its own parameters: {words}."]
    return sentences + [words for name, words in _MIXES.items() if config.mix in (name, "both")]


def _operation(step: AugmentStep) -> str:
    """Write one augmentation; a probability or strength of 1 is the rule and not said."""
    return plain({key: one for key, one in dict(step).items() if key not in ("probability", "strength") or one != 1})


def _model(run: RunInputs) -> list[str]:
    config, model = run.config, run.model
    size = model.image_size
    seen = f" on images of {size} \N{MULTIPLICATION SIGN} {size} pixels"
    sentences = [f"The model is {model.model} with {thousands(model.parameters)} parameters{seen}."]
    started = "It was trained from random weights."
    sentences.append(started if config.weights == "none" else f"It started from pretrained weights: {config.weights}.")
    sentences += [f"Frozen: {config.freeze}."] if config.freeze != "none" else []
    dropout = f"Dropout before the last layer: {plain(config.dropout)}."
    sentences.append(dropout if config.dropout else "There is no dropout.")
    return sentences


def _optimiser(config: TrainConfig) -> str:
    parts = [
        f"the optimiser {config.optimizer}",
        f"a learning rate of {number(config.lr)}",
        f"weight decay {number(config.weight_decay)}",
        f"batches of {config.batch_size}",
    ]
    return f"It was trained with {', '.join(parts)}."


def _schedule(config: TrainConfig) -> str:
    return f"The learning rate followed the schedule: {config.schedule}."


def _averaging(config: TrainConfig) -> str | None:
    if not config.ema:
        return None
    return f"An exponential moving average of the weights was kept (decay {number(config.ema, 6)})."


def _stopping(config: TrainConfig) -> str:
    words = {"clean": "the clean validation set", "distorted": "a distorted validation set, which looks like the field"}
    kept = f"The weights kept are those of the best epoch on {words[config.select_on]}"
    kept += f"; training stops after {config.patience} epochs without a better one" if config.patience else ""
    return f"{kept}."


def _precision(config: TrainConfig) -> str:
    return f"Arithmetic: {_PRECISIONS[config.precision]}."


_TRAINING: tuple[Callable[[TrainConfig], str | None], ...] = (
    _optimiser,
    _schedule,
    _averaging,
    _stopping,
    _precision,
)

_MATHML = """<math display="block" aria-label="{words}">
<mi>L</mi><mo>=</mo><mo>\N{MINUS SIGN}</mo><mfrac><mn>1</mn><mi>N</mi></mfrac>
<munderover><mo>\N{N-ARY SUMMATION}</mo><mrow><mi>n</mi><mo>=</mo><mn>1</mn></mrow><mi>N</mi></munderover>
<munderover><mo>\N{N-ARY SUMMATION}</mo><mrow><mi>c</mi><mo>=</mo><mn>1</mn></mrow><mi>C</mi></munderover>
{weight}<msub><mi>y</mi><mrow><mi>n</mi><mi>c</mi></mrow></msub><mspace width="0.2em"/><mi>log</mi>\
<mspace width="0.2em"/><msub><mi>p</mi><mrow><mi>n</mi><mi>c</mi></mrow></msub>
</math>"""
_TYPST = "L = -1/N sum_(n=1)^N sum_(c=1)^C {weight} y_(n c) log p_(n c)"
_WORDS = (
    "L equals minus one over N times the sum over n from 1 to N of the sum over c from 1 to C of {weight}y n c times "
    "the "
    "logarithm of p n c"
)


def _cross_entropy(*, mathml: str = "", typst: str = "", words: str = "") -> Equation:
    spoken = _WORDS.format(weight=words)
    return Equation(_MATHML.format(words=spoken, weight=mathml), _TYPST.format(weight=typst), spoken)


_UNWEIGHTED = _cross_entropy()
_WEIGHTED = _cross_entropy(mathml="<msub><mi>w</mi><mi>c</mi></msub>", typst="w_c", words="w c times ")
