"""Searching many curves at once: minima with kinks and holes, and where a loss is reached."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from flops_fit.laws.optimum import UNDEFINED, bisect, least_size, lowest

STARTS = np.array([-3.0, 0.0, 12.0])
CENTRES = np.array([-1.3, 4.2, -9.0])


def curve(x: np.ndarray) -> np.ndarray:
    """One smooth and asymmetric bowl for each centre."""
    d = x - CENTRES[:, None]
    return np.exp(0.3 * d) - 0.3 * d


def test_minima_agree_with_scipy() -> None:
    """As near as a minimum can be told from values in double precision."""
    theirs = [
        minimize_scalar(lambda x, c=c: np.exp(0.3 * (x - c)) - 0.3 * (x - c), (c - 5, c + 2)).x
        for c in CENTRES
    ]
    np.testing.assert_allclose(lowest(curve, STARTS), CENTRES, atol=1e-6)
    np.testing.assert_allclose(lowest(curve, STARTS), theirs, atol=1e-6)


def test_a_kink_and_an_undefined_side_do_not_mislead() -> None:
    """The minimum of |x − 2| that exists only from 1.5 on."""
    found = lowest(lambda x: np.where(x < 1.5, UNDEFINED, np.abs(x - 2)), np.zeros(1))
    assert found[0] == pytest.approx(2.0, abs=2e-3)


def test_the_size_for_a_loss_agrees_with_scipy() -> None:
    """And a loss below the limit of the curve is never reached."""
    goal = np.array([2.0, 1.1, 0.9])

    def loss(size: np.ndarray) -> np.ndarray:
        return 1 + size**-0.3

    sizes = least_size(loss, goal)
    theirs = [
        brentq(lambda x, g=g: 1 + np.exp(-0.3 * x) - g, -200.0, 460.0, xtol=1e-14) for g in goal[:2]
    ]
    np.testing.assert_allclose(sizes[:2], np.exp(theirs), rtol=1e-12)
    assert sizes[2] == np.inf


def test_halving_brackets_the_point_from_which_on_it_is_true() -> None:
    low, high = bisect(lambda x: x >= np.pi, np.zeros(2), np.full(2, 4.0), 30)
    assert np.all(low < np.pi)
    assert np.all(high >= np.pi)
    np.testing.assert_allclose(high - low, 4.0 / 2**30)


def test_where_a_curve_is_flat_any_point_is_its_minimum() -> None:
    """The last steps divide by the bend, which is 0 there."""
    assert np.all(np.isfinite(lowest(lambda x: np.ones(x.shape), STARTS)))
