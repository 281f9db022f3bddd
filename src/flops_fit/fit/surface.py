"""The additive law and the κ-law in well-conditioned coordinates, and Newton's method on them.

With x = ln N − mean and y = ln D − mean, the power term (A/N^α + B/D^β)^κ is e^T with

    T = κ·ln(e^s + e^t),    s = (u − p·x)/κ,    t = (v − q·y)/κ,

so that θ = (E, u, v, p, q, ln κ). u and v are each term's own size at the centre of the data and
p = ακ, q = βκ its own slope, whatever κ is: κ only says how the two join (κ = 1 is the additive
law). This keeps the six directions nearly independent: on Chinchilla's points the condition number
falls from 1e13 in the raw constants to about 1e3. E stays linear and may be exactly zero, the
bound it often reaches at small scales. With w = e^s/(e^s + e^t), the share of the N term, and
H = −w ln w − (1−w) ln(1−w),

    ∇T  = w·(∂u − x·∂p) + (1−w)·(∂v − y·∂q) + κH·∂lnκ
    ∇²T = κ·w(1−w)·h hᵀ + κH·∂lnκ ∂lnκᵀ,     h = ∇(s − t).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LOWER = np.array([0.0, -40.0, -40.0, 0.005, 0.005, np.log(0.1)])
UPPER = np.array([1e6, 40.0, 40.0, 4.0, 4.0, np.log(4.0)])
_LOG_LARGEST_TERM = 60.0  # that a trial step may reach, in units of the mean loss
_CHUNK, _CHUNK_VALUES = 64, 400_000  # of a batch at once; of its points: memory stays bounded
ROUNDING = 1e-27  # half the squared residual of a loss without noise


@dataclass(frozen=True, eq=False)
class Points:
    """Runs in centred coordinates; arrays have shape (runs,).

    ``z`` is ln(L/scale) where ``log`` holds, else L/scale, with scale the geometric mean loss.
    Runs with equal ``groups`` share a trunk or a seed, and so their noise; ``None``: none do.
    """

    x: Floats
    y: Floats
    z: Floats
    log: bool
    x_mean: float
    y_mean: float
    scale: float
    groups: NDArray[np.intp] | None = None

    @property
    def unit(self) -> float:
        """What one unit of ``z`` is worth in residuals as reported: 1 for ln L, scale for L."""
        return 1.0 if self.log else self.scale

    def law_at(self, theta: Floats, law: type[Law]) -> Law:
        """The additive law or the κ-law that θ stands for, in the units of the runs."""
        E, u, v, p, q, ln_kappa = (float(t) for t in theta)
        kappa = float(np.exp(ln_kappa))
        alpha, beta = p / kappa, q / kappa
        shift = np.log(self.scale)
        A = float(_exp((u + shift) / kappa + alpha * self.x_mean))
        B = float(_exp((v + shift) / kappa + beta * self.y_mean))
        if law is Hoffmann:
            return Hoffmann(E * self.scale, A, B, alpha, beta)
        return Kappa(E * self.scale, A, B, alpha, beta, kappa)


def _exp(value: ArrayLike) -> Floats:
    """The exponential, positive and finite even where a parameter ran to its bound."""
    return np.asarray(np.exp(np.clip(value, -690.0, 690.0)))


def points_of(runs: RunTable, log: bool) -> Points:
    """A table's runs as :class:`Points`, its clusters as groups."""
    x, y = np.log(runs.params), np.log(runs.tokens)
    scale = float(np.exp(np.mean(np.log(runs.loss))))
    z = np.log(runs.loss / scale) if log else runs.loss / scale
    x_mean, y_mean = float(np.mean(x)), float(np.mean(y))
    groups = None
    if runs.cluster is not None and len(set(runs.cluster)) < len(runs):
        groups = np.unique(np.array(runs.cluster), return_inverse=True)[1].ravel()
    return Points(x - x_mean, y - y_mean, z, log, x_mean, y_mean, scale, groups)


@dataclass(frozen=True, eq=False)
class _Join:
    """How the two terms join at each point, for a batch of θ; arrays have shape (batch, runs)."""

    value: Floats
    power: Floats
    share: Floats
    gap: Floats
    kappa: Floats


def _join(theta: Floats, points: Points) -> _Join:
    E, u, v, p, q, ln_kappa = (theta[:, i, None] for i in range(6))
    kappa = np.exp(ln_kappa)
    s = (u - p * points.x) / kappa
    gap = s - (v - q * points.y) / kappa
    small = np.exp(-np.abs(gap))
    share = np.where(gap > 0, 1.0, small) / (1.0 + small)
    power = np.exp(
        np.minimum(kappa * (s + np.log1p(small) - np.minimum(gap, 0.0)), _LOG_LARGEST_TERM)
    )
    return _Join(E + power, power, share, gap, kappa)


