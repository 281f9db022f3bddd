"""The runs chosen next are those that tell most, and a sweep of them finds a known optimum."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from flops_fit import Adaptive, fit_runs
from flops_fit.adaptive import Candidates, next_experiments
from flops_fit.adaptive.candidates import lattice
from flops_fit.adaptive.criterion import Criterion, exchange, log_optimum
from flops_fit.errors import FitError, InputError
from flops_fit.fit import quick_fit
from flops_fit.flops import LinearFlops
from flops_fit.laws import Law
from flops_fit.table import RunTable
from tests.adaptive._simulated import TARGET, UNIFORM, Simulated, sweep, truth

FLOPS = LinearFlops()


def grid_runs(law: Law, seed: int = 0, arms: float = 0.0, sd: float = 0.005) -> RunTable:
    budgets = np.geomspace(1e18, 1e20, 5)
    N, C = lattice(np.asarray(law.optimal(budgets).params), budgets)
    D = C / (6 * N)
    far = np.abs(np.log(N / law.optimal(C).params)) / np.log(5)
    noise = np.exp(sd * (1 + arms * far) * np.random.default_rng(seed).normal(size=len(N)))
    return RunTable(N, D, C, law.loss(N, D) * noise, tuple(map(str, N)), C)


def test_the_variance_that_designs_go_by_is_the_scatter_of_fits():
    """On the κ-law, where κ has to be fitted; 40 sweeps tell a standard deviation within 11 %."""
    law = truth(0.58)
    found, told = [], []
    for seed in range(40):
        evidence = quick_fit(grid_runs(law, seed), FLOPS)
        found.append(log_optimum(TARGET, FLOPS)(evidence.law)[0])
        told.append(np.sqrt(Criterion.of_fit(evidence, TARGET).variance))
    assert np.median(told) == pytest.approx(np.std(found), rel=0.35)


def test_noise_that_grows_at_the_arms_is_seen_and_even_noise_is_not():
    even = [
        Criterion.of_fit(quick_fit(grid_runs(truth(), s), FLOPS), TARGET).arms for s in range(10)
    ]
    grown = [
        Criterion.of_fit(quick_fit(grid_runs(truth(), s, 2.0), FLOPS), TARGET).arms
        for s in range(10)
    ]
    assert np.median(even) == 1
    assert np.median(grown) > 1.4  # shrunk towards even noise: there are 45 runs


def test_exchange_finds_the_best_of_all_choices():
    """Three of nine runs within what may be spent, against every choice there is."""
    criterion = Criterion.of_fit(quick_fit(grid_runs(truth()), FLOPS), TARGET)
    few = replace(criterion, information=np.diag([4.0, 0.25, 0.25, 16.0, 16.0, 2.0, 1e6, 1e6]))
    budgets = np.array([1e18, 1e19, 1e20])
    N, C = lattice(np.asarray(criterion.evidence.law.optimal(budgets).params), budgets)
    runs = Candidates.of_any_size(N, C, FLOPS).pick(np.arange(0, 27, 3))
    picked = exchange(few, runs, 3, 2.2e20)
    best = min(
        few.after(runs.pick(list(choice)))
        for choice in itertools.combinations_with_replacement(range(9), 3)
        if np.sum(runs.flops[list(choice)]) <= 2.2e20
    )
    assert np.sum(runs.flops[picked]) <= 2.2e20
    assert few.after(runs.pick(picked)) == pytest.approx(best, rel=0.02)


def test_a_proposal_keeps_to_its_budget_and_narrows_the_interval():
    fit = fit_runs(grid_runs(truth()))
    small, large = (
        next_experiments(fit, target_compute=TARGET, budget_flops=b) for b in (1e19, 1e20)
    )
    assert small.cost <= 1e19
    assert len(small.runs) <= 6
    assert large.after < small.after < small.now
    assert all(r["flops"] == pytest.approx(6 * r["params"] * r["tokens"]) for r in large.runs)
    assert "interval shrinks from ±" in str(large)
    widths = [half for _, half in large.buys]
    assert widths == sorted(widths, reverse=True)
    same = dict(large.buys)[1e20]  # the same FLOPs in more and smaller runs
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
        ({"candidates": [(1e12, 1e12)]}, "expected enough for one run"),
    ],
)
def test_a_proposal_says_what_it_cannot_use(changes, said):
    fit = fit_runs(grid_runs(truth()))
    with pytest.raises(InputError, match=said):
        next_experiments(fit, **{"target_compute": TARGET, "budget_flops": 1e19, **changes})


@pytest.mark.parametrize("off", [3.0, 1 / 3])
@pytest.mark.parametrize(
    "law", [truth(), truth(0.58), truth(p=0.28, q=0.45)], ids=["additive", "κ", "asymmetric"]
)
def test_a_sweep_finds_a_known_optimum_for_a_fraction_of_the_uniform_grid(law, off):
    """From a pilot ×3 beside it, for less than a third of what a 5×7 grid costs."""
    found = sweep(Simulated(law), off)
    assert found.reached
    assert found.half_width <= 0.1
    assert found.spent < UNIFORM / 3
    error = np.log(found.optimal_params / law.optimal(TARGET).params)
    assert abs(error) < 2 * np.log1p(found.half_width)
    assert found.check is not None
    assert found.check.passed
    largest = np.sort(found.runs.flops)[-3:]
    assert np.mean(found.check.flops) <= np.mean(largest)


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
    assert max(lost.count(pair) for pair in lost) <= 4  # within one batch a run may be repeated
    assert len(found.runs) == len(oracle.asked) - len(lost)


def test_a_pilot_without_losses_says_how_many_are_needed():
    with pytest.raises(FitError, match="expected seven runs with a loss at least"):
        sweep(Simulated(truth(), largest=1.0))


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
