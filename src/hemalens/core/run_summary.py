"""What a training, the check before it and an explanation found: ``model.json``, ``overfit.json``, ``explain.json``."""

from typing import ClassVar, Literal

from hemalens.core.records import Record

__all__ = ["Explained", "Game", "MapCheck", "NeverLearned", "OverfitCheck", "OverfitEpoch", "TrainedModel"]


class TrainedModel(Record):
    """The contents of ``model.json``: what the model is, how it was chosen, what it cost.

    Attributes:
        schema_version: of this file.
        model: name of the network.
        weights: that the training began from.
        weights_sha256: of their file, None where there is none.
        freeze: which part was not trained.
        normalise: how pixels are scaled.
        classes: in the order of the logits.
        image_size: pixels per side that the network sees.
        parameters: numbers in the network.
        precision: of the arithmetic.
        device: that it was trained on.
        threads: of one process.
        best_epoch: whose weights were kept.
        epochs: that the training ran for.
        train_seconds: that they took.
        val_accuracy: of the weights kept.
        val_distorted_accuracy: the same on distorted images, None where it was not measured.
        n_train: training samples, repeats counted.
        n_val: validation samples.
        processes: that trained together.
    """

    written_by: ClassVar[str] = "train"

    schema_version: int
    model: str
    weights: str
    weights_sha256: str | None
    freeze: str
    normalise: str
    classes: tuple[str, ...]
    image_size: int
    parameters: int
    precision: str
    device: str
    threads: int
    best_epoch: int
    epochs: int
    train_seconds: float
    val_accuracy: float
    val_distorted_accuracy: float | None
    n_train: int
    n_val: int
    processes: int


class OverfitEpoch(Record):
    """One epoch of learning by heart."""

    epoch: int
    train_loss: float
    accuracy: float


class NeverLearned(Record):
    """A sample that the best epoch still gets wrong."""

    sample_id: str
    label: str
    predicted: str


class OverfitCheck(Record):
    """The contents of ``overfit.json``: whether a network can learn a few samples by heart.

    Attributes:
        reached: whether all were named rightly.
        epoch: the last one.
        n_samples: to be learned.
        accuracy: of the best epoch.
        model: name of the network.
        history: of the epochs.
        never_learned: samples that the best epoch gets wrong.
        meaning: what that says, in words.
    """

    written_by: ClassVar[str] = "overfit-check"

    reached: bool
    epoch: int
    n_samples: int
    accuracy: float
    model: str
    history: tuple[OverfitEpoch, ...]
    never_learned: tuple[NeverLearned, ...]
    meaning: str


class Game(Record):
    """A mean area under the maps, the same under random maps, and how often and how surely the maps do better."""

    maps: float
    random: float
    better: float
    p: float


class MapCheck(Record):
    """How heat maps do against random ones on ``n`` samples; without samples there are neither steps nor games."""

    n: int
    steps: int | None = None
    deletion: Game | None = None
    insertion: Game | None = None
    verdict: Literal["meaningful", "not shown"]

    def games(self) -> dict[str, Game]:
        """Return the games that were played."""
        found = {"deletion": self.deletion, "insertion": self.insertion}
        return {name: one for name, one in found.items() if one is not None}


class Explained(Record):
    """The contents of ``explain.json``: heat maps of samples, and whether they mean anything.

    Attributes:
        split: that was explained.
        source: the SOURCE as it was named.
        model: the MODEL as it was named.
        method: that drew the maps.
        map_size: height and width of their grid.
        n_samples: in the split.
        n_explained: of them.
        n_mistakes_explained: of these.
        check: against random maps.
        seconds: that it took.
    """

    written_by: ClassVar[str] = "explain"

    split: str
    source: str
    model: str
    method: str
    map_size: tuple[int, ...]
    n_samples: int
    n_explained: int
    n_mistakes_explained: int
    check: MapCheck
    seconds: float
