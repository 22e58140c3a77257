"""A source whose images kill their workers, and what workers do; light to import, as each worker imports it."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hemalens.core.types import Sample
from hemalens.data.sources.source import Source
from tests.data.hostile import cell, encode


@dataclass(frozen=True, eq=False, kw_only=True)
class Deadly(Source):
    """A source of which some images take their process down, as a broken decoder would."""

    killers: tuple[str, ...]
    here: int

    def fingerprint(self) -> str:
        return ""

    def _read(self, index: int) -> bytes:
        name = self.samples[index].sample_id
        if name in self.killers:
            assert os.getpid() != self.here, "only workers may die"
            os._exit(139)
        return encode(cell(8, int(name.partition(".")[0])))


def deadly(count: int, *killers: int) -> Deadly:
    samples = tuple(Sample(f"{number}.png") for number in range(count))
    names = tuple(f"{number}.png" for number in killers)
    return Deadly(spec="deadly", kind="folder", samples=samples, classes=(), killers=names, here=os.getpid())


def told(source: Source, indices: Sequence[int], *, offset: int = 0) -> list[tuple[str, int, int]]:
    return [(source.samples[row].sample_id, index + offset, len(source.read(row))) for row, index in enumerate(indices)]


def slowly(source: Source, indices: Sequence[int]) -> list[int]:
    time.sleep(0.2)
    return [os.getpid()] * len(indices)
