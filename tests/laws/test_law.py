"""Laws: formulas, the optimum in closed form and by search, and the inverse question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flops_fit.errors import FitError, InputError, InputTypeError
from flops_fit.flops import InterpolatedFlops, LinearFlops, SmoothFlops
from flops_fit.laws import LAWS, Hoffmann, Kappa, Law, PowerLaw, as_flops

CHINCHILLA = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
JOINED = Kappa(E=0.556, A=346.8, B=1520.3, alpha=0.4349, beta=0.4493, kappa=0.5665)


def test_hoffmann_is_the_formula():
    """L = E + A/N^α + B/D^β, number for number."""
    expected = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28
    assert CHINCHILLA.loss(70e9, 1.4e12) == pytest.approx(expected, rel=1e-14)


def test_kappa_is_the_formula_and_at_one_the_additive_law():
    """L = E + (A/N^α + B/D^β)^κ."""
    inside = 346.8 / 1e9**0.4349 + 1520.3 / 2e10**0.4493
    assert JOINED.loss(1e9, 2e10) == pytest.approx(0.556 + inside**0.5665, rel=1e-13)
    N, D = np.geomspace(1e6, 1e12, 7), np.geomspace(1e8, 1e13, 7)
    additive = Kappa(**CHINCHILLA.params, kappa=1.0)
    np.testing.assert_allclose(additive.loss(N, D), CHINCHILLA.loss(N, D), rtol=1e-13)


@pytest.mark.parametrize("law", [CHINCHILLA, JOINED], ids=["hoffmann", "kappa"])
@pytest.mark.parametrize("k", [6.0, 2.0])
def test_closed_form_equals_the_search(law, k):
    """The closed form is the minimum that a search over F(N) = k·N finds."""
    C = np.geomspace(1e16, 1e26, 11)
    exact, searched = law.optimal(C, k), law.optimal(C, lambda N: k * N)
    np.testing.assert_allclose(searched.params, exact.params, rtol=1e-6)
    np.testing.assert_allclose(searched.loss, exact.loss, rtol=1e-12)


@pytest.mark.parametrize(
    "flops",
    [
        LinearFlops(6.0),
        SmoothFlops(6.0, 9.0, 0.5, 1e6, 1e5, 1e9, 0.0),
        InterpolatedFlops({1e5: 1.6e6, 1e7: 8e7, 1e9: 6.2e9}),
        lambda N: 6 * N + 1e4 * N**0.5,
    ],
    ids=["linear", "smooth", "interpolated", "function"],
)
def test_optimum_spends_the_budget_and_nothing_near_is_lower(flops):
    """C = F(N*)·D* exactly, and a step to either side costs loss."""
    for C in (1e15, 1e19, 1e24):
        best = CHINCHILLA.optimal(C, flops)
        F = as_flops(flops)
        assert float(F(best.params)) * best.tokens == pytest.approx(C, rel=1e-12)
        for factor in (0.9, 0.99, 1.01, 1.1):
            N = best.params * factor
            assert CHINCHILLA.loss(N, C / F(N)) > best.loss


@settings(max_examples=50, deadline=None)
@given(
    alpha=st.floats(0.1, 1.0),
    beta=st.floats(0.1, 1.0),
    kappa=st.floats(0.3, 2.0),
    log_c=st.floats(35.0, 60.0),
)
def test_kappa_drops_out_of_the_split(alpha, beta, kappa, log_c):
    """N* of the κ-law is that of the additive law with the same A, B, α, β."""
    C = np.exp(log_c)
    joined = Kappa(1.0, 100.0, 300.0, alpha, beta, kappa).optimal(C)
    additive = Hoffmann(1.0, 100.0, 300.0, alpha, beta).optimal(C)
    assert joined.params == pytest.approx(additive.params, rel=1e-12)


def test_compute_for_inverts_the_optimum():
    """The compute that reaches a loss has that loss at its optimum; none reaches E."""
    for loss in (3.0, 2.2, 1.95):
        assert CHINCHILLA.optimal(CHINCHILLA.compute_for(loss)).loss == pytest.approx(
            loss, rel=1e-9
        )
    assert CHINCHILLA.compute_for(1.69) == np.inf


def test_a_law_of_ones_own_answers_all_three_questions():
    """One subclass with a loss has an optimum and an inverse; it says how to become fittable."""

    @dataclass(frozen=True)
    class Product(Law):
        E: float
        A: float
        name: ClassVar[str] = "product"

        def loss(self, N: Any, D: Any) -> Any:
            return self.E + self.A * (1e3 / np.asarray(N) + 1e5 / np.asarray(D)) ** 0.3

    law = Product(1.0, 2.0)
    assert law.params == {"E": 1.0, "A": 2.0}
    # 1e3/N + 6e5·N/C is least at N² = C/600.
    assert law.optimal(6e18).params == pytest.approx(1e8, rel=1e-6)
    assert law.optimal(law.compute_for(1.01)).loss == pytest.approx(1.01, rel=1e-9)
    with pytest.raises(FitError, match="starts"):
        Product.starts(np.ones(1), np.ones(1), np.ones(1))


def test_power_law_and_its_inverse():
    """y = k·x^a, there and back."""
    line = PowerLaw(0.2994, 0.5368)
    assert line(3.8e25) == pytest.approx(16.1e12, rel=5e-3)
    assert line.inverse(line(1e20)) == pytest.approx(1e20, rel=1e-12)
    assert line.params == {"k": 0.2994, "a": 0.5368, "offset": 0.0}


@pytest.mark.parametrize("flops", [0, -6, float("nan"), float("inf")])
def test_flops_per_unit_must_be_positive(flops):
    """A factor that is no positive number is refused."""
    with pytest.raises(InputError, match="positive number k"):
        as_flops(flops)


@pytest.mark.parametrize("flops", ["6nd", None, True])
def test_flops_per_unit_of_a_wrong_type(flops):
    """Text is no function of N."""
    with pytest.raises(InputTypeError, match="a function of N"):
        as_flops(flops)


def test_flops_functions_that_know_no_arrays_and_no_positive_value():
    """A scalar function is called size by size; one that is never positive is refused."""
    best = CHINCHILLA.optimal(1e20, lambda n: 6 * float(n))
    assert best.params == pytest.approx(CHINCHILLA.optimal(1e20).params, rel=1e-6)
    with pytest.raises(InputError, match="positive FLOPs per unit"):
        CHINCHILLA.optimal(1e20, lambda n: -6 * n)


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), [1e20, float("inf")]])
def test_compute_must_be_positive(C):
    """No budget, no optimum."""
    with pytest.raises(InputError, match="positive and finite"):
        CHINCHILLA.optimal(C)


def test_the_exponent_is_the_slope_of_the_optimum():
    """a = β/(α + β) where F(N) = k·N; a law without α and β has none."""
    for law in (CHINCHILLA, JOINED):
        low, high = law.optimal(np.array([1e20, 1e22])).params
        assert law.exponent == pytest.approx(np.log(high / low) / np.log(100), rel=1e-9)

    class Other(Law):
        def loss(self, N: Any, D: Any) -> Any:
            return 1 / np.asarray(N) + 1 / np.asarray(D)

    with pytest.raises(AttributeError, match="Other has no exponents"):
        _ = Other().exponent


def test_registry_names_its_laws():
    """Each law is found under its own name."""
    assert all(law.name == name for name, law in LAWS.items())
    assert set(LAWS) == {
        "hoffmann",
        "kappa",
        "kaplan",
        "muennighoff",
        "overfit",
        "experts",
        "steps",
    }
