"""The law's misfit: a smooth discrepancy between law and runs, beside the noise of a run.

No law is exactly right over the whole range of a sweep. In the space of the fit (z = ln L, or L over
its scale),

    z = law(ln N, ln D; θ) + g(ln N, ln D) + ε,

g a Gaussian process (Kennedy & O'Hagan 2001) of amplitude τ: a part of correlation length ℓ in every
direction and a longer one in compute alone. θ has weak priors. τ, ℓ and the noise σ take a grid of
values, each weighed by the likelihood of the runs (θ by Laplace's method, g exactly) times a prior
for τ. Whole surfaces are drawn from this :class:`Posterior`. Runs far from the optimum and of little
compute say less about large budgets: their noise is larger by :func:`trust_weights`. That leaves the
runs near the largest optimum less noise than runs are seen to have. So each draw is of runs with the
rest of their scatter added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.misfit_basis import Basis
from flops_fit.fit.misfit_mean import (
    MOST_POINTS,
    Gaussian,
    KappaMean,
    LinearMean,
    Mean,
    MisfitPrior,
    pool,
)
from flops_fit.fit.solver import MAD_TO_SD, Solution, one_blas_thread
from flops_fit.fit.surface import Points
from flops_fit.flops.functions import Floats, FlopsFunction
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law

if TYPE_CHECKING:
    from flops_fit.fit.intervals import Evidence

DRAWS = 400
_BELOW, _ABOVE, _BESIDE = 7.0, 9.5, 2.5  # e-folds of compute and of √(N/D) that the knots go on
_AMPLITUDES = 8
_NOISES = (0.5, 0.75, 1.0)  # times the scatter around the fitted law: the misfit explains the rest
_LARGEST_AMPLITUDE, _SMALLEST_NOISE = 0.032, 1e-7
_FAR_RESIDUAL = 3.0  # robust standard deviations from which a run's noise grows with its residual
_CUT, _CUT_SHARE = 1.345, 0.7102  # where squares of normal noise are cut, and their mean then
_STEPS = 40
_WEIGHTLESS = 1e-3  # of the most likely value of (τ, ℓ, σ)


@dataclass(frozen=True, eq=False)
class Tuned:
    """How sure losses are that were freed of hyper-parameters.

    ``shifts``, (draws, runs), are added to z, for each of some draws of what was taken off; ``constants``
    is how many were fitted for that.
    """

    shifts: Floats
    constants: float


def trust_weights(
    law: Law, N: Floats, C: Floats, largest: float, flops: FlopsFunction, prior: MisfitPrior
) -> Floats:
    """1 over the noise variance of each run, relative to one at N* of the ``largest`` compute."""
    along = np.geomspace(np.min(C), np.max(C) * (1 + 1e-9), 64)
    best = np.interp(np.log(C), np.log(along), np.log(law.optimal(along, flops).params))
    off = np.abs(np.log(N) - best) / np.log(prior.window)
    return np.asarray((C / largest) ** prior.tilt / (1 + off**4))


@dataclass(frozen=True, eq=False)
class Draws:
    """Some of a posterior's surfaces, all of one ℓ: coordinates (draws, k), weights of g (draws, M)."""

    basis: Basis
    eta: Floats
    weights: Floats


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the runs say about the surface L(N, D): draws of law plus misfit.

    ``amplitude`` and ``noise`` are means of τ and σ, ``scatter`` is how far one run lies from the
    law, all in the space of the fit. ``gaussian`` is the whole as one normal, at the rms of τ.
    """

    mean: Mean
    parts: tuple[Draws, ...]
    amplitude: float
    noise: float
    scatter: float
    gaussian: Gaussian

    def __len__(self) -> int:
        return sum(len(part.eta) for part in self.parts)

    def one_run(self, losses: Floats) -> Floats:
        """The loss of one run where each draw's law has ``losses``, shape (draws, points)."""
        noise, points = self.run_noise(losses.shape), self.mean.points
        return np.asarray(losses * np.exp(noise) if points.log else losses + points.scale * noise)

    def run_noise(self, shape: tuple[int, ...]) -> Floats:
        """What one run adds to each draw, shape (draws, points), in the space of the fit."""
        return np.asarray(self.scatter * np.random.default_rng(1).normal(size=shape))

    def singles(self) -> Iterator[Posterior]:
        """Each of the draws as a posterior of one."""
        for part in self.parts:
            for i in range(len(part.eta)):
                one = slice(i, i + 1)
                yield replace(self, parts=(Draws(part.basis, part.eta[one], part.weights[one]),))

    @one_blas_thread
    def losses(self, N: Floats, D: Floats, misfit: bool = True) -> Floats:
        """L of every draw, (draws, points), at (points,) or (draws, points); or of its law alone."""
        points = self.mean.points
        x, y = np.log(N) - points.x_mean, np.log(D) - points.y_mean
        rows, first = [], 0
        for part in self.parts:
            own = slice(first, first + len(part.eta))
            first = own.stop
            px, py = (x, y) if x.ndim == 1 else (x[own], y[own])
            rows.append(self.mean.values(part.eta, px, py))
            if misfit and x.ndim == 1:
                rows[-1] = rows[-1] + part.weights @ part.basis(x, y).T
            elif misfit:
                phi = part.basis(px.ravel(), py.ravel()).reshape(*px.shape, -1)
                rows[-1] = rows[-1] + (phi @ part.weights[..., None])[..., 0]
        z = np.vstack(rows)
        with np.errstate(over="ignore"):  # of a law that the runs leave open, far from them
            return np.asarray((np.exp(z) if points.log else z) * points.scale - points.shift)


