"""Tuning finds rates and batches that are known, spends no more than its share, and says what is left."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import flops_fit
from flops_fit.errors import InputError, InputTypeError, PlanError
from flops_fit.fit import fit_runs
from flops_fit.laws import Hoffmann
from flops_fit.recipes import HParams
from flops_fit.recipes.resolve import coupled
from flops_fit.records import Experiment, Run
from flops_fit.tune import Tune, Tuning, without_tuning
from flops_fit.tune.optimum_fit import OptimumFit, OptimumFits, best_offset
from flops_fit.tune.search import _factors, run_tuning
from flops_fit.tune.tuning import resolve_tune
from tests.conftest import MLP

LAW = Hoffmann(1.7, 30.0, 60.0, 0.34, 0.34)
BASE = 1e-3


def recipe(params: Any, units: float, unit: str) -> HParams:
    return HParams(lr=BASE, batch_units=64, recipe="plain-1")


def plan(**changes: Any) -> flops_fit.SweepPlan:
    arguments: dict[str, Any] = {
        "model_cls": MLP,
        "model_size_param": "width",
        "compute_budgets": [1e9, 3e9, 1e10, 3e10],
        "mode": "mock",
        "hparams": recipe,
    }
    return flops_fit.plan_sweep(**{**arguments, **changes})


class Truth:
    """Losses with a known best rate and batch; rates beyond ``diverges`` times the best diverge."""

    def __init__(
        self,
        lr: Callable[[float, float], float],
        batch: float | None = None,
        k: float = 0.05,
        noise: float = 0.0,
        diverges: float = math.inf,
    ) -> None:
        self.lr, self.batch, self.k, self.noise, self.diverges = lr, batch, k, noise, diverges
        self.calls: list[list[str]] = []
        self.made: dict[str, Run] = {}

    def __call__(self, experiments: Sequence[Experiment]) -> list[Run]:
        self.calls.append([e.id for e in experiments])
        for e in experiments:
            self.made.setdefault(e.id, self.run(e))
        return [self.made[e.id] for e in experiments]

    def run(self, e: Experiment) -> Run:
        N, D = e.params.total, e.tokens
        best = self.lr(N, D) * math.sqrt(e.batch_size / 64)
        off = math.log(e.hparams.lr / best)
        if off > math.log(self.diverges):
            return Run(e, "diverged", reason="loss nan", flops=e.flops, tokens=e.tokens)
        excess = 0.5 * self.k * off**2
        if self.batch is not None:
            excess += 0.5 * self.k * math.log(e.batch_size / self.batch) ** 2
        wiggle = self.noise * np.random.default_rng(e.seed).standard_normal()
        loss = float(LAW.loss(N, D)) * math.exp(excess + wiggle)
        return Run(e, "completed", loss=loss, tokens=e.tokens, flops=e.flops, noise_scale=500.0)


def tune(truth: Truth, kind: str = "pilot", of: Any = None, **changes: Any) -> Tuning:
    planned = plan() if of is None else of
    asked = Tune(kind, **changes)
    return run_tuning(asked, planned.planner.factory, planned.experiments, planned.flops, truth)


def test_one_factor_serves_where_the_recipe_is_off_by_one_factor():
    found = tune(Truth(lambda N, D: 2.9 * BASE))
    assert found.recipe.lr == ((1.0, pytest.approx(2.9, rel=0.01)),)
    assert found.recipe.batch == 1.0
    assert not found.lr.disagree
    for i in range(4):
        assert found.untuned_regret(i) == pytest.approx(
            math.expm1(0.025 * math.log(2.9) ** 2), rel=0.01
        )
        assert found.tuned_regret(i) == pytest.approx(0, abs=1e-4)


def test_a_search_goes_on_beyond_an_edge_and_stops_where_runs_diverge():
    found = tune(Truth(lambda N, D: BASE / 11, diverges=5.0))
    assert found.recipe.lr[0][1] == pytest.approx(1 / 11, rel=0.02)
    states = {t.run.state for t in found.trials}
    assert states == {"completed", "diverged"}
    assert found.seed_sd == 0.0
    assert found.seed_dof >= 2


def test_where_all_but_the_lowest_rates_diverge_the_best_of_them_is_taken():
    found = tune(Truth(lambda N, D: BASE / 11, diverges=1.5))
    assert found.recipe.lr == ((1.0, 0.125),)
    told = {d.code: d.message for d in found.diagnostics}["tuning_flat"]
    assert "the best of the rates that were tried is taken" in told


def test_a_recipe_far_from_every_valley_is_judged_by_what_was_tried_beside_it():
    """A parabola reaches a step and a half; five steps away its own value would be wrong by factors."""
    found = tune(Truth(lambda N, D: 32 * BASE, k=0.01))
    for i in range(len(found.cells)):
        at_one = dict(found.cells[i].lrs)[1.0]
        lowest = min(loss for _, loss in found.cells[i].lrs)
        assert found.untuned_regret(i) == pytest.approx(at_one / lowest - 1)
    lost = tune(Truth(lambda N, D: BASE / 11, diverges=5.0))
    assert lost.untuned_regret(0) == math.inf
    assert "diverged" in str(lost)


def test_where_the_exponent_is_wrong_each_anchor_has_its_own_factor_and_it_is_told():
    found = tune(Truth(lambda N, D: BASE * (N / 500) ** -1.0, noise=0.0005))
    (small, a), (large, b) = found.recipe.lr
    assert math.log(b / a) / math.log(large / small) == pytest.approx(-1.0, abs=0.15)
    codes = {d.code: d for d in found.diagnostics}
    assert codes["tuning_exponents"].severity == "warning"
    assert 'tune="per-size"' in codes["tuning_exponents"].action


def test_per_size_finds_each_size_its_own_rate():
    planned = plan()
    found = tune(Truth(lambda N, D: BASE * (N / 5000) ** -0.5), "per-size", planned)
    sizes = sorted({e.params.total for e in planned.experiments})
    tried = [n for n, _ in found.recipe.lr]
    assert tried == [n for n in sizes if n in tried]
    assert len(tried) >= len(sizes) - 1
    assert "too few steps" in " ".join(found.notes)
    for n, factor in found.recipe.lr:
        assert factor == pytest.approx((n / 5000) ** -0.5, rel=0.1)


def test_batches_are_tuned_with_rates_that_follow_by_the_square_root():
    found = tune(Truth(lambda N, D: 2 * BASE, batch=20))
    assert found.recipe.batch == pytest.approx(20 / 64, rel=0.15)
    made = found.recipe(next(iter(plan().experiments)).params, 1e6, "samples")
    assert made.lr == pytest.approx(2 * BASE * math.sqrt(found.recipe.batch), rel=0.02)


def growing(params: Any, units: float, unit: str) -> HParams:
    return HParams(lr=BASE, batch_units=0.2 * units**0.5, recipe="growing-1")


def test_a_rate_that_knows_no_length_is_carried_by_the_square_root_of_the_batch():
    """The truth goes with √batch, the recipe's rate does not: at 100 times the length it is 3 times off."""
    planned = plan(hparams=growing)
    found = tune(Truth(lambda N, D: 2 * BASE), of=planned, batch=False)
    assert found.coupled is not None
    assert len(found.recipe.lr) == 1
    for e in planned.experiments:
        made = found.recipe(e.params, float(e.tokens), "units")
        best = 2 * BASE * math.sqrt(made.batch_units / 64)
        assert made.lr == pytest.approx(best, rel=0.03)
    for i, cell in enumerate(found.cells):
        off = math.log(cell.recipe_lr / (2 * BASE * math.sqrt(cell.batch_units / 64)))
        assert found.untuned_regret(i) == pytest.approx(math.expm1(0.025 * off**2), rel=0.2)


