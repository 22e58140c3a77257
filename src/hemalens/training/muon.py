"""Muon: momentum whose update is made nearly orthogonal before it is applied, for the weights of hidden layers.

After Jordan et al. 2024 ("Muon: An optimizer for hidden layers in neural networks"). torch's own Muon takes matrices
only; here the weight (O, I, h, w) of a convolution counts as the matrix (O, I * h * w).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalise"]

# Coefficients of the quintic iteration of the source: they bring singular values from (0, 1] to about 0.7-1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum; groups with ``orthogonal`` set have their update orthogonalised, others are plain SGD.

    Args:
        groups: parameter groups as for any optimizer of torch; each may set ``lr``, ``weight_decay``, ``orthogonal``.
        lr: learning rate of groups that set none.
        momentum: decay of the averaged gradient, in [0, 1).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float = 0.9) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change every parameter that has a gradient; decay of weights is apart from the gradient (decoupled)."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(average, alpha=group["momentum"])
                if group["orthogonal"]:
                    update = orthogonalise(update.flatten(1)).view_as(update)
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])
        return loss


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix (O, I) with the singular vectors of the given one and singular values near sqrt(max(1, O / I)).

    Five rounds of a Newton-Schulz iteration in bfloat16; a matrix of zeros stays.
    """
    scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = (x if wide else x.T).to(matrix.dtype) * scale
    return result
