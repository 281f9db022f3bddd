"""Kaplan's law: a κ-law without offset, with its own optimum, fitted like any other."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.fit import fit_runs
from flops_fit.laws import Kaplan, Kappa
from tests.fit._runs import sweep

# Kaplan et al. 2020, Table 2: the joint fit of L(N, D).
JOINT = Kaplan(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
# Their eqs. 1.1 and 1.2: fits in one variable each.
SINGLE = Kaplan(N_c=8.8e13, D_c=5.4e13, alpha_N=0.076, alpha_D=0.095)


@pytest.mark.parametrize("law", [JOINT, SINGLE], ids=["joint", "single"])
def test_it_is_the_kappa_law_without_offset(law):
    """E = 0, A = N_c^(α_N/α_D), α = α_N/α_D, B = D_c, β = 1, κ = α_D: loss and optimum agree."""
    r = law.alpha_N / law.alpha_D
    kappa = Kappa(0.0, law.N_c**r, law.D_c, r, 1.0, law.alpha_D)
    N, D = np.meshgrid(np.geomspace(1e5, 1e12, 8), np.geomspace(1e7, 1e13, 7))
    np.testing.assert_allclose(law.loss(N, D), kappa.loss(N, D), rtol=1e-12)
    C = np.geomspace(1e16, 1e26, 6)
    np.testing.assert_allclose(law.optimal(C).params, kappa.optimal(C).params, rtol=1e-11)


def test_one_variable_is_left_where_the_other_is_unlimited():
    """D → ∞ leaves (N_c/N)^α_N (eq. 1.1), N → ∞ leaves (D_c/D)^α_D (eq. 1.2)."""
    assert SINGLE.loss(1e9, 1e60) == pytest.approx((8.8e13 / 1e9) ** 0.076, rel=1e-12)
    assert SINGLE.loss(1e60, 1e9) == pytest.approx((5.4e13 / 1e9) ** 0.095, rel=1e-12)


def test_its_own_optimum_is_not_the_famous_one():
    """a = α_D/(α_N + α_D): .575 for the joint fit, .556 for the single ones; never .73."""
    for law, expected in ((JOINT, 0.5754), (SINGLE, 0.5556)):
        best = law.optimal(np.array([1e20, 1e22]))
        slope = np.log(best.params[1] / best.params[0]) / np.log(100)
        assert slope == pytest.approx(expected, abs=1e-4)
        assert law.exponent == pytest.approx(slope, rel=1e-12)


def test_closed_form_equals_the_search():
    """The closed form is the minimum that a search over F(N) = 6·N finds."""
    C = np.geomspace(1e16, 1e26, 6)
    exact, searched = JOINT.optimal(C), JOINT.optimal(C, lambda N: 6 * N)
    np.testing.assert_allclose(searched.params, exact.params, rtol=1e-6)


def test_noiseless_runs_give_the_law_back():
    """Asked for by name or class, four parameters return from exact losses."""
    fit = fit_runs(sweep(JOINT), "kaplan", window=None)
    assert isinstance(fit.law, Kaplan)
    for name, value in JOINT.params.items():
        assert fit.law.params[name] == pytest.approx(value, rel=1e-4)
    assert fit.law == fit_runs(sweep(JOINT), Kaplan, window=None).law
    assert {a.law.name for a in fit.alternatives} == {"hoffmann", "kappa"}


def test_noisy_runs_give_the_optimum_back():
    """With half a per cent of noise the predicted N* stays within a few per cent."""
    runs = sweep(JOINT, sd=0.005, seed=1)
    fit = fit_runs(runs, "kaplan")
    assert fit.predict(1e21).optimal_params == pytest.approx(JOINT.optimal(1e21).params, rel=0.2)


def test_starts_are_near_a_law_whose_losses_span_decades():
    """Exponents under which a term would overflow are left out, without a warning."""
    steep = Kaplan(N_c=1e16, D_c=1e17, alpha_N=0.9, alpha_D=1.1)
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e3, 1e10, 6), np.geomspace(1e5, 1e12, 6)))
    starts = Kaplan.starts(N, D, steep.loss(N, D))
    assert starts
    first = Kaplan(**starts[0])
    assert first.loss(N, D) == pytest.approx(steep.loss(N, D), rel=1.0)