def test_a_recipe_that_speaks_of_length_or_a_batch_that_stays_is_not_coupled():
    params = plan().experiments[0].params
    steplaw, same = (
        lambda p, u, unit: replace(growing(p, u, unit), lr=1e-3 * u**0.3),
        recipe,
    )
    assert coupled(steplaw, params, [1e5, 3e5], "tokens") is steplaw
    assert coupled(same, params, [1e5, 3e5], "tokens") is same
    assert tune(Truth(lambda N, D: BASE), of=plan(hparams=growing, batch_size=64)).coupled is None


def test_a_batch_of_the_users_own_is_left_alone():
    found = tune(Truth(lambda N, D: 2 * BASE, batch=20), of=plan(batch_size=64))
    assert found.batch is None
    assert found.recipe.batch == 1.0
    assert {t.run.experiment.batch_size for t in found.trials} == {64}


@pytest.mark.parametrize(("kind", "share"), [("pilot", 0.15), ("pilot", 0.02), ("per-size", 0.5)])
def test_no_more_than_its_share_is_spent(kind, share):
    planned = plan()
    found = tune(Truth(lambda N, D: 40 * BASE, batch=4), kind, planned, share=share)
    spent = sum({t.run.experiment.id: t.run.flops for t in found.trials}.values())
    assert found.flops == pytest.approx(spent)
    assert found.share == pytest.approx(spent / (spent + planned.total_flops))
    assert found.share <= share


