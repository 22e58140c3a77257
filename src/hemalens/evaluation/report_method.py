"""From a run's configuration to sentences on how the model was made; a key that is missing makes no sentence.

Needs neither torch nor anything of training.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hemalens.core.page import number, thousands
from hemalens.evaluation.report_inputs import RunInputs

__all__ = ["method_facts", "plain"]

_PRECISIONS = {
    "fp32": "32-bit floating point",
    "bf16": "mixed precision with bfloat16",
    "fp16": "mixed precision with 16-bit floating point and loss scaling",
}
_MIXES = {
    "mixup": "Pairs of pictures and of their labels were blended (mixup).",
    "cutmix": "Rectangles were exchanged between pictures and their labels mixed by area (CutMix).",
}


def method_facts(run: RunInputs) -> dict[str, Any]:
    """Return sentences on ``balance``, ``augmentation``, ``model`` and ``training``, and the facts of the loss."""
    config = run.config
    return {
        "balance": _balance(config),
        "augmentation": _augmentation(config),
        "model": _model(run),
        "training": [sentence for make in _TRAINING if (sentence := make(config))],
        "classes": len(run.model["classes"]),
        "smoothing": config.get("label_smoothing") or None,
        "weighted": config.get("balance") == "weights",
    }


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


def _balance(config: Mapping[str, Any]) -> str | None:
    size = config.get("per_class")
    each = f"{thousands(size)} samples a class" if isinstance(size, int) and size else "the size of the largest class"
    return {
        "none": "The classes were left at their natural frequencies.",
        "replicate": f"The training classes were balanced by replication, to {each}.",
        "weights": "Every class weighs in the loss by the inverse of its frequency.",
        "sampler": "Training samples were drawn with a probability inverse to the frequency of their class.",
    }.get(str(config.get("balance")))


def _augmentation(config: Mapping[str, Any]) -> list[str]:
    if "augment" not in config:
        return []
    operations = config["augment"]
    if not operations:
        sentences = ["No augmentation was used."]
    else:
        words = "; ".join(_operation(one) for one in operations)
        sentences = [f"Training pictures were augmented on the fly, each with its own parameters: {words}."]
    return sentences + [words for name, words in _MIXES.items() if name in str(config.get("mix") or "")]


def _operation(step: object) -> str:
    """Write one augmentation; a probability or strength of 1 is the rule and not said."""
    if not isinstance(step, Mapping):
        return plain(step)
    return plain({key: one for key, one in step.items() if key not in ("probability", "strength") or one != 1})


def _model(run: RunInputs) -> list[str]:
    config, model = run.config, run.model
    size = model.get("image_size") or config.get("image_size")
    seen = f" on pictures of {size} \N{MULTIPLICATION SIGN} {size} pixels" if isinstance(size, int) else ""
    sentences = [f"The model is {model['model']} with {thousands(model['parameters'])} parameters{seen}."]
    if "weights" in config:
        start = config["weights"]
        unstarted = start in (None, "none", "", False)
        sentences.append(
            "It was trained from random weights." if unstarted else f"It started from pretrained weights: {start}."
        )
    if config.get("freeze"):
        sentences.append(f"Frozen: {plain(config['freeze'])}.")
    if config.get("dropout"):
        sentences.append(f"Dropout before the last layer: {plain(config['dropout'])}.")
    return sentences


def _optimiser(config: Mapping[str, Any]) -> str | None:
    if "optimizer" not in config:
        return None
    parts = [f"the optimiser {config['optimizer']}"]
    parts += [f"a learning rate of {number(config['lr'])}"] if config.get("lr") is not None else []
    parts += [f"weight decay {number(config['weight_decay'])}"] if config.get("weight_decay") is not None else []
    parts += [f"batches of {config['batch_size']}"] if config.get("batch_size") else []
    return f"It was trained with {', '.join(parts)}."


def _schedule(config: Mapping[str, Any]) -> str | None:
    schedule = config.get("schedule")
    return f"The learning rate followed the schedule: {plain(schedule)}." if schedule else None


def _averaging(config: Mapping[str, Any]) -> str | None:
    ema = config.get("ema")
    if not ema:
        return None
    decay = f" (decay {number(ema, 6)})" if isinstance(ema, float) else ""
    return f"An exponential moving average of the weights was kept{decay}."


def _stopping(config: Mapping[str, Any]) -> str | None:
    patience, chosen_on = config.get("patience"), config.get("select_on")
    words = {"clean": "the clean validation set", "perturbed": "a perturbed validation set, which looks like the field"}
    kept = f"The weights kept are those of the best epoch on {words[chosen_on]}" if chosen_on in words else None
    stop = f"training stops after {patience} epochs without a better one" if patience else None
    parts = [part for part in (kept, stop) if part]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else None


def _precision(config: Mapping[str, Any]) -> str | None:
    words = _PRECISIONS.get(str(config.get("precision")))
    return f"Arithmetic: {words}." if words else None


_TRAINING: tuple[Callable[[Mapping[str, Any]], str | None], ...] = (
    _optimiser,
    _schedule,
    _averaging,
    _stopping,
    _precision,
)
