"""Training as scikit-learn knows it: images and labels in, a classifier to score, search, pipe and pickle out.

A shell around ``train``: ``fit`` writes a run into a directory that is gone afterwards and keeps the run's files, so
that ``save`` gives what ``hemalens train`` would have written. Needs torch only to fit and to predict.
"""

import importlib
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from hemalens.core.abstention import Abstention, Judgement, confidence_rule, judge
from hemalens.core.artifacts import PROVENANCE, output_directory, write_atomically
from hemalens.core.config import TrainConfig, load_config
from hemalens.core.errors import ConfigError, MissingExtraError, SourceError
from hemalens.core.metrics import softmax
from hemalens.core.recorded import open_record
from hemalens.core.strict_json import parse_json
from hemalens.core.types import FloatArray, Progress, no_progress
from hemalens.data.reading.load import load_images
from hemalens.data.sources.given import GivenSource, ImageLike, open_images
from hemalens.data.sources.labels import name_labels
from hemalens.data.split import choose_splits
from hemalens.training.recipes import find_recipe, recipe_names

if TYPE_CHECKING:
    from sklearn.utils import Tags  # since scikit-learn 1.6; earlier ones ask for no tags

__all__ = ["Classifier"]

_DEFAULT_RECIPE = "compact"
_CHECKPOINTS = "checkpoints/"
Labels = npt.NDArray[Any]
"""Class names (str) or numbers, (N,)."""
Cells = Sequence[ImageLike] | npt.NDArray[Any]
"""Images: an array (N, H, W, 3) uint8, or a sequence of arrays, PIL images and paths, of any sizes."""


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of cell images to be trained, after scikit-learn's conventions.

    Wherever X is asked for, give an array (N, H, W, 3) uint8, or a list of images of any sizes: arrays, PIL images,
    paths of files. The parameters mean what they mean to ``hemalens train``; all are checked by ``fit``.

    Args:
        recipe: name of a training recipe, or a TOML file.
        settings: ``key=value`` texts over the recipe, for example ``("epochs=20", "threads=1")``.
        seed: of the weights, the order, the augmentation and the choice of validation images.
        validation_share: of the images given to ``fit``, drawn by class, copies in one split: these are not trained on
            but choose the epoch and set temperature and abstention.
        progress: called for the steps of ``fit``.

    Attributes:
        classes_: the distinct labels of y, sorted, (C,).
        image_size_: pixels per side that the network sees.
        card_: what ``model.json`` says: network, best epoch, scores, cost.
        history_: the scores of each epoch.
        abstention_: temperature and limits, as ``judge`` uses them.
    """

    classes_: Labels
    image_size_: int
    card_: dict[str, Any]
    history_: list[dict[str, Any]]
    abstention_: Abstention

    def __init__(
        self,
        recipe: str = _DEFAULT_RECIPE,
        settings: Sequence[str] = (),
        seed: int = 0,
        validation_share: float = 0.15,
        progress: Progress = no_progress,
    ) -> None:
        self.recipe = recipe
        self.settings = settings
        self.seed = seed
        self.validation_share = validation_share
        self.progress = progress

    @classmethod
    def from_run(cls, run: str | Path) -> Self:
        """Return the trained model of a RUN directory; fitted again it would train with the run's configuration.

        Raises ArtifactError where the run is unfinished or damaged, MissingExtraError without torch.
        """
        _require_torch()
        from hemalens.training.checkpoint import model_directory

        directory = model_directory(Path(run))
        made = cls()
        made._adopt(directory)
        options = open_record(directory, "train").options
        config = made._config()
        recipe = options.get("recipe", "")
        made.recipe = recipe if recipe in recipe_names() else _DEFAULT_RECIPE
        made.settings, made.seed = _settings_over(made.recipe, config), config.seed
        return made

    def fit(self, X: Cells, y: Sequence[Any] | Labels, groups: Sequence[Any] | None = None) -> Self:
        """Train on images and their labels; equal arguments give equal weights.

        Args:
            X: N images.
            y: their labels (N,): class names, or class numbers.
            groups: what must not be torn apart by the choice of validation images (N,): patients, slides.

        Raises:
            ConfigError: a parameter has a wrong value.
            SourceError: labels or groups do not fit the images, or there are too few.
            DecodeError: an image cannot be read.
            TrainingError: a loss is not finite.
            MissingExtraError: torch is not installed.
        """
        _require_torch()
        from hemalens.training.train import train

        if isinstance(self.settings, str):
            raise ConfigError(f"settings {self.settings}", "must be a sequence of texts", "put it into a tuple")
        settings = (*self.settings, f"seed={self.seed}")
        config = load_config(find_recipe(self.recipe), settings)
        source, classes = self._open(X, y, groups, seed=config.seed)
        with tempfile.TemporaryDirectory(prefix="hemalens-") as folder:
            run = Path(folder) / "run"
            train(source, run, recipe=self.recipe, settings=settings, progress=self.progress)
            self._adopt(run)
        self.classes_ = classes
        return self

    def predict(self, X: Cells) -> Labels:
        """Return the labels (N,) of images, of the kind that ``fit`` was given."""
        _, logits = self._outputs(X)
        labels: Labels = self.classes_[logits.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Cells) -> FloatArray:
        """Return calibrated probabilities (N, C) in the order of ``classes_``: logits over the temperature, softmax."""
        _, logits = self._outputs(X)
        return softmax(logits / self.abstention_.temperature)

    def decision_function(self, X: Cells) -> FloatArray:
        """Return calibrated logits (N, C); of two classes the second one's lead over the first (N,)."""
        _, logits = self._outputs(X)
        calibrated = logits / self.abstention_.temperature
        return calibrated[:, 1] - calibrated[:, 0] if len(self.classes_) == 2 else calibrated

    def judge(self, X: Cells) -> Judgement:
        """Return what is claimed of images, and of which nothing is, with the reason; ``predicted`` are numbers."""
        return judge(self.abstention_, *self._outputs(X))

    def save(self, run: str | Path, *, overwrite: bool = False) -> Path:
        """Write the RUN directory that ``evaluate``, ``explain``, ``export`` and ``report`` read; return its path.

        In it classes have names: numbers are named as in array files. Raises ArtifactError where something is in the
        way.
        """
        check_is_fitted(self)
        out = Path(run)
        record = json.loads(self._files[PROVENANCE])
        with output_directory(out, "train", overwrite=overwrite, inputs=record["inputs"], options=record["options"]):
            for name, data in self._files.items():
                if name != PROVENANCE:
                    (out / name).parent.mkdir(parents=True, exist_ok=True)
                    _write(out / name, data)
        _write(out / PROVENANCE, self._files[PROVENANCE])  # when and on what it was trained, not when it was saved
        return out

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """Show the parameters as scikit-learn does, and of a fitted one what it knows."""
        shown = str(super().__repr__(N_CHAR_MAX))
        if not hasattr(self, "classes_"):
            return shown
        classes = ", ".join(map(str, self.classes_))
        return f"<{shown}, fitted: {len(self.classes_)} classes ({classes}), {self.image_size_} px>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the network behind: it is built again from the run's files, whose hashes are checked."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_module"}

    def __sklearn_tags__(self) -> "Tags":
        """Say that images are expected, no table."""
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    def _open(
        self, images: Cells, y: Sequence[Any] | Labels, groups: Sequence[Any] | None, *, seed: int
    ) -> tuple[GivenSource, Labels]:
        """Return images with labels as a source that brings its own split, and the distinct labels."""
        share = self.validation_share
        if not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ConfigError(f"validation_share {share}", "must lie between 0 and 1", "give for example 0.15")
        count = len(images)
        values, known = _check_labels(y, count), None if groups is None else list(groups)
        if known is not None and len(known) != count:
            raise SourceError(f"groups of {len(known)}", f"must be {count}, one for each image", "give all")
        classes, numbers = np.unique(values, return_inverse=True)
        names = _class_names(classes)
        source = open_images(images, [names[index] for index in numbers], classes=names, groups=known, name="X")
        assigned = choose_splits(source, shares=(1 - share, share, 0), seed=seed)
        if "val" not in assigned:
            step = "raise it, or use more images"
            raise SourceError(f"validation_share {share} of {count} images", "leaves none to validate on", step)
        samples = (replace(sample, split=name) for sample, name in zip(source.samples, assigned, strict=True))
        return replace(source, samples=tuple(samples)), classes

    def _adopt(self, run: Path) -> None:
        """Take over a finished run: its files but for the checkpoints, and what is known from them."""
        from hemalens.training.checkpoint import load_model, read_validation

        loaded = load_model(run)
        record = open_record(run, "train")
        kept = {name: digest for name, digest in record.outputs.items() if not name.startswith(_CHECKPOINTS)}
        self._files = {name: record.bytes(name) for name in kept}
        self._files[PROVENANCE] = (json.dumps({**record.facts, "outputs": kept}, indent=2) + "\n").encode()
        self._module = loaded.module
        self.classes_, self.image_size_, self.card_ = np.array(loaded.classes), loaded.image_size, loaded.card
        history = self._files.get("history.csv")
        self.history_ = [] if history is None else pl.read_csv(io.BytesIO(history)).to_dicts()
        limits = self._files.get("abstention.json")
        self.abstention_ = (
            confidence_rule(*read_validation(run))
            if limits is None
            else Abstention.from_json(parse_json(limits, f"file {run / 'abstention.json'}"))
        )

    def _outputs(self, images: Cells) -> tuple[FloatArray, FloatArray]:
        """Return features (N, D) and logits (N, C) of images."""
        check_is_fitted(self)
        _require_torch()
        import torch

        from hemalens.training.checkpoint import load_model
        from hemalens.training.device import torch_threads
        from hemalens.training.predicting import predict_features

        if not hasattr(self, "_module"):  # it has come out of a pickle
            with tempfile.TemporaryDirectory(prefix="hemalens-") as folder:
                self._module = load_model(self.save(Path(folder) / "run")).module
        source = open_images(images, name="X")
        loaded = load_images(source, range(len(source)), size=self.image_size_)
        with torch_threads(self._config().threads):
            return predict_features(self._module, torch.from_numpy(loaded))

    def _config(self) -> TrainConfig:
        return TrainConfig.model_validate_json(self._files["config.json"])


