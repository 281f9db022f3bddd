"""Questions beside the plain optimum: what reaches a loss, caps, other sizes, inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flops_fit.errors import InputError, InputTypeError
from flops_fit.flops import InterpolatedFlops, LinearFlops, SmoothFlops
from flops_fit.laws import Hoffmann, Kaplan, Kappa, Law, Muennighoff, as_flops

CHINCHILLA = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
JOINED = Kappa(E=0.556, A=346.8, B=1520.3, alpha=0.4349, beta=0.4493, kappa=0.5665)
KAPLAN = Kaplan(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
SCARCE = Muennighoff(1.87, 521.0, 1488.0, 0.353, 0.353, 15.4, 5.3).with_unique(25e9)
CLOSED = {"hoffmann": CHINCHILLA, "kappa": JOINED, "kaplan": KAPLAN}
COSTS = {
    "linear": LinearFlops(6.0),
    "smooth": SmoothFlops(6.0, 9.0, 0.5, 1e6, 1e5, 1e9, 0.0),
    "interpolated": InterpolatedFlops({1e5: 1.6e6, 1e7: 8e7, 1e9: 6.2e9}),
    "function": lambda N: 6 * N + 1e4 * N**0.5,
}
laws = pytest.mark.parametrize("law", CLOSED.values(), ids=CLOSED)
costs = pytest.mark.parametrize("flops", COSTS.values(), ids=COSTS)
sizes = st.floats(np.log(1e6), np.log(1e12)).map(np.exp)


@dataclass(frozen=True)
class Searched(Law):
    """Another law without its closed forms."""

    of: Any
    name: ClassVar[str] = "searched"

    def loss(self, N: Any, D: Any) -> Any:
        return self.of.loss(N, D)


# --- units and parameters for a loss


@laws
@settings(max_examples=40, deadline=None)
@given(N=sizes, D=sizes)
def test_units_and_parameters_invert_the_loss(law, N, D):
    """tokens_for(N, L(N, D)) = D and params_for(D, L(N, D)) = N."""
    loss = float(law.loss(N, D))
    # How well D can be told from a loss known to a relative 1e-15.
    for found, size, other in (
        (law.tokens_for(N, loss), D, law.loss(N, D * 1.01)),
        (law.params_for(D, loss), N, law.loss(N * 1.01, D)),
    ):
        assume(loss - other > 1e-9)
        assert found == pytest.approx(size, rel=1e-6)


@laws
def test_closed_forms_equal_the_search(law):
    """Halving an interval of ln D or ln N finds the same, inf included."""
    N, loss = np.meshgrid(np.geomspace(1e6, 1e12, 5), np.linspace(1.75, 4.0, 7))
    searched = Searched(law)
    for ask in ("tokens_for", "params_for"):
        exact, found = getattr(law, ask)(N, loss), getattr(searched, ask)(N, loss)
        assert exact.shape == loss.shape
        np.testing.assert_array_equal(np.isinf(exact), np.isinf(found))
        finite = np.isfinite(exact)
        np.testing.assert_allclose(found[finite], exact[finite], rtol=1e-7)


def test_what_is_out_of_reach_takes_for_ever():
    """E itself, and a loss below that of N parameters on endless data."""
    limit = 1.69 + 406.4 / 7e9**0.34
    assert CHINCHILLA.tokens_for(7e9, limit * (1 - 1e-9)) == np.inf
    assert np.isfinite(CHINCHILLA.tokens_for(7e9, limit * (1 + 1e-6)))
    assert CHINCHILLA.params_for(1e12, 1.69) == np.inf
    np.testing.assert_array_equal(CHINCHILLA.tokens_for([1e8, 1e9], 1.5), np.inf)


def test_repeated_data_saturates():
    """25e9 units repeated for ever are worth 16.4 times as many fresh ones, and no more."""
    N = 8e9
    floor = SCARCE.fresh.loss(SCARCE.effective_params(N), 16.4 * 25e9)
    assert SCARCE.tokens_for(N, floor * 0.9999) == np.inf
    assert SCARCE.loss(N, SCARCE.tokens_for(N, 2.25)) == pytest.approx(2.25, rel=1e-12)
    D = 178e9
    assert SCARCE.tokens_for(N, SCARCE.loss(N, D)) == pytest.approx(D, rel=1e-8)
    assert SCARCE.params_for(D, SCARCE.loss(N, D)) == pytest.approx(N, rel=1e-8)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0.01, 100.0), N=sizes, loss=st.floats(1.8, 4.0))
def test_the_unit_of_data_does_not_matter(factor, N, loss):
    """Counted in other units, D and cost a unit change by the factor, N and compute do not."""
    c = CHINCHILLA
    other = Hoffmann(c.E, c.A, c.B * factor**c.beta, c.alpha, c.beta)
    D = c.tokens_for(N, loss)
    assert other.tokens_for(N, loss) == pytest.approx(factor * D, rel=1e-6)
    assert other.compute_for(loss, 6 / factor) == pytest.approx(c.compute_for(loss), rel=1e-8)
    best, theirs = (
        law.optimal_for_inference(loss, 1e12 * f, 6 / f) for law, f in ((c, 1.0), (other, factor))
    )
    assert theirs.params == pytest.approx(best.params, rel=1e-5)
    assert theirs.total_compute == pytest.approx(best.total_compute, rel=1e-8)


# --- compute for a loss


@costs
@settings(max_examples=10, deadline=None)
@given(log_c=st.floats(np.log(1e15), np.log(1e25)))
def test_compute_for_inverts_the_optimum(flops, log_c):
    """compute_for(L*(C)) = C for every kind of F."""
    C = float(np.exp(log_c))
    for law in (CHINCHILLA, JOINED):
        found = law.compute_for(law.optimal(C, flops).loss, flops)
        assert found == pytest.approx(C, rel=1e-9)


def test_no_model_of_absurd_size_is_asked_for():
    """F is asked within a factor of a thousand of the answer; not at all where there is none."""
    asked = []

    def flops(N: Any) -> Any:
        asked.append(np.array([np.min(N), np.max(N)]))
        return 6.0 * np.asarray(N)

    law = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    best = law.optimal(law.compute_for(2.4, flops))
    assert np.max(asked) < 1e3 * best.params
    assert np.min(asked) > best.params / 1e3
    asked.clear()
    assert law.compute_for(1.8, flops) == np.inf
    assert not asked


def test_a_loss_that_anything_reaches_costs_next_to_nothing():
    """And one a hair above E a lot, yet a number."""
    assert CHINCHILLA.compute_for(1e5) < 1
    assert 1e35 < CHINCHILLA.compute_for(1.6901) < 1e60


# --- caps


@costs
def test_caps_hold_and_the_budget_is_spent(flops):
    """A cap on N or on D leaves C = F(N)·D; where both bind, less is spent."""
    C, F = 1e21, as_flops(flops)
    free = CHINCHILLA.optimal(C, flops)
    assert free.binds == ()
    assert free.compute == C
    small = CHINCHILLA.optimal(C, flops, max_params=free.params / 3)
    assert (small.params, small.binds) == (free.params / 3, ("max_params",))
    short = CHINCHILLA.optimal(C, flops, max_tokens=free.tokens / 3)
    assert (short.tokens, short.binds) == (free.tokens / 3, ("max_tokens",))
    for best in (free, small, short):
        assert float(F(best.params)) * best.tokens == pytest.approx(C, rel=1e-10)
    both = CHINCHILLA.optimal(C, flops, max_params=free.params * 1.5, max_tokens=free.tokens / 3)
    assert both.binds == ("max_params", "max_tokens")
    assert (both.params, both.tokens) == (free.params * 1.5, free.tokens / 3)
    assert both.compute == pytest.approx(float(F(both.params)) * both.tokens, rel=1e-12)
    assert both.compute < C
    wide = {"max_params": free.params * 1.01, "max_tokens": free.tokens * 1.01}
    assert CHINCHILLA.optimal(C, flops, **wide) == free


@settings(max_examples=60, deadline=None)
@given(
    n=st.floats(-3, 3), d=st.floats(-3, 3), s=st.floats(-4, 4), t=st.floats(0, 1), C=st.just(1e21)
)
def test_nothing_that_the_caps_allow_is_better(n, d, s, t, C):
    """No (N, D) within caps and budget has a lower loss."""
    free = CHINCHILLA.optimal(C)
    caps = {"max_params": free.params * np.exp(n), "max_tokens": free.tokens * np.exp(d)}
    best = CHINCHILLA.optimal(C, **caps)
    assert best.params <= caps["max_params"] * (1 + 1e-12)
    assert best.tokens <= caps["max_tokens"] * (1 + 1e-12)
    N = min(best.params * np.exp(s), caps["max_params"])
    D = min(t * C / (6 * N), caps["max_tokens"])
    assume(D > 0)
    assert CHINCHILLA.loss(N, D) >= best.loss * (1 - 1e-12)


def test_caps_apply_to_each_budget():
    """An array of budgets: the large ones meet the cap."""
    best = CHINCHILLA.optimal([[1e20, 1e22], [1e23, 1e24]], max_tokens=1e12, max_params=1e11)
    np.testing.assert_array_equal(best.at_max_tokens, [[False, False], [True, True]])
    np.testing.assert_array_equal(best.at_max_params, [[False, False], [False, True]])
    np.testing.assert_allclose(best.compute, [[1e20, 1e22], [1e23, 6e23]])
    assert best.binds == ("max_params", "max_tokens")


def test_chinchilla_under_a_cap():
    """Hoffmann et al.'s law at Gopher's budget, their eq. 4: 32 B; held to 20 B it takes 4.8 T."""
    best = CHINCHILLA.optimal(5.76e23)
    a = 0.28 / 0.62
    G = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)
    assert best.params == pytest.approx(G * (5.76e23 / 6) ** a, rel=1e-12)
    held = CHINCHILLA.optimal(5.76e23, max_params=20e9)
    assert held.tokens == pytest.approx(5.76e23 / 6 / 20e9, rel=1e-12)
    assert held.loss == pytest.approx(1.69 + 406.4 / 20e9**0.34 + 410.7 / 4.8e12**0.28, rel=1e-12)


# --- sizes off the optimum


def test_go_smol_or_go_home():
    """de Vries 2023: a quarter of the size costs 188 % more compute with Hoffmann et al.'s law."""
    found = CHINCHILLA.trade_off(1e23, [0.25, 0.5, 1.0])
    assert 100 * (found.compute_ratio[0] - 1) == pytest.approx(188, abs=1)
    assert found.compute_ratio[1] == pytest.approx(1.21, abs=0.005)
    assert found.compute_ratio[2] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("C", [1e19, 1e24])
