"""Runs that cannot matter any more are stopped where that is asked for, alike everywhere, and said."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flops_fit
from flops_fit import HParams, TrainingConfig
from flops_fit.errors import InputError
from flops_fit.execute import InProcessExecutor, PoolExecutor
from flops_fit.records import Experiment, Run
from flops_fit.store import Store, examine
from flops_fit.sweep import run_experiments
from flops_fit.table.run_table import RunTable
from flops_fit.train import Progress
from flops_fit.train.hopeless import Reference, is_due, judge, references
from flops_fit.view import SilentView
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment


class Bounded(MLP):
    """Bounded logits: a far too large rate saturates them for good, without diverging."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(super().forward(x))


FAR_TOO_HIGH = 160  # parameters of the size with such a rate


def rates(params: Any, units: float, unit: str) -> HParams:
    return HParams(lr=1.0 if params.total == FAR_TOO_HIGH else 1e-2, batch_units=8)


SWEEP: dict[str, Any] = {
    "model_cls": Bounded,
    "model_size_param": "width",
    "dataset": Blobs(20_000),
    "loss_fn": cross_entropy,
    "compute_budgets": [1e6, 2e6, 4e6],
    "sizes": [8, 12, 16, 20, 24],
    "hparams": rates,
}
STOPS = TrainingConfig(stop_hopeless=True, checkpoint_seconds=None, checkpoint_steps=20)


def plan(stop: bool = True) -> flops_fit.SweepPlan:
    return flops_fit.plan_sweep(**SWEEP, training=STOPS if stop else TrainingConfig())


