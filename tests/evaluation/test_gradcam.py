"""Grad-CAM: captum's maps on every kind of head, and class activation maps where the head is linear."""

import numpy as np
import pytest
import torch
from torch import nn

from hemalens.core.errors import ConfigError
from hemalens.core.heatmaps import class_activation_map
from hemalens.evaluation.gradcam import grad_cam
from hemalens.training.models import Normalised, build_model
from hemalens.training.tensors import to_batch

CLASSES = np.array([0, 2, 1, 2, 0])


def network(name: str, size: int = 32) -> Normalised:
    made = Normalised(build_model(name, 3, image_size=size, seed=3), torch.full((3,), 0.6), torch.full((3,), 0.25))
    with torch.no_grad():  # batch normalisation needs statistics other than those it starts with
        made.train()(torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(0)))
    return made.eval()


def images(size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(CLASSES), size, size, 3), np.uint8)


class Whole(nn.Module):
    """A network as captum needs it: its last map is the output of one layer."""

    def __init__(self, module: Normalised) -> None:
        super().__init__()
        self.module, self.last = module, nn.Identity()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        inner = self.module.network
        found = self.last(inner.forward_features((batch - self.module.mean) / self.module.std))
        return inner.forward_head(found)


@pytest.mark.parametrize("name", ["compact", "baseline", "mobilenetv2_100"])
def test_maps_are_captums(name: str) -> None:
    attribution = pytest.importorskip("captum.attr")
    module = network(name)
    whole = Whole(module)
    oracle = attribution.LayerGradCam(whole, whole.last)
    batch = to_batch(torch.from_numpy(images())).requires_grad_()
    wanted = oracle.attribute(batch, target=torch.from_numpy(CLASSES), relu_attributions=True)[:, 0]
    found = grad_cam(module, images(), CLASSES)
    assert found.max() > 0
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_under_a_linear_head_they_are_class_activation_maps() -> None:
    module = network("compact")
    with torch.no_grad():
        batch = (to_batch(torch.from_numpy(images())) - module.mean) / module.std
        found = module.network.forward_features(batch).numpy()
    wanted = class_activation_map(found, module.network.get_classifier().weight.detach().numpy(), CLASSES)
    height, width = found.shape[2:]
    np.testing.assert_allclose(grad_cam(module, images(), CLASSES), wanted / (height * width), rtol=1e-4, atol=1e-6)


def test_channels_that_come_last_are_summed_all_the_same() -> None:
    class Turned(nn.Module):
        """A network that keeps its channels last, as Swin does."""

        num_features = 192

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward_features(self, batch: torch.Tensor) -> torch.Tensor:
            return self.inner.forward_features(batch).permute(0, 2, 3, 1)

        def forward_head(self, found: torch.Tensor) -> torch.Tensor:
            return self.inner.forward_head(found.permute(0, 3, 1, 2))

    module = network("compact")
    turned = Normalised(Turned(module.network), module.mean.flatten(), module.std.flatten()).eval()
    np.testing.assert_allclose(
        grad_cam(turned, images(), CLASSES), grad_cam(module, images(), CLASSES), rtol=1e-5, atol=1e-7
    )


def test_weights_gradients_and_mode_stay_as_they_were() -> None:
    module = network("compact")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    grad_cam(module, images(), CLASSES)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not module.training


def test_a_network_without_a_map_is_refused_by_name() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward_features(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean((2, 3))

    module = Normalised(Flat(), torch.zeros(3), torch.ones(3)).eval()
    with pytest.raises(ConfigError, match=r"network Flat: gives features \(3,\), which are no map"):
        grad_cam(module, images(), CLASSES)
