"""What a fit, a comparison and a score say for themselves, and what their questions refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flops_fit import compare, fit_runs, reference
from flops_fit.errors import FitError, InputError, InputTypeError
from flops_fit.fit import Fit, metric
from flops_fit.fit.comparison import Gate
from flops_fit.fit.solver import huber, huber_weight
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable
from flops_fit.text import format_count
from tests.fit._runs import sweep, unconverged

LAW = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)


@pytest.fixture(scope="module")
def fit() -> Fit:
    return fit_runs(sweep(LAW), "hoffmann")


@pytest.fixture(scope="module")
def lost() -> Fit:
    """Losses in which D makes no difference, so that no optimum can be had."""
    runs = sweep(LAW)
    loss = LAW.E + LAW.A / runs["params"] ** LAW.alpha
    return fit_runs({**runs, "loss": loss}, "hoffmann", window=None)


def test_a_gate_is_a_sentence() -> None:
    assert str(Gate(0.0, "compute", "yes")) == "Less compute: yes"
    assert str(Gate(0.25, "dollars", "no")) == "At least 25 % less money: no"
    undecided = "; more runs at the largest compute so far would not decide it"
    assert str(Gate(0.0, "compute", "not yet")) == f"Less compute: not yet{undecided}"
    one = str(Gate(0.0, "compute", "not yet", (1, 0)))
    assert one == "Less compute: not yet, 1 run more (1 and 0) at N* of the largest compute"
    assert "5 runs more (2 and 3)" in str(Gate(0.1, "compute", "not yet", (2, 3)))


def test_a_comparison_with_a_fit_that_lost_its_optimum_says_so(fit: Fit, lost: Fit) -> None:
    far = compare(fit, lost, gate=0.1)
    assert far.intervals["compute_multiplier"] is None
    assert {"out_of_reach", "poor_fit"} <= {d.code for d in far.diagnostics}
    assert far.gate is not None
    assert (far.gate.verdict, far.gate.more_runs) == ("not yet", None)
    never = compare(lost, fit, gate=0.1)
    assert never.compute_multiplier == math.inf
    assert never.gate is not None
    assert never.gate.verdict == "no"


def test_multipliers_of_a_fit_without_intervals_have_none(fit: Fit) -> None:
    """They are the laws' own; a time without a price is said without one."""
    found = compare(fit, unconverged(fit), speeds=(2e14, 1e14))
    assert found.compute_multiplier == pytest.approx(1.0, rel=1e-4)
    assert found.time_multiplier == pytest.approx(2.0, rel=1e-4)
    assert set(found.intervals.values()) == {None}
    assert found.p_value is None
    assert "no_interval" in {d.code for d in found.diagnostics}
    assert str(found).endswith("Its time is 2.00 (no interval) times as long.")


def test_a_comparison_far_away_or_in_other_units_says_so(fit: Fit) -> None:
    far = compare(fit, fit, 1e4 * fit.largest_compute)
    assert "extrapolation" in {d.code for d in far.diagnostics}
    near = compare(fit, fit, 9 * fit.largest_compute)
    assert "extrapolation" not in {d.code for d in near.diagnostics}
    samples = fit_runs(replace(fit.runs, unit="samples"), "hoffmann")
    assert "units_differ" in {d.code for d in compare(fit, samples).diagnostics}


def test_a_fit_is_a_card_in_a_notebook(fit: Fit) -> None:
    page = fit._repr_html_()
    best = fit.optimal(fit.largest_compute)
    assert all(f"{value:.4g}" in page for value in fit.law.params.values())
    assert f"N* = {format_count(best.params)}, D* = {format_count(best.tokens)} tokens" in page
    assert f"trust: {fit.trust}" in page
    assert f"{len(fit.runs)} runs fitted, {len(fit.excluded)} left out" in page


def test_answers_without_an_interval_say_why(lost: Fit) -> None:
    answer = lost.trade_off(1e20, [0.5, 2.0])
    assert answer.method == "none"
    assert answer.reason == "B ≈ 0 (its term vanishes)"
    assert set(answer.intervals.values()) == {(None, None)}
    assert float(lost.optimal(1e20).params) == float(lost.law.optimal(1e20).params)
    with pytest.raises(InputError, match="expected a loss that takes training to reach"):
        lost.compute_for(2.5)


@pytest.mark.parametrize("loss", [math.nan, "low", None])
def test_a_loss_to_reach_is_one_finite_number(fit: Fit, loss: Any) -> None:
    with pytest.raises(InputError, match="expected a loss, as one finite number"):
        fit.compute_for(loss)


# --- scores


