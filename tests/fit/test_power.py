"""Power laws in one variable: exact recovery, scale freedom, agreement with scipy, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import least_squares

from flops_fit.errors import FitError, InputError
from flops_fit.fit import FitStatus, fit_power

X = np.geomspace(1e18, 1e23, 9)


def noisy(clean: np.ndarray, sd: float, seed: int) -> np.ndarray:
    return clean * np.exp(sd * np.random.default_rng(seed).normal(size=len(clean)))


@given(k=st.floats(1e-6, 1e6), a=st.floats(-2, 2).filter(lambda a: abs(a) > 1e-3))
def test_a_line_without_noise_is_recovered(k, a):
    """y = k·x^a gives k and a back, without an offset."""
    law = fit_power(X, k * X**a).law
    assert law.k == pytest.approx(k, rel=1e-9)
    assert law.a == pytest.approx(a, abs=1e-11)
    assert law.offset == 0


@given(
    share=st.floats(0.2, 5),
    a=st.floats(-0.5, 0.5).filter(lambda a: abs(a) > 0.05),
    offset=st.floats(1e-3, 1e3),
)
def test_an_offset_without_noise_is_recovered(share, a, offset):
    """y = k·x^a + offset gives all three back, where both terms matter."""
    k = share * offset / (1e20**a)
    fit = fit_power(X, k * X**a + offset, offset=True)
    assert fit.law.offset == pytest.approx(offset, rel=1e-5)
    assert fit.law.a == pytest.approx(a, rel=1e-5)
    assert fit.law.k == pytest.approx(k, rel=1e-3)
    assert fit.r2 == pytest.approx(1, abs=1e-9)


@given(x_unit=st.floats(1e-12, 1e12), y_unit=st.floats(1e-9, 1e9), offset=st.booleans())
def test_units_change_nothing(x_unit, y_unit, offset):
    """In other units of x and y the exponent, r² and relative predictions stay as they are."""
    y = noisy(3e4 * X**-0.2 + 2.0, 0.01, 4)
    here = fit_power(X, y, offset=offset)
    there = fit_power(X * x_unit, y * y_unit, offset=offset)
    assert there.law.a == pytest.approx(here.law.a, rel=1e-6)
    assert there.r2 == pytest.approx(here.r2, rel=1e-8)
    np.testing.assert_allclose(
        there.predict(1e25 * x_unit), np.multiply(here.predict(1e25), y_unit), rtol=1e-6
    )
    assert there.intervals["a"] == pytest.approx(here.intervals["a"], rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_scipy_finds_no_better_optimum(seed):
    """On random data the relative least squares of scipy, from many starts, end no lower."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(1, 1000, 15))
    y = noisy(rng.uniform(1, 9) * x ** rng.uniform(-1, 1) + rng.uniform(0, 3), 0.05, seed)
    w = rng.uniform(0.5, 2, 15)
    law = fit_power(x, y, offset=True, weights=w).law

    def misfit(theta: np.ndarray) -> np.ndarray:
        return np.sqrt(w) * (1 - (np.exp(theta[0]) * x ** theta[1] + theta[2] ** 2) / y)

    ours = 0.5 * float(np.sum(misfit(np.array([np.log(law.k), law.a, np.sqrt(law.offset)])) ** 2))
    starts = [(np.log(y.mean()), a, c) for a in (-1.0, -0.3, 0.3, 1.0) for c in (0.1, 1.5)]
    theirs = min(least_squares(misfit, s, xtol=1e-12, ftol=1e-12).cost for s in starts)
    assert ours <= theirs * (1 + 1e-7)


def test_the_line_is_weighted_least_squares_on_logs():
    """numpy's polyfit with the same weights; a weight of two is a point given twice."""
    y, w = noisy(2e-3 * X**0.5, 0.1, 0), np.arange(1.0, 10.0)
    slope, intercept = np.polyfit(np.log(X), np.log(y), 1, w=np.sqrt(w))
    law = fit_power(X, y, weights=w).law
    assert law.a == pytest.approx(slope, rel=1e-9)
    assert np.log(law.k) == pytest.approx(intercept, rel=1e-8)
    twice = fit_power(np.append(X, X[0]), np.append(y, y[0])).law
    assert fit_power(X, y, weights=[2, *np.ones(8)]).law.a == pytest.approx(twice.a, rel=1e-9)
    assert fit_power(X, y, weights=[0, *np.ones(8)]).law == fit_power(X[1:], y[1:]).law


