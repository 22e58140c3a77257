"""Several processes as one: each trains on its share of every batch, and all end with the weights one would have.

``torchrun`` starts the processes and tells each its rank; without it there is one, and everything here does nothing.
Gradients are averaged by DistributedDataParallel, batch statistics are those of the whole batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hemalens.core.errors import ConfigError

__all__ = ["ALONE", "World", "share_batch_statistics", "world_from_environment"]

_PATIENCE = timedelta(hours=2)  # the others wait while one loads its images or validates


@dataclass(frozen=True, slots=True)
class World:
    """Which of how many processes this is.

    Attributes:
        rank: 0 for the one that writes files.
        size: processes in all.
        local_rank: which of this machine's devices is ours.
        local_size: processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes; the same bits in each."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, part: Tensor, count: int) -> Tensor:
        """Return ``count`` rows in their order from the parts ``rows[rank::size]`` that the processes hold."""
        if self.size == 1:
            return part
        whole = part.new_zeros(count, *part.shape[1:])
        whole[self.rank :: self.size] = part
        return self.total(whole)

    def share(self, module: nn.Module) -> nn.Module:
        """Return the module to call in training steps: its gradients are averaged over the processes.

        To be called anew where parameters were frozen or freed: only those that learn are averaged.
        """
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, forward_sync_buffers=False)


ALONE = World()


@contextmanager
def world_from_environment(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, by NCCL on GPUs and Gloo on CPUs; ALONE where it started none.

    Raises ConfigError where its variables are not numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        world = World(*(int(os.environ.get(name, default)) for name, default in zip(names, "0101", strict=True)))
    except ValueError as error:
        raise ConfigError(f"variables {', '.join(names)}", f"must be numbers ({error})", "use torchrun") from None
    if world.size == 1:
        yield ALONE
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield world
    finally:
        dist.destroy_process_group()


def share_batch_statistics(module: nn.Module) -> nn.Module:
    """Return the module with every batch normalisation taking its statistics over all processes.

    Names and tensors stay. On GPUs torch's SyncBatchNorm does the same; it refuses CPUs.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            shared = _SharedBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
            # The very same tensors, for an optimizer that holds them to go on with.
            for own, value in child.named_parameters(recurse=False):
                shared.register_parameter(own, value)
            for own, buffer in child.named_buffers(recurse=False):
                shared.register_buffer(own, buffer)
            # timm's normalisation goes on with an activation of its own, which holds no tensors.
            shared.after = nn.Sequential(*(getattr(child, part) for part in ("drop", "act") if hasattr(child, part)))
            setattr(module, name, shared.train(child.training))
        else:
            share_batch_statistics(child)
    return module


class _SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation (Ioffe and Szegedy 2015) over the images of all processes, and what comes after it."""

    after: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.after(self._normalised(x) if self.training else super().forward(x))
        return normalised

    def _normalised(self, x: Tensor) -> Tensor:
        wide, dims = x.float(), (0, 2, 3)
        count = _sum(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = _sum(wide.sum(dims)) / count
        centred = wide - mean[None, :, None, None]
        variance = _sum(centred.square().sum(dims)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            momentum = self.momentum if self.momentum is not None else 0.1
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
            self.num_batches_tracked += 1
        scale = torch.rsqrt(variance + self.eps)
        out = centred * scale[None, :, None, None]
        if self.affine:
            out = out * self.weight[None, :, None, None] + self.bias[None, :, None, None]
        return out.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total
