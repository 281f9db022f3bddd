"""Numerical search for many curves at once: where each is lowest, where it crosses a value.

``scipy.optimize.elementwise`` takes three to ten times as long for one curve, the common case, and
needs curves that are defined throughout a bracket.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

UNDEFINED = 1e200  # the value of a curve where it is not defined
_LOWEST_LOG, _HIGHEST_LOG = -200.0, 460.0  # ln of the smallest and the largest size tried


def lowest(curve: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Where each curve is lowest, up to 30 from its ``start``: a refined grid, then a parabola.

    ``curve`` takes points of shape (curves, points) to values of that shape. A kink does not mislead
    a grid (F(N) interpolated between traced sizes has kinks). Points far from ``start``, which may
    be models too large to trace, are evaluated only where the minimum is not near. The parabola
    through points 1e-3 apart has an error of about h²·f'''/6f'' ~ 1e-7.
    """

    def best_step(most: int) -> Floats:
        steps = np.arange(-most, most + 1, dtype=np.float64)
        return np.asarray(steps[np.argmin(curve(centre[:, None] + steps), axis=1)])

    centre, half = np.array(start, dtype=np.float64), 1.0
    move = best_step(5)
    if np.any(np.abs(move) == 5):
        move = best_step(30)
    centre = centre + move
    steps = np.linspace(-1.0, 1.0, 17)
    while half > 2e-3:
        best = np.argmin(curve(centre[:, None] + half * steps), axis=1)
        centre = centre + half * steps[best]
        half *= 0.25
    h = 1e-3
    for _ in range(2):
        values = curve(centre[:, None] + h * np.array([-1.0, 0.0, 1.0]))
        slope, bend = values[:, 2] - values[:, 0], values[:, 2] - 2 * values[:, 1] + values[:, 0]
        smooth = (bend > 0) & (np.max(values, axis=1) < 0.5 * UNDEFINED)
        move = np.zeros_like(centre)
        move[smooth] = -0.5 * h * slope[smooth] / bend[smooth]
        centre = centre + np.clip(move, -h, h)
    return np.asarray(centre)


def bisect(
    reached: Callable[[Floats], Bools], low: Floats, high: Floats, rounds: int
) -> tuple[Floats, Floats]:
    """Halve each interval around the point from which on ``reached`` is true."""
    for _ in range(rounds):
        middle = 0.5 * (low + high)
        at = reached(middle)
        low, high = np.where(at, low, middle), np.where(at, middle, high)
    return low, high


def least_size(loss_at: Callable[[Floats], object], loss: Floats) -> Floats:
    """The least size whose loss, ``loss_at(size)``, is ``loss`` or less; inf where none is."""

    def reached(log_size: Floats) -> Bools:
        return np.asarray(np.asarray(loss_at(np.exp(log_size))) <= loss)

    low, high = np.full(loss.shape, _LOWEST_LOG), np.full(loss.shape, _HIGHEST_LOG)
    with np.errstate(all="ignore"):
        ever = reached(high)
        _, high = bisect(reached, low, high, 64)
    return np.asarray(np.where(ever, np.exp(high), np.inf))
