"""The corpus of bad files: images, things in folders, archives, arrays and tables, each with what must be said of it.

All of it is made by code from fixed seeds when a test asks; nothing is larger than a few MB on disk.
"""

from tests.data.corpus.arrays import arrays
from tests.data.corpus.case import Case, Outcome, Pile
from tests.data.corpus.images import images
from tests.data.corpus.tables import tables
from tests.data.corpus.tars import tars
from tests.data.corpus.things import plant, plant_things
from tests.data.corpus.zips import zips

__all__ = ["Case", "Outcome", "Pile", "images", "piles", "plant", "plant_things"]


def piles() -> list[Pile]:
    """Return every bad archive, array and table."""
    made = [*tars(), *zips(), *arrays(), *tables()]
    assert len({pile.name for pile in made}) == len(made)
    return made