def test_the_additive_trade_off_is_the_closed_form(C):
    """D/D* = (1 − (k^−α − 1)·β/α)^(−1/β) at any C; never below k = (1 + α/β)^(−1/α)."""
    k = np.array([0.2, 0.5, 1.5, 4.0])
    found = CHINCHILLA.trade_off(C, k)
    best = CHINCHILLA.optimal(C)
    more = (1 - (k**-0.34 - 1) * 0.28 / 0.34) ** (-1 / 0.28)
    np.testing.assert_allclose(found.tokens_needed / best.tokens, more, rtol=1e-9)
    np.testing.assert_allclose(found.compute_ratio, k * more, rtol=1e-9)
    np.testing.assert_allclose(found.tokens, best.tokens / k, rtol=1e-12)
    np.testing.assert_allclose(found.loss, CHINCHILLA.loss(found.params, found.tokens))
    np.testing.assert_allclose(found.excess, 100 * (found.loss / best.loss - 1), atol=1e-9)
    edge = (1 + 0.34 / 0.28) ** (-1 / 0.34)
    near = CHINCHILLA.trade_off(C, [edge * 0.999, edge * 1.001])
    assert near.compute_ratio[0] == np.inf
    assert np.isfinite(near.compute_ratio[1])
    assert "never" in str(near)


