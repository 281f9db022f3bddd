"""The best N and D for a budget, and what caps on either make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError
from flops_fit.flops import FlopsFunction, LinearFlops

__all__ = ["Optimum", "Spending", "spend"]

Floats = NDArray[np.float64]
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
