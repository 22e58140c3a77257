"""Features and logits belong together, for every kind of network in the zoo."""

import numpy as np
import pytest
import torch

from hemalens.training.models import Normalised, build_model, last_layers
from hemalens.training.predicting import predict_features, predict_logits

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8))


def network(name: str) -> Normalised:
    return Normalised(build_model(name, 4, image_size=32), torch.full((3,), 0.5), torch.full((3,), 0.25)).train()


@pytest.mark.parametrize("name", ["baseline", "compact", "mobilenetv3_small_050", "vgg11"])
def test_the_last_layer_makes_the_logits_of_the_features(name: str) -> None:
    module = network(name)
    features, logits = predict_features(module, IMAGES)
    last = last_layers(module)[0]
    assert features.dtype == logits.dtype == np.float32
    assert features.shape == (5, last.in_features)
    with torch.no_grad():
        np.testing.assert_allclose(last(torch.from_numpy(features)), logits, atol=1e-4)
    np.testing.assert_array_equal(logits, predict_logits(module, IMAGES))
    assert module.training
    assert not last._forward_pre_hooks


def test_a_network_with_two_last_layers_has_features_too() -> None:
    module = network("deit_tiny_distilled_patch16_224")
    assert len(last_layers(module)) == 2
    features, logits = predict_features(module, IMAGES)
    assert features.shape == (5, 192)
    assert logits.shape == (5, 4)


def test_a_map_before_the_last_layer_is_averaged() -> None:
    class Map(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = torch.nn.Conv2d(3, 6, 4, 4), torch.nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.body(x)).mean(dim=(2, 3))

        def get_classifier(self) -> torch.nn.Module:
            return self.last

    module = Map()
    features, logits = predict_features(module, IMAGES)
    with torch.no_grad():
        weight, bias = module.last.weight.flatten(1).numpy(), module.last.bias.numpy()
    np.testing.assert_allclose(features @ weight.T + bias, logits, atol=1e-5)


def test_nothing_is_predicted_of_nothing() -> None:
    features, logits = predict_features(network("compact"), IMAGES[:0])
    assert features.size == logits.size == 0
