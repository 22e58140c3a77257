"""What a command shows: bars while it works, and its summary as lines or as one JSON object."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from hemalens.core.audit_summary import AuditSummary
from hemalens.core.evaluation_summary import Evaluation
from hemalens.core.types import Progress

__all__ = [
    "SHOWN",
    "abstention_lines",
    "adaptation_lines",
    "announce",
    "announce_service",
    "audit_lines",
    "check_lines",
    "clean_lines",
    "corruption_lines",
    "package_lines",
    "parity_lines",
    "rate_lines",
    "review_lines",
    "score_lines",
    "show",
    "speaks",
    "verify_lines",
    "watched",
]

SHOWN = 12  # lines of a list on the screen


@contextmanager
def watched() -> Iterator[Progress]:
    """Draw a bar per step on stderr where that is a terminal; the functions themselves never print."""
    console = Console(stderr=True)
    counts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns = (*counts, TextColumn("left"), TimeRemainingColumn())
    # In a file or a pipe the last state of the bars would stand before the one line of an error.
    with Bars(*columns, console=console, disable=not (console.is_terminal and speaks())) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def show(summary: Mapping[str, Any], as_json: bool, lines: list[str]) -> None:
    """Print a command's summary: its lines, or all of it as one JSON object; of several processes the first speaks."""
    if speaks():
        print(json.dumps(summary, ensure_ascii=False) if as_json else "\n".join(lines))


def speaks() -> bool:
    """Tell whether this process speaks for all that torchrun started (there is one where it started none)."""
    return os.environ.get("RANK", "0") == "0"


def audit_lines(summary: AuditSummary) -> list[str]:
    """Return what an audit found: counts of each class before and after, samples of each issue and what it means."""
    lines = [f"{_samples(summary.n_samples)}, {summary.suggested_drops} suggested to drop"]
    width = max([len(name) for name in summary.classes], default=0)
    for name, counts in summary.classes.items():
        lines.append(f"  {name or '(no label)':<{width}} {counts.before:>7} -> {counts.after}")
    width = max([len(name) for name in summary.issues], default=0)
    for name, found in summary.issues.items():
        groups = f" in {found.groups} group{'s' if found.groups > 1 else ''}" if found.groups else ""
        lines.append(f"  {name:<{width}}  {_samples(found.samples)}{groups}: {found.words}")
    return lines


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def clean_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return how many samples were kept, and how many of them under another label."""
    other = f", {summary['relabelled']} under another label" if summary["relabelled"] else ""
    return [f"kept {summary['kept']} of {summary['n_samples']} samples{other} in {summary['out']}"]


def announce(address: str) -> None:
    """Say on stderr, at once, where a page waits and how to end it; stdout is for the summary."""
    print(f"review at {address}\nCtrl-C ends it; every decision is kept", file=sys.stderr, flush=True)


def announce_service(address: str) -> None:
    """Say on stderr, at once, where the server listens and how to end it; stdout is for the summary."""
    print(f"serving at {address}\nCtrl-C ends it; not for diagnosis", file=sys.stderr, flush=True)


def review_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what the decisions come to, and the command that follows them."""
    counts = f"{summary['kept']} samples kept, {summary['relabelled']} of them under another label"
    return [f"{counts}, {summary['dropped']} dropped; next: {summary['command']}"]


def rate_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the suggestion and every n-th point of the curve, so that the table stays small."""
    curve = summary["curve"]
    step = max(1, -(-len(curve) // SHOWN))
    lines = [f"suggested lr {summary['suggestion']:.2g} (the recipe has {summary['configured']:g})", "       lr   loss"]
    return lines + [f"{point['lr']:>9.2g}  {point['loss']:.3f}" for point in curve[::step]]


def parity_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return how an export compares with torch and, where asked for, whether it uses 8-bit integers."""
    equal = f"same label as torch for {summary['labels_equal']} of {summary['n']} images"
    lines = [f"{equal}, logits within {summary['logits_max_difference']:.1g}; compared on {summary['images']}"]
    if tried := summary["int8"]:
        lines.append(f"8-bit integers {'used' if tried['kept'] else 'not used'}: {tried['reason']}")
    return lines


def score_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return accuracy, macro F1 and accuracy under distortions in percent, with their intervals."""
    scored = [facts["support"] > 0 for facts in summary.get("per_class", {}).values()]
    few = "" if all(scored) else f" (labels of {sum(scored)} of {len(scored)} classes)"
    names = {"accuracy": "accuracy", "macro_f1": f"macro F1{few}", "distorted": "accuracy under distortions"}
    return [
        f"{words}: {100 * summary[key]['value']:.2f} % "
        f"[{100 * summary[key]['low']:.2f}, {100 * summary[key]['high']:.2f}]"
        for key, words in names.items()
        if key in summary
    ]


def abstention_lines(summary: Evaluation) -> list[str]:
    """Return how often the model abstains on labelled samples, how the rest is answered, and on unknown classes."""
    found = summary.abstention
    lines = [f"abstained on {100 * (1 - found.coverage):.1f} % of {summary.n:,} samples"]
    if found.accuracy_kept is not None:
        lines[0] += f"; {100 * found.accuracy_kept:.2f} % of its answers are correct"
    if unknown := found.unknown_classes:
        share = f"{100 * unknown.abstained.value:.1f} %"
        lines.append(f"abstained on {share} of {unknown.n:,} samples of classes that it does not know")
    return lines


def adaptation_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return how the images were rescaled for the model, where that was asked for."""
    return [f"adaptation: {summary['adaptation']['words']}"] if "adaptation" in summary else []


def package_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what was packed and how to check it."""
    several = "" if summary["models"] == 1 else f" of {summary['models']} models"
    turned = ", over 8 symmetries" if summary["tta"] else ""
    size = f"{summary['bytes'] / 1e6:.1f} MB"
    lines = [f"{size}{several}, run by {summary['runtime']}{turned}, in {summary['out']}"]
    return [*lines, f"check it: hemalens package --check {summary['out']} SOURCE"]


def check_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what a checked submission costs, and what was noticed."""
    rate, memory = summary["images_per_second"], summary["peak_memory_mb"]
    cost = f"{summary['n']} images, {rate:.0f} a second, {memory:.0f} MB at most"
    return [f"{cost}; sandbox: {summary['isolation']}", *summary["notes"]]


def corruption_lines(summary: Evaluation) -> list[str]:
    """Return the mean balanced error over the corrupted sets, against the AlexNet's where the classes are the same."""
    found, facts = summary.corruptions, summary.corruption_facts
    if found is None or facts is None:
        return []
    line = f"balanced error under corruptions: {100 * facts.mean_balanced_error:.2f} %"
    if found.be is None:
        return [line]
    return [f"{line} (BE {found.be:.3f}, rBE {found.rbe:.3f}; 1 is the AlexNet of MedMNIST-C)"]


def verify_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return a line for each file that is not as recorded or not recorded, and the counts last."""
    lines = [
        f"{one['status']}: {one['file']}{' (' + one['note'] + ')' if one['note'] else ''}"
        for one in summary["files"]
        if one["status"] != "ok"
    ]
    counts = {"ok": "ok", "differs": "differ", "missing": "missing", "not_recorded": "not recorded"}
    return [*lines, ", ".join(f"{summary[key]} {words}" for key, words in counts.items())]
