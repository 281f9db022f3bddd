"""Published fits, reproduced to the digits that are known."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.fit import fit_runs
from flops_fit.laws import Hoffmann
from tests.fit._runs import chinchilla, llama


def test_chinchilla_refit():
    """Besiroglu et al. 2024: log-Huber, δ = 1e-3, summed, 240 points."""
    fit = fit_runs(chinchilla(), "hoffmann", delta=1e-3, window=None)
    assert fit.objective == pytest.approx(0.0010182740176, rel=1e-9)
    expected = {"E": 1.81722, "A": 477.83, "B": 2143.4, "alpha": 0.34731, "beta": 0.36717}
    for name, value in expected.items():
        assert fit.law.params[name] == pytest.approx(value, rel=2e-5)
    best = fit.law.optimal(5.76e23, fit.flops)
    assert best.params == pytest.approx(73.2e9, rel=5e-3)
    assert best.tokens / best.params == pytest.approx(17.9, rel=5e-3)
    answer = fit.predict(5.76e23)
    assert answer.optimal_params == pytest.approx(73.2e9, rel=0.2)
    low, high = answer.intervals["optimal_params"]
    assert low < 57.4e9
    assert high > 97.8e9


def test_chinchilla_bootstrap_intervals():
    """80 % case-bootstrap intervals: A 335–645, B 1411–3967, α .326–.365, N* 57.4–97.8 B."""
    fit = fit_runs(chinchilla(), "hoffmann", delta=1e-3, window=None)
    low, high = np.quantile(fit.bootstrap(1000), [0.1, 0.9], axis=0)
    np.testing.assert_allclose(low, [1.786, 335, 1411, 0.326, 0.346], rtol=0.06)
    np.testing.assert_allclose(high, [1.851, 645, 3967, 0.365, 0.397], rtol=0.06)
    laws = [Hoffmann(*constants) for constants in fit.bootstrap(1000)]
    sizes = [law.optimal(5.76e23, fit.flops).params for law in laws]
    assert np.quantile(sizes, [0.1, 0.9]) == pytest.approx([57.4e9, 97.8e9], rel=0.05)


def test_llama_log_huber():
    """Llama 3's points at the papers' δ."""
    fit = fit_runs(llama(), "hoffmann", delta=1e-3, window=None)
    assert fit.objective == pytest.approx(0.0003904678, rel=1e-6)
    expected = {"E": 0.59419, "A": 38.329, "B": 160.226, "alpha": 0.28352, "beta": 0.31566}
    for name, value in expected.items():
        assert fit.law.params[name] == pytest.approx(value, rel=2e-5)


def test_llama_least_squares_in_linear_loss():
    """δ = ∞ in linear loss is plain least squares."""
    fit = fit_runs(llama(), "hoffmann", delta=np.inf, loss_space="linear", window=None)
    expected = {"E": 0.6047, "A": 59.14, "B": 155.1, "alpha": 0.3100, "beta": 0.3136}
    for name, value in expected.items():
        assert fit.law.params[name] == pytest.approx(value, rel=5e-4)
    residuals = fit.runs.loss - fit.law.loss(fit.runs.params, fit.runs.tokens)
    np.testing.assert_allclose(residuals, fit.residuals, atol=1e-12)


def test_llama_supports_the_kappa_law():
    """κ ≈ .58 by least squares, and the default chooses it."""
    least_squares = fit_runs(llama(), "kappa", delta=np.inf, window=None)
    assert least_squares.law.params["kappa"] == pytest.approx(0.58, abs=0.005)
    default = fit_runs(llama())
    assert default.law.name == "kappa"
    assert default.choice is not None
    assert default.choice.wald_p < 1e-6
    additive = next(a for a in default.alternatives if a.law.name == "hoffmann")
    assert default.residual_sd < 0.8 * additive.residual_sd


def test_llama_parabolas():
    """Approach 2 in ln D: D* = 0.2994·C^0.5368, so 16.1 T tokens at 3.8e25."""
    shape = fit_runs(llama(), window=None).isoflop
    assert shape.usable
    assert len(shape.interior) == 10
    assert shape.d_line.k == pytest.approx(0.2994, rel=1e-3)
    assert shape.d_line.a == pytest.approx(0.5368, abs=1e-4)
    assert shape.d_line(3.8e25) == pytest.approx(16.1e12, rel=5e-3)


def test_all_chinchilla_points_pull_the_exponent():
    """With the five outliers a rises from .514 to .565 and β from .367 to .453."""
    kept = fit_runs(chinchilla(), "hoffmann", delta=1e-3, window=None)
    everything = fit_runs(reference.runs("hoffmann2022_epoch"), "hoffmann", delta=1e-3, window=None)
    assert kept.exponents[0] == pytest.approx(0.514, abs=1e-3)
    assert everything.exponents[0] == pytest.approx(0.565, abs=1e-3)
    assert everything.law.params["beta"] == pytest.approx(0.453, abs=1e-3)
