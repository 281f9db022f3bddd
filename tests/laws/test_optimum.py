"""Optimum-only laws: two lines, no loss."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.errors import InputError
from flops_fit.laws import Law, OptimumOnly
from flops_fit.laws.optimum import PowerLaw

LINES = OptimumOnly(k_N=0.1, a=0.49, k_D=1 / 0.6, b=0.51)


def test_the_optimum_lies_on_both_lines():
    """N* = k_N·C^a and D* = k_D·C^b, for a number and for an array; the loss is unknown."""
    one = LINES.optimal(1e20)
    assert isinstance(one.params, float)
    assert one.params == pytest.approx(0.1 * 1e20**0.49, rel=1e-12)
    assert one.tokens == pytest.approx(1e20**0.51 / 0.6, rel=1e-12)
    assert np.isnan(one.loss)
    many = LINES.optimal([[1e18, 1e20], [1e22, 1e24]])
    assert many.params.shape == many.tokens.shape == many.loss.shape == (2, 2)
    assert many.params[0, 1] == one.params
    assert 6 * many.params * many.tokens == pytest.approx(
        np.array([[1e18, 1e20], [1e22, 1e24]]), rel=1e-12
    )


def test_lines_can_be_inverted():
    """The compute whose optimum is a given size."""
    assert PowerLaw(LINES.k_N, LINES.a).inverse(LINES.optimal(1e21).params) == pytest.approx(
        1e21, rel=1e-12
    )


@pytest.mark.parametrize(
    "ask", [lambda law: law.loss(1e9, 2e10), lambda law: law.compute_for(2.0)], ids=["loss", "C"]
)
def test_questions_about_the_loss_are_refused(ask):
    """No surface: the error says what the law is and where there is one that knows."""
    with pytest.raises(InputError, match=r"surface.*only N\* = k_N.*besiroglu2024"):
        ask(LINES)


def test_it_is_no_surface():
    """Nothing that needs a loss can take it for a Law."""
    assert not isinstance(LINES, Law)
    assert LINES.params == {"k_N": 0.1, "a": 0.49, "k_D": 1 / 0.6, "b": 0.51}


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), [1e20, float("inf")]])
def test_compute_must_be_positive(C):
    """No budget, no optimum."""
    with pytest.raises(InputError, match="positive and finite"):
        LINES.optimal(C)
