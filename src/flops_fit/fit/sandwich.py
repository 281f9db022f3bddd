"""Uncertainty of a fit: the HC3 sandwich, and Student-t intervals of what is derived from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.solver import Solution
from flops_fit.laws.law import Law

Floats = NDArray[np.float64]

_FULL_LEVERAGE = 0.999


@dataclass(frozen=True, eq=False)
class Covariance:
    """Covariance of a solution's free coordinates; ``reason`` says why there is none."""

    matrix: Floats | None
    dof: int
    leverage: Floats
    reason: str = ""


def covariance(solution: Solution) -> Covariance:
    """HC3 (MacKinnon & White 1985) of an M-estimator, with its IRLS weights ω = w·ψ(r)/r.

    c²·(JᵀωJ)⁻¹ · Σ ω²r²/(1−h)² JJᵀ · (JᵀωJ)⁻¹, where h is the leverage of each run under ω. It
    stays valid where noise differs between runs; dividing by (1−h)² makes it cautious where a
    single run decides a direction. The asymptotic curvature of Huber's loss is JᵀE[ψ′]J (Huber
    1981, §7.6), smaller than JᵀωJ: c = Σω / Σwψ′ makes up for that, and is 1 for least squares.
    Runs of one cluster (a shared trunk or seed) enter the middle as their sum.
    """
    return hc3(
        solution.jacobian,
        solution.residuals,
        solution.weights,
        solution.delta,
        solution.dof,
        solution.points.groups,
    )


def hc3(
    J: Floats,
    r: Floats,
    w: Floats,
    delta: float,
    dof: int,
    groups: NDArray[np.intp] | None = None,
) -> Covariance:
    """The sandwich of :func:`covariance` from its parts: Jacobian (runs, k), residuals, weights."""
    size = np.maximum(np.abs(r), 1e-300)
    omega = w * np.minimum(1.0, delta / size)
    leverage = np.zeros_like(r)
    if dof < 1:
        return Covariance(None, dof, leverage, "there are no more runs than parameters")
    scale = np.sqrt(np.sum(omega[:, None] * J**2, axis=0))
    if np.any(scale == 0):
        return Covariance(None, dof, leverage, "a parameter leaves the loss unchanged")
    root = np.sqrt(omega)[:, None] * J / scale
    q, upper = np.linalg.qr(root)
    diagonal = np.abs(np.diag(upper))
    if np.min(diagonal) < 1e-10 * np.max(diagonal):
        return Covariance(None, dof, leverage, "the parameters cannot be told apart")
    leverage = np.sum(q**2, axis=1)
    if np.max(leverage) > _FULL_LEVERAGE:
        return Covariance(None, dof, leverage, "a single run decides a parameter alone")
    inverse = np.linalg.inv(upper)
    influence = q * (np.sqrt(omega) * r / (1 - leverage))[:, None]
    if groups is not None:
        influence, dof = _by_group(influence, groups, w, dof)
        if dof < 1:
            return Covariance(None, dof, leverage, "there are no more clusters than parameters")
    inside = float(np.sum(w * (size <= delta)))
    correction = float(np.sum(omega)) / max(inside, 0.25 * float(np.sum(w)))
    half = inverse @ influence.T * max(correction, 1.0)
    return Covariance(half @ half.T / np.outer(scale, scale), dof, leverage)


def _by_group(
    influence: Floats, groups: NDArray[np.intp], weights: Floats, dof: int
) -> tuple[Floats, int]:
    """Influences summed over runs that share their noise; one degree of freedom a cluster."""
    summed = np.zeros((int(groups.max()) + 1, influence.shape[1]))
    np.add.at(summed, groups, influence)
    used = len(np.unique(groups[weights > 0]))
    return summed, dof - int(np.count_nonzero(weights)) + used


def gradient_of(
    solution: Solution, quantity: Callable[[Law], Floats], step: float = 1e-4
) -> Floats:
    """Central differences of quantities of the law over its free coordinates: (quantities, k)."""
    theta = solution.theta
    columns = []
    for i in range(len(theta)):
        h = step * max(abs(float(theta[i])), 0.1)
        up, down = theta.copy(), theta.copy()
        up[i] += h
        down[i] -= h
        columns.append((quantity(solution.law_at(up)) - quantity(solution.law_at(down))) / (2 * h))
    return np.column_stack(columns)


def student_t(level: float, dof: int) -> float:
    """The two-sided Student-t factor of a central interval at ``level``."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + level / 2))