def test_intervals_are_hc3_with_student_t():
    """The closed form of HC3 for a line, at t(0.95, 7) = 1.8946."""
    y = noisy(2e-3 * X**0.5, 0.1, 1)
    fit = fit_power(X, y)
    basis = np.column_stack([np.ones(9), np.log(X) - np.log(X).mean()])
    inverse = np.linalg.inv(basis.T @ basis)
    leverage = np.einsum("ni,ij,nj->n", basis, inverse, basis)
    r = np.log(y) - np.log(fit.law(X))
    cov = inverse @ (basis.T * (r / (1 - leverage)) ** 2) @ basis @ inverse
    half = 1.8945786 * np.sqrt(cov[1, 1])
    assert fit.intervals["a"] == pytest.approx((fit.law.a - half, fit.law.a + half), rel=1e-6)
    at = np.array([1.0, np.log(1e25) - np.log(X).mean()])
    _, low, high = fit.predict(1e25)
    assert np.log(high / low) / 2 == pytest.approx(1.8945786 * np.sqrt(at @ cov @ at), rel=1e-6)


@pytest.mark.parametrize("offset", [False, True])
def test_intervals_cover(offset):
    """Of 300 nominal 90 % intervals for a and for a prediction, 84 to 98 % hold the truth."""
    x = np.geomspace(1, 1e4, 12)
    clean = 5 * x**-0.3 + (1.0 if offset else 0.0)
    target = 5 * 1e5**-0.3 + (1.0 if offset else 0.0)
    hits = np.zeros(2)
    for seed in range(300):
        fit = fit_power(x, noisy(clean, 0.01, seed), offset=offset)
        _, low, high = fit.predict(1e5)
        inside = fit.intervals["a"]
        hits += [inside[0] <= -0.3 <= inside[1], low <= target <= high]
    assert np.all((hits / 300 > 0.84) & (hits / 300 < 0.98))


def test_an_offset_at_zero_is_said():
    """A law that bends the other way ends at the lower bound: a status, a note, no interval."""
    fit = fit_power(X, 1e10 * X**-0.3 * np.exp(-0.01 * np.log(X / 1e20) ** 2), offset=True)
    assert fit.law.offset == 0
    assert fit.status is FitStatus.BOUND_HIT
    assert "lower bound" in fit.notes[0]
    assert fit.intervals["offset"] is None
    assert fit.intervals["a"] is not None


def test_an_offset_that_is_not_identified_is_said():
    """A pure power law with noise: the offset's interval reaches 0."""
    fit = fit_power(X, noisy(100 * X**-0.1, 0.01, 1), offset=True)
    assert any("from 0" in note for note in fit.notes)
    assert fit.intervals["offset"][0] == 0


def test_as_many_points_as_parameters_have_no_interval():
    """Two points give the line through them and nothing about its error."""
    fit = fit_power([1.0, 10.0], [2.0, 20.0])
    assert fit.law.a == pytest.approx(1)
    assert fit.intervals == {"k": None, "a": None, "offset": None}
    y, low, high = fit.predict(100.0)
    assert y == pytest.approx(200)
    assert np.isnan([low, high]).all()
    assert "no more points" in fit.notes[0]


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "match"),
    [
        ([1, 2, 3], [1, 2], {}, InputError, "one length"),
        ([1, 2, -3], [1, 2, 3], {}, InputError, r"x\[2\] is -3"),
        ([1, 2, 3], [1, float("nan"), 3], {}, InputError, r"y\[1\] is nan"),
        ([1, 2, 3], [1, 2, 3], {"weights": [1, -1, 1]}, InputError, "not negative"),
        ([1, 2, 3], [1, 2, 3], {"weights": [1, 0, 0]}, FitError, "2 different x"),
        ([2, 2, 2], [1, 2, 3], {}, FitError, "got 1"),
        ([1, 2], [1, 2], {"offset": True}, FitError, "3 different x"),
        ([1, 2, 3], [1, 2, 3], {"offset": 0.5}, InputError, "offset=True"),
        ([1, 2, 3], [1, 2, 3], {"level": 90}, InputError, "between 0 and 1"),
        (["a", "b"], [1, 2], {}, InputError, "numbers"),
    ],
)
def test_nonsense_is_refused_in_words(x, y, options, error, match):
    """Each refusal says what was expected and what came."""
    with pytest.raises(error, match=match):
        fit_power(x, y, **options)
    with pytest.raises(InputError, match="positive finite x"):
        fit_power([1, 2], [1, 2]).predict(0)