def test_a_search_that_its_share_ended_says_so():
    found = tune(Truth(lambda N, D: 60 * BASE, batch=4), share=0.02)
    assert any("ended the search" in note for note in found.notes)


def test_runs_are_asked_for_once_and_rounds_repeat_what_came_before():
    truth = Truth(lambda N, D: 3 * BASE)
    tune(truth)
    for before, after in zip(truth.calls, truth.calls[1:], strict=False):
        assert after[: len(before)] == before
        assert len(set(after)) == len(after)


def test_the_same_losses_give_the_same_recipe():
    a, b = (tune(Truth(lambda N, D: 3 * BASE, noise=0.003)) for _ in range(2))
    assert a.recipe.lr == b.recipe.lr
    assert a.recipe.batch == b.recipe.batch
    assert a.to_dict() == b.to_dict()


def test_noise_alone_leaves_the_recipe_as_it_is():
    kept = 0
    for seed in range(12):
        found = tune(Truth(lambda N, D: BASE, k=0.0, noise=0.01), of=plan(seed=seed))
        kept += found.recipe.lr == ((1.0, 1.0),) and found.recipe.batch == 1.0
    assert kept >= 9


def test_regret_is_held_against_the_noise_of_seeds():
    found = tune(Truth(lambda N, D: 4 * BASE, noise=0.004))
    assert found.seed_sd == pytest.approx(0.004, rel=0.8)
    text = {d.code: d.message for d in found.diagnostics}["tuning_regret"]
    assert "A seed's noise is" in text
    assert f"{found.seed_sd:.2%}" in text


def test_a_batch_above_the_noise_scale_is_told():
    truth = Truth(lambda N, D: BASE)
    found = tune(truth)
    assert "large_batch" not in {d.code for d in found.diagnostics}
    noisy = replace(found, cells=tuple(replace(c, noise_scale=10.0) for c in found.cells))
    assert "large_batch" in {d.code for d in noisy.diagnostics}


def test_trials_that_all_fail_end_the_tuning_with_the_reason():
    class Broken(Truth):
        def run(self, e: Experiment) -> Run:
            return Run(e, "diverged", reason="held-out loss nan")

    with pytest.raises(PlanError, match="held-out loss nan"):
        tune(Broken(lambda N, D: BASE))


def test_a_share_too_small_for_trials_is_refused_with_what_to_do():
    with pytest.raises(PlanError, match="Give larger budgets"):
        tune(Truth(lambda N, D: BASE), share=1e-7)
    with pytest.raises(PlanError, match=r"Tune\(share=0\.") as refused:
        tune(Truth(lambda N, D: BASE), share=1e-4)
    enough = float(re.search(r"share=([\d.]+)", str(refused.value))[1])
    tune(Truth(lambda N, D: BASE), share=enough)


