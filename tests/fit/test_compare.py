"""Two fits are compared by compute: what one needs to reach the other's loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from flops_fit import compare, fit_runs
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit import Fit
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


def test_the_multiplier_lies_in_its_interval() -> None:
    """Where the misfit moves the laws out of it, the middle of the draws is the answer."""
    kappa, additive = (
        fit_runs(sweep(BASE, sd=0.01), "kappa"),
        fit_runs(sweep(BASE, sd=0.01, seed=1)),
    )
    for one, other in ((kappa, additive), (additive, kappa)):
        result = compare(one, other, level=0.02)
        low, high = result.intervals["compute_multiplier"]
        assert low <= result.compute_multiplier <= high


def pair(gain: float, sd: float = 0.01) -> list[Fit]:
    """Two fits to noisy runs, the second better by a factor in compute."""
    return [
        fit_runs(sweep(law, sd=sd, seed=s), "hoffmann")
        for s, law in enumerate((BASE, better_by(gain)))
    ]


def test_time_goes_with_compute_over_speed_and_money_with_time() -> None:
    first, second = pair(1.3)
    found = compare(first, second, speeds=(4e14, 3.2e14), dollars_per_hour=(2.0, 1.0))
    m = found.compute_multiplier
    assert found.time_multiplier == pytest.approx(m * 4 / 3.2)
    assert found.dollar_multiplier == pytest.approx(m * 4 / 3.2 / 2)
    low, high = found.intervals["compute_multiplier"]
    assert found.intervals["time_multiplier"] == pytest.approx((low * 1.25, high * 1.25))
    assert f"price {found.dollar_multiplier:.3g}" in str(found)


def test_speeds_come_from_the_runs_near_the_optimum() -> None:
    """The second trains at half the speed of the first at every size, with a third of noise."""
    fits = pair(1.3)
    rng = np.random.default_rng(0)
    for i, fit in enumerate(fits):
        rows = fit.runs.to_dicts()
        for row in rows:
            row["tok/sec"] = 1e12 / row["params"] ** 0.8 / (1 + i) * math.exp(0.33 * rng.normal())
        fits[i] = fit_runs(rows, "hoffmann")
    found = compare(*fits)
    assert found.time_multiplier == pytest.approx(2 * found.compute_multiplier, rel=0.3)
    spans = found.intervals
    widths = [np.ptp(np.log(spans[f"{name}_multiplier"])) for name in ("compute", "time")]
    assert 1.02 * widths[0] < widths[1] < 2 * widths[0]


def test_a_gate_is_passed_failed_or_open() -> None:
    first, second = pair(1.6)
    low, high = compare(first, second).intervals["compute_multiplier"]
    shares = {0.5 * (1 - high): "yes", 1 - 0.5 * low: "no", 1 - math.sqrt(low * high): "not yet"}
    for share, verdict in shares.items():
        gate = compare(first, second, gate=share).gate
        assert (gate.verdict, gate.of) == (verdict, "compute")
    dear = compare(first, second, gate=0.05, speeds=(1, 1), dollars_per_hour=(1, 5)).gate
    assert (dear.verdict, dear.of) == ("no", "dollars")


def test_the_runs_that_a_gate_asks_for_narrow_the_interval_as_much() -> None:
    fits = pair(1.3)
    before = compare(*fits)
    low, high = np.log(before.intervals["compute_multiplier"])
    middle, share = math.log(before.compute_multiplier), 0.75
    gate = compare(*fits, gate=1 - math.exp(middle + share * (high - middle))).gate
    assert gate.verdict == "not yet"
    assert sum(gate.more_runs) >= 1
    rng = np.random.default_rng(1)
    for i, (law, count) in enumerate(zip((BASE, better_by(1.3)), gate.more_runs, strict=True)):
        largest = fits[i].largest_compute
        best = fits[i].law.optimal(largest)
        N, D = float(best.params), float(best.tokens)
        more = [
            {"params": N, "tokens": D, "flops": largest, "budget": largest,
             "loss": float(law.loss(N, D)) * math.exp(0.01 * rng.normal())}
            for _ in range(count)
        ]  # fmt: skip
        fits[i] = fit_runs([*fits[i].runs.to_dicts(), *more], "hoffmann")
    after = np.log(compare(*fits).intervals["compute_multiplier"])
    assert np.ptp(after) < 0.95 * (high - low)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gate": 5}, "0.05"),
        ({"gate": -0.1}, "0.05"),
        ({"speeds": 1e14}, "two numbers"),
        ({"speeds": (1e14, 0)}, "speeds"),
        ({"dollars_per_hour": (1, 2)}, "Give speeds"),
    ],
)
def test_what_is_no_speed_price_or_gate_is_refused(arguments: dict[str, Any], words: str) -> None:
    fit = fit_runs(sweep(BASE), "hoffmann")
    with pytest.raises(InputError, match=words):
        compare(fit, fit, **arguments)
