"""Where training runs, on how many threads, in which precision and from which random numbers; all put back after."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hemalens.core.errors import ConfigError
from hemalens.data.reading.parallel import available_cores

__all__ = ["autocast", "choose_device", "drawn_from", "torch_threads"]

_AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """Return the device of a configuration: ``auto`` takes a GPU where there is one, each process its own."""
    if name == "auto":
        name = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device {name}", "must be auto, cpu, cuda or cuda:N", "use --set device=auto")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name}", "no GPU is available to torch", "use --set device=cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"device {name}", f"there are {count}, counted from 0", "use --set device=cuda")
    return device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use so many CPU threads (0: one a core) and deterministic kernels inside; put back what was set."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(count or available_cores())
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def drawn_from(seed: int, step: int) -> Iterator[None]:
    """Let dropout draw from (seed, step); the global random state is put back."""
    with torch.random.fork_rng():
        torch.manual_seed((seed << 32) + step)
        yield


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a forward pass runs in fp32, bf16 or fp16; weights stay in fp32."""
    return torch.autocast(device.type, dtype=_AUTOCAST[precision], enabled=precision != "fp32")
