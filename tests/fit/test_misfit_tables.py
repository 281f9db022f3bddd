"""Surfaces drawn around a fit: many runs are pooled, and few noisy ones still give an answer."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.fit import fit_runs, misfit
from flops_fit.laws import Hoffmann
from tests.fit._runs import sweep

LAW = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


@pytest.mark.parametrize("form", ["auto", "kaplan"])
def test_pooled_runs_answer_as_all_of_them_do(form, monkeypatch):
    """2,000 runs, pooled and not: value and interval agree to a tenth of the interval."""
    runs = sweep(LAW, budgets=np.geomspace(1e18, 1e20, 5), sizes=400, sd=0.005)
    pooled = fit_runs(runs, law=form).predict(1e21)
    monkeypatch.setattr(misfit, "MOST_POINTS", 10_000)
    every = fit_runs(runs, law=form).predict(1e21)
    for name in ("optimal_params", "expected_loss"):
        width = np.log(every.intervals[name][1] / every.intervals[name][0])
        assert np.log(pooled[name] / every[name]) == pytest.approx(0, abs=0.15 * width)
        ends = np.log(np.array(pooled.intervals[name]) / np.array(every.intervals[name]))
        assert ends == pytest.approx([0, 0], abs=0.2 * width)


def test_surfaces_of_thousands_of_runs_answer():
    runs = sweep(LAW, budgets=np.geomspace(1e18, 1e20, 10), sizes=400, sd=0.005)
    low, high = fit_runs(runs).predict(1e21).intervals["optimal_params"]
    assert low < LAW.optimal(1e21).params < high < 1.15 * low


@pytest.mark.parametrize("seed", [0, 1, 8, 11])
def test_three_noisy_budgets_give_an_answer_far_beyond_them(seed):
    """Drawn surfaces whose optimum lies off every grid of sizes are no error."""
    runs = sweep(LAW, budgets=(1e18, 2e18, 4e18), sizes=5, reach=4.0, sd=0.06, seed=seed, centre=1)
    fit = fit_runs(runs)
    for factor in (1, 10, 100):
        assert np.isfinite(fit.predict(factor * 4e18).optimal_params)


def test_a_form_that_the_runs_leave_open_answers_without_a_warning():
    """Some of its drawn surfaces are infinite far from the runs."""
    runs = reference.runs(
        "porian2024_refinedweb",
        hparams="base",
        warmup="long",
        decay="kaplan",
        param_count="kaplan",
        split="train",
    )
    fit = fit_runs(runs.select(runs.budget < 1e18), law="kaplan")
    assert fit.trust == "no"
    assert fit.predict(1.6e18).intervals["optimal_params"] is None
