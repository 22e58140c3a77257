"""From what the stages recorded of themselves to how a run is made again: commands, versions, configuration, hashes.

Needs neither torch nor anything of training.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from hemalens.core.text import ABSENT
from hemalens.report.document.blocks import Block, Code, Facts, Heading, Section, Table, paragraph
from hemalens.report.inputs import ReportInputs
from hemalens.report.sections.method import plain

__all__ = ["Reproduction", "find_reproduction", "reproduction_section"]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What is needed to make a run again.

    Attributes:
        commands: as they were recorded.
        facts: term and what stands for it: version, commit, time, seed, machine, libraries.
        config: key and value of the whole configuration.
        trained_on: file that the training read -> SHA-256.
        made: file that the training wrote -> SHA-256.
        read: file that the report was made from -> SHA-256.
    """

    commands: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    config: tuple[tuple[str, str], ...]
    trained_on: Mapping[str, str]
    made: Mapping[str, str]
    read: Mapping[str, str]


def find_reproduction(inputs: ReportInputs) -> Reproduction:
    """Return how the run that a report describes at length is made again."""
    run = inputs.main
    facts = run.provenance
    hardware, libraries = facts.get("hardware", {}), facts.get("libraries", {})
    records = [facts, *(one.provenance for one in (run.evaluation, *run.elsewhere, run.explanation) if one)]
    state = " with uncommitted changes" if facts.get("dirty") else ""
    said = (
        ("Version", f"hemalens {facts.get('version', ABSENT)}"),
        ("Commit", f"{facts['commit']}{state}" if facts.get("commit") else "not run from a checkout"),
        ("Time", facts.get("time", ABSENT)),
        ("Seed", ABSENT if facts.get("seed") is None else facts["seed"]),
        ("Processor", f"{hardware.get('cpu', ABSENT)}, {hardware.get('cores', ABSENT)} cores"),
        ("Platform", hardware.get("platform", ABSENT)),
        ("Device", run.model.device),
        ("Libraries", ", ".join(f"{name} {found}" for name, found in libraries.items())),
    )
    return Reproduction(
        commands=tuple(dict.fromkeys("hemalens " + shlex.join(map(str, one.get("argv", []))) for one in records)),
        facts=tuple((term, str(value)) for term, value in said),
        config=tuple((key, plain(value)) for key, value in sorted(run.config.model_dump(mode="json").items())),
        trained_on=facts.get("inputs", {}),
        made={name: digest for name, digest in facts.get("outputs", {}).items() if "/" not in name},
        read=inputs.files,
    )


def reproduction_section(found: Reproduction) -> Section:
    """Return the section on how to make the run again."""
    caption = "The whole configuration (config.json)."
    blocks: list[Block] = [
        paragraph("The arguments as they were recorded:"),
        *(Code(command) for command in found.commands),
        Facts(found.facts),
        Table("config", caption, ("key", "value"), [list(row) for row in found.config], left=(1,)),
        Heading("Hashes (SHA-256)"),
    ]
    for name, hashes in (
        ("What the training read", found.trained_on),
        ("What the training wrote", found.made),
        ("What this report was made from", found.read),
    ):
        blocks += [Heading(name, 4), Facts(list(hashes.items()), hashes=True)] if hashes else []
    return Section("reproduction", "How to reproduce", tuple(blocks))
