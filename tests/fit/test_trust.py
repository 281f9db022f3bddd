"""Trust follows what has gone with errors on public sweeps, and nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flops_fit.adaptive import next_experiments
from flops_fit.fit import compare, fit_runs, metric
from flops_fit.fit.checks import TRUST_WORTH, trust_worth
from flops_fit.laws import Hoffmann
from flops_fit.report.table import answer_in_words
from tests.fit._runs import sweep

LAW = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def severity(fit, code):
    """Of the finding of that name."""
    return next(d.severity for d in fit.diagnostics if d.code == code)


def test_a_clean_sweep_is_ok():
    """Its N* at ten times the largest run is known well."""
    fit = fit_runs(sweep(LAW, sd=0.003))
    found = next(d for d in fit.diagnostics if d.code == "width_ahead")
    assert found.severity == "ok"
    assert re.search(
        r"N\* is known within a factor of 1\.\d+, the loss to ±[\d.]+ %$", found.message
    )
    assert fit.trust == "ok"


def test_a_top_budget_missed_by_a_third_ends_trust():
    """The cheaper budgets say nothing of what happens at scale."""
    runs = sweep(LAW, sd=0.003)
    runs["loss"] = np.where(runs["budget"] == 1e20, runs["loss"] * 1.34, runs["loss"])
    fit = fit_runs(runs, window=None)
    assert severity(fit, "held_out_top_1") == "critical"
    assert fit.trust == "no"


def test_an_optimum_that_the_runs_hardly_know_ends_trust():
    """Three budgets within ×4 and noise of 6 %: N* at ten times that is anybody's guess."""
    runs = sweep(LAW, budgets=(1e18, 2e18, 4e18), sizes=5, reach=4.0, sd=0.06, seed=8, centre=1)
    fit = fit_runs(runs)
    assert severity(fit, "width_ahead") == "critical"
    assert fit.trust == "no"


def test_outliers_are_noted_and_named_beside_ok():
    """They go with no larger errors; but nobody says that there was nothing."""
    runs = sweep(LAW, sd=0.003, sizes=9)
    runs["loss"][[3, 14, 25]] *= 1.03
    fit = fit_runs(runs)
    assert severity(fit, "outliers") == "note"
    assert fit.trust == "ok"
    words = answer_in_words(fit, fit.predict(1e20), fit.diagnostics)
    assert "No problems" not in words
    assert "sd off the law" in words


@pytest.mark.parametrize("level", TRUST_WORTH)
def test_every_level_says_what_it_has_been_worth(level):
    """As measured, and worse from level to level."""
    fits, factor, share = TRUST_WORTH[level]
    assert f"{fits} fits" in trust_worth(level)
    assert f"{factor:.3g}" in trust_worth(level)
    worse = [w for w in TRUST_WORTH.values() if w[1] > factor]
    assert all(w[2] > share for w in worse)


@pytest.mark.parametrize(
    ("times", "severity"), [(30.0, "warning"), (1e3, "critical"), (1e20, "critical")]
)
def test_every_question_grades_alike_how_far_it_lies_beyond_the_runs(
    times: float, severity: str
) -> None:
    runs = sweep(LAW, sd=0.002)
    runs["quiz"] = 0.25 + 0.75 / (1 + np.exp(4 * (runs["loss"] - 2.6)))
    fit = fit_runs(runs, "hoffmann")
    C = times * fit.largest_compute
    proposal = next_experiments(fit, target_compute=C, budget_flops=fit.largest_compute)
    for answer in (
        fit.predict(C),
        compare(fit, fit, C),
        metric(runs, "quiz", chance=0.25).predict(C),
        proposal,
    ):
        graded = {d.severity for d in answer.diagnostics if d.code == "extrapolation"}
        assert graded == {severity}, answer


def test_a_target_of_any_size_is_graded() -> None:
    """Squares of its distance are beyond what floats hold."""
    fit = fit_runs(sweep(LAW, sd=0.002), "hoffmann")
    for C in (1e300, 1e-300):
        (far,) = (d for d in fit.predict(C).diagnostics if d.code == "extrapolation")
        assert far.severity == "critical"