@costs
def test_other_sizes_cost_more(flops):
    """Whatever F is: more loss at C and more compute for the loss of N*."""
    found = JOINED.trade_off(1e20, [0.3, 0.7, 1.5, 3.0], flops)
    assert np.all(found.excess > 0)
    assert np.all(found.compute_ratio > 1)
    again = JOINED.loss(found.params, found.tokens_needed)
    np.testing.assert_allclose(again, JOINED.optimal(1e20, flops).loss, rtol=1e-12)


# --- inference


def test_sardana_et_al_save_seventeen_per_cent():
    """A 13B model with 2e12 tokens of demand: 7B saves 1.7e22 FLOPs, 17 % (their Figure 1)."""
    law = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)  # the constants they use
    a = law.beta / (law.alpha + law.beta)
    C = 1e22 * (13e9 / law.optimal(1e22).params) ** (1 / a)
    best = law.optimal_for_inference(law.optimal(C).loss, 2e12)
    alone = C + 2 * 13e9 * 2e12
    assert best.params == pytest.approx(7e9, rel=0.02)
    assert alone - best.total_compute == pytest.approx(1.7e22, rel=0.01)
    assert best.saving == pytest.approx(0.17, abs=0.005)
    assert "17 % less" in str(best)


@laws
@pytest.mark.parametrize("demand", [0.0, 1e10, 2e12, 1e15])
def test_the_first_order_condition_holds(law, demand):
    """αA·N^−α/(βB·D^−β) = 1 + D_inf/(3D): for the κ-law and Kaplan's too, as loss fixes the sum."""
    if isinstance(law, Kaplan):
        r = law.alpha_N / law.alpha_D
        A, alpha, B, beta = law.N_c**r, r, law.D_c, 1.0
    else:
        A, alpha, B, beta = law.A, law.alpha, law.B, law.beta
    best = law.optimal_for_inference(2.2, demand)
    ratio = alpha * A * best.params**-alpha / (beta * B * best.tokens**-beta)
    assert ratio == pytest.approx(1 + demand / (3 * best.tokens), rel=1e-5)
    assert law.loss(best.params, best.tokens) == pytest.approx(2.2, rel=1e-10)


