"""What trains is what was planned, by the schedule that was planned, and its record says so."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flops_fit.data import split_data
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.recipes import learning_rate
from flops_fit.records import Experiment, Run
from flops_fit.train import Precision, Progress, Trainer
from flops_fit.train.monitor import ratio_standard_error
from flops_fit.train.optimizer import make_optimizer
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment, with_changes


def trainer(
    model: Any = MLP, dataset: Any = None, loss_fn: Any = cross_entropy, **options: Any
) -> Trainer:
    data, held_out = split_data(dataset or Blobs(1000), Blobs(300, seed=7))
    return Trainer(ModelSpec(model, "width"), data, held_out, Objective(loss_fn, **options))


def by_hand(experiment: Experiment, dataset: Blobs, held_out: Blobs) -> float:
    """The same run, written out in plain torch."""
    torch.manual_seed(experiment.seed)
    model = MLP(experiment.size)
    h = experiment.hparams
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=h["lr"],
        betas=(h["beta1"], h["beta2"]),
        weight_decay=h["weight_decay"],
    )
    spec = split_data(dataset, held_out)[0]
    for step, (x, y) in enumerate(
        spec.batches(experiment.batch_size, experiment.steps, experiment.seed), start=1
    ):
        optimizer.param_groups[0]["lr"] = learning_rate(h, (step - 0.5) / experiment.steps)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), h["clip"])
        optimizer.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(held_out.x), held_out.y).item()


def test_a_run_equals_the_same_run_written_by_hand() -> None:
    experiment = make_experiment(steps=120)
    run = trainer()(experiment)
    assert run.state == "completed"
    assert run.loss == pytest.approx(by_hand(experiment, Blobs(1000), Blobs(300, seed=7)), rel=1e-5)


def test_what_was_planned_is_what_is_spent() -> None:
    experiment = make_experiment()
    run = trainer()(experiment)
    assert run.tokens == experiment.tokens == 400
    assert run.flops == experiment.flops
    assert run.seconds > 0
    assert run.versions["torch"] == torch.__version__


def test_masked_targets_cost_flops_and_are_not_counted() -> None:
    class HalfMasked(Blobs):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.y[::2] = -100

    run = trainer(dataset=HalfMasked(1000))(make_experiment(steps=125))
    assert run.tokens == 500
    assert run.flops == 704.0 * 1000


def test_the_same_experiment_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, again = (trainer()(make_experiment()) for _ in range(2))
    times = {"seconds": 0.0, "units_per_second": 0.0}
    assert replace(first, **times) == replace(again, **times)
    assert trainer()(make_experiment(seed=2)).loss != first.loss


def test_training_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    trainer()(make_experiment())
    assert torch.equal(torch.rand(1), expected)


def test_training_lowers_the_loss_and_the_record_holds_both() -> None:
    run = trainer()(make_experiment(steps=400))
    assert run.loss is not None
    assert run.train_loss is not None
    assert run.loss < 0.7 * math.log(4)
    assert 0 < run.loss_se < 0.1


def test_progress_is_reported_to_the_last_step() -> None:
    heard: list[Progress] = []
    trainer()(make_experiment(), heard.append)
    assert heard[0].step == 1
    assert (heard[-1].step, heard[-1].steps) == (50, 50)
    assert all(p.units_per_second is not None and p.units_per_second > 0 for p in heard)


class _Explodes(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return (
            out * float("inf")
            if self.training and float(self.up.weight.detach().norm()) > 1.95
            else out
        )


class _Fails(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken on purpose")


class _OutOfMemory(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no more")


def test_a_loss_that_is_not_finite_is_divergence_with_the_step() -> None:
    run = trainer(_Explodes)(
        make_experiment(steps=300, hparams=replace(make_experiment().hparams, lr=0.5))
    )
    assert run.state == "diverged"
    assert "training loss nan by step" in run.reason
    assert run.loss is None


def test_a_loss_above_its_start_is_divergence() -> None:
    hparams = replace(make_experiment().hparams, lr=30.0, clip=1e9, schedule="constant")
    run = trainer()(make_experiment(hparams=hparams))
    assert run.state == "diverged"
    assert "rose from" in run.reason


def test_a_failure_is_recorded_with_its_reason_and_traceback() -> None:
    run = trainer(_Fails)(make_experiment())
    assert (run.state, run.reason) == ("failed", "RuntimeError: broken on purpose")
    assert "in forward" in run.details


def test_running_out_of_memory_has_a_state_of_its_own() -> None:
    assert trainer(_OutOfMemory)(make_experiment()).state == "oom"


def test_an_interruption_passes_through() -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer()(make_experiment(), interrupt)


def test_a_step_fn_trains_like_the_loss_it_stands_for() -> None:
    def step(model: nn.Module, batch: Any) -> tuple[torch.Tensor, int]:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y, reduction="sum"), len(y)

    with_step = trainer(loss_fn=None, step_fn=step)(make_experiment())
    assert with_step.loss == pytest.approx(trainer()(make_experiment()).loss, rel=1e-5)


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    groups = make_optimizer(model, make_experiment().hparams).param_groups
    decayed = {tuple(p.shape): g["weight_decay"] for g in groups for p in g["params"]}
    assert decayed == {(4, 4): 0.1, (5, 4): 0.0, (4,): 0.0}


def test_the_standard_error_is_that_of_repeated_sampling() -> None:
    rng = np.random.default_rng(0)
    estimates, claimed = [], []
    for _ in range(400):
        counts = rng.integers(5, 20, 40).astype(float)
        sums = counts * rng.normal(2.0, 0.5, 40)
        ratio, error = ratio_standard_error(sums, counts)
        estimates.append(ratio)
        claimed.append(error)
    assert np.mean(claimed) == pytest.approx(np.std(estimates), rel=0.12)


def test_one_part_has_no_standard_error() -> None:
    value, error = ratio_standard_error(np.array([4.0]), np.array([2.0]))
    assert value == 2.0
    assert math.isnan(error)


def test_two_epochs_are_trained_where_two_were_planned() -> None:
    run = trainer(dataset=Blobs(200))(replace(make_experiment(), epochs=2.0))
    assert run.tokens == 400


def test_a_run_that_ends_in_its_schedule_is_no_finished_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data that end early leave a failed run, never a loss."""
    made = trainer()
    whole = list(made.data.batches(8, 30, 1))
    monkeypatch.setattr(type(made.data), "batches", lambda *a, **k: (b for b in whole))
    run = made(make_experiment())
    assert run.state == "failed"
    assert "30 of 50 steps" in run.reason
    assert run.loss is None


def test_spikes_are_kept_in_the_record() -> None:
    """A leap of the loss has its block of five steps and size, also after a trip through JSON."""
    calls = []

    def leaping(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return cross_entropy(output, targets) * (40.0 if len(calls) == 41 else 1.0)

    run = trainer(loss_fn=leaping)(make_experiment(steps=100))
    assert [step for step, _ in run.spikes] == [45]
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_half_precision_trains_near_full_precision() -> None:
    """bfloat16 forward passes over float32 weights: another loss, and not far from it."""
    full = trainer()(make_experiment(steps=300))
    half = with_changes(trainer(), precision=Precision("bf16"))(make_experiment(steps=300))
    assert half.loss != full.loss
    assert half.loss == pytest.approx(full.loss, rel=0.15)
