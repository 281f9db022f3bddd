"""What holds for every table: units, order, repetition, recovery, and an objective that is its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flops_fit.fit import fit_runs
from flops_fit.fit.solver import huber
from flops_fit.fit.surface import points_of
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.laws import LAWS, Hoffmann, Kappa, Law
from flops_fit.table import RunTable
from tests.fit._runs import llama, sweep

JOINED = Kappa(E=1.7, A=9e4, B=2e6, alpha=0.7, beta=0.8, kappa=0.5)
few = settings(max_examples=5, deadline=None, derandomize=True)


@few
@given(log_n=st.floats(-6, 6), log_d=st.floats(-6, 6), log_l=st.floats(-3, 3))
def test_units_do_not_matter(log_n, log_d, log_l):
    """N, D, C and L in other units: the same objective and exponents, N* and L scaled."""
    table, n, d, unit = llama(), 10.0**log_n, 10.0**log_d, 10.0**log_l
    plain = fit_runs(table, "kappa", delta=1e-3, window=None)
    scaled = fit_runs(
        {
            "params": table.params * n,
            "tokens": table.tokens * d,
            "loss": table.loss * unit,
            "flops": table.flops * n * d,
            "budget": table.budget * n * d,
        },
        "kappa",
        delta=1e-3,
        window=None,
    )
    assert scaled.objective == pytest.approx(plain.objective, rel=1e-6)
    before, after = plain.law.params, scaled.law.params
    for name in ("alpha", "beta", "kappa"):
        assert after[name] == pytest.approx(before[name], rel=1e-5)
    assert after["E"] == pytest.approx(before["E"] * unit, rel=1e-5)
    here, there = plain.law.optimal(1e22), scaled.law.optimal(1e22 * n * d)
    assert there.params == pytest.approx(here.params * n, rel=1e-5)
    assert there.loss == pytest.approx(here.loss * unit, rel=1e-6)


@few
@given(seed=st.integers(0, 2**32 - 1))
def test_order_does_not_matter(seed):
    """The default fit of shuffled runs is the same fit."""
    table = sweep(JOINED, sd=0.005)
    order = np.random.default_rng(seed).permutation(len(table["loss"]))
    fit = fit_runs(table)
    shuffled = fit_runs({name: column[order] for name, column in table.items()})
    assert shuffled.objective == pytest.approx(fit.objective, rel=1e-9)
    ours, theirs = shuffled.predict(1e22), fit.predict(1e22)
    assert ours.optimal_params == pytest.approx(theirs.optimal_params, rel=1e-9)
    for name, span in theirs.intervals.items():
        assert ours.intervals[name] == pytest.approx(span, rel=1e-9)


@pytest.mark.parametrize("name", ["hoffmann", "kappa"])
@few
@given(seed=st.integers(0, 2**32 - 1))
def test_integer_weights_are_repetitions(name, seed):
    """The solver takes a run of weight 3 as three runs: the same objective and the same law."""
    table = sweep(JOINED, sd=0.01, seed=seed % 100)
    counts = np.random.default_rng(seed).integers(1, 4, len(table["loss"]))
    N, D, loss = table["params"], table["tokens"], table["loss"]
    once = _solved(name, N, D, loss, counts.astype(float))
    N, D, loss = (np.repeat(column, counts) for column in (N, D, loss))
    repeated = _solved(name, N, D, loss, np.ones(len(N)))
    assert repeated.objective == pytest.approx(once.objective, rel=1e-8)
    here, there = once.law.optimal(1e21), repeated.law.optimal(1e21)
    assert there.params == pytest.approx(here.params, rel=1e-4)
    assert there.loss == pytest.approx(here.loss, rel=1e-6)


def _solved(name, N, D, loss, weights):
    """A law fitted to columns by the solver alone, at δ = 0.01."""
    table = RunTable.read({"params": N, "tokens": D, "loss": loss})
    return SurfaceSolver(LAWS[name], points_of(table, True)).fit(weights, 1e-2)


@st.composite
def laws(draw) -> Law:
    """Laws near published ones; A and B follow from each term's size at 1e9 and 2e10."""
    alpha, beta = draw(st.floats(0.25, 0.5)), draw(st.floats(0.25, 0.5))
    E, share = draw(st.floats(0.5, 2.0)), draw(st.floats(0.3, 0.7))
    kappa = draw(st.sampled_from([None, 0.6, 1.5]))
    A, B = share * 1e9**alpha, (1 - share) * 2e10**beta
    return Hoffmann(E, A, B, alpha, beta) if kappa is None else Kappa(E, A, B, alpha, beta, kappa)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(law=laws())
def test_a_law_without_noise_is_recovered(law):
    """ln N* and the loss to 1e-6 at ten times the largest budget, least squares on all runs."""
    fit = fit_runs(
        sweep(law, budgets=np.geomspace(1e18, 1e22, 5)), law.name, delta=np.inf, window=None
    )
    truth, found = law.optimal(1e23), fit.law.optimal(1e23)
    assert np.log(found.params) == pytest.approx(np.log(truth.params), abs=1e-6)
    assert found.loss == pytest.approx(truth.loss, rel=1e-6)


@pytest.mark.parametrize("loss_space", ["log", "linear"])
@pytest.mark.parametrize("law", ["hoffmann", "kappa", "auto"])
@pytest.mark.parametrize(("delta", "window"), [("mad", "auto"), (1e-3, None), (0.02, "auto")])
def test_the_objective_belongs_to_the_parameters(law, loss_space, delta, window):
    """Objective and residuals recomputed from law, δ and weights alone."""
    runs = sweep(JOINED, sd=0.01, reach=20)
    fit = fit_runs(runs, law, loss_space=loss_space, delta=delta, window=window)
    predicted = fit.law.loss(fit.runs.params, fit.runs.tokens)
    log = loss_space == "log"
    residuals = np.log(fit.runs.loss / predicted) if log else fit.runs.loss - predicted
    np.testing.assert_allclose(fit.residuals, residuals, atol=1e-10)
    assert delta == "mad" or fit.delta == pytest.approx(delta, rel=1e-12)
    assert np.sum(fit.weights * huber(residuals, fit.delta)) == pytest.approx(
        fit.objective, rel=1e-8
    )
