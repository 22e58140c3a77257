"""Networks traced: the same logits, features and maps as torch's, for own networks and timm's of every kind of map."""

import numpy as np
import onnx
import pytest
import torch

from hemalens.export.network import OUTPUTS, Traced, assemble, linear_head, trace_network
from hemalens.inference.model import open_session
from hemalens.training.models import Normalised, build_model
from hemalens.training.predicting import predict_features

MEAN, STD = torch.tensor([0.6, 0.5, 0.7]), torch.tensor([0.2, 0.25, 0.3])


def normalised(name: str, size: int) -> Normalised:
    return Normalised(build_model(name, 4, image_size=size, seed=1), MEAN, STD).eval()


@pytest.fixture(scope="module")
def baseline() -> tuple[Normalised, onnx.ModelProto]:
    module = normalised("baseline", 16)
    return module, assemble(trace_network(module, 16), module, 16)


def test_a_traced_network_says_what_torch_says(baseline: tuple[Normalised, onnx.ModelProto]) -> None:
    module, model = baseline
    session = open_session(model.SerializeToString(), threads=1, name="baseline")
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    logits, features, feature_map = session.run(None, {"images": images})
    wanted_features, wanted = predict_features(module, torch.from_numpy(images))
    np.testing.assert_allclose(logits, wanted, atol=1e-5)
    np.testing.assert_allclose(features, wanted_features, atol=1e-5)
    assert feature_map.shape == (5, 128, 2, 2)


def test_a_normalisation_by_image_is_part_of_the_graph() -> None:
    module = Normalised(build_model("compact", 4, seed=1), MEAN, STD, by_image=True).eval()
    model = assemble(trace_network(module, 16), module, 16)
    session = open_session(model.SerializeToString(), threads=1, name="by image")
    images = np.random.default_rng(0).integers(60, 200, (3, 16, 16, 3), np.uint8)
    logits, *_ = session.run(None, {"images": images})
    np.testing.assert_allclose(logits, predict_features(module, torch.from_numpy(images))[1], atol=1e-5)
    darker, *_ = session.run(None, {"images": images - 40})
    np.testing.assert_allclose(darker, logits, atol=1e-4)


def test_nothing_of_the_traced_code_is_left_in_the_model(baseline: tuple[Normalised, onnx.ModelProto]) -> None:
    text = baseline[1].SerializeToString()
    assert b"/hemalens/" not in text
    assert b"stack_trace" not in text


def test_a_linear_head_on_a_mean_is_found_and_no_other() -> None:
    module = normalised("compact", 32)
    head = linear_head(module, 32)
    assert head is not None
    weight, bias = head
    image = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        logits, _, found = Traced(module)(image)
    np.testing.assert_allclose(found.mean((2, 3)).numpy() @ weight.T + bias, logits.numpy(), atol=1e-5)
    assert linear_head(normalised("baseline", 32), 32) is None


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("mobilenetv3_small_050", 32, (288, 1, 1)),
        ("vit_tiny_patch16_224", 32, (192, 2, 2)),
        ("swin_tiny_patch4_window7_224", 64, (768, 2, 2)),
    ],
)
def test_maps_of_timms_networks_have_their_channels_first(name: str, size: int, shape: tuple[int, ...]) -> None:
    with torch.inference_mode():
        _, _, found = Traced(normalised(name, size)).eval()(torch.zeros(1, 3, size, size))
    assert found.shape[1:] == shape


def test_the_model_is_valid_and_takes_any_number_of_images_of_any_size(
    baseline: tuple[Normalised, onnx.ModelProto],
) -> None:
    _, model = baseline
    onnx.checker.check_model(model, full_check=True)
    session = open_session(model.SerializeToString(), threads=1, name="baseline")
    for shape in ((0, 16, 16, 3), (1, 40, 9, 3), (3, 16, 16, 3)):
        assert session.run(["logits"], {"images": np.zeros(shape, np.uint8)})[0].shape == (shape[0], 4)
