"""Tuning in one call: real trials in a folder of their own, a sweep that uses them, and going on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import flops_fit
from flops_fit.errors import InputError
from flops_fit.store import examine
from flops_fit.train import Trainer
from flops_fit.tune import Tune
from tests.conftest import MLP, Blobs, cross_entropy

SMALL = Tune("pilot", share=0.5, step=4.0, batch=False, seeds=2)


TUNED: dict[str, Any] = {  # with a rate that is far too low
    "model_cls": MLP,
    "model_size_param": "width",
    "dataset": Blobs(),
    "loss_fn": cross_entropy,
    "compute_budgets": [1e6, 2e6, 4e6],
    "sizes": [4, 8, 16],
    "batch_size": 8,
    "hparams": {"lr": 1e-3, "schedule": "constant"},
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> flops_fit.Result:
    out = tmp_path_factory.mktemp("tuned") / "out"
    return flops_fit.find_optimal(**TUNED, tune=SMALL, output_dir=out, progress=False)


def test_a_pilot_finds_a_better_rate_and_the_sweep_uses_it(result, tmp_path):
    tuning, out = result.tuning, Path(result.output_dir)
    factor = tuning.recipe.lr[0][1]
    assert factor > 4
    for run in result.runs:
        assert run.experiment.hparams.lr == pytest.approx(
            1e-3 * tuning.factor(run.experiment.params.total), rel=0.01
        )
        assert run.experiment.hparams.recipe == "custom + pilot"
        assert run.noise_scale is None
    trials = {t.run.experiment.id for t in tuning.trials}
    assert trials.isdisjoint(r.experiment.id for r in result.runs)
    assert tuning.share <= 0.5
    assert any(c.noise_scale is not None for c in tuning.cells)
    written = json.loads((out / "tuning" / "tuning.json").read_text())
    assert written["lr"] == [list(knot) for knot in tuning.recipe.lr]
    assert len(list((out / "runs").iterdir())) == len(result.runs)
    for folder in (out, out / "tuning"):
        assert examine(folder).sound
    asked = json.loads((out / "fit.json").read_text())["made_of"]["options"]
    assert asked["hparams"] is None  # rates that trials chose were not varied on purpose
    codes = {d.code for d in result.diagnostics}
    assert {"tuning", "without_tuning"} <= codes
    assert "untuned" not in codes
    untuned = flops_fit.find_optimal(**TUNED, tune="none", output_dir=tmp_path, progress=False)
    assert "untuned" in {d.code for d in untuned.diagnostics}
    for plain, better in zip(untuned.runs, result.runs, strict=True):
        assert plain.state == "diverged" or plain.loss > better.loss


def test_the_same_call_goes_on_where_it_was_killed(result, tmp_path, monkeypatch):
    train, made = Trainer.__call__, []

    def dying(self: Trainer, experiment: Any, report: Any = None) -> Any:
        made.append(experiment.id)
        if len(made) == 16:
            raise KeyboardInterrupt
        return train(self, experiment, report)

    monkeypatch.setattr(Trainer, "__call__", dying)
    killed = {**TUNED, "tune": SMALL, "output_dir": tmp_path / "killed", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        flops_fit.find_optimal(**killed)
    before = set(made[:15])
    again = flops_fit.find_optimal(**killed)
    assert not before & set(made[16:])
    assert again.tuning.recipe.lr == result.tuning.recipe.lr
    assert [r.loss for r in again.runs] == [r.loss for r in result.runs]


def test_a_plan_is_tuned_by_itself_and_keeps_its_sizes(result, tmp_path):
    """The trials of the one call are its own."""
    out = shutil.copytree(result.output_dir, tmp_path / "out")
    plan = flops_fit.plan_sweep(**TUNED)
    other, tuning = flops_fit.tune_sweep(plan, SMALL, output_dir=out, progress=False)
    assert [t.run for t in tuning.trials] == [t.run for t in result.tuning.trials]
    assert [(e.budget, e.size) for e in other.experiments] == [
        (e.budget, e.size) for e in plan.experiments
    ]
    assert {e.hparams.recipe for e in other.experiments} == {"custom + pilot"}
    assert "Tuning: pilot" in str(tuning)
    assert {d.code for d in plan.diagnostics} == {d.code for d in other.diagnostics}


def test_what_has_nothing_to_tune_is_refused_before_anything_is_spent(sweep, tmp_path):
    with pytest.raises(InputError, match="simulated runs have no learning rate"):
        flops_fit.find_optimal(
            **{**sweep, "mode": "mock", "tune": "pilot", "output_dir": tmp_path / "x"}
        )
    assert not (tmp_path / "x").exists()
    mocked = flops_fit.plan_sweep(MLP, "width", compute_budgets=[1e9, 3e9], mode="mock")
    with pytest.raises(InputError, match="made without a data set"):
        flops_fit.tune_sweep(mocked, output_dir=tmp_path)
    with pytest.raises(InputError, match="nothing was tuned"):
        _ = flops_fit.find_optimal(**{**sweep, "output_dir": tmp_path / "y"}).without_tuning
