"""A sweep that tunes itself: what is drawn, where it goes, and that the same losses decide the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import flops_fit
from flops_fit.errors import InputError
from flops_fit.fit.varied import varied
from flops_fit.laws import Hoffmann
from flops_fit.recipes import HParams
from flops_fit.records import Experiment, Run
from flops_fit.table import RunTable
from flops_fit.tune import Tune
from flops_fit.tune.joint import FEWEST_STEPS, Climbed, Climber, latin, valley_prior
from tests.conftest import MLP

LAW = Hoffmann(1.7, 30.0, 60.0, 0.34, 0.34)


def recipe(params: Any, units: float, unit: str) -> HParams:
    lr = 1e-3 * (params.total / 1e3) ** -0.6 * (units / 1e6) ** 0.3
    return HParams(lr=lr, batch_units=300 * (units / 1e6) ** 0.55, recipe="plain-1")


def plan(budgets: Sequence[float] = (1e10, 3e10, 1e11), **changes: Any) -> flops_fit.SweepPlan:
    arguments: dict[str, Any] = {
        "model_cls": MLP,
        "model_size_param": "width",
        "compute_budgets": budgets,
        "mode": "mock",
        "hparams": recipe,
        "tune": "joint",
    }
    return flops_fit.plan_sweep(**{**arguments, **changes})


@dataclass
class Valley:
    """Losses with a known best rate and batch, ``off`` times the recipe's."""

    off: float = 1.0
    batch_off: float = 1.0
    diverges: float = math.inf

    def best(self, N: float, D: float) -> tuple[float, float]:
        lr = 1e-3 * self.off * (N / 1e3) ** -0.6 * (D / 1e6) ** 0.3
        return lr, 300 * self.batch_off * (D / 1e6) ** 0.55

    def regret(self, e: Experiment) -> float:
        lr, batch = self.best(e.params.total, e.tokens)
        v = math.log(e.batch_size * e.units_per_sample / batch)
        u = math.log(e.hparams.lr / lr) - 0.35 * v
        return 0.03 * u * u * math.exp(0.3 * math.tanh(u)) + 0.02 * v * v

    def __call__(self, e: Experiment, report: object = None) -> Run:
        spent = {"tokens": e.tokens, "flops": e.flops}
        if e.hparams.lr > self.diverges * self.best(e.params.total, e.tokens)[0]:
            return Run(e, "diverged", reason="loss nan", **spent)
        wiggle = 0.002 * np.random.default_rng(e.seed).standard_normal()
        floor = float(LAW.loss(e.params.total, e.tokens))
        return Run(e, "completed", loss=floor * math.exp(self.regret(e) + wiggle), **spent)


def climbed(
    planned: flops_fit.SweepPlan, valley: Valley, decided: dict[str, Any] | None = None
) -> Climbed:
    joint, known = planned.planner.joint, {} if decided is None else decided

    def carry_out(some: Sequence[Experiment]) -> list[Run]:
        return [valley(e) for e in some]

    prior = valley_prior(planned, joint)
    return Climber(planned, joint, carry_out, prior, decided=known).climb()


@pytest.fixture(scope="module")
def near() -> tuple[flops_fit.SweepPlan, Climbed, dict[str, Any]]:
    planned, decided = plan(), {}
    return planned, climbed(planned, Valley(), decided), decided


@pytest.mark.parametrize("runs", [1, 2, 5, 7])
def test_designs_fill_their_range_and_are_unrelated_to_size_over_all_budgets(runs):
    rng, x, related, every = np.random.default_rng(0), np.linspace(-1, 1, runs), 0.0, []
    for _ in range(5):
        z, related = latin(x, 2, rng, related)
        for column in z:
            assert sorted(((column + 1) * runs / 2).astype(int)) == list(range(runs))
        every.append(z)
    if runs > 2:
        z, x = np.hstack(every), np.tile(x, 5)
        terms = np.corrcoef([x, x**2, *z, *z**2, z[0] * z[1]])
        assert np.max(np.abs(terms[:2, 2:])) < 0.1
        assert abs(terms[2, 3]) < 0.1


def test_designs_of_unlike_budgets_make_up_for_each_other():
    """What one budget's rates have to do with size, the next one's take back, whatever their numbers."""
    left = []
    for seed in range(10):
        rng, related, summed = np.random.default_rng(seed), 0.0, 0.0
        for runs in (3, 5, 3, 5, 3, 5):
            x = np.linspace(-1, 1, runs)
            z, related = latin(x, 2, rng, related)
            summed += np.corrcoef(x, z[0])[0, 1]
        left.append(abs(summed))
    assert np.mean(left) < 0.6


