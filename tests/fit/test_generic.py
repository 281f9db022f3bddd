"""Laws outside the κ family: exact recovery in any units, and refits that mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from flops_fit.errors import FitError, InputError
from flops_fit.fit import fit_runs
from flops_fit.fit.generic import descend
from flops_fit.fit.intervals import covariance
from flops_fit.fit.solver import huber
from flops_fit.laws import Hoffmann, Kaplan, Law
from tests.fit._runs import sweep

JOINT = Kaplan(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)


@settings(max_examples=8)
@given(n=st.floats(1e-9, 1e6), d=st.floats(1e-9, 1e6), unit=st.floats(1e-3, 1e4))
def test_kaplan_is_recovered_in_any_units(n, d, unit):
    """Without noise all four constants return within 1e-6, whatever N, D and L are counted in."""
    runs = sweep(JOINT)
    scaled = {
        "params": runs["params"] * n,
        "tokens": runs["tokens"] * d,
        "loss": runs["loss"] * unit,
        "budget": runs["budget"],
    }
    law = fit_runs(scaled, "kaplan", window=None).law
    truth = Kaplan(
        JOINT.N_c * n * unit ** (1 / JOINT.alpha_N),
        JOINT.D_c * d * unit ** (1 / JOINT.alpha_D),
        JOINT.alpha_N,
        JOINT.alpha_D,
    )
    for name, value in truth.params.items():
        assert law.params[name] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("delta", [np.inf, 0.01, 1e-3])
def test_descent_ends_where_a_simplex_ends(delta):
    """As low as Nelder–Mead, which knows no derivatives, for residuals within δ and beyond it."""
    rng = np.random.default_rng(3)
    x = np.linspace(0, 3, 40)
    z = 0.5 + np.exp(-1.2 * x) + 0.02 * rng.standard_t(3, 40)

    def model(theta: np.ndarray) -> np.ndarray:
        return np.exp(theta[0]) + np.exp(theta[1] - np.exp(theta[2]) * x)

    def objective(theta: np.ndarray) -> float:
        return float(np.sum(huber(z - model(theta), delta)))

    start = np.array([0.0, 0.5, 0.0])
    ours = descend(model, start, z, np.ones(40), delta)
    options = {"xatol": 1e-9, "fatol": 1e-16, "maxfev": 5000}
    theirs = minimize(objective, start, method="Nelder-Mead", options=options)
    assert ours.converged
    assert ours.objective == pytest.approx(objective(ours.theta), rel=1e-12)
    assert ours.objective <= theirs.fun * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["case", "wild", "parametric"])
def test_refits_scatter_as_the_sandwich_says(kind):
    """The bootstrap's sd of α_D is within a third of the sandwich's; a seed repeats its refits."""
    runs = sweep(JOINT, sd=0.005, sizes=15, seed=5)
    fit = fit_runs(runs, "kaplan", delta=np.inf, window=None)
    draws = fit.bootstrap(150, kind, seed=1)
    assert draws.shape == (150, 4)
    np.testing.assert_array_equal(draws[:5], fit.bootstrap(150, kind, seed=1)[:5])
    exponents = draws[:, 3] / (draws[:, 2] + draws[:, 3])
    sandwich = np.sqrt(covariance(fit._evidence.solution).matrix[3, 3])
    assert np.std(np.log(draws[:, 3])) == pytest.approx(sandwich, rel=1 / 3)
    assert np.median(exponents) == pytest.approx(fit.law.exponent, abs=0.02)


def test_clusters_are_drawn_whole():
    """Each run entered twice as one cluster: refits scatter as those of the single runs do."""
    runs = sweep(JOINT, sd=0.005, seed=2)
    twice = {name: np.repeat(column, 2) for name, column in runs.items()}
    twice["loss"] *= 1 + 1e-10 * np.arange(70)  # equal rows would count once
    clustered = {**twice, "cluster": [f"seed {i // 2}" for i in range(70)]}

    def spread(table: dict) -> float:
        fit = fit_runs(table, "kaplan", delta=np.inf, window=None)
        return float(np.std(np.log(fit.bootstrap(100)[:, 3])))

    once = spread(runs)
    assert spread(clustered) == pytest.approx(once, rel=0.3)
    assert spread(twice) < 0.85 * once


def test_the_papers_delta_leaves_an_interval_that_holds():
    """δ = 1e-3 far below the noise moves the law, and not what its interval is made of."""
    fit = fit_runs(sweep(JOINT, sd=0.01), "kaplan", delta=1e-3, window=None)
    prediction = fit.predict(1e21)
    assert prediction.interval_method == "law, misfit and noise"
    low, high = prediction.intervals["optimal_params"]
    assert low < JOINT.optimal(1e21).params < high


def test_an_unknown_kind_is_refused():
    """The refusal lists the kinds there are."""
    with pytest.raises(InputError, match="'wild'"):
        fit_runs(sweep(JOINT), "kaplan").bootstrap(3, "block")


@dataclass(frozen=True)
class Redundant(Law):
    """The additive law with a factor S of A that no runs can tell from A."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    S: float
    limits: ClassVar[dict[str, float]] = {"S": 1.0}

    def loss(self, N, D):
        return self.E + self.S * self.A / N**self.alpha + self.B / D**self.beta

    @classmethod
    def starts(cls, N, D, loss):
        return [{"E": 1.5, "A": 300.0, "B": 900.0, "alpha": 0.3, "beta": 0.35, "S": 2.0}]


@dataclass(frozen=True)
class Unlimited(Redundant):
    """Of which no factor is so large."""

    limits: ClassVar[dict[str, float]] = {"S": np.inf}


@dataclass(frozen=True)
class Misnamed(Redundant):
    @classmethod
    def starts(cls, N, D, loss):
        return [{"E": 1.5, "A": 300.0}]


ADDITIVE = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def test_constants_that_cannot_be_told_apart_are_held_at_their_limit_where_the_runs_allow_it():
    """At S = 1 the law is as good, and the other constants are those of the additive law."""
    runs = sweep(ADDITIVE, sd=0.002)
    held = fit_runs(runs, Redundant, window=None)
    assert held.law.params["S"] == 1.0
    assert held._evidence.solution.held == {"S": 1.0}
    plain = fit_runs(runs, "hoffmann", window=None, delta=held.delta)
    assert {n: held.law.params[n] for n in plain.law.params} == pytest.approx(
        plain.law.params, rel=1e-3
    )


def test_a_limit_that_the_runs_refuse_is_not_taken():
    fit = fit_runs(sweep(ADDITIVE, sd=0.002), Unlimited, window=None)
    assert np.isfinite(fit.law.params["S"])
    assert fit._evidence.solution.held == {}


def test_starts_name_the_parameters_of_their_law():
    with pytest.raises(FitError, match=r"Misnamed.starts to return dicts with the keys \['E', 'A'"):
        fit_runs(sweep(ADDITIVE), Misnamed)
