"""The last layer by itself: features once, whole or computed again, and logistic regression as scikit-learn fits it."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ConfigError
from hemalens.training import heads
from hemalens.training.feed import MemoryFeed
from hemalens.training.heads import VIEWS, classifier, extract_features, fit_head, train_head
from hemalens.training.models import Normalised, build_model
from hemalens.training.tensors import LabelledImages, to_batch

MakeSet = Callable[..., LabelledImages]
MakeConfig = Callable[..., TrainConfig]


def feed(images: np.ndarray) -> MemoryFeed:
    """Hold images whose labels do not matter."""
    ids = tuple(f"row-{row:06d}" for row in range(len(images)))
    labels = np.zeros(len(images), np.int64)
    return MemoryFeed(LabelledImages(images, labels, ids), TrainConfig(), torch.device("cpu"))


def hold(data: LabelledImages, config: TrainConfig) -> MemoryFeed:
    return MemoryFeed(data, config, torch.device("cpu"))


def make_module(name: str = "compact", seed: int = 0, size: int = 16) -> Normalised:
    return Normalised(build_model(name, 3, image_size=size, seed=seed), torch.full((3,), 0.5), torch.full((3,), 0.2))


@pytest.mark.parametrize("name", ["compact", "baseline", "test_resnet", "test_vit"])
def test_the_last_layer_on_the_features_gives_the_logits(name: str, coloured: MakeSet) -> None:
    images, module = coloured(size=32).images, make_module(name, size=32)
    module.train()
    features = extract_features(module, feed(images))
    assert module.training
    last = classifier(module)
    assert features.shape == (36, last.in_features)
    logits = module.eval()(to_batch(torch.from_numpy(images)))
    torch.testing.assert_close(features @ last.weight.T + last.bias, logits, rtol=1e-4, atol=1e-5)


def test_the_views_are_the_eight_positions_of_a_square_the_image_first(coloured: MakeSet) -> None:
    module = make_module()
    module.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    module.network.get_classifier = lambda: module.network[1]
    images = coloured((1, 1)).images
    features = extract_features(module, feed(images), views=VIEWS).reshape(VIEWS, 2, 3, 16, 16)
    seen = ((to_batch(torch.from_numpy(images)) - module.mean) / module.std).numpy()
    torch.testing.assert_close(features[0].numpy(), seen)
    for index in range(2):
        turned = [np.rot90(seen[index], turn, (1, 2)) for turn in range(4)]
        wanted = {view.tobytes() for each in turned for view in (each.copy(), each[:, :, ::-1].copy())}
        assert {features[view, index].numpy().tobytes() for view in range(VIEWS)} == wanted


def test_images_kept_larger_are_seen_at_the_networks_size(coloured: MakeSet) -> None:
    module = make_module()
    module.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    module.network.get_classifier = lambda: module.network[1]
    assert extract_features(module, feed(coloured(size=24).images), size=16).shape == (36, 3 * 16 * 16)


def test_features_are_read_again_where_nothing_changed(
    tmp_path: Path, coloured: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, module = coloured().images, make_module()
    first = extract_features(module, feed(images), cache=tmp_path)
    with torch.no_grad():
        classifier(module).weight.zero_()  # the last layer does not matter
    monkeypatch.setattr(heads, "_compute", None)
    assert torch.equal(extract_features(module, feed(images), cache=tmp_path), first)


@pytest.mark.parametrize("changed", ["weights", "statistics", "normalisation", "image", "ids", "size", "views"])
def test_features_of_anything_else_are_computed(changed: str, tmp_path: Path, coloured: MakeSet) -> None:
    images, module, views = coloured().images, make_module(), 1
    extract_features(module, feed(images), cache=tmp_path)
    if changed == "weights":
        module = make_module(seed=1)
    if changed == "statistics":
        module(to_batch(torch.from_numpy(images)))
    if changed == "normalisation":
        module.mean += 0.1
    if changed == "image":
        images = images.copy()
        images[3, 2, 1, 0] ^= 1
    if changed == "size":
        images = images[:, :, :8]
    if changed == "views":
        views = 2
    fed = feed(images)
    if changed == "ids":
        fed.sample_ids = (*fed.sample_ids[:-1], "another")
    again = extract_features(module, fed, views=views, cache=tmp_path)
    assert len(list(tmp_path.glob("features-*.safetensors"))) == 2
    assert torch.equal(again, extract_features(module, fed, views=views))


@pytest.mark.parametrize("damage", ["flip", "cut", "no hash"])
def test_damaged_features_are_named_and_computed_again(
    damage: str, tmp_path: Path, coloured: MakeSet, caplog: pytest.LogCaptureFixture
) -> None:
    images, module = coloured().images, make_module()
    first = extract_features(module, feed(images), cache=tmp_path)
    path = next(tmp_path.glob("features-*.safetensors"))
    data = path.read_bytes()
    if damage == "no hash":
        path.with_name(path.name + ".sha256").unlink()
    else:
        path.write_bytes(data[:-9] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(extract_features(module, feed(images), cache=tmp_path), first)
    assert path.name in caplog.text
    assert path.read_bytes() == data


def clouds(seed: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = draw.normal(size=(count, 5)) * [1, 10, 0.1, 1, 0] + labels[:, None] * [1, 0, 0.1, 0, 0] + 3
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def test_the_fit_is_that_of_an_independent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (features, labels), (others, other_labels) = clouds(0), clouds(1)
    monkeypatch.setattr(heads, "_STRENGTHS", (0.01,))
    head = fit_head(features, labels, others, other_labels, torch.ones(3))
    std = features.std(dim=0, correction=0)
    std[4] = 1.0
    scaled = ((features - features.mean(dim=0)) / std).numpy()
    peer = LogisticRegression(C=1 / (0.01 * len(labels)), tol=1e-8, max_iter=2000).fit(scaled, labels.numpy())
    found = functional.softmax(features @ head.weight.T + head.bias, dim=1).numpy()
    np.testing.assert_allclose(found, peer.predict_proba(scaled), atol=2e-3)
    assert torch.isfinite(head.weight).all()


def test_the_strength_is_the_one_with_the_lowest_validation_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    (features, labels), (others, other_labels) = clouds(0), clouds(1)
    chosen = fit_head(features, labels, others, other_labels, torch.ones(3))
    losses = {}
    for strength in heads._STRENGTHS:
        with monkeypatch.context() as patch:
            patch.setattr(heads, "_STRENGTHS", (strength,))
            losses[strength] = fit_head(features, labels, others, other_labels, torch.ones(3)).val_loss
    assert chosen.val_loss == pytest.approx(min(losses.values()), abs=1e-3)
    logits = others @ chosen.weight.T + chosen.bias
    assert chosen.val_loss == pytest.approx(functional.cross_entropy(logits, other_labels).item(), abs=1e-4)
    assert 0.3 < chosen.train_accuracy <= 1.0


def test_rare_classes_count_as_much_as_others_where_classes_are_balanced(coloured: MakeSet, quick: MakeConfig) -> None:
    data, val = coloured((40, 6)), coloured((6, 6), seed=1)
    fitted = {}
    for balance in ("none", "replicate"):
        module = make_module()
        module.network = build_model("compact", 2)
        config = quick(balance=balance)
        fitted[balance] = train_head(module, hold(data, config), val, config)
    assert fitted["none"].bias[0] - fitted["none"].bias[1] != fitted["replicate"].bias[0] - fitted["replicate"].bias[1]


def test_a_class_without_a_image_does_no_harm(coloured: MakeSet, quick: MakeConfig) -> None:
    config = quick(balance="replicate")
    head = train_head(make_module(), hold(coloured((20, 20)), config), coloured((5, 5), seed=1), config)
    assert torch.isfinite(head.weight).all()
    assert torch.isfinite(head.bias).all()


def test_only_the_last_layer_is_changed_and_it_learns(coloured: MakeSet, quick: MakeConfig) -> None:
    module = make_module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    val = coloured((8, 8, 8), seed=1)
    head = train_head(module, hold(coloured(), quick()), val, quick(), views=VIEWS)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"network.head.1.weight", "network.head.1.bias"}
    assert head.train_accuracy > 0.9
    logits = module.eval()(to_batch(torch.from_numpy(val.images)))
    assert (logits.argmax(dim=1).numpy() == val.labels).mean() > 0.9


def test_a_network_that_does_not_end_in_one_linear_layer_is_refused() -> None:
    module = make_module()
    module.network.head = torch.nn.Sequential(torch.nn.Linear(192, 3), torch.nn.Sigmoid())
    with pytest.raises(ConfigError, match="last layer of Compact: must be one linear layer"):
        classifier(module)
