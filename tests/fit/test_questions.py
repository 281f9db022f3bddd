"""Questions to a fit: each answer is the law's, with an interval that holds the truth."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit import Estimate, Fit, compare, fit_runs, intervals
from flops_fit.fit.intervals import WIDEST_LEVEL
from flops_fit.laws import Hoffmann, Law
from tests.fit._runs import chinchilla, sweep, unconverged

ADDITIVE = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
FOUR = ("optimal_params", "optimal_tokens", "expected_loss", "tokens_per_param")


@pytest.fixture(scope="module")
def fit() -> Fit:
    return fit_runs(sweep(ADDITIVE, sd=0.004, seed=3))


@pytest.fixture(scope="module")
def papers() -> Fit:
    """Chinchilla's points with the δ of the paper, whose intervals are resampled."""
    return fit_runs(chinchilla(), "hoffmann", delta=1e-3, window=None)


def codes(found: Any) -> set[str]:
    return {d.code for d in found.diagnostics}


# --- one path for all intervals


@pytest.mark.parametrize("which", ["fit", "papers"])
def test_estimates_are_the_predictions(which, request):
    """The same quantities asked both ways have the same intervals, but for skewed bowls."""
    fit = request.getfixturevalue(which)
    C = 1e22
    p = fit.predict(C)
    asked: dict[str, Callable[[Law], float]] = {
        "optimal_params": lambda law: law.optimal(C, fit.flops).params,
        "optimal_tokens": lambda law: law.optimal(C, fit.flops).tokens,
        "expected_loss": lambda law: law.optimal(C, fit.flops).loss,
    }
    for name, quantity in asked.items():
        found = fit.estimate(quantity)
        low, high = p.intervals[name]
        width = 0.3 * (high - low)
        assert found.value == pytest.approx(p[name], abs=width)
        assert found.interval == pytest.approx(p.intervals[name], abs=width)
        assert found.method == p.interval_method == "law, misfit and noise"


def test_answers_are_the_laws(fit):
    """Each question is nearly the law's own, with the fit's F(N), inside its interval."""
    law = fit.law
    loss = float(law.optimal(3e20, fit.flops).loss)
    for found, value in (
        (fit.loss_at(1e9, 2e10), law.loss(1e9, 2e10)),
        (fit.compute_for(loss), 3e20),
        (fit.tokens_for(1e9, loss), law.tokens_for(1e9, loss)),
        (fit.params_for(2e10, loss), law.params_for(2e10, loss)),
    ):
        assert isinstance(found, Estimate)
        low, high = found.interval
        assert low < found.value < high
        assert low < value < high
        assert (found.level, found.method, found.reason) == (0.9, "law, misfit and noise", "")
        assert f"{low:.4g}–{high:.4g}, 90 %" in str(found)


def test_one_run_scatters_more_than_the_mean_of_many(fit):
    """The loss of one run has a wider interval around the same value."""
    found = fit.loss_at(1e9, 2e10)
    assert found.run_interval[0] < found.interval[0] < found.interval[1] < found.run_interval[1]
    assert "one run" in str(found)
    spans = fit.predict(1e21).intervals
    assert spans["run_loss"][0] < spans["expected_loss"][0]
    assert spans["run_loss"][1] > spans["expected_loss"][1]


def test_intervals_widen_with_level(fit):
    """80 % within 99 %."""
    near, far = (fit.compute_for(2.5, level).interval for level in (0.8, 0.99))
    assert far[0] < near[0] < near[1] < far[1]


def test_a_scaled_quantity_has_a_scaled_interval(fit):
    """Intervals are quantiles: unit changes pass through, inverses turn round."""
    base = fit.loss_at(1e9, 2e10)
    double = fit.estimate(lambda law: 2 * float(law.loss(1e9, 2e10)))
    inverse = fit.estimate(lambda law: 1 / float(law.loss(1e9, 2e10)))
    assert double.interval == pytest.approx([2 * x for x in base.interval], rel=1e-6)
    assert inverse.interval == pytest.approx([1 / x for x in base.interval[::-1]], rel=1e-6)