@one_blas_thread
def posterior(evidence: Evidence) -> Posterior:
    """Draws of the surface, given all runs.

    Around an additive law κ is free, unless it is held; what is known replaces the default prior of
    those constants. Runs in one group share half the variance of their noise.
    """
    solution, prior, tuned = evidence.solution, evidence.prior, evidence.tuned
    points = solution.points
    mean: Mean
    if type(solution.law) in (Hoffmann, Kappa):
        mean = KappaMean(solution, prior, evidence.hold_kappa, evidence.known)
    else:
        mean = LinearMean(solution, prior, evidence.known)
    scatter = _scatter(solution, tuned.constants if tuned else 0.0)
    N, C = evidence.runs.params, evidence.runs.flops
    precision = trust_weights(solution.law, N, C, float(np.max(C)), evidence.flops, prior)
    size = np.maximum(np.abs(solution.residuals), 1e-300)
    precision *= np.minimum(1.0, _FAR_RESIDUAL * scatter / size) ** 2
    base = evidence.base / np.max(evidence.base)
    seen = scatter**2 * precision * np.median(base)
    precision *= base
    within, pooled_away = 0.0, 0
    shifts = tuned.shifts if tuned else None
    if len(points.z) > MOST_POINTS:
        apart = [np.log(c) for c in evidence.runs.covariates(solution.law.covariates)]
        mean, points, precision, within, mean_of = pool(mean, precision, apart)
        seen, shifts = mean_of(seen), None if shifts is None else mean_of(shifts)
        pooled_away = len(solution.points.z) - len(points.z)
    whiten = _whitener(precision, points)
    least = min(max(0.1 * scatter, _SMALLEST_NOISE), _LARGEST_AMPLITUDE / 10)
    amplitudes = np.geomspace(least, _LARGEST_AMPLITUDE, _AMPLITUDES)
    noises = np.maximum(np.array(_NOISES) * scatter, _SMALLEST_NOISE)
    tau, sigma = (v.ravel() for v in np.meshgrid(amplitudes, noises))
    s, v = points.x + points.y, points.x - points.y
    s_range = float(np.min(s)) - _BELOW, float(np.max(s)) + _ABOVE
    v_range = float(np.min(v)) - _BESIDE, float(np.max(v)) + _BESIDE
    drift = (prior.drift, prior.drift_length)
    bases = [Basis(length, *drift, s_range, v_range) for length in prior.lengths]
    cases = [_Conditional(b, mean, whiten, points, scatter, seen, tau, sigma) for b in bases]
    scores = np.array([c.evidence - 0.5 * (tau / prior.amplitude) ** 2 for c in cases])
    scores -= pooled_away * np.log(sigma) + 0.5 * within / sigma**2
    share = np.exp(scores - np.max(scores))
    share[share < _WEIGHTLESS] = 0.0
    share /= np.sum(share)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(DRAWS, share.ravel()).reshape(share.shape)
    dof = max(len(solution.points.z) - len(mean.start), 4)
    if shifts is None:
        parts = [c.draw(n, dof, rng) for c, n in zip(cases, counts, strict=True) if np.any(n)]
    else:
        order = np.random.default_rng(3).permutation(np.resize(np.arange(len(shifts)), DRAWS))
        own = np.split(shifts[order], np.cumsum(counts.sum(axis=1))[:-1])
        own_parts = zip(cases, counts, own, strict=True)
        parts = [c.draw(n, dof, rng, rows) for c, n, rows in own_parts if np.any(n)]
    amplitude, noise = float(np.sum(share * tau)), float(np.sum(share * sigma))
    # τ may be anything over decades, so its mode says nothing; its mean square is g's mean variance.
    away = np.abs(np.log(tau**2 / np.sum(share * tau**2)))
    near = np.where(away < np.min(away) + 1e-9, share, -1.0)
    length, i = np.unravel_index(np.argmax(near), near.shape)
    joint = cases[length].gaussian(int(i))
    return Posterior(mean, tuple(parts), amplitude, noise, scatter, joint)


