"""The runs chosen next are those that tell most, and a sweep of them finds a known optimum."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit import Adaptive, fit_runs
from flops_fit.adaptive import Candidates, next_experiments
from flops_fit.errors import FitError, InputError
from tests.adaptive._simulated import TARGET, UNIFORM, Simulated, grid_runs, sweep, truth


def test_a_proposal_keeps_to_its_budget_and_narrows_the_interval():
    fit = fit_runs(grid_runs(truth()))
    small, large = (
        next_experiments(fit, target_compute=TARGET, budget_flops=b) for b in (1e19, 6e20)
    )
    assert small.cost <= 1e19
    assert len(small.runs) <= 6
    assert large.after < small.after < small.now
    assert all(r["flops"] == pytest.approx(6 * r["params"] * r["tokens"]) for r in large.runs)
    assert "interval shrinks from ±" in str(large)
    widths = [half for _, half in large.buys]
    assert widths == sorted(widths, reverse=True)
    same = dict(large.buys)[6e20]  # the same FLOPs in more and smaller runs
    assert 0.7 * large.after < same <= large.after * 1.01
    assert all(half <= large.now for half in widths)


def test_one_run_in_six_lies_near_the_bottom_and_the_others_on_the_arms():
    fit = fit_runs(grid_runs(truth()))
    runs = next_experiments(fit, target_compute=TARGET, budget_flops=1e20, batch=12).runs
    away = [abs(np.log(r["params"] / fit.law.optimal(r["flops"]).params)) for r in runs]
    assert sum(a < np.log(1.5) for a in away) >= 2
    assert sum(a > np.log(3) for a in away) >= 6


def test_only_candidates_are_proposed_each_once():
    fit = fit_runs(grid_runs(truth()))
    asked = [(1e7, 1e10), (3e8, 1e10), (1e9, 1e9), (1e10, 1e12)]
    found = next_experiments(fit, target_compute=TARGET, budget_flops=1e20, candidates=asked)
    pairs = [(r["params"], r["tokens"]) for r in found.runs]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) <= set(asked[:3])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget_flops": 0}, "budget_flops: expected a positive number; got 0"),
        ({"target_compute": np.nan}, "target_compute: expected a positive number"),
        ({"candidates": [1, 2]}, r"candidates: expected pairs \(N, D\)"),
        ({"candidates": [(1e12, 1e12)]}, "expected enough for one run of use"),
        ({"max_run_flops": 0}, "max_run_flops: expected a positive number; got 0"),
        ({"batch": 2.7}, "batch: expected a whole number, 1 or more; got 2.7"),
    ],
)
def test_a_proposal_says_what_it_cannot_use(changes, said):
    fit = fit_runs(grid_runs(truth()))
    with pytest.raises(InputError, match=said):
        next_experiments(fit, **{"target_compute": TARGET, "budget_flops": 1e19, **changes})


@pytest.mark.parametrize(
    "law", [truth(), truth(0.58, p=0.28, q=0.45)], ids=["additive", "asymmetric κ"]
)
def test_a_sweep_finds_a_known_optimum_for_a_fraction_of_the_uniform_grid(law):
    """From pilots ×3 beside it, to ±15 %, which is what a 5×7 grid gives for its cost."""
    sweeps = [sweep(Simulated(law), off, half_width=0.15) for off in (3.0, 1.0, 1 / 3)]
    assert np.median([found.spent for found in sweeps]) < UNIFORM / 2
    assert sum(found.reached for found in sweeps) >= 2
    for found in sweeps:
        assert found.reached == (found.half_width <= 0.15)
        error = np.log(found.optimal_params / law.optimal(TARGET).params)
        assert abs(error) < 2 * np.log1p(found.half_width)
        assert found.check is not None
        assert found.check.passed
        largest = np.sort(found.runs.flops)[-3:]
        assert np.mean(found.check.flops) <= np.mean(largest)


def test_a_uniform_grid_is_no_more_precise_for_its_cost():
    halves = []
    for seed in range(6):
        runs = grid_runs(truth(), seed)
        halves.append(fit_runs(runs).predict(TARGET).intervals["optimal_params"])
    assert np.median([(high / low) ** 0.5 for low, high in halves]) > 1.13


def test_a_pilot_far_beside_the_optimum_goes_towards_it():
    law = truth()
    found = sweep(Simulated(law), off=40.0)
    assert any(
        "the optimum lies below the sizes, which are extended" in line for line in found.steps
    )
    assert found.optimal_params == pytest.approx(law.optimal(TARGET).params, rel=0.3)


def test_equal_losses_lead_to_equal_runs():
    """What a resumed sweep rests on."""
    first, again = (sweep(Simulated(truth(), seed=3), half_width=0.2) for _ in range(2))
    assert first.steps == again.steps
    assert np.array_equal(first.runs.params, again.runs.params)


def test_what_may_be_spent_is_not_passed_and_the_end_says_so():
    found = sweep(Simulated(truth()), max_flops=3e18, half_width=0.01)
    assert found.spent <= 3e18
    assert not found.reached
    assert any("are spent, and no batch" in line for line in found.steps)
    assert "FLOPs more would give about" in found.steps[-1]


def test_a_size_that_diverges_is_not_asked_for_again():
    law = truth()
    oracle = Simulated(law, largest=float(law.optimal(1e19).params) * 3)
    found = sweep(oracle, off=1.0, half_width=0.15)
    lost = [pair for pair in oracle.asked if pair[0] > oracle.largest]
    assert lost
    assert max(lost.count(pair) for pair in lost) <= 8  # within one batch a run may be repeated
    assert len(found.runs) == len(oracle.asked) - len(lost)


def test_a_pilot_without_losses_says_how_many_are_needed():
    with pytest.raises(FitError, match="expected seven runs with a loss at least"):
        sweep(Simulated(truth(), largest=1.0))


def test_losses_of_any_sign_narrow_the_interval_too():
    class Densities(Simulated):
        def run(self, chosen):
            return [loss - 10.0 for loss in super().run(chosen)]

    found = sweep(Densities(truth()), half_width=0.2)
    assert len(found.runs) >= 14
    assert np.all(found.runs.loss < 0)
    assert found.interval[0] < truth().optimal(TARGET).params < found.interval[1]
    assert found.check is not None
    assert found.check.passed


@pytest.mark.parametrize("name", ["target_compute", "half_width", "max_flops"])
def test_asking_for_nothing_is_refused(name):
    with pytest.raises(InputError, match=f"{name}: expected a positive number; got -1"):
        Adaptive(**{"target_compute": 1e21, "half_width": 0.1, "max_flops": 1e20, name: -1})


def test_prices_below_cost_are_what_a_batch_pays():
    """Branches of a trunk that was walked: what they cost is not their C."""
    C = np.array([1e19, 1e19])
    runs = Candidates(np.array([1e8, 2e8]), C / 6e8, C, C, price=np.array([2e18, 1e19]))
    assert runs.cost == 1.2e19
    assert runs.pick([0]).cost == 2e18


def test_a_pilot_more_expensive_than_what_may_be_spent_is_refused_before_it_runs():
    oracle = Simulated(truth())
    with pytest.raises(InputError, match="max_flops: expected more than the pilot costs, 5e"):
        sweep(oracle, max_flops=1e18, pilot_budgets=(1e18,))
    assert not oracle.asked