def test_a_law_of_ones_own_has_intervals_too():
    """The generic solver's Kaplan law: an interval like any other."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.004), "kaplan")
    found = fit.compute_for(2.6)
    assert found.method == "law, misfit and noise"
    assert found.interval[0] < found.value < found.interval[1]


def test_no_interval_where_a_term_vanishes():
    """Losses that do not depend on data: a value, no interval, and why."""
    runs = sweep(ADDITIVE)
    runs["loss"] = 1.5 + 400 / runs["params"] ** 0.34
    found = fit_runs(runs).loss_at(1e9, 1e10)
    assert found.interval is None
    assert found.method == "none"
    assert "vanishes" in found.reason
    assert "no interval" in str(found)


def test_out_of_reach_is_infinite_and_said(fit):
    """A model too small for the loss needs infinitely many units."""
    found = fit.tokens_for(1e6, 2.0)
    assert (found.value, found.interval) == (np.inf, None)
    assert "does not reach" in found.reason


def test_a_question_far_from_the_runs_is_qualified(fit):
    """By compute beyond 10× and 100×, and by D/N outside the runs' range."""
    assert codes(fit.loss_at(5e8, 1e10)) == set()
    assert codes(fit.loss_at(1e8, 1e13)) == {"extrapolation", "shape"}
    loss = ADDITIVE.optimal(5e22).loss
    assert [d.severity for d in fit.compute_for(loss).diagnostics] == ["critical"]


def test_ninety_per_cent_intervals_cover():
    """The loss of a size trained three times longer, and the compute for a loss at 10× the runs'.

    Of 50 intervals that cover 86 % each, fewer than 37 hits come up once in 100.
    """
    law, sims, hits = ADDITIVE, 50, np.zeros(2)
    N, D = law.optimal(1e20).params, 3 * law.optimal(1e20).tokens
    goal = law.optimal(1e21).loss
    for seed in range(sims):
        made = fit_runs(sweep(law, sd=0.005, seed=1000 + seed), law.name, window=None)
        found = (made.loss_at(N, D), law.loss(N, D)), (made.compute_for(goal), 1e21)
        for j, (answer, truth) in enumerate(found):
            span = answer.interval
            hits[j] += span is not None and span[0] <= truth <= span[1]
    assert np.all(hits >= 37), hits


# --- caps


def test_a_cap_on_size(fit):
    """N = cap with a degenerate interval, D = C/F(N) too; the loss keeps an interval of its own."""
    C = 1e21
    free = fit.predict(C)
    cap = free.optimal_params / 8
    p = fit.predict(C, max_params=cap)
    assert p.binds == ("max_params",)
    assert p.optimal_params == cap
    assert p.intervals["optimal_params"] == (cap, cap)
    assert p.intervals["optimal_tokens"] == (p.optimal_tokens, p.optimal_tokens)
    assert float(fit.flops(cap)) * p.optimal_tokens == pytest.approx(C, rel=1e-12)
    assert p.training_compute == p.target_compute == C
    low, high = p.intervals["expected_loss"]
    assert low < p.expected_loss < high
    assert p.expected_loss > free.expected_loss
    at = fit.loss_at(cap, p.optimal_tokens)
    assert p.intervals["expected_loss"] == pytest.approx(at.interval, rel=1e-9)
    note = next(d for d in p.diagnostics if d.code == "cap_binds")
    assert note.message.startswith("max_params binds")
    assert "shape" in codes(p)
    json.dumps(p.to_dict(), allow_nan=False)


def test_a_cap_on_data_and_both(fit):
    """D = cap leaves more for N; both leave compute over."""
    C = 1e21
    free = fit.predict(C)
    p = fit.predict(C, max_tokens=free.optimal_tokens / 4)
    assert p.binds == ("max_tokens",)
    assert p.intervals["optimal_tokens"] == (free.optimal_tokens / 4,) * 2
    assert p.optimal_params == pytest.approx(4 * free.optimal_params, rel=1e-9)
    both = fit.predict(C, max_tokens=free.optimal_tokens / 4, max_params=free.optimal_params)
    assert both.binds == ("max_params", "max_tokens")
    assert both.training_compute == pytest.approx(C / 4, rel=1e-9)
    assert both.extrapolation == pytest.approx(free.extrapolation / 4, rel=1e-9)
    assert "left over" in next(d.message for d in both.diagnostics if d.code == "cap_binds")
    for name in FOUR:
        low, high = both.form_spread[name]
        assert low <= both[name] * (1 + 1e-12)
        assert high >= both[name] * (1 - 1e-12)