def _scatter(solution: Solution, constants: float) -> float:
    """Robust standard deviation of the residuals of the fitted runs, less other ``constants``.

    That of their median, and of few runs, fewer than four times the constants, more and more that of
    Huber's Proposal 2 (1964), whose squares are cut at ``_CUT`` standard deviations: a law may meet half of
    few runs, and their median then says nothing.
    """
    r, k = solution.residuals[solution.weights > 0], len(solution.theta) + constants
    spare = max(len(r) - k, 1.0)
    median = MAD_TO_SD * float(np.median(np.abs(r - np.median(r)))) * np.sqrt(len(r) / spare)
    sd = max(float(np.sqrt(np.sum(r**2) / spare)), _SMALLEST_NOISE)
    for _ in range(_STEPS):
        squares = float(np.sum(np.minimum((r / sd) ** 2, _CUT**2)))
        sd = max(sd * float(np.sqrt(squares / (_CUT_SHARE * spare))), _SMALLEST_NOISE)
    few = float(np.clip(1.5 * k / spare - 0.5, 0.0, 1.0))  # from four times as many runs on none
    return max(float(np.sqrt((1 - few) * median**2 + few * sd**2)), _SMALLEST_NOISE)


def _whitener(precision: Floats, points: Points) -> Callable[[Floats], Floats]:
    """Scales the last axis, over runs, so that the noise of all has variance 1 and no correlation."""
    root = np.sqrt(precision)
    if points.groups is None:
        return lambda rows: rows * root
    groups = points.groups
    size = np.bincount(groups)
    # ½(I + 11ᵀ) of a group of m: 1/√½ off the mean, 1/√(½(1+m)) along it.
    off, along = np.sqrt(2.0), np.sqrt(2.0 / (1.0 + size))
    alone = size == 1
    along[alone] = 1.0
    pick = np.equal.outer(np.arange(len(size)), groups) / size[:, None]

    def whiten(rows: Floats) -> Floats:
        scaled = rows * root
        centre = scaled @ pick.T
        spread = np.where(alone[groups], 0.0, off * (scaled - centre[..., groups]))
        return np.asarray(spread + (along * centre)[..., groups])

    return whiten


