"""Huber's loss for any law: damped Gauss–Newton steps with a numeric Jacobian.

Minimises Σᵢ wᵢ ρ_δ(zᵢ − mᵢ(θ)). The curvature is that of the runs within δ, Σ wψ′ ∇m∇mᵀ, which is
Newton's own up to the model's bend times a bounded score; Levenberg's damping is in units of the
diagonal of Σ wψ/r ∇m∇mᵀ (Huber 1981, §7.8), so that it also carries steps where few runs lie
within δ. Steps come from a QR of the stacked rows: normal equations would square the condition number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._newton import ROUNDING, huber

__all__ = ["Descent", "descend", "jacobian"]

Floats = NDArray[np.float64]
Model = Callable[[Floats], Floats]

_LONGEST = 3.0  # the farthest a log parameter moves in one step
_TINY = 1e-11
_QUIET = 8


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended: θ, the summed loss there, and whether it is a minimum."""

    theta: Floats
    objective: float
    converged: bool


def descend(
    model: Model, start: Floats, z: Floats, weights: Floats, delta: float, iterations: int = 200
) -> Descent:
    """Minimise from ``start``; each iteration costs 2k + 1 evaluations of ``model`` at most.

    It has converged where a step hardly damped promises less than 1e-11 of the objective, 1e-4
    standard errors of a parameter, or where a rejected one or several in a row promise next to
    nothing (runs that cross δ back and forth keep the damping up).
    """
    theta, damping = np.array(start, dtype=np.float64), 1e-3
    used = weights > 0
    r, w = (z - model(theta))[used], weights[used]
    objective = float(np.sum(w * huber(r, delta)))
    J = jacobian(model, theta)[used]
    quiet = 0
    for _ in range(iterations):
        if objective <= ROUNDING * len(r):
            return Descent(theta, objective, True)
        step, promise = _step(J, r, w, delta, damping)
        trial = theta + step
        moved = (z - model(trial))[used]
        value = float(np.sum(w * huber(moved, delta)))
        gain = objective - value
        quiet = quiet + 1 if promise <= 100 * _TINY * objective else 0
        if (promise <= _TINY * objective and damping <= 1e-2) or quiet > _QUIET:
            return Descent(theta, objective, True)
        if gain > 0:
            theta, r, objective = trial, moved, value
            J = jacobian(model, theta)[used]
            damping = max(damping * (0.1 if gain > 0.5 * promise else 1.0), 1e-12)
            continue
        if promise <= 100 * _TINY * objective:
            return Descent(theta, objective, True)
        damping *= 6.0
    return Descent(theta, objective, False)


def _step(J: Floats, r: Floats, w: Floats, delta: float, damping: float) -> tuple[Floats, float]:
    """The damped step and the decrease that the quadratic model promises for it."""
    size = np.maximum(np.abs(r), 1e-300)
    omega = w * np.minimum(1.0, delta / size)
    inside = w * (size <= delta)
    unit = np.sqrt(np.sum(omega[:, None] * J**2, axis=0))
    unit = np.where(unit > 1e-14 * np.max(unit, initial=1e-300), unit, np.inf)
    rows = np.sqrt(inside)[:, None] * J / unit
    gradient = (J / unit).T @ (omega * r)
    k = J.shape[1]
    # Runs beyond δ push without curvature: their push enters through the damping's own rows.
    push = (J / unit).T @ (omega * r * (size > delta))
    root = np.sqrt(damping)
    stacked = np.vstack([rows, root * np.eye(k)])
    move = np.linalg.lstsq(stacked, np.concatenate([np.sqrt(inside) * r, push / root]), rcond=None)[
        0
    ]
    promise = float(gradient @ move - 0.5 * np.sum((rows @ move) ** 2))
    step = move / unit
    longest = float(np.max(np.abs(step)))
    if longest > _LONGEST:
        step *= _LONGEST / longest
    return step, promise


def jacobian(model: Model, theta: Floats, step: float = 1e-5) -> Floats:
    """∂m/∂θ by central differences, shape (runs, k)."""
    columns = []
    for i in range(len(theta)):
        move = np.zeros_like(theta)
        move[i] = step
        columns.append((model(theta + move) - model(theta - move)) / (2 * step))
    return np.column_stack(columns)
