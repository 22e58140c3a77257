"""Muon: updates along all directions alike, plain groups as SGD, state that resumes."""

import numpy as np
import pytest
import torch
from torch import nn

from hemalens.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (1, 9)])
def test_the_update_keeps_singular_vectors_and_evens_out_singular_values(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator) * 1e-3
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalise(matrix)
    scale = max(1.0, shape[0] / shape[1]) ** 0.5
    in_its_frame = left.T @ result @ right.T / scale
    # The published iteration brings singular values to 0.7-1.2, bfloat16 adds a percent or two.
    assert torch.diag(in_its_frame).min() > 0.6
    assert torch.diag(in_its_frame).max() < 1.3
    off = in_its_frame - torch.diag(torch.diag(in_its_frame))
    assert off.abs().max() < 0.06
    assert values.max() < 0.1  # so the size of the gradient did not matter


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_plain_groups_are_sgd_with_nesterov_momentum() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(5, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([{"params": [ours]}], lr=0.1, momentum=0.9)
    other = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(4):
        gradient = torch.randn(5, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


def test_a_convolution_is_taken_as_a_matrix_and_decays_apart_from_its_gradient() -> None:
    weight = nn.Parameter(torch.ones(4, 2, 3, 3))
    optimizer = Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.5}], lr=0.1, momentum=0.0)
    gradient = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(2))
    weight.grad = gradient.clone()
    optimizer.step()
    wanted = 1.0 - 0.1 * 0.5 - 0.1 * orthogonalise(gradient.flatten(1)).reshape(4, 2, 3, 3)
    torch.testing.assert_close(weight.detach(), wanted)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    frozen = nn.Parameter(torch.ones(3, 3))
    optimizer = Muon([{"params": [frozen], "orthogonal": True, "weight_decay": 0.5}], lr=0.1)
    assert optimizer.step(lambda: 7.0) == 7.0
    np.testing.assert_array_equal(frozen.detach().numpy(), np.ones((3, 3)))
