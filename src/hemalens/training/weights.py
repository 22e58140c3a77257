"""Weights to start from: none, timm's own from the hub, or a safetensors file; checked name by name, never pickle.

What images must be like on the way in (mean and standard deviation per channel) belongs to the weights and comes with
them; a network without weights takes both from the training set.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hemalens.core.config import TrainConfig
from hemalens.core.errors import ConfigError
from hemalens.core.provenance import sha256_file
from hemalens.core.recorded import find_record
from hemalens.core.types import Images
from hemalens.training.models import MODELS, Normalised, build_model, head_parameters

__all__ = ["Weights", "find_weights", "is_folded", "load_weights", "read_weights", "starting_module"]

_HUB_FILE = "model.safetensors"
_HUB_SECONDS = 5.0
_PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar")
_HALF = (0.5, 0.5, 0.5)
_LISTED = 4


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights and its SHA-256."""

    path: Path
    sha256: str


def find_weights(config: TrainConfig) -> Weights | None:
    """Return the file that ``config.weights`` asks for, fetched from the hub where that is asked for; None for none.

    Raises ConfigError where there is no such file, it is no safetensors file, or the hub is out of reach.
    """
    if config.weights == "none":
        return None
    path = _from_hub(config.model) if config.weights == "hub" else Path(config.weights).expanduser()
    what = f"weights {config.weights}"
    if path.suffix.lower() in _PICKLED:
        rule = "is not read: such files are pickles, which can run any code"
        step = "load it where you trust it, save it with safetensors.torch.save_file, and give the .safetensors file"
        raise ConfigError(what, rule, step)
    if path.suffix.lower() != ".safetensors":
        raise ConfigError(what, "must be none, hub or a .safetensors file", "change it with --set weights=...")
    if not path.is_file():
        raise ConfigError(what, "there is no such file", "give the path of a .safetensors file")
    if (record := find_record(path)) is not None:  # of a run: as training wrote them
        record.checked(record.relative(path))
    return Weights(path, sha256_file(path))


def starting_module(images: Images, n_classes: int, config: TrainConfig) -> Normalised:
    """Return the network before its first step, behind the normalisation of its inputs.

    Args:
        images: training images (N, S, S, 3) uint8; their mean and deviation are used where no weights are given.
        n_classes: C.
        config: model, weights, image_size, dropout and seed.
    """
    network = build_model(
        config.model, n_classes, image_size=config.image_size, dropout=config.dropout, seed=config.seed
    )
    found = find_weights(config)
    mean, std = _statistics(images) if found is None else load_weights(network, found.path, config.model)
    return Normalised(network, mean, std, by_image=config.normalise == "image")


