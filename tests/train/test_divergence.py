"""Which runs are called diverged: by the held-out loss against that of the untrained model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from flops_fit.data.spec import split_data
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Objective
from flops_fit.records import Experiment, Run
from flops_fit.train.trainer import Trainer
from tests.conftest import make_experiment

G = torch.Generator().manual_seed(0)
X = torch.randn(6000, 8, generator=G)
RARE = (torch.rand(6000, generator=G) < torch.sigmoid(-5.0 + X[:, 0])).float()
NOISY = 0.1 * X[:, 0] + torch.randn(6000, generator=G)


def at_prior(targets: Tensor, logit: bool) -> Any:
    """A factory of models whose head starts at the best constant."""
    mean = targets.mean()

    def make(width: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1), nn.Flatten(0))
        nn.init.zeros_(model[2].weight)
        nn.init.constant_(model[2].bias, float(torch.logit(mean) if logit else mean))
        return model

    return make


def rmse(output: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(output, targets).sqrt()


bce = functional.binary_cross_entropy_with_logits
HEALTHY = {
    "a rare class": (at_prior(RARE, True), RARE, bce),
    "a noisy target": (at_prior(NOISY, False), NOISY, functional.mse_loss),
    "an RMSE": (at_prior(NOISY, False), NOISY, rmse),
    "an absolute error": (at_prior(NOISY, False), NOISY, functional.l1_loss),
}


def run_of(kind: str, seed: int, steps: int = 120, lr: float = 3e-3, batch: int = 16) -> Run:
    make, targets, loss = HEALTHY[kind]
    data = split_data(TensorDataset(X, targets))
    trainer = Trainer(ModelSpec(make, "width"), *data, Objective(loss))
    return trainer(experiment(seed, steps, lr, batch))


def experiment(seed: int, steps: int, lr: float, batch: int = 16) -> Experiment:
    one = make_experiment(steps=steps)
    hparams = replace(one.hparams, lr=lr, schedule="constant", clip=1e9)
    return replace(
        one,
        seed=seed,
        size=8,
        batch_size=batch,
        tokens=steps * batch,
        hparams=hparams,
    )


@pytest.mark.parametrize("kind", HEALTHY)
def test_runs_that_start_at_the_prior_are_healthy(kind: str) -> None:
    """The training loss of a few batches rises and falls by luck; the held-out loss does not."""
    runs = [run_of(kind, seed) for seed in range(4)]
    assert [(run.state, run.reason) for run in runs] == [("completed", "")] * len(runs)
    rises = [run.train_loss for run in runs]
    assert max(rises) > min(rises)


@pytest.mark.parametrize("kind", HEALTHY)
def test_runs_whose_rate_is_far_too_high_are_caught(kind: str) -> None:
    runs = [run_of(kind, seed, lr=30.0) for seed in range(3)]
    assert all(run.state == "diverged" and "held-out loss" in run.reason for run in runs)


def test_a_run_stops_at_the_same_step_however_often_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = set()
    for seconds in (-1.0, 0.02, 1e9):
        monkeypatch.setattr("flops_fit.train.trainer._REPORT_SECONDS", seconds)
        run = run_of("a noisy target", 0, steps=600, lr=30.0)
        ends.add((run.state, run.reason, run.tokens))
    ((state, _, tokens),) = ends
    assert state == "diverged"
    assert tokens < 600 * 16  # while it trained, not at its end


def test_a_start_on_easy_batches_is_no_divergence_half_way() -> None:
    """Losses that rise in training alone: the held-out loss is asked before a run is stopped."""
    calls = []

    def easier_at_first(output: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        scale = 0.1 if torch.is_grad_enabled() and len(calls) < 30 else 1.0
        return functional.mse_loss(output, targets) * scale

    make, targets, _ = HEALTHY["a noisy target"]
    data = split_data(TensorDataset(X, targets))
    trainer = Trainer(ModelSpec(make, "width"), *data, Objective(easier_at_first))
    run = trainer(experiment(0, 300, 1e-3))
    assert (run.state, run.samples) == ("completed", 300 * 16)
