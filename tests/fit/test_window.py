"""How much each run counts: alike, by its standard error, or as the user says."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.fit import fit_runs
from flops_fit.fit.window import run_weights
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable
from tests.fit._runs import sweep

LAW = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def noisy(seed: int) -> dict[str, np.ndarray]:
    """Every third run measured twenty times worse than the others, and said so."""
    runs = sweep(LAW)
    bad = np.arange(len(runs["loss"])) % 3 == 0
    relative = np.where(bad, 0.02, 0.001)
    noise = np.random.default_rng(seed).normal(size=len(bad))
    exact = runs["loss"]
    return {**runs, "loss": exact * np.exp(relative * noise), "loss_se": relative * exact}


def test_standard_errors_bring_the_answer_nearer():
    """Where errors differ and are known, weighing by them halves the error of N* and more."""
    truth = np.log(LAW.optimal(1e22).params)
    errors = {"equal": [], "loss_se": []}
    for seed in range(12):
        for rule, found in errors.items():
            fit = fit_runs(noisy(seed), "hoffmann", delta=np.inf, window=None, weights=rule)
            found.append(np.log(fit.law.optimal(1e22).params) - truth)
    rms = {rule: np.sqrt(np.mean(np.square(e))) for rule, e in errors.items()}
    assert rms["loss_se"] < 0.5 * rms["equal"]


def test_errors_far_below_the_scatter_change_nothing():
    """A loss known to 1e-6 weighs no more than its neighbours where runs scatter by 1 %."""
    runs = sweep(LAW, sd=0.01)
    se = np.where(np.arange(35) % 2 == 0, 1e-6, 1e-4) * runs["loss"]
    plain = fit_runs(runs, "hoffmann")
    weighed = fit_runs({**runs, "loss_se": se}, "hoffmann", weights="loss_se")
    assert weighed.law.params == pytest.approx(plain.law.params, rel=1e-3)


def test_an_unknown_standard_error_counts_as_the_median():
    runs = noisy(0)
    known = fit_runs({**runs, "loss_se": np.full(35, 0.01)}, "hoffmann", weights="loss_se")
    gaps = np.full(35, 0.01)
    gaps[::4] = np.nan
    some = fit_runs({**runs, "loss_se": gaps}, "hoffmann", weights="loss_se")
    assert some.law.params == pytest.approx(known.law.params)


def test_whole_weights_are_repetitions_of_runs():
    """Weight 2 on a run is the run twice; δ is given, as the spread of residuals is not the same."""
    runs = sweep(LAW, sd=0.005)
    count = 1 + np.arange(35) % 2
    twice = {name: np.repeat(column, count) for name, column in runs.items()}
    twice["loss"] *= 1 + 1e-10 * np.arange(len(twice["loss"]))  # equal rows would count once
    options = {"law": "hoffmann", "delta": 3e-3, "window": None}
    weighed = fit_runs(runs, weights=count, **options)
    repeated = fit_runs(twice, **options)
    assert weighed.objective == pytest.approx(repeated.objective, rel=1e-6)
    assert weighed.law.params == pytest.approx(repeated.law.params, rel=1e-5)


def test_a_run_of_no_weight_is_left_out_and_listed():
    runs = sweep(LAW, sd=0.005)
    runs["loss"][4] *= 2
    weights = np.ones(35)
    weights[4] = 0
    fit = fit_runs(runs, "hoffmann", window=None, weights=weights)
    assert len(fit.runs) == 34
    assert any(e.label == "run 5" and "weight is zero" in e.reason for e in fit.excluded)


def test_weights_stay_with_their_runs_where_others_lack_a_rate():
    """Runs that do not say their rate are left out of the table before it is fitted."""
    rng, runs = np.random.default_rng(0), sweep(LAW, sd=0.003)
    off = rng.normal(size=len(runs["loss"])) * 0.7
    runs |= {"lr": 1e-3 * np.exp(off), "batch_tokens": np.full(len(off), 1e6)}
    runs["loss"] = runs["loss"] * np.exp(0.012 * off**2)
    runs["lr"][:5] = np.nan
    weights = np.ones(len(off))
    weights[20] = 0
    for hparams in (None, ("lr",)):
        left = fit_runs(runs, hparams=hparams, weights=weights, window=None).excluded
        assert [e.label for e in left if e.reason == "its weight is zero"] == ["run 21"]


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ("se", InputError, "'equal', 'loss_se'"),
        ("loss_se", TableError, "column 'loss_se'"),
        ([1.0, 2.0], InputError, "35 usable runs"),
        (np.full(35, -1.0), InputError, "not negative"),
        (np.zeros(35), InputError, "above zero"),
        (object(), InputTypeError, "one number a run"),
    ],
)
def test_weights_that_cannot_be_meant(weights, error, words):
    with pytest.raises(error, match=words):
        fit_runs(sweep(LAW, sd=0.005), weights=weights)


@pytest.mark.parametrize(
    ("budgets", "sizes", "factor", "reason"),
    [
        ((1e18, 1e20), 4, 30.0, "it would leave 8 runs for 5 parameters"),
        ((1e18, 1e19, 1e20), 7, 1.05, "it would leave 3 runs, fewer than 3 a budget"),
    ],
)
def test_a_window_that_leaves_too_few_runs_is_not_used(budgets, sizes, factor, reason):
    fit = fit_runs(sweep(LAW, budgets, sizes), "hoffmann", window=factor)
    assert not fit.window.used
    assert fit.window.reason == reason
    assert fit.window.kept == len(fit.runs)


def test_a_window_without_the_largest_budget_is_not_used():
    """Its only run has a thirtieth of N*."""
    runs = sweep(LAW, (1e18, 3e18, 1e19), 7)
    best = LAW.optimal(1e20)
    N = float(best.params) / 30
    D = float(best.compute) / (6 * N)
    far = {"params": N, "tokens": D, "loss": float(LAW.loss(N, D)), "flops": 1e20}
    more = {name: np.append(values, far[name]) for name, values in runs.items() if name in far}
    fit = fit_runs(more, "hoffmann", window=8.0)
    assert not fit.window.used
    assert fit.window.reason == "it would leave no run of the largest budget"


def test_weights_by_standard_errors_are_one_at_most_and_fall_with_the_variance():
    """1/(τ² + se²) beside the largest: between equal weights and those of the errors alone."""
    runs = noisy(0)
    weights = run_weights("loss_se", RunTable.read(runs), log=True)
    worse = runs["loss_se"] / runs["loss"] > 0.01
    assert np.max(weights) == 1.0
    assert np.max(weights[worse]) < 0.1
    assert np.min(weights[worse]) > (0.001 / 0.02) ** 2
    assert np.min(weights[~worse]) > 0.99
    alike = {**runs, "loss_se": 1e-3 * runs["loss"]}
    assert run_weights("loss_se", RunTable.read(alike), log=True) == pytest.approx(1.0, rel=1e-9)


def test_a_window_of_the_usual_factor_is_that_which_was_asked_for():
    """Only where none was named does a run count by its compute too."""
    runs = sweep(LAW, sd=0.005)
    priors = {w: fit_runs(runs, window=w)._evidence.prior for w in ("auto", 4.99, 5)}
    assert {w: prior.tilt for w, prior in priors.items()} == {"auto": 0.5, 4.99: 0, 5: 0}
    assert priors[5].window == 5


def test_a_window_of_one_shape_does_not_tell_n_from_d():
    """Seeds of each budget's optimum inside it, other sizes only far outside: all runs are fitted."""
    C = np.repeat([1e18, 3e18, 1e19, 3e19, 1e20], 6)
    best = np.sqrt(C / 120)
    N = best * np.tile([1.0, 1.0, 1.0, 1.0, 1 / 40, 40.0], 5)
    law = Hoffmann(E=1.7, A=400.0, B=400.0 * 20**0.35, alpha=0.35, beta=0.35)
    loss = law.loss(N, C / (6 * N)) * np.exp(0.001 * np.random.default_rng(0).normal(size=30))
    fit = fit_runs({"params": N, "tokens": C / (6 * N), "loss": loss}, "hoffmann")
    assert not fit.window.used
    assert fit.window.reason == "the runs it would leave do not tell N from D"
    assert len(fit.runs) == 30


def test_a_window_that_is_refused_moves_no_answer():
    """Where it would leave too few runs, all runs count as without one, in intervals too."""
    runs = sweep(Hoffmann(1.8, 400.0, 1500.0, 0.34, 0.33), sd=0.003)
    asked, without = fit_runs(runs, window=1.05), fit_runs(runs, window=None)
    assert not asked.window.used
    assert asked.predict(1e20).intervals == without.predict(1e20).intervals