def load_weights(network: nn.Module, path: Path, name: str) -> tuple[Tensor, Tensor]:
    """Load a file's tensors into a network and return the mean and deviation (3,) of its inputs in [0, 1].

    All names and shapes must match, but for the last layer: where its shape differs or it is missing, it stays new. A
    model.safetensors that hemalens wrote carries its own mean and deviation; other files may name them in their
    metadata (``mean`` and ``std``, JSON lists). Without that they are 0.5 and 0.5 where batch normalisation is folded,
    which comes with conversion from TensorFlow and inputs in [-1, 1], and timm's for ``name`` otherwise.

    Raises ConfigError naming the tensors that are missing, left over or of another shape.
    """
    tensors, metadata = read_weights(path)
    own = {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    if own and {"mean", "std"} <= tensors.keys():
        _load(network, own, path, name)
        return tensors["mean"].flatten(), tensors["std"].flatten()
    _load(network, _as_timm_loads(network, tensors), path, name)
    mean, std = _convention(network, metadata, path, name)
    return torch.tensor(mean), torch.tensor(std)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file; raise ConfigError where it is none."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"weights {path}", f"is no safetensors file ({error})", "give another file") from error


def is_folded(network: nn.Module) -> bool:
    """Tell whether loaded weights have their batch normalisation folded into the convolutions: means 0, variances 1."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    means = [norm.running_mean for norm in norms if norm.running_mean is not None]
    variances = [norm.running_var for norm in norms if norm.running_var is not None]
    if not means:
        return False
    return bool(all((mean == 0).all() for mean in means) and all(((var - 1).abs() < 1e-3).all() for var in variances))


def _load(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> None:
    state, head = network.state_dict(), set(head_parameters(network))
    fresh = {key for key in head if key not in tensors or tensors[key].shape != state[key].shape}
    # A new weight beside an old bias would be no layer at all: the head is taken whole or not at all.
    given = {key: value for key, value in tensors.items() if not (fresh and key in head)}
    wanted = state.keys() - (head if fresh else set())
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(state[key].shape)}"
        for key in sorted(wanted & given.keys())
        if given[key].shape != state[key].shape
    ]
    missing, over = sorted(wanted - given.keys()), sorted(given.keys() - wanted)
    wrong = {"lacks": missing, "has left over": over, "differs in": shapes}
    said = [
        f"{how} {', '.join(keys[:_LISTED])}{f' and {len(keys) - _LISTED} more' if len(keys) > _LISTED else ''}"
        for how, keys in wrong.items()
        if keys
    ]
    if said:
        rule = f"does not fit the network {name}: {'; '.join(said)}"
        raise ConfigError(f"weights {path}", rule, "give weights of this network, or change --set model=...")
    network.load_state_dict(state | given)


def _as_timm_loads(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as timm itself would load them into the network: renamed, position embeddings resized.

    timm keeps that function beside the class of a network, under one name. VGG's dense layers are left out, as there.
    """
    if not any(key.startswith("pre_logits.") for key in network.state_dict()):
        tensors = {key: value for key, value in tensors.items() if not key.startswith("pre_logits.")}
    home = sys.modules[type(network).__module__]
    adapt: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None
    adapt = getattr(home, "checkpoint_filter_fn", None)
    return dict(adapt(tensors, network)) if adapt is not None else tensors


def _convention(
    network: nn.Module, metadata: Mapping[str, str], path: Path, name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if "mean" in metadata and "std" in metadata:
        try:
            mean, std = (tuple(float(value) for value in json.loads(metadata[key])) for key in ("mean", "std"))
        except (TypeError, ValueError):
            mean, std = (), ()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            rule = "mean and std in its metadata must be JSON lists of three numbers, std above 0"
            raise ConfigError(f"weights {path}", rule, "write them again")
        return mean, std
    if name in MODELS or is_folded(network):
        return _HALF, _HALF
    import timm

    described = timm.get_pretrained_cfg(name)
    return (tuple(described.mean), tuple(described.std)) if described is not None else (_HALF, _HALF)


def _statistics(images: Images) -> tuple[Tensor, Tensor]:
    """Return mean and deviation per channel of images."""
    channels = images.reshape(-1, 3).astype(np.float64) / 255.0
    mean, std = channels.mean(axis=0), np.maximum(channels.std(axis=0), 1e-3)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _from_hub(name: str) -> Path:
    """Return the path of timm's weights for a network, from the local cache of the hub or from the hub itself."""
    if name in MODELS:
        raise ConfigError("weights hub", f"timm has none for {name}", "use --set weights=none, or a network of timm")
    import timm
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    described = timm.get_pretrained_cfg(name)
    repository = described.hf_hub_id if described is not None else None
    if not repository:
        raise ConfigError("weights hub", f"timm has none for {name}", "use --set weights=none, or another model")
    try:
        return Path(hf_hub_download(repository, _HUB_FILE, local_files_only=True))
    except EntryNotFoundError:
        pass
    url = hf_hub_url(repository, _HUB_FILE)
    # The bases of the hub's own error: OSError, and that of the network library below it, which differs by version.
    unreachable: tuple[type[BaseException], ...] = (EntryNotFoundError, *HfHubHTTPError.__bases__)
    try:
        # Asked once, shortly: the download alone would try six times, for 23 s without a network.
        get_hf_file_metadata(url, timeout=_HUB_SECONDS)
        return Path(hf_hub_download(repository, _HUB_FILE))
    except unreachable as error:
        rule = f"{repository} cannot be fetched ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        step = (
            f"where there is a network, download {url} and give its path with --set weights=FILE.safetensors, "
            "or start without weights: --set weights=none"
        )
        raise ConfigError("weights hub", rule, step) from error