def test_caps_that_do_not_bind_change_nothing_but_the_reach(fit):
    """The point is the free one; its interval ends at the cap."""
    C = 1e22
    free = fit.predict(C)
    high = free.intervals["optimal_params"][1]
    cap = float(np.sqrt(free.optimal_params * high))
    p = fit.predict(C, max_params=cap)
    assert p.binds == ()
    assert p.optimal_params == free.optimal_params
    assert p.intervals["optimal_params"] == (free.intervals["optimal_params"][0], cap)
    assert p.intervals["expected_loss"] == pytest.approx(free.intervals["expected_loss"], rel=2e-4)
    wide = fit.predict(C, max_params=1e15, max_tokens=1e18)
    assert wide == free


# --- sizes off the optimum, and inference


def test_the_trade_off_of_a_fit(fit):
    """The law's numbers with intervals; at k = 1 excess and ratio are certain."""
    found = fit.trade_off(1e21, [0.02, 0.3, 1.0, 3.0])
    plain = fit.law.trade_off(1e21, [0.02, 0.3, 1.0, 3.0], fit.flops)
    for name in ("params", "tokens", "loss", "excess", "compute_ratio"):
        for value, span in zip(getattr(plain, name), found.intervals[name], strict=True):
            low, high = span or (value, value)
            assert low <= value * (1 + 1e-9)
            assert value <= high * (1 + 1e-9)
    assert found.compute_ratio[0] == np.inf
    assert found.intervals["compute_ratio"][0] is None
    assert "compute_ratio at k = 0.02" in found.reason
    assert found.intervals["excess"][2] == pytest.approx((0, 0), abs=1e-6)
    assert found.intervals["compute_ratio"][2] == pytest.approx((1, 1), abs=1e-8)
    assert found.intervals["excess"][1][0] > 0
    assert str(found).splitlines()[0] == str(plain).splitlines()[0]
    assert any(d.message.startswith("k = 0.02") for d in found.diagnostics)


def test_the_optimum_with_inference_of_a_fit(fit):
    """Fewer parameters on more data than without, with intervals of both."""
    best = fit.optimal_for_inference(2.4, 1e12)
    alone = fit.optimal_for_inference(2.4, 0)
    assert best.params < alone.params
    assert best.tokens > alone.tokens
    assert best.saving > 0
    for name in ("params", "tokens", "training_compute", "inference_compute", "total_compute"):
        low, high = best.intervals[name]
        assert low < getattr(best, name) < high
    assert alone.intervals["inference_compute"] == (0.0, 0.0)
    compute = fit.compute_for(2.4)
    assert alone.total_compute == pytest.approx(compute.value, rel=5e-3)
    assert alone.intervals["total_compute"] == pytest.approx(compute.interval, rel=0.01)


def test_a_fit_that_was_asked_survives_pickling(papers):
    """What it keeps of its drawn surfaces goes along."""
    copy = pickle.loads(pickle.dumps(papers))
    assert copy.loss_at(1e9, 2e10) == papers.loss_at(1e9, 2e10)


# --- refusals


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda f: f.compute_for(0), "a loss"),
        (lambda f: f.compute_for(1.0), "irreducible loss E"),
        (lambda f: f.tokens_for(1e9, 1.0), "irreducible loss E"),
        (lambda f: f.tokens_for(-1e9, 2.0), "N, parameters"),
        (lambda f: f.params_for(float("nan"), 2.0), "D, units"),
        (lambda f: f.loss_at(0, 1e10), "N, parameters"),
        (lambda f: f.loss_at(1e9, "many"), "D, units"),
        (lambda f: f.loss_at(1e9, 1e10, 90), "level"),
        (lambda f: f.predict(1e21, 0.9999999), "0.995 at most, the widest that 400 draws tell"),
        (lambda f: f.predict_path(np.array([1e21]), 0.996), "0.995 at most"),
        (lambda f: compare(f, f, 1e21, level=0.996), "0.995 at most"),
        (lambda f: f.trade_off(1e20, [0.5, -1]), "factors"),
        (lambda f: f.trade_off(-1e20, 0.5), "C, FLOPs"),
        (lambda f: f.optimal_for_inference(1.0, 1e12), "irreducible loss E"),
        (lambda f: f.optimal_for_inference(2.4, -1e12), "inference_tokens"),
        (lambda f: f.predict(1e21, max_params=0), "max_params"),
        (lambda f: f.predict(1e21, max_tokens="1T"), "max_tokens"),
        (lambda f: f.estimate(lambda law: float("nan")), "a quantity that is a number"),
    ],
)
def test_nonsense_is_refused_in_words(fit, ask, match):
    """Each refusal says what was expected."""
    with pytest.raises((InputError, InputTypeError), match=match):
        ask(fit)