def test_only_rate_and_batch_are_drawn_and_everything_else_is_as_planned(near):
    planned, done, _ = near
    by_cell = {(e.budget, e.size): e for e in planned.experiments}
    assert len(done.runs) >= len(planned)
    for e in done.experiments:
        asked = by_cell[e.budget, e.size]
        assert e.tokens == pytest.approx(asked.tokens, rel=0.01)
        assert e.flops == pytest.approx(e.budget, rel=0.01)
        assert e.hparams.batch_units == e.batch_size * e.units_per_sample
        assert e.steps >= FEWEST_STEPS / 1.01
        drawn = {name: asked.hparams[name] for name in ("lr", "batch_units")}
        assert replace(e.hparams, **drawn, recipe="plain-1") == asked.hparams
    assert len({e.id for e in done.experiments}) == len(done.runs)
    budgets = [e.budget for e in done.experiments]
    assert budgets == sorted(budgets)


def test_runs_gather_around_the_best_as_the_sweep_climbs(near):
    planned, done, _ = near
    regrets = {b: [] for b in planned.budgets}
    for e in done.experiments:
        regrets[e.budget].append(Valley().regret(e))
    means = [np.mean(r) for r in regrets.values()]
    assert means[-1] < 0.7 * means[0]
    assert done.steps[0].startswith("1e+10 FLOPs: 7 runs within ×4 around the recipe")
    assert "within ×2 around the rule of all runs so far" in done.steps[-1]


def test_the_same_losses_decide_the_same_and_what_was_decided_stays(near):
    planned, done, decided = near
    again = climbed(planned, Valley(), decided)
    assert [e.id for e in again.experiments] == [e.id for e in done.experiments]
    other = {k: replace(v, laws={}, beyond={}) for k, v in decided.items()}
    assert climbed(planned, Valley(), other).experiments != done.experiments
    assert climbed(plan(seed=1), Valley(), dict(decided)).experiments != done.experiments


def test_a_budget_is_made_again_where_the_best_lies_beyond_all_that_was_tried():
    planned = plan(tune=Tune("joint", batch=False))
    done = climbed(planned, Valley(off=20.0))
    assert any("again" in step and "learning rate above" in step for step in done.steps)
    first = [e for e in done.experiments if e.budget == 1e10]
    assert len(first) > len(planned) / 3
    assert len({e.repeat for e in first}) == len(first) / 7
    last = [e for e in done.experiments if e.budget == 1e11]
    off = [
        math.log(e.hparams.lr / Valley(off=20.0).best(e.params.total, e.tokens)[0]) for e in last
    ]
    assert min(off) < 0.5
    assert max(off) > -0.5
    extra = sum(e.flops for e in done.experiments) - planned.total_flops
    assert extra / (extra + planned.total_flops) <= 0.15


def test_where_all_rates_diverge_lower_ones_are_tried():
    planned = plan(tune=Tune("joint", batch=False))
    done = climbed(planned, Valley(off=1 / 200, diverges=3.0))
    assert any("learning rate below" in step for step in done.steps)
    assert sum(r.state == "completed" for r in done.runs) > len(planned) / 2


def test_a_batch_below_one_sample_is_not_looked_for():
    def small(params: Any, units: float, unit: str) -> HParams:
        return replace(recipe(params, units, unit), batch_units=2)

    planned = plan((1e10, 3e10), hparams=small)
    done = climbed(planned, Valley(batch_off=1e-3))
    assert min(e.batch_size for e in done.experiments) == 1
    assert not any("batch below" in step for step in done.steps)


class Decayed(Valley):
    """With a best weight decay: one at which AdamW averages over a third of the run."""

    def regret(self, e: Experiment) -> float:
        return super().regret(e) + 0.02 * math.log(3 * share(e)) ** 2


def share(e: Experiment) -> float:
    return e.hparams.batch_units / (e.hparams.lr * e.hparams.weight_decay * e.tokens)


def test_weight_decay_is_drawn_by_the_memory_that_it_gives():
    planned = plan((1e10, 3e10, 1e11, 3e11), tune=Tune("joint", decay=True))
    assert "learning rate, batch and weight decay" in planned.diagnostics[0].message
    done = climbed(planned, Decayed())
    assert "weight decay" in done.steps[-1]
    last = [math.log(3 * share(e)) for e in done.experiments if e.budget == 3e11]
    assert abs(np.mean(last)) < 0.35
    assert np.ptp(last) > 1.0
    table = RunTable.from_runs(done.runs)
    assert varied(table) == ("lr", "batch_units", "weight_decay")
    with pytest.raises(InputError, match="a weight decay above 0"):
        plan(
            hparams={"lr": 1e-3, "batch_units": 8, "weight_decay": 0.0},
            tune=Tune("joint", decay=True),
        )
    with pytest.raises(InputError, match="batch_size='auto'"):
        plan(batch_size=8, tune=Tune("joint", decay=True))
    with pytest.raises(InputError, match="decay=True with 'joint'"):
        Tune("pilot", decay=True)