@costs
def test_without_inference_it_is_the_plain_optimum(flops):
    """The dual problem: least compute for a loss, and least loss for a compute."""
    best = CHINCHILLA.optimal_for_inference(2.3, 0, flops)
    C = CHINCHILLA.compute_for(2.3, flops)
    plain = CHINCHILLA.optimal(C, flops)
    assert best.params == pytest.approx(plain.params, rel=1e-3)
    assert best.total_compute == pytest.approx(C, rel=1e-8)
    assert best.inference_compute == 0
    assert best.saving == pytest.approx(0, abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    loss=st.floats(1.9, 3.5),
    demand=st.floats(8, 16).map(lambda x: 10**x),
    s=st.floats(-1, 1),
    kind=st.sampled_from(sorted(COSTS)),
)
def test_no_other_size_is_cheaper(loss, demand, s, kind):
    """At the same loss any other N costs as much or more, training and inference together."""
    flops = as_flops(COSTS[kind])

    def use(n: Any) -> Any:
        return 2 * n + 1e3

    best = CHINCHILLA.optimal_for_inference(loss, demand, flops, use)
    N = best.params * np.exp(s)
    D = CHINCHILLA.tokens_for(N, loss)
    total = float(flops(N)) * D + use(N) * demand
    assert total >= best.total_compute * (1 - 1e-9)
    parts = float(flops(best.params)) * best.tokens, use(best.params) * demand
    assert best.training_compute == pytest.approx(parts[0], rel=1e-12)
    assert best.inference_compute == pytest.approx(parts[1], rel=1e-12)
    assert 0 <= best.saving < 1


def test_a_law_of_ones_own_answers_everything():
    """With a loss alone, by search: the same answers as the closed forms."""
    own, law = Searched(JOINED), JOINED
    assert own.compute_for(2.2) == pytest.approx(law.compute_for(2.2), rel=1e-9)
    ours, theirs = (each.trade_off(1e21, [0.4, 2.0]) for each in (own, law))
    np.testing.assert_allclose(ours.compute_ratio, theirs.compute_ratio, rtol=1e-5)
    ours, theirs = (each.optimal_for_inference(2.2, 1e12) for each in (own, law))
    assert ours.params == pytest.approx(theirs.params, rel=1e-5)
    held = [each.optimal(1e21, max_tokens=1e9).loss for each in (own, law)]
    assert held[0] == pytest.approx(held[1], rel=1e-12)


# --- refusals


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda law: law.tokens_for(-1e9, 2.0), "N to be positive"),
        (lambda law: law.tokens_for(1e9, np.inf), "loss to be finite"),
        (lambda law: law.params_for([1e9, np.nan], 2.0), "D to be positive"),
        (lambda law: law.compute_for(np.nan), "loss to be finite"),
        (lambda law: law.compute_for(2.0, lambda N: -N), "positive FLOPs per unit"),
        (lambda law: law.optimal(1e20, max_params=0), "max_params"),
        (lambda law: law.optimal(1e20, max_tokens=-1.0), "max_tokens"),
        (lambda law: law.optimal(1e20, max_tokens=np.nan), "max_tokens"),
        (lambda law: law.optimal(1e21, lambda N: 6e9 + 0 * N, max_tokens=1e9), "F.N. to grow"),
        (lambda law: law.trade_off(1e20, [0.5, 0.0]), "factors"),
        (lambda law: law.trade_off(0.0, 0.5), "compute"),
        (lambda law: law.optimal_for_inference(1.69, 1e12), "no size reaches"),
        (lambda law: law.optimal_for_inference(2.0, -1), "inference_tokens"),
    ],
)
def test_nonsense_is_refused_in_words(ask, match):
    """Each refusal says what was expected."""
    with pytest.raises(InputError, match=match):
        ask(CHINCHILLA)


def test_text_is_no_number():
    """And says so."""
    with pytest.raises(InputTypeError, match="a loss as numbers"):
        CHINCHILLA.tokens_for(1e9, "low")


@pytest.mark.parametrize("N", [-1, 0, float("nan"), [1e8, -1e8]])
def test_a_loss_at_no_size_is_refused(N) -> None:
    """Not answered by NaN; without limit a term vanishes."""
    law = Hoffmann(E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.28)
    with pytest.raises(InputError, match="N and D to be positive"):
        law.loss(N, 1e9)
    with pytest.raises(InputTypeError, match="N and D as numbers"):
        law.loss("small", 1e9)
    assert law.loss(np.inf, np.inf) == 1.7
