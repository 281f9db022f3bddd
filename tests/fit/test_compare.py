"""Two fits are compared by compute: what one needs to reach the other's loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flops_fit import compare, fit_runs
from flops_fit.errors import InputError, InputTypeError
from flops_fit.laws import Hoffmann, Kaplan
from tests.fit._runs import sweep

BASE = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)


def better_by(gain: float, law: Hoffmann = BASE) -> Hoffmann:
    """The law that reaches every loss with 1/gain of the compute: L(N, D) at (√gain·N, √gain·D)."""
    g = math.sqrt(gain)
    return Hoffmann(law.E, law.A / g**law.alpha, law.B / g**law.beta, law.alpha, law.beta)


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3, 4.0])
def test_a_known_gain_is_found(gain: float) -> None:
    first, second = (fit_runs(sweep(law), "hoffmann") for law in (BASE, better_by(gain)))
    found = compare(first, second)
    assert found.compute_multiplier == pytest.approx(1 / gain, rel=1e-4)
    assert found.exponent_difference == pytest.approx(0.0, abs=1e-5)
    assert compare(second, first).compute_multiplier == pytest.approx(gain, rel=1e-4)


def test_the_gain_is_asked_where_it_is_wanted() -> None:
    steeper = Hoffmann(1.8, 900.0, 2100.0, 0.385, 0.37)
    first, second = (fit_runs(sweep(law), "hoffmann") for law in (BASE, steeper))
    near, far = (compare(first, second, c).compute_multiplier for c in (1e18, 1e21))
    for c, m in ((1e18, near), (1e21, far)):
        assert steeper.optimal(m * c).loss == pytest.approx(BASE.optimal(c).loss, rel=1e-5)
    assert far < near


def test_intervals_hold_the_truth_three_times_in_four_and_more() -> None:
    gain, hits, equal, n = 1.3, 0, 0, 25
    for seed in range(n):
        first = fit_runs(sweep(BASE, sd=0.003, seed=2 * seed), "hoffmann")
        second = fit_runs(sweep(better_by(gain), sd=0.003, seed=2 * seed + 1), "hoffmann")
        found = compare(first, second)
        low, high = found.intervals["compute_multiplier"]
        hits += low <= 1 / gain <= high
        low, high = found.intervals["exponent_difference"]
        equal += low <= 0 <= high
    assert 0.72 * n <= hits <= n
    assert 0.8 * n <= equal <= n


def test_different_exponents_are_told_apart() -> None:
    other = Hoffmann(1.8, 2000.0, 800.0, 0.42, 0.31)
    first, second = (
        fit_runs(sweep(law, sd=0.002, seed=s), "hoffmann") for s, law in enumerate((BASE, other))
    )
    found = compare(first, second)
    low, high = found.intervals["exponent_difference"]
    assert found.p_value < 0.01
    assert low < found.exponents[1] - found.exponents[0] < high < 0


def test_a_loss_out_of_reach_is_said() -> None:
    floor = Hoffmann(2.6, 480.0, 2100.0, 0.35, 0.37)
    found = compare(fit_runs(sweep(BASE), "hoffmann"), fit_runs(sweep(floor), "hoffmann"), 1e22)
    assert found.compute_multiplier == math.inf
    assert found.intervals["compute_multiplier"] is None
    assert {d.code for d in found.diagnostics} >= {"out_of_reach", "extrapolation"}


def test_losses_in_other_units_of_compute_are_not_mixed_up() -> None:
    columns = sweep(BASE)
    scaled = {**columns, "tokens": columns["tokens"] * 4, "flops": columns["flops"] * 4}
    found = compare(fit_runs(columns, "hoffmann"), fit_runs(scaled, "hoffmann"))
    assert found.compute_multiplier == pytest.approx(4.0, rel=1e-3)


def test_the_answer_reads_as_a_sentence() -> None:
    first, second = (
        fit_runs(sweep(law, sd=0.003, seed=s)) for s, law in enumerate((BASE, better_by(2)))
    )
    text = str(compare(first, second, 1e20))
    assert text.startswith("At C = 1e+20 the second needs 0.")
    assert "times the compute of the first for the same loss" in text


def test_what_cannot_be_compared_is_told() -> None:
    fit = fit_runs(sweep(BASE), "hoffmann")
    with pytest.raises(InputTypeError, match="second: expected a Fit; got dict"):
        compare(fit, {})
    with pytest.raises(InputError, match="compute budget"):
        compare(fit, fit, -1.0)
    assert np.isfinite(compare(fit, fit).compute_multiplier)


def test_fits_of_kaplans_law_are_compared_too() -> None:
    """Its exponent is α_D/(α_N + α_D); the same runs twice differ in nothing."""
    fit = fit_runs(sweep(Kaplan(6.4e13, 1.8e13, 0.076, 0.103), sd=0.003), "kaplan")
    result = compare(fit, fit)
    assert result.exponents[0] == fit.law.exponent
    assert result.compute_multiplier == pytest.approx(1.0, rel=1e-6)
    low, high = result.intervals["exponent_difference"]
    assert low < 0 < high