@dataclass(eq=False)
class _Conditional:
    """The posterior for one ℓ and a batch of (τ, σ): θ at its mode and g around it.

    ``scatter`` is how far a run is seen to lie from the law, ``seen`` its variance for each run,
    whitened: σ² where the model has as much.
    """

    basis: Basis
    mean: Mean
    whiten: Callable[[Floats], Floats]
    points: Points
    scatter: float
    seen: Floats
    tau: Floats
    sigma: Floats

    def __post_init__(self) -> None:
        points, tau, sigma = self.points, self.tau, self.sigma
        phi = self.whiten(self.basis(points.x, points.y).T)
        values, vectors = np.linalg.eigh(phi @ phi.T)
        values = np.maximum(values, 0.0)
        projector = phi.T @ vectors
        self.vectors, self.values, self.projector = vectors, values, projector
        start = np.repeat(self.mean.start[None], len(tau), axis=0)
        self.eta, value, H = self._mode(start, points.z, tau, sigma)
        spread = np.sum(np.log1p((tau / sigma)[:, None] ** 2 * values), axis=1)
        self.hessian = H
        self.evidence = -value - 0.5 * spread - len(points.z) * np.log(sigma)
        self.evidence -= 0.5 * np.linalg.slogdet(H)[1]

    def _mode(
        self, eta: Floats, z: Floats, tau: Floats, sigma: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Gauss–Newton steps for a whole batch at once: the modes of η, −ln density, Hessians."""
        mean, points, whiten, projector = self.mean, self.points, self.whiten, self.projector
        shrink = tau[:, None] ** 2 / (sigma[:, None] ** 2 + tau[:, None] ** 2 * self.values)

        def state(eta: Floats) -> tuple[Floats, Floats, Floats]:
            model, slopes = mean.local(eta, points)
            r, J = whiten(z - model), whiten(slopes)
            pr, pj = r @ projector, J @ projector
            prior = (eta - mean.centre) @ mean.precision
            scale = sigma[:, None] ** 2
            value = (np.sum(r**2, axis=1) - np.sum(shrink * pr**2, axis=1)) / scale[:, 0]
            value += np.sum(prior * (eta - mean.centre), axis=1)
            g = (J @ r[..., None] - pj @ (shrink * pr)[..., None])[..., 0] / scale
            H = J @ np.swapaxes(J, 1, 2) - (pj * shrink[:, None]) @ np.swapaxes(pj, 1, 2)
            return 0.5 * value, g - prior, H / scale[:, :, None] + mean.precision

        value, g, H = state(eta)
        damping = np.full(len(tau), 1e-3)
        index = np.arange(eta.shape[1])
        for _ in range(_STEPS):
            damped = H.copy()
            damped[:, index, index] *= 1 + damping[:, None]
            trial = eta + np.clip(np.linalg.solve(damped, g[..., None])[..., 0], -2.0, 2.0)
            new = state(trial)
            gain = value - new[0]
            better = gain > 0
            for old, now in zip((eta, value, g, H), (trial, *new), strict=True):
                old[better] = now[better]
            damping = np.clip(np.where(better, damping / 8, damping * 8), 1e-9, 1e9)
            if np.all((gain < 1e-4) & (better | (damping > 1e3) | (gain > -1e-9))):
                break
        return eta, value, H

    def _moved(self, i: np.int64, noise: Floats) -> Floats:
        """The gradient of η that whitened ``noise`` of the runs, (draws, runs), adds at a mode."""
        slopes = self.whiten(self.mean.local(self.eta[i : i + 1], self.points)[1][0])
        variance, tau2 = self.sigma[i] ** 2, self.tau[i] ** 2
        shrink = tau2 / (variance + tau2 * self.values)
        across = (noise @ self.projector * shrink) @ (slopes @ self.projector).T
        return np.asarray((noise @ slopes.T - across) / variance)

    def gaussian(self, i: int) -> Gaussian:
        """See :class:`Gaussian`, for one of the batch."""
        slopes = self.mean.local(self.eta[i : i + 1], self.points)[1][0]
        phi = self.basis(self.points.x, self.points.y).T
        noise, k = float(self.sigma[i]), len(slopes)
        rows = self.whiten(np.vstack([slopes, phi])) / np.sqrt(np.maximum(noise**2, self.seen))
        prior = np.eye(len(rows)) * self.tau[i] ** -2.0
        prior[:k, :k] = self.mean.precision
        told = rows @ rows.T + prior
        return Gaussian(self.mean, self.basis, self.eta[i], noise, self.scatter, told, prior)

    def draw(
        self,
        counts: NDArray[np.int64],
        dof: int,
        rng: np.random.Generator,
        shifts: Floats | None = None,
    ) -> Draws:
        """``counts`` draws for each of the batch; Student's t for what ``dof`` leaves open of σ.

        Each draw has losses of its own, z + ``shifts``, where these are given.
        """
        etas, weights, done = [], [], 0
        for i in np.flatnonzero(counts):
            n, tau, sigma = int(counts[i]), self.tau[i], self.sigma[i]
            wide = np.sqrt(dof / rng.chisquare(dof, size=(n, 1)))
            half = np.linalg.inv(np.linalg.cholesky(self.hessian[i]))
            z = self.points.z if shifts is None else self.points.z + shifts[done : done + n]
            done += n
            modes = self.eta[i : i + 1]
            if shifts is not None:  # each draw's own
                one = np.full(n, i)
                modes = self._mode(self.eta[one], z, self.tau[one], self.sigma[one])[0]
            lacking = np.sqrt(np.maximum(self.seen - sigma**2, 0.0))
            noise = wide * lacking * rng.normal(size=(n, len(lacking)))
            moved = self._moved(i, noise) @ half.T @ half
            eta = modes + moved + wide * (rng.normal(size=(n, len(half))) @ half)
            precision = self.values / sigma**2 + tau**-2.0
            model = self.mean.local(np.vstack([self.eta[i], eta]), self.points)[0]
            target = z if shifts is None else np.vstack([self.points.z, z])
            left = self.whiten(target - model)
            left[1:] += noise
            found = left @ self.projector / (sigma**2 * precision)
            # Drawn in the basis itself, so that no sign of an eigenvector decides a draw.
            loose = (
                wide * (rng.normal(size=(n, len(precision))) @ self.vectors) / np.sqrt(precision)
            )
            weights.append((found[1:] + loose) @ self.vectors.T)
            etas.append(eta)
        return Draws(self.basis, np.vstack(etas), np.vstack(weights))
