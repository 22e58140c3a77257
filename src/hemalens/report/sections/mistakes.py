"""From stored mistakes and heat maps to what a report shows of them: images, and whether the maps mean something.

A mistake whose heat map is there stands beside it; both stages that draw maps, ``evaluate`` and ``explain``, feed the
same figure. Needs neither torch nor anything of training.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hemalens.core.evaluation_summary import Mistake
from hemalens.core.text import percent, thousands
from hemalens.report.document.blocks import Block, Gallery, Heading, Sentence, code, paragraph, reference
from hemalens.report.extras import Explanation, source_of
from hemalens.report.inputs import Evaluated, RunInputs
from hemalens.report.parts import stored_image

__all__ = ["map_verdict", "mistakes_blocks"]

_MISTAKES_SHOWN = 24
_MAPS_SHOWN = 8
_ARROW = "\N{RIGHTWARDS ARROW}"
_TIMES = " \N{MULTIPLICATION SIGN} "


def mistakes_blocks(run: RunInputs, *, flawless: bool) -> list[Block]:
    """Return the worst mistakes of a run's evaluation, beside their heat maps where there are any, and the maps' check.

    ``flawless`` says that no mistake was made.
    """
    evaluation, explanation = run.evaluation, run.explanation
    mistakes = evaluation.scores.worst_mistakes[:_MISTAKES_SHOWN] if evaluation else ()
    mapped = _mapped_mistakes(evaluation, explanation, mistakes) if evaluation else {}
    shown = list(mapped)[:_MAPS_SHOWN]
    items = [mapped[sample] for sample in shown]
    if explanation is not None:
        known = set(mapped) if evaluation and explanation.source == source_of(evaluation.provenance) else set()
        items += [one for sample, one in _explained(explanation, run) if sample not in known]
    items = items[:_MAPS_SHOWN]
    others = [
        _item(dict(one), stored_image(evaluation.directory, one.image))
        for one in mistakes
        if evaluation and one.sample_id not in shown
    ]
    heading = Heading("The worst mistakes and what the model looked at" if items else "The worst mistakes")
    blocks: list[Block] = [heading, *_words(mistakes, items, others, mapped=bool(mapped), flawless=flawless)]
    if items:
        blocks += [_maps_gallery(items), *_map_words(explanation)]
    if others:
        wide = len(others) > 8
        which = "Further wrong" if shown else "The wrong"
        caption = f"{which} answers that the model was most confident of, as true class {_ARROW} answer."
        blocks.append(Gallery("mistakes", caption, others, columns=8 if wide else 4, wide=wide))
    return blocks


def map_verdict(explanation: Explanation | None) -> str | None:
    """Say in one sentence whether heat maps were found to mean something, None where there are none."""
    if explanation is None:
        return None
    check = explanation.facts.check
    shown = "mean something" if check.verdict == "meaningful" else "were not shown to mean anything"
    return f"Heat maps of {thousands(check.n)} samples were tried against random maps and {shown}."


def _words(
    mistakes: Sequence[Mistake],
    items: list[dict[str, Any]],
    others: list[dict[str, Any]],
    *,
    mapped: bool,
    flawless: bool,
) -> list[Block]:
    """Say what the figures show, or why there is none."""
    found: list[Sentence] = []
    if not mistakes:
        found.append("There are none." if flawless else "No images of them were kept.")
    if items:
        what = "the wrong answers that the model was most confident of, each" if mapped else "samples, each"
        found.append((reference("maps"), f" shows {what} with a map of what speaks for the answer."))
    if others:
        rest = "further wrong answers" if items else "the wrong answers that the model was most confident of"
        found.append((reference("mistakes"), f" shows {rest}."))
    if mistakes:
        found.append("Where the answer looks right, the label is worth a second look.")
    return [paragraph(*found)]


def _mapped_mistakes(
    evaluation: Evaluated, explanation: Explanation | None, mistakes: Sequence[Mistake]
) -> dict[str, dict[str, Any]]:
    """Return sample -> what is shown, for the mistakes of which both image and map are there, worst first."""
    drawn: dict[str, str] = {}
    if explanation is not None and explanation.source == source_of(evaluation.provenance):
        drawn = dict(explanation.samples.select("sample_id", "map").iter_rows())
    found = {}
    for one in mistakes:
        heat = stored_image(evaluation.directory, one.map)
        if heat is None and explanation is not None:
            heat = stored_image(explanation.directory, drawn.get(one.sample_id))
        image = stored_image(evaluation.directory, one.image)
        if heat and image:
            found[one.sample_id] = _item(dict(one), image, beside=heat)
    return found


def _explained(explanation: Explanation, run: RunInputs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the samples that ``explain`` drew, mistakes first; it keeps images under their maps only."""
    rows = explanation.samples.to_dicts()
    known = set(run.model.classes)
    for one in sorted(rows, key=lambda row: row["label"] not in known or row["label"] == row["predicted"]):
        heat = stored_image(explanation.directory, one["map"])
        if heat:
            yield one["sample_id"], _item(one, heat)