def _require_torch() -> None:
    """Raise MissingExtraError where what training needs is not installed."""
    try:
        importlib.import_module("hemalens.training.train")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "hemalens":
            raise
        raise MissingExtraError("hemalens.Classifier", "train") from error


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data))


def _check_labels(y: Sequence[Any] | Labels, count: int) -> Labels:
    """Return labels (N,) as an array of text, whole numbers or bool."""
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:  # as the challenge writes them
        values = values[:, 0]
    if values.shape != (count,):
        rule = f"must be one label for each of {count} images"
        raise SourceError(f"y {values.shape}", rule, "of one-hot rows give y.argmax(axis=1)")
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        return values
    if values.dtype.kind in "Uiub" or (values.dtype.kind == "f" and (values == np.floor(values)).all()):
        return values
    raise SourceError(
        f"y of {values.dtype}", "must be class names or class numbers", "convert it; leave out the unlabelled"
    )


def _class_names(classes: Labels) -> tuple[str, ...]:
    """Return the names that distinct labels have in a run: numbers from 0 on are named as in array files."""
    words = classes.dtype.kind in "UO" or classes.min() < 0
    raw = [str(label) if words else int(label) for label in classes]
    named, _ = name_labels(raw, None, what="y")
    names = tuple(str(name) for name in named)
    for index, name in enumerate(names):
        if not name or name in names[:index]:
            rule = f"mean one class, {name!r}" if name else "are empty"
            both = [str(label) for label, other in zip(classes, names, strict=True) if other == name]
            raise SourceError(f"labels {both} of y", rule, "give each class one name")
    return names


def _settings_over(recipe: str, config: TrainConfig) -> tuple[str, ...]:
    """Return the settings that make a recipe into a configuration, but for the seed."""
    base = load_config(find_recipe(recipe)).model_dump(mode="json")
    changed = {
        key: value for key, value in config.model_dump(mode="json").items() if value != base[key] and key != "seed"
    }
    return tuple(f"{key}={_toml(value)}" for key, value in changed.items())


def _toml(value: object) -> str:
    """Write a value of a configuration as TOML, which differs from JSON in tables alone."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
