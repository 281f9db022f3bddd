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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.flops.functions import Bools, Floats, Indices
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law
from flops_fit.table.run_table import RunTable

LOWER = np.array([0.0, -40.0, -40.0, 0.005, 0.005, np.log(0.1)])
UPPER = np.array([1e6, 40.0, 40.0, 4.0, 4.0, np.log(4.0)])
_LOG_LARGEST_TERM = 60.0  # that a trial step may reach, in units of the mean loss
_CHUNK, _CHUNK_VALUES = 64, 400_000  # of a batch at once; of its points: memory stays bounded
_SHIFT = 3.0  # ranges of the losses from the least value that E may have up to the lowest loss
ROUNDING = 1e-27  # half the squared residual of a loss without noise


@dataclass(frozen=True, eq=False)
class Points:
    """Runs in centred coordinates: ``z`` is ln(L/scale) where ``log``, else (L + shift)/scale.

    Scale is the geometric mean of L + shift. Runs with equal ``groups`` share their noise.
    """

    x: Floats
    y: Floats
    z: Floats
    log: bool
    x_mean: float
    y_mean: float
    scale: float
    groups: Indices | None = None
    shift: float = 0.0

    @property
    def unit(self) -> float:
        """What one unit of ``z`` is worth in residuals as reported: 1 for ln L, scale for L."""
        return 1.0 if self.log else self.scale

    def law_at(self, theta: Floats, law: type[Law]) -> Law:
        """The additive law or the κ-law that θ stands for, in the units of the runs."""
        E, u, v, p, q, ln_kappa = (float(t) for t in theta)
        kappa = float(np.exp(ln_kappa))
        alpha, beta = p / kappa, q / kappa
        unit = np.log(self.scale)
        logs = (u + unit) / kappa + alpha * self.x_mean, (v + unit) / kappa + beta * self.y_mean
        A, B = (float(np.exp(np.clip(t, -690.0, 690.0))) for t in logs)  # positive and finite
        constants = (E * self.scale - self.shift, A, B, alpha, beta)
        return Hoffmann(*constants) if law is Hoffmann else Kappa(*constants, kappa)


def points_of(runs: RunTable, log: bool) -> Points:
    """A table's runs as :class:`Points`; in L, shifted so that E is positive, where ln L is none."""
    x, y = np.log(runs.params), np.log(runs.tokens)
    lowest, high = (float(v) for v in np.quantile(runs.loss, [0.0, 0.9]))
    shift = 0.0 if lowest > 0 else _SHIFT * max(high - lowest, 1e-12 * abs(lowest)) - lowest
    log, level = log and lowest > 0, runs.loss + shift
    scale = float(np.exp(np.mean(np.log(level))))
    z = np.log(level / scale) if log else level / scale
    x_mean, y_mean = float(np.mean(x)), float(np.mean(y))
    groups = None
    if runs.cluster is not None and len(set(runs.cluster)) < len(runs):
        groups = np.unique(np.array(runs.cluster), return_inverse=True)[1].ravel()
    return Points(x - x_mean, y - y_mean, z, log, x_mean, y_mean, scale, groups, shift)


def _terms(theta: Floats, points: Points) -> tuple[Floats, Floats, Floats, Floats]:
    """E + e^T, e^T, w and s − t at each point for a batch of θ, all of shape (batch, runs)."""
    E, u, v, p, q, ln_kappa = theta.T[:, :, None]
    kappa = np.exp(ln_kappa)
    s = (u - p * points.x) / kappa
    gap = s - (v - q * points.y) / kappa
    small = np.exp(-np.abs(gap))
    share = np.where(gap > 0, 1.0, small) / (1.0 + small)
    T = kappa * (s + np.log1p(small) - np.minimum(gap, 0.0))
    power = np.exp(np.minimum(T, _LOG_LARGEST_TERM))
    return E + power, power, share, gap