def alike(runs: list[Run]) -> list[Run]:
    """But for times and how often a run went on."""
    return [replace(r, seconds=0.0, units_per_second=0.0, resumed=0, versions={}) for r in runs]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("full")
    return flops_fit.run_sweep(plan(False), output_dir=folder, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    flops_fit.run_sweep(plan(), output_dir=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def stopped(folder: Path) -> list[Run]:
    """The runs on record, which a second call only reads."""
    return flops_fit.run_sweep(plan(), output_dir=folder, progress=False)


def test_a_far_too_large_rate_is_stopped_and_all_else_is_the_same_to_the_last_bit(full, stopped):
    hopeless = [r for r in stopped if r.state == "hopeless"]
    assert {r.experiment.params.total for r in hopeless} == {FAR_TOO_HIGH}
    assert hopeless
    for before, now in zip(alike(full), alike(stopped), strict=True):
        assert before.experiment == now.experiment  # the option is part of no id
        if now.state != "hopeless":
            assert now == before
            continue
        assert before.loss >= now.loss_at_least
        assert now.loss is None
        assert 0.5 <= now.flops / now.experiment.flops < 0.95
        assert f"C={now.experiment.budget:.3g} size=16 of its budget ended at" in now.reason


def test_they_are_counted_as_left_out_and_the_fit_is_that_of_the_others(folder, stopped, full):
    fit = flops_fit.fit_runs(folder / "runs.csv")
    lost = [r for r in stopped if r.state == "hopeless"]
    assert [e.at_least for e in fit.excluded] == [r.loss_at_least for r in lost]
    assert all(e.by_outcome and "hopeless" in e.reason for e in fit.excluded)
    (said,) = (d for d in fit.diagnostics if d.code == "selected_by_outcome")
    assert said.severity == "note"  # as their losses are known to be higher
    assert f"1 of 5 at C = {lost[0].experiment.budget:.3g} (1 stopped" in said.message
    rest = [r for r, s in zip(full, stopped, strict=True) if s.state != "hopeless"]
    assert fit.params == pytest.approx(flops_fit.fit_runs(rest).params)
    assert examine(folder).sound
    table = RunTable.from_runs(stopped)
    assert [c[4] for c in table.censored] == [r.loss_at_least for r in lost]
    assert [c[1] for c in table.censored] == [r.experiment.tokens for r in lost]


def test_several_at_once_make_the_same_decisions(stopped, tmp_path):
    pool = PoolExecutor(workers=2, threads=1)
    runs = flops_fit.run_sweep(plan(), executor=pool, output_dir=tmp_path, progress=False)
    assert alike(runs) == alike(stopped)


@pytest.fixture
def interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_killed_sweep_goes_on_to_the_same_decisions(stopped, tmp_path, interrupts, monkeypatch):
    """Interrupted within a run that is stopped later, once its reference has ended."""
    monkeypatch.setattr("flops_fit.train.trainer._REPORT_SECONDS", -1.0)
    (victim, *_) = (r.experiment for r in stopped if r.state == "hopeless")
    asked, store = plan(), Store.open(tmp_path)
    task = asked.task.in_folder(store.runs, None, asked.experiments)

    class Killing(SilentView):
        def progress(self, progress: Progress) -> None:
            if progress.experiment_id == victim.id and progress.step == victim.steps // 3:
                os.kill(os.getpid(), signal.SIGINT)

    def carry_out(view: SilentView) -> list[Run]:
        kinds = asked.experiments, task, InProcessExecutor(), store, view
        return run_experiments(*kinds, after=task.references)

    with pytest.raises(KeyboardInterrupt):
        carry_out(Killing())
    assert store.is_recorded(task.references[victim.id])
    again = carry_out(SilentView())
    assert next(r for r in again if r.experiment == victim).resumed == 1
    assert alike(again) == alike(stopped)


def test_without_the_option_a_stopped_run_is_trained_in_full(full, tmp_path):
    flops_fit.run_sweep(plan(), output_dir=tmp_path, progress=False)
    assert not plan().diff(tmp_path).missing
    assert plan(False).diff(tmp_path).missing
    runs = flops_fit.run_sweep(plan(False), output_dir=tmp_path, progress=False)
    assert alike(runs) == alike(full)


def test_a_run_is_compared_with_the_middle_of_its_budget():
    lrs = {1: 0.1, 2: 0.2, 3: 0.3}
    own = [
        make_experiment(size=n, budget=b, hparams=HParams(lr=lr, batch_units=8))
        for b, n, lr in ((1.0, 8, lrs[1]), (1.0, 8, lrs[3]), (1.0, 8, lrs[2]), (2.0, 8, lrs[1]))
    ]
    middle = own[2].id
    assert references(own) == {own[0].id: middle, own[1].id: middle}
    assert references(reversed(own)) == references(own)


def falling(e: Experiment, until: float, level: float) -> list[tuple[float, float]]:
    steps = np.arange(5.0, until * e.steps + 1, 5)
    return [(float(s), level + 2 * float(s) ** -0.5) for s in steps]


def test_half_of_the_fall_of_the_rate_has_to_be_seen():
    """What a cool-down does to a rate that is too high shows in nothing before it."""
    reference = Reference("another", 1.0, 1.0)
    for schedule, early, late in (("cosine", 0.4, 0.6), ("wsd", 0.8, 0.9), ("constant", 0, 0.2)):
        hparams = HParams(lr=0.1, batch_units=8, schedule=schedule)
        e = make_experiment(steps=2000, tokens=16_000, hparams=hparams)
        if early:
            assert judge(e, falling(e, early, 3.0), reference) is None
        reason, at_least = judge(e, falling(e, late, 3.0), reference)
        assert "where another of its budget ended at 1" in reason
        assert at_least == pytest.approx(1.1)
        assert judge(e, falling(e, late, 1.2), reference) is None
        assert judge(e, falling(e, late, 3.0), replace(reference, loss=3.0)) is None
    assert [s for s in range(1, 16) if is_due(s, 15)] == [3, 5, 6, 8, 9, 11, 12, 14]


def test_a_reference_that_did_not_end_well_is_none(tmp_path):
    assert Reference.read(tmp_path) is None
    store = Store.open(tmp_path / "sweep")
    e = make_experiment()
    for run in (Run(e, "diverged"), Run(e, "completed", loss=-1.0, train_loss=1.0)):
        store.publish(run)
        assert Reference.read(store.run_dir(e.id)) is None
        (store.run_dir(e.id) / "run.json").unlink()
    store.publish(Run(e, "completed", loss=1.1, train_loss=1.0))
    assert Reference.read(store.run_dir(e.id)) == Reference(e.label, 1.0, 1.1)


def test_what_it_cannot_be_combined_with_is_refused():
    with pytest.raises(InputError, match="expected no branch"):
        TrainingConfig(stop_hopeless=True, branch=True)
    command = flops_fit.CommandTask("train --size {size}")
    asked = {"model_cls": flops_fit.ModelSizes({8: 160}), "compute_budgets": [1e9]}
    with pytest.raises(InputError, match="a command's are not"):
        flops_fit.plan_sweep(**asked, mode=command, training=STOPS)
