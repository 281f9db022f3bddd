"""Muon trains the matrices inside a model, AdamW all else, at rates that follow one schedule."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flops_fit
from flops_fit.errors import InputError
from flops_fit.hparams import HParams
from flops_fit.train import muon, muon_groups
from flops_fit.train.optimizer import make_optimizer, set_learning_rate
from tests.conftest import MLP, Blobs, cross_entropy

HPARAMS = HParams(lr=0.01, batch_units=8)
TRAINING = flops_fit.TrainingConfig(optimizer=muon, param_groups=muon_groups)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 6)
        self.convolution = nn.Conv1d(1, 1, 3)
        self.head = nn.Linear(6, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(
            self.convolution(self.body(self.table(x))[:, None])[..., :6].mean(1)[:, :4]
        )


def marked(groups: list[dict[str, Any]], model: nn.Module) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for group in groups if group["muon"] for p in group["params"]}


def test_hidden_matrices_are_muons_and_the_rest_decays_as_with_adamw() -> None:
    model = Model()
    groups = muon_groups(model, HPARAMS)
    assert marked(groups, model) == {"body.weight"}
    assert [g["weight_decay"] for g in groups] == [0.1, 0.1, 0.0]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_layers_that_keep_adamw_may_be_named() -> None:
    model = Model()
    assert marked(muon_groups(model, HPARAMS, adamw=["body"]), model) == {"head.weight"}
    with pytest.raises(InputError, match="names of layers"):
        muon_groups(model, HPARAMS, adamw=["bod"])


def test_a_step_is_that_of_torchs_muon_and_adamw_side_by_side() -> None:
    """At every rate of a schedule, and from a checkpoint as without one."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(3)]
    for other in models[1:]:
        other.load_state_dict(models[0].state_dict())
    x = torch.randn(16, 5)
    ours = make_optimizer(models[0], HPARAMS, muon, muon_groups)
    first, second = models[1][0], models[1][2]
    apart = [
        torch.optim.Muon([first.weight], lr=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([second.weight], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
        torch.optim.AdamW([first.bias, second.bias], lr=0.01, betas=(0.9, 0.95), weight_decay=0),
    ]
    for step in range(4):
        if step == 2:  # goes on in another optimizer, as after a kill
            models[2].load_state_dict(models[0].state_dict())
            again = make_optimizer(models[2], HPARAMS, muon, muon_groups)
            again.load_state_dict(ours.state_dict())
            ours, models[0] = again, models[2]
        rate = 0.01 / (1 + step)
        for optimizer in (ours, *apart):
            set_learning_rate(optimizer, rate)
        for model, own in zip(models, ([ours], apart), strict=False):
            model(x).square().mean().backward()
            for optimizer in own:
                optimizer.step()
                optimizer.zero_grad()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_groups_without_marks_are_refused_with_what_to_give() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match="param_groups=muon_groups"):
        make_optimizer(model, HPARAMS, muon)
    every = partial(lambda model, _: [{"params": list(model.parameters()), "muon": True}])
    with pytest.raises(InputError, match="hold matrices"):
        make_optimizer(model, HPARAMS, muon, every)


def test_an_older_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match="2.9"):
        make_optimizer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), HPARAMS, muon, muon_groups)


def test_a_sweep_trains_with_muon_in_processes_too(tmp_path: Path) -> None:
    sweep: dict[str, Any] = {
        "model_cls": MLP, "model_size_param": "width", "dataset": Blobs(), "loss_fn": cross_entropy,
        "compute_budgets": [2e6, 4e6], "sizes": [8, 16], "hparams": {"lr": 0.01, "batch_units": 16},
        "training": TRAINING,
    }  # fmt: skip
    plan = flops_fit.plan_sweep(**sweep)
    here = flops_fit.run_sweep(plan, output_dir=tmp_path / "here", progress=False)
    pool = flops_fit.run_sweep(
        plan,
        output_dir=tmp_path / "pool",
        executor=flops_fit.execute.PoolExecutor(2),
        progress=False,
    )
    assert [run.loss for run in pool] == [run.loss for run in here]
    other = flops_fit.plan_sweep(**{**sweep, "training": flops_fit.TrainingConfig()})
    assert {e.id for e in plan.experiments}.isdisjoint(e.id for e in other.experiments)