def model_values(theta: Floats, points: Points) -> Floats:
    """The model of ``points.z`` for a batch of θ, shape (batch, runs)."""
    value = _terms(np.atleast_2d(theta), points)[0]
    return np.log(np.maximum(value, 1e-300)) if points.log else value


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Model (batch, runs), gradient (batch, 6 or 5, runs) and parts of the exact curvature."""

    model: Floats
    gradient: Floats
    _slopes: Floats
    _fraction: Floats
    _cross: Floats
    _entropy: Floats | None
    _log: bool

    def hessian(self, score: Floats, curvature: Floats) -> Floats:
        """Σ ρ″ ∇m∇mᵀ − ρ′ ∇²m, for ρ′ (``score``) and ρ″ (``curvature``), weighted, of each residual."""
        # ∇²ln P = (e^T/P)(∇T∇Tᵀ + ∇²T) − ∇m∇mᵀ and ∇²P = e^T(∇T∇Tᵀ + ∇²T).
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
    value, power, w, gap = _terms(theta, points)
    rest, x, y, kappa = 1.0 - w, points.x, points.y, np.exp(theta[:, 5, None])
    # √(κ·w(1−w))·h, so that its outer product is the first part of ∇²T
    root = np.sqrt(kappa * w * rest)
    per_kappa = root / kappa
    k = 5 if hold_kappa else 6
    slopes = np.empty((len(theta), k - 1, len(x)))  # filled in place: stacking costs as much again
    cross = np.empty_like(slopes)
    slopes[:, 0], slopes[:, 1] = w, rest
    np.multiply(w, -x, out=slopes[:, 2])
    np.multiply(rest, -y, out=slopes[:, 3])
    cross[:, 0], cross[:, 1] = per_kappa, -per_kappa
    np.multiply(per_kappa, -x, out=cross[:, 2])
    np.multiply(per_kappa, y, out=cross[:, 3])
    entropy = None
    if not hold_kappa:
        logs = np.log(np.where(w > 0, w, 1.0)), np.log(np.where(rest > 0, rest, 1.0))
        entropy = slopes[:, 4] = -kappa * (w * logs[0] + rest * logs[1])
        np.multiply(gap, -root, out=cross[:, 4])
    value = np.maximum(value, 1e-300)
    fraction = power / value if points.log else power
    gradient = np.empty((len(theta), k, len(x)))
    gradient[:, 0] = 1.0 / value if points.log else 1.0
    np.multiply(slopes, fraction[:, None], out=gradient[:, 1:])
    model = np.log(value) if points.log else value
    return Derivatives(model, gradient, slopes, fraction, cross, entropy, points.log)


@dataclass(frozen=True, eq=False)
class Penalty:
    """½Σ stiffness·(c − target)² of c = (E, α, β, κ), E in units of ``z``; ``held``: exactly known."""

    target: Floats
    stiffness: Floats
    held: Bools

    def local(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Value, gradient and Gauss–Newton Hessian for a batch of θ."""
        kappa = np.exp(theta[:, 5])
        alpha, beta = theta[:, 3] / kappa, theta[:, 4] / kappa
        off = np.column_stack([theta[:, 0], alpha, beta, kappa]) - self.target
        J = np.zeros((len(theta), 4, 6))
        J[:, 0, 0], J[:, 3, 5] = 1.0, kappa
        J[:, 1, 3] = J[:, 2, 4] = 1 / kappa
        J[:, 1, 5], J[:, 2, 5] = -alpha, -beta
        pull = self.stiffness * off
        gradient = np.einsum("bi,bij->bj", pull, J)
        hessian = np.einsum("i,bij,bik->bjk", self.stiffness, J, J)
        return 0.5 * np.sum(pull * off, axis=1), gradient, hessian

    def hold(self, theta: Floats) -> Floats:
        """θ, shape (..., 6), with the constants that are held at their values."""
        out, (E, alpha, beta, kappa) = theta.copy(), self.target
        if self.held[3]:
            out[..., 5] = np.log(kappa)
        for i, value in ((0, E), (3, alpha), (4, beta)):
            if self.held[max(i - 2, 0)]:
                out[..., i] = value * np.exp(out[..., 5]) if i else value
        return out


