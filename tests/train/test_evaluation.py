"""The held-out loss is over every unit once, and says how sure it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from flops_fit.data import split_data
from flops_fit.objective import Objective
from flops_fit.train.monitor import evaluate, ratio_standard_error
from tests.train._ranks import ROW, Rows, Words, masked


def exact(model: nn.Module, rows: Rows) -> float:
    """The mean over all counted targets at once."""
    with torch.no_grad():
        return float(masked(model(rows.x), rows.y))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 4096])
def test_it_is_the_mean_over_all_counted_targets_however_they_are_cut(batch_size: int) -> None:
    """A seventh of these rows has no target at all: their mean alone is not a number."""
    rows, model = Rows(), Words().eval()
    assert int((rows.y != -100).any(dim=1).sum()) < len(rows)
    held_out = split_data(rows, rows)[1]
    loss, error = evaluate(model, held_out, Objective(masked), "cpu", batch_size)
    assert loss == pytest.approx(exact(model, rows), rel=1e-5)
    assert 0 < error < 0.1


def test_it_leaves_the_model_training_as_it_was() -> None:
    model = Words(dropout=0.5).train()
    first = evaluate(model, split_data(Rows(), Rows())[1], Objective(masked), "cpu", 64)
    again = evaluate(model, split_data(Rows(), Rows())[1], Objective(masked), "cpu", 64)
    assert first == again
    assert model.training


def test_its_standard_error_is_what_other_held_out_sets_spread_by() -> None:
    """Of 400 held-out sets drawn anew, in which each part has a mean of its own."""
    generator = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(400):
        counts = generator.integers(1, 2 * ROW, size=40).astype(float)
        sums = counts * (3 + 0.5 * generator.standard_normal(40))
        ratio, error = ratio_standard_error(sums, counts)
        estimates.append(ratio)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.12)


def test_one_part_has_no_spread_and_nothing_has_no_mean() -> None:
    assert math.isnan(ratio_standard_error(np.array([2.0]), np.array([1.0]))[1])
    assert math.isnan(ratio_standard_error(np.array([]), np.array([]))[0])


class Guess(nn.Module):
    """A mean that does not depend on its input, with dropout of its own that evaluation keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.mean.expand(len(x)), 0.5, training=True)


def squared(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


@pytest.mark.parametrize(("size", "draws"), [(60, 32), (2048, 4)])
def test_random_numbers_are_the_same_for_equal_weights_and_their_noise_is_in_the_error(
    size: int, draws: int
) -> None:
    """E(2·Bernoulli)² is 2, and of so many draws its mean lies within its standard errors of that."""
    held_out = split_data(torch.zeros(size, 1), torch.zeros(size, 1))[1]
    losses = []
    for seed in range(3):
        torch.manual_seed(seed)
        following = torch.rand(())
        torch.manual_seed(seed)
        losses.append(evaluate(Guess(), held_out, Objective(squared), "cpu", 64))
        assert torch.rand(()) == following
    assert len(set(losses)) == 1
    loss, error = losses[0]
    assert error == pytest.approx(2 / (size * draws) ** 0.5, rel=0.3)
    assert abs(loss - 2) < 4 * error


def test_batches_of_an_exact_size_leave_out_a_shorter_one() -> None:
    data = torch.arange(10.0)[:, None]
    held_out = split_data(data, data)[1]
    sizes = Objective(step_fn=lambda model, batch: (torch.tensor(float(len(batch))), 1))
    assert evaluate(Guess(), held_out, sizes, "cpu", 4, exactly=True) == (4.0, 0.0)
    assert evaluate(Guess(), held_out, sizes, "cpu", 64, exactly=True)[0] == 10.0


def test_a_loss_that_takes_a_gradient_itself_is_evaluated_with_one() -> None:
    """The square of ∂(w·x²)/∂x = 2·w·x at w = 1, as of an equation that the model has to solve."""

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.w * x**2

    def step(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, int]:
        x = batch.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return slope.square().sum(), len(x)

    data = torch.arange(8.0)[:, None]
    loss, _ = evaluate(Field(), split_data(data, data)[1], Objective(step_fn=step), "cpu", 4)
    assert loss == pytest.approx(4 * float((data**2).mean()))