def test_a_level_that_is_given_has_draws_outside_and_is_not_shown_as_all(fit):
    """The widest is shown as what it is."""
    assert WIDEST_LEVEL == 0.995
    widest = fit.estimate(lambda law: law.loss(1e9, 2e10), WIDEST_LEVEL)
    draws = np.array([law.loss(1e9, 2e10) for law in fit._evidence.drawn_laws])
    assert draws.min() < widest.interval[0] < widest.interval[1] < draws.max()
    assert "99.5 %" in str(widest)


def test_a_quantity_may_be_negative(fit):
    """Its interval is that of its opposite, turned round."""
    ours, theirs = (fit.estimate(lambda law, k=k: k * law.loss(1e9, 2e10)) for k in (-1, 1))
    assert ours.value == pytest.approx(-theirs.value)
    assert ours.interval == pytest.approx((-theirs.interval[1], -theirs.interval[0]))


@pytest.mark.parametrize("quantity", [2.0, lambda law: "low", lambda law: law])
def test_a_quantity_is_a_function_to_a_number(fit, quantity):
    """Anything else is refused by its type."""
    with pytest.raises(InputTypeError, match="expected"):
        fit.estimate(quantity)


# --- without intervals


def test_a_law_that_did_not_converge_answers_without_intervals(fit):
    """The values are the fitted law's, and the reason is said."""
    lost, law, reason = unconverged(fit), fit.law, "the solver did not converge"
    best = law.optimal(1e21, fit.flops)
    found = lost.compute_for(float(best.loss))
    assert found.value == pytest.approx(1e21, rel=1e-6)
    assert (found.interval, found.method, found.reason) == (None, "none", reason)
    assert lost.optimal(1e21).params == best.params
    assert lost.loss_at(1e9, 2e10).value == law.loss(1e9, 2e10)
    served = lost.optimal_for_inference(float(best.loss), 1e12)
    assert served.params == law.optimal_for_inference(float(best.loss), 1e12, fit.flops).params
    assert (set(served.intervals.values()), served.reason) == ({None}, reason)


def test_a_loss_that_most_drawn_surfaces_do_not_reach_keeps_the_fitted_laws_answer(fit):
    """A thousandth above E: no interval, and no infinite model."""
    goal = 1.001 * fit.law.params["E"]
    found = fit.optimal_for_inference(goal, 1e12)
    assert found.params == fit.law.optimal_for_inference(goal, 1e12, fit.flops).params
    assert found.intervals["params"] is None


def test_draws_that_are_not_finite_have_no_interval(fit):
    """Where under half of them are, the runs do not determine it; where more are, no law gets there."""
    evidence, draws = fit._evidence, np.linspace(1.0, 2.0, 101)
    sound = intervals.answer(evidence, draws, 0.9)
    assert (sound.value, sound.interval) == (pytest.approx(1.5), pytest.approx((1.05, 1.95)))
    some = intervals.answer(evidence, np.where(draws > 1.8, np.nan, draws), 0.9)
    assert (some.value, some.interval) == (pytest.approx(1.5), None)
    assert some.reason == "the runs do not determine it"
    most = intervals.answer(evidence, np.where(draws > 1.2, np.inf, draws), 0.9)
    assert (most.value, most.interval) == (np.inf, None)
    assert most.reason == "the law does not reach it"


def test_the_size_that_other_sizes_are_compared_with_is_the_one_predicted():
    """A skewed bowl has two optima; both answers hold both."""
    fit = fit_runs(reference.runs("llama3_2024"))
    C = fit.largest_compute
    assert fit.trade_off(C, [1.0]).params[0] == pytest.approx(
        fit.predict(C).optimal_params, rel=0.02
    )
