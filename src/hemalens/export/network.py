"""A trained network to an ONNX graph: logits, what its last layer sees, and its last map; then one model of all.

torch's exporter traces the network in evaluation mode and folds batch normalisation into convolutions. Needs the extra
``train``.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from hemalens.core.errors import ConfigError
from hemalens.core.types import FloatArray
from hemalens.export.preprocessing import OPSET, preprocessing
from hemalens.training.models import Normalised, last_layers

__all__ = ["OUTPUTS", "Traced", "assemble", "linear_head", "trace_network"]

OUTPUTS = ("logits", "features", "feature_map")
_INPUT = "normalised"


class Traced(nn.Module):
    """A network with three outputs, from behind the normalisation by the training set's mean and spread.

    Of normalised images (N, 3, S, S): logits (N, C), what its last layer sees (N, D), its last map (N, D', h, w).
    Where there is no map of two axes (plain tokens, say), the features are one of 1 x 1.
    """

    def __init__(self, module: Normalised) -> None:
        super().__init__()
        self.module = module

    def forward(self, normalised: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, features and map."""
        network: Any = self.module.network
        seen: list[Tensor] = []
        hook = last_layers(network)[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            found = network.forward_features(self.module.standardise(normalised))
            logits = network.forward_head(found)
        finally:
            hook.remove()
        features = seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]
        return logits, features, _as_map(network, found, features)


def trace_network(module: Normalised, image_size: int) -> onnx.ModelProto:
    """Return a network as a model of normalised images (N, 3, S, S) float32; raise ConfigError where torch cannot."""
    traced = Traced(module).eval()
    example = torch.zeros(2, 3, image_size, image_size)
    with _quietly():
        try:
            program = torch.onnx.export(
                traced,
                (example,),
                dynamo=True,
                input_names=[_INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes={_INPUT: {0: torch.export.Dim("batch")}},
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            rule = f"cannot be exported to ONNX ({str(error).strip().splitlines()[0]})"
            raise ConfigError(f"network {type(module.network).__name__}", rule, "train another model") from error
    assert program is not None
    return _plain(program.model_proto)


def assemble(network: onnx.ModelProto, module: Normalised, image_size: int) -> onnx.ModelProto:
    """Return one model of uint8 images (N, H, W, 3), any size, out of preprocessing and a traced network."""
    mean, std = (value.detach().cpu().numpy().reshape(3) for value in (module.mean, module.std))
    nodes, constants = preprocessing(image_size, mean, std, source="images", target=_INPUT)
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])
    graph = helper.make_graph(
        [*nodes, *network.graph.node],
        "hemalens",
        [given],
        list(network.graph.output),
        [*constants, *network.graph.initializer],
        value_info=list(network.graph.value_info),
    )
    whole = helper.make_model(
        graph, opset_imports=list(network.opset_import), ir_version=network.ir_version, producer_name="hemalens"
    )
    onnx.checker.check_model(whole, full_check=True)
    return whole


def linear_head(module: Normalised, image_size: int) -> tuple[FloatArray, FloatArray] | None:
    """Return weight (C, D) and bias (C,) where logits are one linear layer on the mean of the last map, else None.

    Then a class's heat map is the sum of the map's channels, weighted by its row (Zhou et al. 2016). Whether it is so
    is tried on two images of noise.
    """
    layer = last_layers(module)[0]
    if not isinstance(layer, nn.Linear):
        return None
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    noise = torch.randn((2, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, _, found = Traced(module).eval()(noise)
        if found.shape[1] != layer.in_features:
            return None
        again = found.mean((2, 3)) @ layer.weight.T + bias
    if not torch.allclose(logits, again, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        return None
    return layer.weight.detach().numpy().astype(np.float32), bias.detach().numpy().astype(np.float32)


def _as_map(network: nn.Module, found: Tensor, features: Tensor) -> Tensor:
    """Return the last map with its channels before its two axes, whatever order the network keeps."""
    width = getattr(network, "num_features", features.shape[1])
    if found.ndim == 4:
        last = found.shape[1] != width and found.shape[3] == width
        return found.permute(0, 3, 1, 2) if last else found
    grid: Any = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if found.ndim == 3 and grid is not None:  # a transformer's tokens, patches last
        patches = found[:, int(getattr(network, "num_prefix_tokens", 0)) :]
        if patches.shape[1] == grid[0] * grid[1]:
            return patches.transpose(1, 2).reshape(-1, patches.shape[2], *grid)
    return features[:, :, None, None]


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what the exporter notes of the code it traced: it is larger than a small network and names paths."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.metadata_props[:], model.metadata_props[:]
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's own progress and warnings of its parts from the caller."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
