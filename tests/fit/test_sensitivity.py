"""What the answer hangs on, and whether the residuals look like noise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.fit import Fit, fit_runs
from flops_fit.fit.checks import residual_map
from flops_fit.laws import Hoffmann, Kappa
from tests.fit._runs import chinchilla, sweep

LAW = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def finding(fit: Fit, code: str):
    """The one finding of that code."""
    (found,) = [d for d in fit.diagnostics if d.code == code]
    return found


def test_each_refit_is_the_fit_without_those_runs():
    """A warm refit ends where a fit from scratch of the same runs does."""
    runs = sweep(LAW, sd=0.005, seed=4)
    fit = fit_runs(runs, "hoffmann", delta=0.01, window=None)
    variants = fit.sensitivity.of("budget")
    assert len(variants) == 5
    for variant, budget in zip(variants, np.unique(runs["budget"]), strict=True):
        keep = runs["budget"] != budget
        rest = {name: column[keep] for name, column in runs.items()}
        alone = fit_runs(rest, "hoffmann", delta=0.01, window=None)
        assert variant.runs == 28
        assert variant.law.params == pytest.approx(alone.law.params, rel=1e-5)
        best = alone.law.optimal(fit.sensitivity.compute)
        assert variant.params == pytest.approx(best.params, rel=1e-5)


def test_a_budget_that_decides_the_answer_alone_is_named():
    """One budget's losses bent with size: without it the others' answer returns."""
    runs = sweep(LAW, sd=0.001, seed=1)
    bent = runs["budget"] == 1e18
    runs["loss"][bent] *= (runs["params"][bent] / np.median(runs["params"][bent])) ** 0.05
    found = finding(fit_runs(runs, "hoffmann", window=None), "leave_one_budget_out")
    assert found.severity in ("note", "warning")
    assert "C = 1e+18" in found.message
    clean = finding(fit_runs(sweep(LAW, sd=0.001, seed=1), "hoffmann"), "leave_one_budget_out")
    assert clean.severity == "ok"


def test_undertrained_runs_of_chinchilla_are_found():
    """The five highest of the 245 losses move a from .514 to .565: the fit says what they do."""
    options = {"law": "hoffmann", "delta": 1e-3, "window": None}
    everything = fit_runs(reference.runs("hoffmann2022_epoch"), **options)
    assert finding(everything, "undertrained").severity == "warning"
    kept = fit_runs(chinchilla(), **options)
    assert finding(kept, "undertrained").severity == "ok"
    (without,) = everything.sensitivity.of("highest_losses")
    ours, theirs = everything.law.optimal(1e23).params, kept.law.optimal(1e23).params
    assert without.law.optimal(1e23).params == pytest.approx(theirs, rel=0.02)
    assert ours > 1.3 * theirs


def test_chinchillas_fit_is_said_to_hang_on_delta():
    """N* moves with δ: the 240 points are fragile, and the tool says so."""
    fit = fit_runs(chinchilla(), "hoffmann", window=None)
    found = finding(fit, "delta_sensitivity")
    assert found.severity in ("note", "warning")
    assert "ranges over" in found.message


def test_what_the_cheaper_budgets_foretell_is_measured():
    """Top one and top two budgets: predicted from the rest, with the regret in loss."""
    fit = fit_runs(sweep(LAW, sd=0.002, seed=3), "hoffmann")
    one, two = fit.sensitivity.held_out
    assert [h.compute for h in one] == pytest.approx([1e20])
    assert [h.compute for h in two] == pytest.approx([3e19, 1e20])
    for held in (*one, *two):
        assert held.predicted_loss == pytest.approx(LAW.optimal(held.compute).loss, rel=5e-3)
        assert 0 <= held.regret < 2e-3
        assert held.predicted_params == pytest.approx(held.vertex_params, rel=0.3)
    assert finding(fit, "held_out_top_1").severity == "ok"
    assert finding(fit, "held_out_top_2").severity == "ok"


def test_a_law_that_changes_with_scale_fails_its_back_test():
    """Losses that stop falling above some compute: the cheaper budgets promise too much."""
    runs = sweep(LAW, sd=0.002)
    runs["loss"] = np.where(runs["budget"] == 1e20, runs["loss"] * 1.06, runs["loss"])
    found = finding(fit_runs(runs, "hoffmann", window=None), "held_out_top_1")
    assert found.severity == "warning"
    assert "-5" in found.message or "-6" in found.message


def test_residuals_of_the_right_law_show_no_pattern():
    """Over 20 noisy sweeps the test at 1 % cries wolf at most once."""
    alarms = 0
    for seed in range(20):
        fit = fit_runs(sweep(LAW, sd=0.005, seed=seed), "hoffmann", window=None)
        alarms += finding(fit, "residual_pattern").severity != "ok"
        assert fit.residual_map.count.sum() == 35
    assert alarms <= 1


def test_residuals_of_the_wrong_form_show_one():
    """The additive law on runs of a κ-law: a pattern, and where it is largest."""
    law = Kappa(E=1.7, A=9e4, B=4e5, alpha=0.68, beta=0.74, kappa=0.4)
    fit = fit_runs(sweep(law, sd=0.001), "hoffmann", window=None)
    found = finding(fit, "residual_pattern")
    assert found.severity in ("note", "warning")
    assert "third of compute" in found.message
    assert fit.residual_map.p_value < 1e-4


def test_repeated_runs_tell_the_noise_of_seeds():
    """Two corners repeated with other seeds: their scatter beside that around the law."""
    runs = sweep(LAW, sd=0.004, seed=2)
    again = {name: np.concatenate([c, np.repeat(c[[0, 34]], 3)]) for name, c in runs.items()}
    noise = np.random.default_rng(5).normal(size=6)
    again["loss"][35:] *= np.exp(0.004 * noise)
    found = finding(fit_runs(again, "hoffmann"), "seed_noise")
    assert found.severity == "ok"
    assert "6 repeats" in found.message
    quiet = dict(again, loss=again["loss"].copy())
    quiet["loss"][35:] = np.repeat(quiet["loss"][[0, 34]], 3) * np.exp(1e-5 * noise)
    assert finding(fit_runs(quiet, "hoffmann"), "seed_noise").severity == "warning"


def test_all_of_it_can_be_written():
    """JSON without NaN."""
    fit = fit_runs(sweep(LAW, sd=0.004), "hoffmann")
    text = json.dumps(fit.to_dict(), allow_nan=False)
    assert "leave_one_budget_out" in text
    assert "residual_map" in text


@pytest.mark.parametrize("column", ["idle", "alone", "same"])
def test_a_pattern_beside_constants_that_cannot_be_told_apart_has_no_p_value(column):
    """A constant without effect, one that a single run decides, or two that do the same."""
    fit = fit_runs(sweep(LAW, sd=0.003), "hoffmann", window=None)
    solution = fit._evidence.solution
    sound = residual_map(solution, fit.runs, fit.flops)
    assert sound.p_value == fit.residual_map.p_value
    J = solution.jacobian.copy()
    J[:, 1] = {"idle": np.zeros(35), "alone": np.eye(35)[4], "same": J[:, 2]}[column]
    found = residual_map(replace(solution, jacobian=J), fit.runs, fit.flops)
    assert found.p_value is None
    assert np.array_equal(found.count, sound.count)