def model_values(theta: Floats, points: Points) -> Floats:
    """The model of ``points.z`` for a batch of θ, shape (batch, runs)."""
    value = _join(np.atleast_2d(theta), points).value
    return np.log(np.maximum(value, 1e-300)) if points.log else value


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Model (batch, runs), gradient (batch, k, runs) and what the exact curvature is made of.

    k is 6, or 5 where κ is held.
    """

    model: Floats
    gradient: Floats
    _slopes: Floats
    _fraction: Floats
    _cross: Floats
    _entropy: Floats | None
    _log: bool

    def hessian(self, score: Floats, curvature: Floats) -> Floats:
        """Of Σ ρ(z − model): ``score`` is ρ′ and ``curvature`` ρ″ at each residual, weighted.

        Σ ρ″ ∇m∇mᵀ − ρ′ ∇²m, where ∇²ln P = (e^T/P)(∇T∇Tᵀ + ∇²T) − ∇m∇mᵀ and
        ∇²P = e^T(∇T∇Tᵀ + ∇²T).
        """
        outer = curvature + score if self._log else curvature
        pull = score * self._fraction
        along = outer * self._fraction
        first = self.gradient[:, 0]
        terms = along * self._fraction - pull
        k = self.gradient.shape[1]
        out = np.empty((len(first), k, k))
        out[:, 0, 0] = np.sum(outer * first**2, axis=1)
        out[:, 0, 1:] = out[:, 1:, 0] = (self._slopes @ (along * first)[..., None])[..., 0]
        out[:, 1:, 1:] = (self._slopes * terms[:, None]) @ np.swapaxes(self._slopes, 1, 2)
        out[:, 1:, 1:] -= (self._cross * pull[:, None]) @ np.swapaxes(self._cross, 1, 2)
        if self._entropy is not None:
            out[:, 5, 5] -= np.sum(pull * self._entropy, axis=1)
        return out


def derivatives(theta: Floats, points: Points, hold_kappa: bool = False) -> Derivatives:
    """Model and derivatives with respect to θ for a batch of θ, shape (batch, 6)."""
    join = _join(theta, points)
    w, rest = join.share, 1.0 - join.share
    x, y = points.x, points.y
    batch, runs = w.shape
    k = 5 if hold_kappa else 6
    slopes = np.empty((batch, k - 1, runs))
    slopes[:, 0], slopes[:, 1] = w, rest
    np.multiply(w, -x, out=slopes[:, 2])
    np.multiply(rest, -y, out=slopes[:, 3])
    # √(κ·w(1−w))·h, so that its outer product is the first part of ∇²T
    root = np.sqrt(join.kappa * w * rest)
    per_kappa = root / join.kappa
    cross = np.empty_like(slopes)
    cross[:, 0] = per_kappa
    np.negative(per_kappa, out=cross[:, 1])
    np.multiply(per_kappa, -x, out=cross[:, 2])
    np.multiply(per_kappa, y, out=cross[:, 3])
    entropy = None
    if not hold_kappa:
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = np.where(w > 0, w * np.log(w), 0.0) + np.where(
                rest > 0, rest * np.log(rest), 0.0
            )
        entropy = slopes[:, 4] = -join.kappa * parts
        np.multiply(join.gap, -root, out=cross[:, 4])
    value = np.maximum(join.value, 1e-300)
    gradient = np.empty((batch, k, runs))
    if points.log:
        fraction, model = join.power / value, np.log(value)
        np.divide(1.0, value, out=gradient[:, 0])
    else:
        fraction, model = join.power, value
        gradient[:, 0] = 1.0
    np.multiply(slopes, fraction[:, None], out=gradient[:, 1:])
    return Derivatives(model, gradient, slopes, fraction, cross, entropy, points.log)


@dataclass(frozen=True, eq=False)
class Polished:
    """Where each of a batch ended: θ (batch, 6), objective (batch,), whether it converged."""

    theta: Floats
    objective: Floats
    converged: Bools


def polish(
    theta: Floats,
    points: Points,
    weights: Floats,
    delta: float,
    free: Bools,
    *,
    targets: Floats | None = None,
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
        task = _NewtonProblem(points, all_weights[part], all_targets[part], delta, free)
        out[part], objective[part], converged[part] = task.minimise(out[part], iterations)
    return Polished(out, objective, converged)


@dataclass
class _NewtonProblem:
    points: Points
    weights: Floats
    targets: Floats
    delta: float
    free: Bools

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
        theta = np.clip(theta, LOWER, UPPER)
        batch, k = len(theta), 6 if self.free[5] else 5
        objective, gradient, hessian, scale = self.local(theta, np.arange(batch))
        damping = np.full(batch, 1e-4)
        running, converged = np.arange(batch), np.zeros(batch, dtype=bool)
        for _ in range(iterations):
            if len(running) == 0:
                break
            step, promise = self._step(theta, gradient, hessian, scale, damping, running)
            trial = theta[running]
            trial[:, :k] = np.clip(trial[:, :k] + step, LOWER[:k], UPPER[:k])
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
        at, lower, upper = theta[rows, :k], LOWER[:k], UPPER[:k]
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
