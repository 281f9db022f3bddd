"""The gradient noise scale is that of a known gradient and a known noise."""

from __future__ import annotations

import pytest
import torch

from flops_fit.objective import Objective
from flops_fit.train.monitor import noise_scale, noise_scale_of


class Linear(torch.nn.Module):
    """The gradient of its mean output is the batch's mean, whatever its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(50))
        self.unused = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def mean(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return output.mean()


def test_it_is_the_trace_of_the_noise_over_the_squared_gradient():
    generator = torch.Generator().manual_seed(0)
    gradient, noise = torch.full((50,), 0.3), 2.0
    x = gradient + noise * torch.randn(200, 32, 50, generator=generator)
    batches = [(part, torch.zeros(32)) for part in x]
    found = noise_scale(Linear(), Objective(mean), batches)
    assert found == pytest.approx(50 * noise**2 / float(gradient.square().sum()), rel=0.1)


def test_a_gradient_that_noise_hides_has_none():
    assert noise_scale_of([(8, 1.0), (8, 1.0)], (16, 0.4)) is None
    assert noise_scale_of([(8, 1.0)], (8, 1.0)) is None
    assert noise_scale(Linear(), Objective(mean), []) is None


def test_it_leaves_no_gradient_and_the_mode_as_it_was():
    model = Linear().train()
    noise_scale(model, Objective(mean), [(torch.ones(4, 50), torch.zeros(4))] * 2)
    assert model.training
    assert model.weight.grad is None
