"""Repeated data: published losses, limits, and the optimum under scarcity."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.errors import InputError
from flops_fit.laws import Muennighoff

LAW = reference.law("muennighoff2023")


def test_published_losses():
    """The two models of the paper's Figure 1 (right), as the authors' repository evaluates them."""
    assert LAW.loss(6.34e9, 242e9, unique=25e9) == pytest.approx(2.2256440889984477, rel=1e-12)
    assert LAW.loss(8.67e9, 178e9, unique=25e9) == pytest.approx(2.2269634075087867, rel=1e-12)


def test_published_constants():
    """The paper prints them to five digits, and N*(U) = 0.051·U as α = β."""
    assert np.log([LAW.A, LAW.B, LAW.E]) == pytest.approx([6.2554, 7.3050, 0.62548], rel=1e-5)
    rest = [LAW.alpha, LAW.beta, LAW.R_D, LAW.R_N]
    assert rest == pytest.approx([0.35266, 0.35266, 15.388, 5.310], rel=1e-4)
    assert LAW.size_for(25e9) == pytest.approx(0.051 * 25e9, rel=2e-3)


def test_without_repetition_it_is_the_additive_law():
    """U = ∞ is the default and gives Hoffmann's loss, optimum and inverse; so does a huge U."""
    N, D = np.meshgrid(np.geomspace(1e6, 1e12, 6), np.geomspace(1e8, 1e13, 6))
    np.testing.assert_array_equal(LAW.loss(N, D), LAW.fresh.loss(N, D))
    np.testing.assert_allclose(LAW.loss(N, D, unique=1e20), LAW.fresh.loss(N, D), rtol=1e-14)
    assert LAW.optimal(1e22) == LAW.fresh.optimal(1e22)
    assert LAW.compute_for(2.2) == LAW.fresh.compute_for(2.2)


def test_size_for_inverts_the_optimal_data():
    """N*(D*(C)) = N*(C), also where α ≠ β."""
    law = Muennighoff(1.7, 400.0, 2000.0, 0.34, 0.37, 15.0, 5.0)
    best = law.fresh.optimal(1e21)
    assert law.size_for(best.tokens) == pytest.approx(best.params, rel=1e-12)


def test_repeats_are_worth_less_and_a_bounded_amount():
    """Four epochs are nearly as good as fresh data; endless ones give U·(1 + R*_D) at most."""
    U = 1e9
    D = np.array([0.5, 1.0, 4.0, 40.0, 1e6]) * U
    worth = LAW.effective_units(D, U) / U
    assert worth[:2].tolist() == [0.5, 1.0]
    assert worth[2] == pytest.approx(3.73, abs=0.01)
    assert worth[2] > 0.9 * 4
    assert worth[3] < 0.5 * 40
    assert worth[4] == pytest.approx(1 + LAW.R_D, rel=1e-12)
    assert np.all(np.diff(LAW.loss(1e8, D, unique=U)) < 0)


def test_the_law_is_continuous_where_repetition_begins():
    """Just below and just above D = U and N = N*(U) the worth is the same, and the slope is 1."""
    for step in (-1e-6, 1e-6):
        assert LAW.effective_units(1e9 * (1 + step), 1e9) == pytest.approx(
            1e9 * (1 + step), rel=1e-11
        )


def test_scarce_data_ask_for_a_smaller_model_and_more_epochs():
    """The optimum spends the budget, is a minimum, and turns to epochs as the paper found."""
    C = 6 * 8.67e9 * 178e9
    scarce, free = LAW.with_unique(25e9), LAW
    best = scarce.optimal(C)
    assert 6 * best.params * best.tokens == pytest.approx(C, rel=1e-12)
    assert best.params < free.optimal(C).params
    assert best.loss <= scarce.loss(6.34e9, 242e9)
    for factor in (0.9, 1.1):
        assert scarce.loss(best.params * factor, best.tokens / factor) > best.loss
    # The authors' grid search with the same constants: 6.8e9 parameters on 227e9 tokens.
    assert best.params == pytest.approx(6.8e9, rel=0.01)
    assert best.tokens == pytest.approx(227e9, rel=0.01)


def test_a_law_with_a_supply_answers_the_inverse():
    """Scarcity costs compute, and below the loss at which the law saturates there is none."""
    scarce = LAW.with_unique(1e9)
    loss = 2.9
    assert scarce.compute_for(loss) > LAW.compute_for(loss)
    assert scarce.optimal(scarce.compute_for(loss)).loss == pytest.approx(loss, rel=1e-9)
    floor = LAW.fresh.loss(LAW.size_for(1e9) * (1 + LAW.R_N), 1e9 * (1 + LAW.R_D))
    assert scarce.optimal(1e40).loss == pytest.approx(floor, rel=1e-12)
    assert scarce.compute_for(floor * 0.999) == np.inf
    assert LAW.compute_for(floor * 0.999) < np.inf


def test_supply_is_no_fitted_parameter_and_must_be_positive():
    """``params`` holds the seven; a supply that is none is refused."""
    assert set(LAW.params) == {"E", "A", "B", "alpha", "beta", "R_D", "R_N"}
    assert LAW.with_unique(1e9).params == LAW.params
    for unique in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="unique units"):
            LAW.with_unique(unique)
        with pytest.raises(InputError, match="unique units"):
            LAW.loss(1e9, 1e9, unique=unique)


def test_published_runs_agree_about_what_repetition_costs():
    """From 4 to 20 epochs the law explains the published C4 runs up to a common factor of 1.09.

    The published constants lie that much below the table's losses at any number of epochs (the
    authors say that trends, not values, are to be used). The additive law scatters twice as much and more.
    """
    runs = reference.runs("muennighoff2023_c4")
    epochs = runs.tokens / runs.unique_tokens
    some = runs.select((epochs >= 4) & (epochs < 20))
    assert len(some) == 83
    repeated = np.log(some.loss / LAW.loss(some.params, some.tokens, some.unique_tokens))
    fresh = np.log(some.loss / LAW.loss(some.params, some.tokens))
    assert np.median(repeated) == pytest.approx(0.083, abs=0.005)
    spread, without = (np.ptp(np.quantile(r, [0.25, 0.75])) for r in (repeated, fresh))
    assert spread < 0.02
    assert without > 2 * spread


def test_without_limits_no_repeat_is_worth_less():
    """R*_D = R*_N = ∞ counts repeats as new and gives the additive law."""
    law = Muennighoff(1.7, 400.0, 2000.0, 0.34, 0.37, np.inf, np.inf)
    N, D = np.meshgrid(np.geomspace(1e7, 1e11, 5), np.geomspace(1e8, 1e13, 5))
    np.testing.assert_allclose(law.loss(N, D, 1e9), law.fresh.loss(N, D), rtol=1e-12)
