"""The audit to small images in files: cells of each class and what was found, for the report to show.

Needs Pillow; no torch.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hemalens.core.artifacts import write_atomically
from hemalens.core.audit_summary import LikenessMap, ShownImage
from hemalens.core.errors import UserError
from hemalens.core.page import encode_image
from hemalens.data.audit import issues
from hemalens.data.audit.checks.finding import Finding
from hemalens.data.audit.page import AuditView
from hemalens.data.sources.entries import escape

__all__ = ["write_images"]

_EACH_CLASS = 2
_EACH_FINDING = 8
_SIDE = 128  # pixels: as large as paper and a page show them


def write_images(view: AuditView, out: Path) -> tuple[dict[str, tuple[ShownImage, ...]], LikenessMap]:
    """Write images into ``out/images`` and return what ``audit.json`` says of them and of the map.

    Under ``classes`` come readable cells of each class that nothing suggests to drop, nearest to the middle of their
    class first, then half way out; under each issue that the report shows the surest findings, each image once.
    """
    (out / "images").mkdir(exist_ok=True)
    shown: dict[str, list[ShownImage]] = {"classes": []}
    for number, name in enumerate(view.source.classes):
        for number_of, index in enumerate(_members(view, name)):
            shown["classes"] += _written(view, index, out, f"class-{number + 1:02d}-{number_of + 1}", name)
    for issue in (one for one in issues.ISSUES if one.in_report):
        elsewhere = {finding.index for finding in view.findings if finding.issue == issue.apart_from}
        findings = [one for one in view.findings if one.issue == issue.name and one.index not in elsewhere]
        shown[issue.name] = []
        for number_of, (finding, copies) in enumerate(_distinct(view, findings)):
            words = finding.brief or (f"{copies} copies" if copies > 1 else "")
            shown[issue.name] += _written(view, finding.index, out, f"{issue.name}-{number_of + 1}", words)
    explained = tuple(round(float(share), 4) for share in view.analysis.explained[:2])
    likeness = LikenessMap(explained=explained, limit=round(float(view.analysis.threshold), 3))
    return {name: tuple(images) for name, images in shown.items()}, likeness


def _members(view: AuditView, name: str) -> list[int]:
    """Return cells of one class: the nearest to its middle on the map, then those at equal steps to the median."""
    dropped = {finding.index for finding in view.findings if finding.suggestion == "drop"}
    samples, readable = view.source.samples, np.flatnonzero(view.statistics.readable).tolist()
    members = np.array([i for i in readable if samples[i].label == name and i not in dropped], dtype=np.int64)
    if not len(members):
        return []
    scores = view.analysis.scores[members]
    order = members[np.argsort(np.square(scores - np.median(scores, axis=0)).sum(axis=1), kind="stable")]
    steps = [index * len(order) // (2 * max(_EACH_CLASS - 1, 1)) for index in range(_EACH_CLASS)]
    return [int(order[step]) for step in dict.fromkeys(steps) if step < len(order)]


def _distinct(view: AuditView, findings: Sequence[Finding]) -> list[tuple[Finding, int]]:
    """Return the surest findings, each image once, with the number of its copies among them."""
    contents = view.statistics.column("pixel_sha256")
    copies = Counter(contents[finding.index] for finding in findings)
    first: dict[object, Finding] = {}
    for finding in sorted(findings, key=lambda one: -one.score):
        first.setdefault(contents[finding.index], finding)
    return [(finding, copies[content]) for content, finding in list(first.items())[:_EACH_FINDING]]


def _written(view: AuditView, index: int, out: Path, name: str, words: str) -> list[ShownImage]:
    """Write one image; none where it cannot be read."""
    try:
        data, kind = encode_image(view.source.image(index).pixels, quality=90, max_side=_SIDE)
    except UserError:
        return []
    file = f"images/{name}.{kind.removeprefix('image/').replace('jpeg', 'jpg')}"
    write_atomically(out / file, lambda handle: handle.write(data))
    sample = view.source.samples[index]
    return [ShownImage(file=file, sample_id=escape(sample.sample_id), label=sample.label or "", words=words)]