@pytest.fixture(scope="module")
def scored() -> dict[str, Any]:
    runs = sweep(LAW, (1e18, 4e18, 2e19, 1e20), 5, sd=0.003)
    return {**runs, "quiz": 0.25 + 0.75 / (1 + np.exp(4 * (runs["loss"] - 2.6)))}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chance": 0.25, "kind": "pass@k"}, "chance: expected none"),
        ({"chance": 0.25, "ceiling": 0.2}, "ceiling"),
        ({"ceiling": 1.2}, "ceiling"),
        ({"chance": 1.0}, "chance"),
        ({"kind": "score"}, "kind: expected one of"),
    ],
)
def test_a_scale_that_is_none_is_refused(
    scored: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        metric(scored, "quiz", **options)


def test_a_score_is_asked_at_a_compute_or_a_pair(scored: dict[str, Any]) -> None:
    quiz = metric(scored, "quiz", chance=0.25, ceiling=1.0)
    with pytest.raises(InputError, match=r"expected C, or a pair \(N, D\)"):
        quiz.predict((1e9, 2e10, 3e20))
    with pytest.raises(InputError, match="C, or N and D"):
        quiz.predict((1e9, -1.0))
    with pytest.raises(InputTypeError, match="C, or N and D"):
        quiz.predict("1e20")
    far = {d.code for d in quiz.predict(1e27).diagnostics}
    assert "extrapolation" in far


# --- pieces


def test_a_weight_turns_squares_into_hubers_loss() -> None:
    """ρ′ is the weight times the residual, by differences; any δ and residual has one."""
    residuals = np.array([0.0, 0.3, -0.9, 1.1, -5.0])
    for delta in (0.5, 1.0, 1e308, math.inf):
        slopes = (huber(residuals + 1e-6, delta) - huber(residuals - 1e-6, delta)) / 2e-6
        np.testing.assert_allclose(huber_weight(residuals, delta) * residuals, slopes, atol=1e-6)
    assert huber_weight(residuals, 0.5).tolist() == pytest.approx([1, 1, 0.5 / 0.9, 0.5 / 1.1, 0.1])


def test_a_table_made_by_hand_has_one_value_a_run() -> None:
    sound = RunTable.read(sweep(LAW))
    for wrong in ({"loss": sound.loss[:-1]}, {"labels": ()}, {"cluster": ("a",)}, {"texts": {"x": ("y",)}},
                  {"metrics": {"quiz": sound.loss[:2]}}, {"lr": np.ones((len(sound), 2))},
                  {"params": np.array(1.0)}):  # fmt: skip
        with pytest.raises(InputError, match="expected one value a run in each column"):
            replace(sound, **wrong)


def test_budgets_of_one_size_leave_no_law() -> None:
    runs = reference.runs("llama3_2024")
    with pytest.raises(FitError):
        fit_runs(runs.select(runs.params == runs.params[0]))


# --- quantities


def test_a_quantity_that_is_no_number_is_refused_and_one_out_of_reach_has_no_interval(
    fit: Fit, lost: Fit
) -> None:
    with pytest.raises(InputError, match="it is nan at the fitted law"):
        fit.estimate(lambda law: math.nan)
    never = fit.estimate(lambda law: math.inf)
    assert (never.value, never.interval) == (math.inf, None)
    assert never.reason == "the fitted law does not reach it"
    assert lost.estimate(lambda law: law.params["E"]).reason == "B ≈ 0 (its term vanishes)"


def test_answers_are_cards_in_a_notebook(fit: Fit, scored: dict[str, Any]) -> None:
    answer = fit.predict(1e21)
    assert format_count(answer.optimal_params) in answer._repr_html_()
    assert len(answer.intervals) == len(answer.to_dict()["intervals"])
    score = metric(scored, "quiz", chance=0.25).predict(1e21)
    assert f"{score.value:.3f}" in score._repr_html_()


def test_losses_below_zero_are_not_brought_to_their_best_rates() -> None:
    runs = sweep(LAW)
    varied = {"lr": 3e-4 * 2.0 ** np.arange(len(runs["loss"])), "loss": runs["loss"] - 4.0}
    with pytest.raises(InputError, match="hparams=: expected positive losses"):
        fit_runs({**runs, **varied}, hparams=("lr",), loss_space="linear")


# --- few runs, many findings


@pytest.mark.parametrize("budgets", [(1e18, 1e19, 1e20), (1e18, 1e19, 1e20, 1e21)])
def test_six_or_eight_runs_are_too_few_to_test_kappa(budgets: tuple[float, ...]) -> None:
    few = fit_runs(sweep(LAW, budgets, 2, sd=0.001), window=None)
    assert few.law.name == "hoffmann"
    assert not few.choice.kappa
    assert "too few" in few.choice.reason


def test_a_summary_shows_the_worst_findings_and_counts_the_others(lost: Fit) -> None:
    shown = [line for line in lost.summary().splitlines() if line.startswith("• ")]
    serious = [d for d in lost.diagnostics if d.severity in ("critical", "warning")]
    assert (
        len(serious) >= len([line for line in shown if "more in fit.diagnostics" not in line]) > 0
    )
    if len(serious) > 4:
        assert shown[-1] == f"• {len(serious) - 4} more in fit.diagnostics"


def test_a_law_without_a_posterior_of_exponents_has_them_from_its_optima() -> None:
    fit = fit_runs(sweep(LAW, sd=0.002), "kaplan")
    surface = next(a for a in fit.approaches if "surface" in a.name)
    assert surface.a_interval is not None
    low, high = surface.a_interval
    assert low < fit.exponents[0] < high
