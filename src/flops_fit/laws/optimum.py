"""The best N and D for a budget, and what caps on either make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError
from flops_fit.flops.functions import FlopsFunction, LinearFlops

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


Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Optimum:
    """The best N and D for a budget and the loss there; floats, or arrays shaped as C.

    Attributes
    ----------
    params, tokens, loss
        N, D and L(N, D).
    compute
        F(N)·D: the budget itself, and less only where both caps bind.
    at_max_params, at_max_tokens
        Whether ``max_params`` or ``max_tokens`` binds.
    """

    params: Any
    tokens: Any
    loss: Any
    compute: Any = float("nan")
    at_max_params: Any = False
    at_max_tokens: Any = False

    @property
    def binds(self) -> tuple[str, ...]:
        """Which of ``"max_params"`` and ``"max_tokens"`` bind, at any of the budgets."""
        caps = {"max_params": self.at_max_params, "max_tokens": self.at_max_tokens}
        return tuple(name for name, at in caps.items() if np.any(at))


@dataclass(frozen=True, eq=False)
class Spending:
    """N and D that spend a budget within caps; arrays of one shape."""

    params: Floats
    tokens: Floats
    compute: Floats
    at_max_params: Bools
    at_max_tokens: Bools


def spend(
    N: Floats,
    C: Floats,
    flops: FlopsFunction,
    max_params: float | None = None,
    max_tokens: float | None = None,
) -> Spending:
    """D = C/F(N) for the sizes wished for, with both held to their caps.

    Where D would pass its cap the compute left over goes to N: F(N)·max_tokens = C. With a loss
    that falls in N and in D, and has one minimum along the budget, this is the best that the caps
    allow. Where F(max_params)·max_tokens < C both bind and the rest of C stays unspent.

    Parameters
    ----------
    N, C
        The best sizes without caps and their budgets, shape (budgets,).
    """
    n_cap, d_cap = _cap("max_params", max_params), _cap("max_tokens", max_tokens)
    at_n = n_cap < N
    size = np.minimum(N, n_cap)
    units = C / _per_unit(flops, size)
    compute = C.copy()
    at_d = units > d_cap
    if np.any(at_d):
        units = np.minimum(units, d_cap)
        if np.isfinite(n_cap):
            at_n = at_n | (at_d & (_per_unit(flops, np.full_like(C, n_cap)) * d_cap <= C))
            size = np.where(at_n, n_cap, size)
        open_ = at_d & ~at_n
        if np.any(open_):
            size[open_] = _size_at(flops, C[open_] / d_cap, size[open_], n_cap)
        both = at_d & at_n
        compute = np.where(both, _per_unit(flops, size) * units, C)
    return Spending(size, units, compute, at_n, at_d)


def _cap(name: str, value: float | None) -> float:
    if value is None:
        return float("inf")
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not value > 0:
        raise InputError(f"{name}: expected a positive number, or None for no cap; got {value!r}.")
    return float(value)


def _per_unit(flops: FlopsFunction, N: Floats) -> Floats:
    per_unit = np.asarray(flops(N), dtype=np.float64)
    if not np.all(np.isfinite(per_unit) & (per_unit > 0)):
        raise InputError(
            f"expected positive FLOPs per unit; {flops.description} gives none near N = "
            f"{float(N.ravel()[0]):.3g}. Give flops_per_unit= as a function that does."
        )
    return per_unit


def _size_at(flops: FlopsFunction, per_unit: Floats, below: Floats, limit: float) -> Floats:
    """The N above ``below`` and up to ``limit`` whose F(N) is ``per_unit``, F rising with N."""
    if isinstance(flops, LinearFlops):
        return per_unit / flops.k
    top = np.log(limit)
    low = np.log(below)
    step = np.log(2.0)
    high = np.minimum(low + step, top)
    for _ in range(8):
        short = (np.asarray(flops(np.exp(high))) < per_unit) & (high < top)
        if not np.any(short):
            break
        step *= 2
        low, high = np.where(short, high, low), np.where(short, np.minimum(high + step, top), high)
    else:
        raise InputError(
            f"max_tokens: expected F(N) to grow until F(N)·max_tokens spends the budget; "
            f"{flops.description} does not up to N = {float(np.exp(np.max(high))):.3g}."
        )
    for _ in range(60):
        middle = 0.5 * (low + high)
        short = np.asarray(flops(np.exp(middle))) < per_unit
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.asarray(np.exp(0.5 * (low + high)))
