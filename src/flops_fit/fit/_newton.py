"""Damped Newton on the summed Huber loss, for a batch of starts or of reweighted data at once.

Minimises Σᵢ wᵢ ρ_δ(zᵢ − mᵢ(θ)), ρ_δ(r) = ½r² for |r| ≤ δ and δ|r| − ½δ² beyond, inside a box.
The sum, not the mean, with a stopping rule free of scale: the decrease that the quadratic model
still promises, relative to the objective. Curvature is exact, with Levenberg's damping in units of
the Gauss–Newton diagonal (Nocedal & Wright 2006, §10.3). A coordinate at its bound whose
gradient points outward is held (projected Newton, Bertsekas 1982).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._surface import LOWER, UPPER, Points, derivatives

__all__ = ["ROUNDING", "Polished", "huber", "polish"]

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
        task = _Task(points, all_weights[part], all_targets[part], delta, free, lower, upper)
        out[part], objective[part], converged[part] = task.minimise(out[part], iterations)
    return Polished(out, objective, converged)


@dataclass
class _Task:
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
