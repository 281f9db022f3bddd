"""The lowest point of many smooth curves at once, without derivatives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["lowest"]

Floats = NDArray[np.float64]

_UNUSABLE = 1e100


def lowest(curve: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Where each curve is lowest: a grid around ``start``, refined, then a parabola.

    Parameters
    ----------
    curve
        From points of shape (curves, points) to values of the same shape; 1e100 and more where it
        is not defined.
    start
        A guess for each curve, shape (curves,); the minimum may lie up to 30 away.

    Notes
    -----
    A grid cannot be led astray by a kink (F(N) interpolated between traced sizes has some), and
    refining it costs the same few evaluations for a thousand curves as for one. Points far from
    ``start``, models too large to be looked at, are asked for only where none near is lowest. The closing
    parabola through points 1e-3 apart has an error of about h²·f'''/6f'' ~ 1e-7.
    """
    centre, half = np.array(start, dtype=np.float64), 1.0
    rows = np.arange(len(centre))
    move = _coarse(curve, centre, 5)
    if np.any(np.abs(move) == 5):
        move = _coarse(curve, centre, 30)
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
        sound = (bend > 0) & (np.max(values, axis=1) < _UNUSABLE)
        move = np.zeros_like(centre)
        move[rows[sound]] = -0.5 * h * slope[sound] / bend[sound]
        centre = centre + np.clip(move, -h, h)
    return np.asarray(centre)


def _coarse(curve: Callable[[Floats], Floats], start: Floats, reach: int) -> Floats:
    """How far from ``start`` each curve is lowest, in whole steps up to ``reach``."""
    steps = np.arange(-reach, reach + 1, dtype=np.float64)
    return np.asarray(steps[np.argmin(curve(start[:, None] + steps), axis=1)])
