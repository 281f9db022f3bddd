"""A sweep that tunes itself in one call: the same runs wherever they happen, and after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flops_fit
from flops_fit.store import examine
from flops_fit.train import Trainer
from tests.conftest import MLP, Blobs, cross_entropy

SWEEP: dict[str, Any] = {
    "model_cls": MLP,
    "model_size_param": "width",
    "dataset": Blobs(),
    "loss_fn": cross_entropy,
    "compute_budgets": [4e5, 1.2e6],
    "sizes": [4, 8, 12, 20],
    "hparams": {"lr": 1e-2, "batch_units": 8},
    "tune": "joint",
    "progress": False,
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> flops_fit.Result:
    """Killed at its second budget, and called again."""
    folder, train, made = tmp_path_factory.mktemp("joint"), Trainer.__call__, []

    def dying(self: Trainer, experiment: Any, report: Any = None) -> Any:
        made.append(experiment)
        if len({e.budget for e in made}) == 2 and made[-1].budget == made[-2].budget:
            raise KeyboardInterrupt
        return train(self, experiment, report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__call__", dying)
        with pytest.raises(KeyboardInterrupt):
            flops_fit.find_optimal(**SWEEP, output_dir=folder)
    result = flops_fit.find_optimal(**SWEEP, output_dir=folder)
    assert {e.id for e in made} <= {r.experiment.id for r in result.runs}
    return result


def test_it_goes_on_with_the_same_runs_and_makes_them_in_any_place(result, tmp_path):
    plan = flops_fit.plan_sweep(**{k: v for k, v in SWEEP.items() if k != "progress"})
    pool = flops_fit.execute.PoolExecutor(workers=2, threads=1)
    runs = flops_fit.run_sweep(plan, executor=pool, output_dir=tmp_path, progress=False)
    assert [r.experiment.id for r in runs] == [r.experiment.id for r in result.runs]
    assert [r.loss for r in runs] == [r.loss for r in result.runs]


def test_the_answer_has_the_rule_and_what_the_recipe_would_have_said(result):
    assert result.fit.hparams.names == ("lr", "batch_units")
    assert set(result.recipe.laws) == {"lr", "batch_units"}
    assert {r.experiment.hparams.recipe for r in result.runs} == {"custom + joint"}
    codes = {d.code for d in result.diagnostics}
    assert {"joint", "hparams", "without_tuning"} <= codes
    assert "untuned" not in codes
    page = result.report().read_text()
    assert result.steps[0] in page
    assert "Learning rate and batch" in page
    assert len(result.steps) >= 2


def test_an_adaptive_design_tunes_itself_too_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    design = flops_fit.Adaptive(target_compute=2.5e8, max_flops=1.4e7, half_width=1.0, batch=4)
    budgets = [4e5, 8e5, 1.6e6]
    sweep = {**SWEEP, "design": design, "compute_budgets": budgets, "output_dir": tmp_path}
    del sweep["sizes"]
    plan = flops_fit.find_optimal(**sweep, train=False)
    told = next(d for d in plan.diagnostics if d.code == "joint")
    assert "then batch after batch" in told.message
    assert told.severity == "note"
    train, made = Trainer.__call__, []

    def dying(self: Trainer, experiment: Any, report: Any = None) -> Any:
        made.append(experiment)
        if len(made) == len(plan) + 2:
            raise KeyboardInterrupt
        return train(self, experiment, report)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__call__", dying)
        with pytest.raises(KeyboardInterrupt):
            flops_fit.find_optimal(**sweep)
    found = flops_fit.find_optimal(**sweep)
    assert {e.id for e in made[:-1]} <= {r.experiment.id for r in found.runs}
    assert found.steps == found.adaptive.steps
    spent = sum(r.experiment.flops for r in found.runs)
    assert found.adaptive.spent == pytest.approx(spent, rel=0.01)
    assert spent <= 1.4e7
    assert {r.experiment.hparams.recipe for r in found.runs} == {"custom + joint"}
    assert len({r.experiment.hparams.lr for r in found.runs}) == len(found.runs)
    assert found.fit.hparams.names == ("lr", "batch_units")
    assert {"joint", "hparams", "without_tuning"} <= {d.code for d in found.diagnostics}
    assert found.steps[0] in found.report().read_text()


def test_what_was_decided_is_on_record_and_the_fit_can_be_read_again(result):
    folder = Path(result.output_dir)
    decided = json.loads((folder / "joint.json").read_text())
    assert len(decided) >= 1
    assert examine(folder).sound
    again = flops_fit.fit.load_fit(folder / "fit.json")
    assert again.hparams.valley.prior == result.fit.hparams.valley.prior
    assert again.params == pytest.approx(result.fit.params)


@pytest.mark.parametrize("torn", ["[" * 100_000, '{"a": {"laws": 3}}'])
def test_decisions_that_are_torn_are_made_again(result, monkeypatch, torn):
    """With all losses on record they are the same, and nothing is trained."""
    monkeypatch.setattr(Trainer, "__call__", lambda *_: pytest.fail("a run was made again"))
    path = Path(result.output_dir) / "joint.json"
    decided = json.loads(path.read_text())
    path.write_text(torn)
    again = flops_fit.find_optimal(**SWEEP, output_dir=result.output_dir)
    assert [r.experiment.id for r in again.runs] == [r.experiment.id for r in result.runs]
    assert json.loads(path.read_text()) == decided