@pytest.fixture(scope="module")
def adapted() -> tuple[flops_fit.AdaptiveResult, Climber]:
    """An adaptive sweep from a recipe whose rates and batches are far off, and whose high rates diverge."""
    return adaptively(Valley(off=1 / 8, batch_off=6.0, diverges=30.0))


def adaptively(
    valley: Valley, max_flops: float = 2e12, pilot: Sequence[float] | None = None
) -> tuple[Any, Climber]:
    design = flops_fit.Adaptive(target_compute=3e13, max_flops=max_flops, half_width=0.3)
    planned = plan(pilot, design=design)
    joint = planned.planner.joint
    climber = Climber(
        planned,
        joint,
        lambda some: [valley(e) for e in some],
        valley_prior(planned, joint),
        top=design.top,
        total=design.max_flops,
    )
    return climber.adapt(design), climber


def test_an_adaptive_sweep_that_tunes_itself_finds_the_size_from_a_wrong_recipe(adapted):
    found, climber = adapted
    best = LAW.optimal(3e13).params
    assert found.interval[0] < best < found.interval[1]
    assert abs(math.log(found.optimal_params / best)) < 0.2
    assert found.reached
    assert found.spent < 1e12
    spent = sum(e.flops for e in climber.experiments)
    assert found.spent == pytest.approx(spent, rel=0.01)  # a run of a large batch has whole steps
    assert found.check.passed


def test_its_batches_are_drawn_around_the_rule_of_all_runs_so_far(adapted):
    found, climber = adapted
    said = found.steps
    assert "around the recipe" in said[0]
    assert sum("around the rule" in line for line in said) >= 2
    assert sum(line.startswith("next: ") for line in said) >= 1
    regrets = [Valley(off=1 / 8, batch_off=6.0).regret(e) for e in climber.experiments]
    assert np.mean(regrets[-20:]) < 0.1 * np.mean(regrets[:5])
    ids, cells = zip(
        *((e.id, (e.size, e.budget, e.repeat)) for e in climber.experiments), strict=True
    )
    assert len({*ids}) == len({*cells}) == len(ids)


def test_an_adaptive_sweep_decides_the_same_from_the_same_losses(adapted):
    found, climber = adapted
    again, other = adaptively(Valley(off=1 / 8, batch_off=6.0, diverges=30.0))
    assert again.steps == found.steps
    assert [e.id for e in other.experiments] == [e.id for e in climber.experiments]


def test_runs_made_again_in_a_pilot_stay_within_what_may_be_spent():
    found, _ = adaptively(Valley(off=1 / 500, diverges=3.0))
    assert any("again" in line for line in found.steps)
    assert found.spent <= 2e12
    assert found.interval[0] < LAW.optimal(3e13).params < found.interval[1]


def test_a_given_batch_size_is_kept_and_mup_makes_one_rate_for_all_sizes():
    assert plan(batch_size=32).planner.joint.names == ("lr",)
    planned = plan()
    joint = planned.planner.joint
    assert valley_prior(planned, joint).a1[0] < 0
    assert valley_prior(planned, replace(joint, mup=True)).a1[0] == 0


def test_what_cannot_be_tuned_so_is_refused(sweep, tmp_path):
    with pytest.raises(InputError, match="expected more than the pilot costs"):
        adaptively(Valley(), max_flops=1e9, pilot=(1e8, 3e8, 1e9))
    with pytest.raises(InputError, match="share the rate of their trunk"):
        plan(training=flops_fit.TrainingConfig(branch=True))
    with pytest.raises(InputError, match="tune_sweep"):
        plan(tune="pilot")
    trained = {name: value for name, value in sweep.items() if name != "progress"}
    with pytest.raises(InputError, match="give it to plan_sweep"):
        flops_fit.tune_sweep(flops_fit.plan_sweep(**trained), "joint")
    read = flops_fit.SweepPlan.from_json(plan().to_json())
    with pytest.raises(InputError, match="was read from a file"):
        flops_fit.run_sweep(read, Valley(), output_dir=tmp_path)