def test_what_untuned_runs_would_have_said_is_what_they_say():
    """The regret grows with N by a known amount: the refit has to land where such runs land."""
    truth = Truth(lambda N, D: BASE * (N / 2000) ** -0.5, k=0.05)
    planned = plan()
    tuning = tune(truth, "per-size", planned)
    tuned = [
        replace(truth.run(e), loss=float(LAW.loss(e.params.total, e.tokens)))
        for e in planned.experiments
    ]
    untuned = [truth.run(e) for e in planned.experiments]
    said = without_tuning(tuning, fit_runs(tuned, flops_per_unit=planned.flops))
    real = fit_runs(untuned, flops_per_unit=planned.flops).predict(said.compute).optimal_params
    assert math.log(said.untuned / real) == pytest.approx(0, abs=0.3)
    assert said.untuned < 0.8 * said.tuned
    assert said.diagnostic.severity == "warning"


def test_an_edge_is_taken_only_where_the_cells_say_so_together():
    down = {c: {-1: 2.0 - 0.01 * c, 0: 2.1, 1: 2.2} for c in range(4)}
    assert best_offset(down) == -1
    split = {
        0: {-1: 2.0, 0: 2.1},
        1: {-1: 2.2, 0: 2.1},
        2: {-1: 2.05, 0: 2.1},
        3: {-1: 2.15, 0: 2.1},
    }
    assert best_offset(split) == 0
    assert best_offset({}) == 0
    lost = {0: {-2: 2.0, -1: 2.1, 0: 2.3}, 1: {-2: 2.0, -1: 2.2}}  # ×1 diverged in one
    assert best_offset(lost) == -2


def test_far_from_every_parabola_the_best_that_was_tried_is_taken():
    """Valleys at ×19 to ×49 leave a parabola no interval: it held 1, and the recipe was kept."""
    wide = OptimumFits(30.0, (0.5, 1800.0), 0.5, (), None)
    assert wide.sure_factor(32.0) == 32.0
    assert wide.sure_factor(1.0) == 1.0
    apart = replace(wide, factor=None, interval=None, cells=(OptimumFit(),) * 2, agree=0.01)
    assert _factors(Tune("pilot"), apart, 32.0, [10, 20]) == [32.0, 32.0]


def test_what_cannot_be_asked_for_is_refused_in_words():
    with pytest.raises(InputError, match="Did you mean 'pilot'"):
        resolve_tune("pilott")
    with pytest.raises(InputTypeError, match="expected a name or a"):
        resolve_tune(3)
    for bad in ({"kind": "grid"}, {"share": 1.5}, {"step": 1.0}, {"seeds": 1}):
        with pytest.raises(InputError, match="tune: expected"):
            Tune(**bad)


class Steep(Truth):
    """Flat far below the best rate, and steep beside it: no parabola holds over the trials."""

    def run(self, e: Experiment) -> Run:
        run = super().run(e)
        off = math.log(e.hparams.lr / self.lr(e.params.total, e.tokens))
        loss = 1.19 - 1.0 * math.exp(-0.5 * (off / 0.9) ** 2)
        return replace(run, loss=loss * math.exp(self.noise * (e.seed % 7 - 3)))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_where_all_valleys_lie_far_away_the_sweep_goes_there(noise):
    """Four valleys at ×19 to ×49: a pilot once found 1.19 at ×1, .19 at ×32, and stayed at ×1."""
    found = tune(Steep(lambda N, D: 30 * BASE * (N / 2000) ** 0.4, noise=noise), batch=False)
    for _, factor in found.recipe.lr:
        assert 10 < factor < 70
    text = str(found)
    assert "times the loss" in text
    assert not re.search(r"\d{3,}\.\d+%", text)