def _item(one: Mapping[str, Any], uri: str | None, *, beside: str | None = None) -> dict[str, Any]:
    label, predicted = one["label"], one["predicted"]
    told = {
        None: (f"named {predicted}", f"named {predicted}"),
        predicted: (f"{predicted}, named rightly", f"{predicted}, named rightly"),
    }.get(label, (f"{label} {_ARROW} {predicted}", f"{label}, taken for {predicted}"))
    item = {
        "uri": uri,
        "alt": f"{one['sample_id']}: {told[1]}",
        "lines": [told[0], f"{percent(one['confidence'], 0)} sure", str(one["sample_id"])],
    }
    return item | ({"beside": {"uri": beside, "alt": f"what in it speaks for {predicted}"}} if beside else {})


def _maps_gallery(items: list[dict[str, Any]]) -> Gallery:
    pairs = sum("beside" in one for one in items)
    alone = " A single image was kept under its map only." if 0 < pairs < len(items) else ""
    caption = (
        f"Samples, the worst mistakes first, as true class {_ARROW} answer, {'beside' if pairs else 'shown as'} the "
        "same image under the colours of what speaks for the answer, from blue (a little) to yellow (the most); "
        f"where it looks as it came, nothing does.{alone}"
    )
    wide = len(items) + pairs > 8
    return Gallery("maps", caption, items, columns=8 if wide else 4, wide=wide)


def _map_words(explanation: Explanation | None) -> list[Block]:
    """Say whether the maps passed the check against random ones, and what maps can and cannot say."""
    limits = (
        "A map shows where the network found what it took for the class; it does not show why that is so, nor that a "
        "person who knows cells would look there."
    )
    if explanation is None:
        unchecked = "Whether the maps of this model mean anything was not checked: run "
        command = code("hemalens explain RUN SOURCE --out DIR")
        return [paragraph((unchecked, command, "."), limits)]
    check, size = explanation.facts.check, explanation.facts.map_size
    verbs = {"deletion": "taken away", "insertion": "put back into a blurred image"}
    tried = (
        f"The maps are {explanation.facts.method}, no finer than their grid of {_TIMES.join(map(str, size))}. On "
        f"{thousands(check.n)} samples they were tried against random maps of the same grid (Petsiuk et al. "
        "2018): the probability of the answer should fall sooner when pixels go in their order, and rise sooner when "
        "pixels come in it."
    )
    told = [
        f"While pixels are {verbs[name]}, it is {game.maps:.3f} on average in the order of the maps and "
        f"{game.random:.3f} in a random one; the map does better on {percent(game.better, 0)} of the samples "
        f"({_probability(game.p)})."
        for name, game in check.games().items()
    ]
    meaningful = check.verdict == "meaningful"
    verdict = (
        "So the maps say something about this model."
        if meaningful
        else "So it is not shown that the maps say anything about this model, and nothing should be read from them."
    )
    return [paragraph(tried, *told, verdict), paragraph(limits)]


def _probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