@dataclass(frozen=True, eq=False)
class Polished:
    """Where each start ended, its objective Σ w·ρ_δ, and whether it converged."""

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
    penalty: Penalty | None = None,
    iterations: int = 300,
) -> Polished:
    """Minimise from each of a batch of starts, shape (batch, 6), over the coordinates ``free``.

    ``weights`` have shape (runs,) or (batch, runs); ``targets``, (batch, runs), replace ``points.z``.
    """
    k = 6 if free[5] else 5

    def local(theta: Floats, weights: Floats, targets: Floats) -> tuple[Floats, ...]:
        """Objective, gradient, exact Hessian and Gauss–Newton diagonal at θ; k = 5 holds κ."""
        d = derivatives(theta, points, hold_kappa=k == 5)
        residuals = targets - d.model
        size = np.abs(residuals)
        inner = np.minimum(size, delta)
        objective = np.sum(weights * inner * (size - 0.5 * inner), axis=1)
        score = weights * np.copysign(inner, residuals)
        gradient = -(d.gradient @ score[..., None])[..., 0]
        weight = weights * (inner / np.maximum(size, 1e-300))
        scale = (d.gradient**2 @ weight[..., None])[..., 0]
        hessian = d.hessian(score, weights * (size <= delta))
        if penalty is not None:
            value, slope, bend = penalty.local(theta)
            scale = scale + np.einsum("bii->bi", bend)[:, :k]
            # Where α and β are held, p = ακ and q = βκ curve with ln κ.
            bend[:, 5, 5] += (gradient[:, 3:5] * theta[:, 3:5]) @ penalty.held[1:3]
            objective, gradient = objective + value, gradient + slope[:, :k]
            hessian = hessian + bend[:, :k, :k]
        return objective, gradient, hessian, scale

    shape = (len(theta), len(points.z))
    weights = np.broadcast_to(weights, shape)
    targets = np.broadcast_to(points.z if targets is None else targets, shape)
    theta = np.clip(theta, LOWER, UPPER)
    theta = theta if penalty is None else penalty.hold(theta)
    chunk = min(_CHUNK, max(_CHUNK_VALUES // len(points.z), 1))
    parts = [slice(first, first + chunk) for first in range(0, len(theta), chunk)]
    ends = [
        _minimise(local, theta[p], weights[p], targets[p], free, penalty, iterations) for p in parts
    ]
    return Polished(*(np.concatenate(arrays) for arrays in zip(*ends, strict=True)))


def _minimise(
    local: Callable[[Floats, Floats, Floats], tuple[Floats, ...]],
    theta: Floats,
    weights: Floats,
    targets: Floats,
    free: Bools,
    penalty: Penalty | None,
    iterations: int,
) -> tuple[Floats, Floats, Bools]:
    """Damped Newton steps from each start, taken where they lower its objective."""
    batch, k = len(theta), 6 if free[5] else 5
    state = local(theta, weights, targets)
    objective = state[0]
    damping = np.full(batch, 1e-4)
    running, converged = np.arange(batch), np.zeros(batch, dtype=bool)
    for _ in range(iterations):
        if len(running) == 0:
            break
        now = [values[running] for values in state]
        step, promise = _step(theta[running], now, damping[running], free)
        trial = theta[running]
        trial[:, :k] = np.clip(trial[:, :k] + step, LOWER[:k], UPPER[:k])
        trial = trial if penalty is None else penalty.hold(trial)
        new = local(trial, weights[running], targets[running])
        gain = now[0] - new[0]
        better = (promise > 0) & (gain > 0)
        won = running[better]
        for old, values in zip((theta, *state), (trial, *new), strict=True):
            old[won] = values[better]
        ratio = np.divide(gain, promise, out=np.zeros_like(gain), where=better)
        factor = np.select([~better, ratio > 0.5, ratio > 0.1], [8.0, 0.1, 1.0], 3.0)
        tiny = np.abs(promise) <= 1e-15 * objective[running] + 1e-300
        tiny |= objective[running] <= ROUNDING * targets.shape[1]
        # Rejected with next to nothing promised: the sum's own rounding is reached.
        floor = ~better & (promise >= 0) & (promise <= 1e-12 * objective[running])
        done = floor | tiny & (damping[running] <= 1e-2) | (damping[running] > 1e14)
        damping[running] = np.maximum(damping[running] * factor, 1e-14)
        converged[running[done]] = True
        running = running[~done]
    return theta, objective, converged


def _step(
    theta: Floats, state: Sequence[Floats], damping: Floats, free: Bools
) -> tuple[Floats, Floats]:
    """The damped Newton step from each θ and the decrease it promises."""
    _, g, hessian, scale = state
    k = g.shape[1]
    at, lower, upper = theta[:, :k], LOWER[:k], UPPER[:k]
    held = ~free[:k] | ((at <= lower) & (g > 0)) | ((at >= upper) & (g < 0))
    loose = np.where(held, 0.0, 1.0)
    g = g * loose
    floor = 1e-12 * scale.max(axis=1, keepdims=True) + 1e-300
    unit = 1.0 / np.sqrt(np.maximum(scale, floor))
    h = hessian * unit[:, :, None] * unit[:, None, :]
    h = h * loose[:, :, None] * loose[:, None, :]
    index = np.arange(k)
    h[:, index, index] += damping[:, None] + (1.0 - loose)
    gs = g * unit
    try:
        move = np.linalg.solve(h, -gs[..., None])[..., 0]
    except np.linalg.LinAlgError:  # one is singular: solve on eigenvalues kept off zero
        values, vectors = np.linalg.eigh(h)
        inner = np.einsum("bji,bj->bi", vectors, -gs) / np.maximum(np.abs(values), 1e-10)
        move = np.einsum("bij,bj->bi", vectors, inner)
    descent = np.sum(gs * move, axis=1)
    bent = np.einsum("bi,bij,bj->b", move, h, move)
    promise = np.where((descent < 0) & (bent > 0), -descent - 0.5 * bent, -np.inf)
    promise = np.where(np.any(g != 0, axis=1), promise, 0.0)
    return np.where(np.isfinite(move), move, 0.0) * unit, promise
