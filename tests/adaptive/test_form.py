"""What drifting exponents do to N*, and what runs can tell of them."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.adaptive.criterion import Criterion, Form, fit_and_form, form_of
from flops_fit.fit import quick_fit
from flops_fit.flops import LinearFlops
from flops_fit.laws import Law
from flops_fit.table import RunTable
from tests.adaptive._simulated import TARGET, Drifting, Simulated, sweep, truth
from tests.adaptive.test_sweep import grid_runs

FLOPS = LinearFlops()
SMALL = 1e-4


def log_best(law: Law) -> float:
    return float(np.log(law.optimal(TARGET).params))


def exact(law: Law) -> RunTable:
    return noiseless(grid_runs(law), law)


def noiseless(runs: RunTable, law: Law) -> RunTable:
    loss = law.loss(runs.params, runs.tokens)
    return RunTable(runs.params, runs.tokens, runs.flops, loss, runs.labels, runs.budget)


@pytest.mark.parametrize("kappa", [1.0, 0.58])
@pytest.mark.parametrize("which", [0, 1])
def test_a_drift_moves_the_optimum_as_the_criterion_has_it(kappa, which):
    """∂ ln N*/∂drift against the optimum of a law that has one, found numerically."""
    base = truth(kappa)
    evidence = quick_fit(exact(base), FLOPS)
    criterion = Criterion.of_fit(evidence, TARGET)
    centre = (criterion.points.x_mean, criterion.points.y_mean)
    drift = np.eye(2)[which] * SMALL
    up, down = (log_best(Drifting(*(sign * drift), centre, base)) for sign in (1, -1))
    assert criterion.direction[6 + which] == pytest.approx((up - down) / (2 * SMALL), rel=1e-3)


@pytest.mark.parametrize("which", [0, 1])
def test_the_bias_is_how_far_a_fit_without_drifts_is_off(which):
    base = truth(0.58)
    criterion = Criterion.of_fit(quick_fit(exact(base), FLOPS), TARGET)
    centre = (criterion.points.x_mean, criterion.points.y_mean)
    drift = np.eye(2)[which] * 1e-3
    law = Drifting(*drift, centre, base)
    runs = grid_runs(base)
    fitted = quick_fit(noiseless(runs, law), FLOPS).law
    assert criterion.bias[which] * 1e-3 == pytest.approx(log_best(law) - log_best(fitted), rel=0.05)


def test_a_form_that_is_right_is_rarely_doubted_and_one_that_is_not_often():
    """At 1 %: of 40 tables three by chance are too many (p = .007); drifts of .05 are seen in all."""

    def told(law: Law, seed: int, sd: float = 0.005) -> bool:
        runs = grid_runs(law, seed, sd=sd)
        evidence = quick_fit(runs, FLOPS)
        return form_of(Criterion.of_fit(evidence, TARGET)).doubtful

    assert sum(told(truth(), seed) for seed in range(40)) <= 2
    assert all(
        told(Drifting(drift, 0), seed, 0.001) for seed in range(4) for drift in (-0.05, 0.05)
    )


def test_where_the_form_is_doubted_runs_near_the_optimum_say_more():
    runs = grid_runs(Drifting(0.05, 0), sd=0.001)
    evidence, form = fit_and_form(runs, FLOPS, TARGET)
    assert form.doubtful
    assert form.window == "auto"
    assert np.min(evidence.solution.weights) < 0.5
    evidence, form = fit_and_form(grid_runs(truth()), FLOPS, TARGET)
    assert not form.doubtful
    assert form.window is None
    assert np.all(evidence.solution.weights == 1)


def test_the_wide_interval_allows_for_one_standard_deviation_of_drift():
    form = Form((0.0, 0.0), (0.1, 0.1), 0.5, 0.0, allowance=0.2)
    low, high = form.widened(1e9, (0.8e9, 1.3e9))
    assert np.log(1e9 / low) == pytest.approx(np.hypot(np.log(1 / 0.8), 1.645 * 0.2))
    assert np.log(high / 1e9) == pytest.approx(np.hypot(np.log(1.3), 1.645 * 0.2))


def test_a_sweep_says_what_it_could_not_see_and_a_drift_of_that_size_stays_inside():
    law = Drifting(0.01, -0.01)
    found = sweep(Simulated(law))
    assert any("these runs detect only changes beyond" in line for line in found.steps)
    low, high = found.wide_interval
    assert low < found.interval[0] < found.interval[1] < high
    assert low < law.optimal(TARGET).params < high
