"""Starts for the additive law by variable projection: a grid in (α, β), the rest is linear.

For fixed exponents L ≈ E + A·e^{−αx} + B·e^{−βy} is linear in (E, A, B) ≥ 0, so the search is
two-dimensional (Golub & Pereyra 1973). Relative residuals, (L − model)/L, stand in for log ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.surface import LOWER, UPPER, Points, derivatives

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_CHUNK, _CHUNK_VALUES = 64, 400_000  # of a batch at once; of its points: memory stays bounded
ROUNDING = 1e-27  # half the squared residual of a loss without noise


@dataclass(frozen=True, eq=False)
class Polished:
    """Where each of a batch ended: θ (batch, 6), objective (batch,), whether it converged."""

    theta: Floats
    objective: Floats
    converged: Bools


def huber(residuals: Floats, delta: float) -> Floats:
    """ρ_δ of each residual; δ = ∞ is half the square."""
    size = np.abs(residuals)
    if np.isinf(delta):
        return np.asarray(0.5 * size**2)
    inner = np.minimum(size, delta)
    return np.asarray(inner * (size - 0.5 * inner))


def polish(
    theta: Floats,
    points: Points,
    weights: Floats,
    delta: float,
    free: Bools,
    *,
    targets: Floats | None = None,
    lower: Floats = LOWER,
    upper: Floats = UPPER,
    iterations: int = 300,
) -> Polished:
    """Minimise from each of a batch of starts.

    Parameters
    ----------
    theta
        Starts, shape (batch, 6).
    weights
        Non-negative, shape (runs,) or (batch, runs); a bootstrap's are integers.
    free
        Which of the six may move, shape (6,).
    targets
        ``points.z`` of each start where they differ, shape (batch, runs).
    """
    batch = len(theta)
    shape = (batch, len(points.z))
    all_weights = np.broadcast_to(weights, shape)
    all_targets = np.broadcast_to(points.z if targets is None else targets, shape)
    out = np.array(theta, dtype=np.float64)
    objective, converged = np.empty(batch), np.zeros(batch, dtype=bool)
    chunk = min(_CHUNK, max(_CHUNK_VALUES // len(points.z), 1))
    for first in range(0, batch, chunk):
        part = slice(first, first + chunk)
        task = _NewtonProblem(
            points, all_weights[part], all_targets[part], delta, free, lower, upper
        )
        out[part], objective[part], converged[part] = task.minimise(out[part], iterations)
    return Polished(out, objective, converged)


@dataclass
class _NewtonProblem:
    points: Points
    weights: Floats
    targets: Floats
    delta: float
    free: Bools
    lower: Floats
    upper: Floats

    def local(self, theta: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats, Floats, Floats]:
        """Objective, gradient, exact Hessian and Gauss–Newton diagonal at θ."""
        d = derivatives(theta, self.points, hold_kappa=not bool(self.free[5]))
        w = self.weights[rows]
        residuals = self.targets[rows] - d.model
        size = np.abs(residuals)
        inner = np.minimum(size, self.delta)
        objective = np.sum(w * inner * (size - 0.5 * inner), axis=1)
        score = w * np.copysign(inner, residuals)
        inside = w * (size <= self.delta)
        gradient = -(d.gradient @ score[..., None])[..., 0]
        weight = w * (inner / np.maximum(size, 1e-300))
        scale = (d.gradient**2 @ weight[..., None])[..., 0]
        return objective, gradient, d.hessian(score, inside), scale

    def minimise(self, theta: Floats, iterations: int) -> tuple[Floats, Floats, Bools]:
        theta = np.clip(theta, self.lower, self.upper)
        batch, k = len(theta), 6 if self.free[5] else 5
        objective, gradient, hessian, scale = self.local(theta, np.arange(batch))
        damping = np.full(batch, 1e-4)
        running, converged = np.arange(batch), np.zeros(batch, dtype=bool)
        for _ in range(iterations):
            if len(running) == 0:
                break
            step, promise = self._step(theta, gradient, hessian, scale, damping, running)
            trial = theta[running]
            trial[:, :k] = np.clip(trial[:, :k] + step, self.lower[:k], self.upper[:k])
            new = self.local(trial, running)
            gain = objective[running] - new[0]
            better = (promise > 0) & (gain > 0)
            won = running[better]
            theta[won], objective[won] = trial[better], new[0][better]
            gradient[won], hessian[won], scale[won] = new[1][better], new[2][better], new[3][better]
            ratio = np.divide(gain, promise, out=np.zeros_like(gain), where=better)
            factor = np.where(
                better, np.where(ratio > 0.5, 0.1, np.where(ratio > 0.1, 1.0, 3.0)), 8.0
            )
            tiny = np.abs(promise) <= 1e-15 * objective[running] + 1e-300
            tiny |= objective[running] <= ROUNDING * self.weights.shape[1]
            # Rejected with next to nothing promised: the sum's own rounding is reached.
            floor = ~better & (promise >= 0) & (promise <= 1e-12 * objective[running])
            done = floor | tiny & (damping[running] <= 1e-2) | (damping[running] > 1e14)
            damping[running] = np.maximum(damping[running] * factor, 1e-14)
            converged[running[done]] = True
            running = running[~done]
        return theta, objective, converged

    def _step(
        self,
        theta: Floats,
        gradient: Floats,
        hessian: Floats,
        scale: Floats,
        damping: Floats,
        rows: NDArray[np.intp],
    ) -> tuple[Floats, Floats]:
        """The damped Newton step of each row and the decrease it promises."""
        g = gradient[rows]
        k = g.shape[1]
        at, lower, upper = theta[rows, :k], self.lower[:k], self.upper[:k]
        held = ~self.free[:k] | ((at <= lower) & (g > 0)) | ((at >= upper) & (g < 0))
        loose = np.where(held, 0.0, 1.0)
        g = g * loose
        floor = 1e-12 * scale[rows].max(axis=1, keepdims=True) + 1e-300
        unit = 1.0 / np.sqrt(np.maximum(scale[rows], floor))
        h = hessian[rows] * unit[:, :, None] * unit[:, None, :]
        h = h * loose[:, :, None] * loose[:, None, :]
        index = np.arange(h.shape[1])
        h[:, index, index] += damping[rows, None] + (1.0 - loose)
        gs = g * unit
        move = _solve(h, -gs)
        descent = np.sum(gs * move, axis=1)
        bent = np.einsum("bi,bij,bj->b", move, h, move)
        promise = np.where((descent < 0) & (bent > 0), -descent - 0.5 * bent, -np.inf)
        flat = ~np.any(g != 0, axis=1)
        promise = np.where(flat, 0.0, promise)
        move = np.where(np.isfinite(move), move, 0.0)
        return move * unit, promise


def _solve(h: Floats, right: Floats) -> Floats:
    """h⁻¹·right for a batch; where one of them is singular, on its eigenvalues kept off zero."""
    try:
        return np.asarray(np.linalg.solve(h, right[..., None])[..., 0])
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(h)
        size = np.maximum(np.abs(values), 1e-10)
        inner = np.einsum("bji,bj->bi", vectors, right) / size
        return np.asarray(np.einsum("bij,bj->bi", vectors, inner))


_EXPONENTS = np.geomspace(0.04, 1.6, 14)
_SUBSETS = ((0, 1, 2), (1, 2), (0, 1), (0, 2), (1,), (2,), (0,))


def grid_starts(points: Points, weights: Floats, count: int = 4) -> Floats:
    """Starts as θ, shape (starts, 6): the grid's local minima, best first, then its quadrants'.

    The lowest point of each quadrant of (α, β) is a start too, so that agreement between starts
    says something where the grid itself has one minimum.
    """
    loss = np.exp(points.z) if points.log else points.z
    relative = np.sqrt(weights) / (loss if points.log else np.ones_like(loss))
    n_terms = np.exp(-_EXPONENTS[:, None] * points.x) * relative
    d_terms = np.exp(-_EXPONENTS[:, None] * points.y) * relative
    constant, target = relative, relative * loss
    size = len(_EXPONENTS)
    normal = np.empty((size, size, 3, 3))
    right = np.empty((size, size, 3))
    normal[..., 0, 0] = constant @ constant
    normal[..., 0, 1] = normal[..., 1, 0] = (n_terms @ constant)[:, None]
    normal[..., 0, 2] = normal[..., 2, 0] = (d_terms @ constant)[None, :]
    normal[..., 1, 1] = np.sum(n_terms**2, axis=1)[:, None]
    normal[..., 2, 2] = np.sum(d_terms**2, axis=1)[None, :]
    normal[..., 1, 2] = normal[..., 2, 1] = n_terms @ d_terms.T
    right[..., 0] = constant @ target
    right[..., 1], right[..., 2] = (n_terms @ target)[:, None], (d_terms @ target)[None, :]
    solution, misfit = _non_negative(normal.reshape(-1, 3, 3), right.reshape(-1, 3))
    misfit = misfit.reshape(size, size)
    picked = _local_minima(misfit)[:count]
    picked += [cell for cell in _quadrant_minima(misfit) if cell not in picked]
    return np.array([_theta(solution[i * size + j], i, j) for i, j in picked])


def _non_negative(normal: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Least squares under c ≥ 0 for many 3×3 systems, trying each set of active terms.

    Returns the coefficients and the decrease below zero of cᵀGc − 2cᵀb, lower being better.
    """
    best, found = np.full(len(normal), np.inf), np.zeros_like(right)
    scale = 1.0 / np.sqrt(np.einsum("bii->bi", normal))
    G, b = normal * scale[:, :, None] * scale[:, None, :], right * scale
    for subset in _SUBSETS:
        index = np.array(subset)
        part = G[:, index[:, None], index] + 1e-12 * np.eye(len(index))
        c = np.linalg.solve(part, b[:, index, None])[..., 0]
        value = -np.sum(c * b[:, index], axis=1)
        good = np.all(c >= 0, axis=1) & (value < best)
        best[good] = value[good]
        full = np.zeros_like(right)
        full[:, index] = c
        found[good] = full[good]
    return found * scale, best


def _local_minima(misfit: Floats) -> list[tuple[int, int]]:
    padded = np.pad(misfit, 1, constant_values=np.inf)
    size = misfit.shape[0]
    windows = [
        padded[1 + i : 1 + i + size, 1 + j : 1 + j + size]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    lowest = np.all([misfit <= w for w in windows], axis=0)
    order = np.argsort(misfit[lowest], kind="stable")
    return [(int(i), int(j)) for i, j in np.argwhere(lowest)[order]]


def _quadrant_minima(misfit: Floats) -> list[tuple[int, int]]:
    half = misfit.shape[0] // 2
    cells = []
    for rows, columns in ((0, 0), (0, half), (half, 0), (half, half)):
        part = misfit[rows : rows + half, columns : columns + half]
        i, j = np.unravel_index(int(np.argmin(part)), part.shape)
        cells.append((int(i) + rows, int(j) + columns))
    return cells


def _theta(c: Floats, i: int, j: int) -> Floats:
    tiny = 1e-6 * max(float(np.sum(c)), 1e-300)
    return np.array(
        [c[0], np.log(max(c[1], tiny)), np.log(max(c[2], tiny)), _EXPONENTS[i], _EXPONENTS[j], 0.0]
    )
