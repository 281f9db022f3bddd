"""Draws from a curved posterior of some twenty constants, in a second and without a dependency.

Importance sampling with Student's t around the mode is tried first: it is exact where its weights are
even. Otherwise many chains of Hamiltonian Monte Carlo (Neal 2011) run at once as rows of one array, in
coordinates whose covariance is learnt from the chains. An affine-invariant ensemble (Goodman & Weare
2010, emcee) needs no gradient, and some ten times as many evaluations in so many dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flops_fit.flops.functions import Floats

Potential = Callable[[Floats], tuple[Floats, Floats]]

_DOF = 5.0  # of the proposals
_PROPOSED, _FEWEST_EFFECTIVE = 4000, 400.0
_AT_ONCE = 2e5  # values of runs that are evaluated together
_CHAINS, _PHASES, _WARMUP, _KEPT, _LEAPS = 40, 2, 30, 120, 8
_ACCEPTED = 0.75  # share of steps that the step length aims at
_MOST_RUNS = 500  # that chains are run for: beyond, the mode's curvature says enough


@dataclass(frozen=True, eq=False)
class Drawn:
    """Draws of shape (draws, k), how they were made, and R̂ of the chains (1: they agree)."""

    values: Floats
    method: str
    mixing: float = 1.0


@np.errstate(all="ignore")  # far off, where no draw ends
def sample(potential: Potential, mode: Floats, hessian: Floats, draws: int, runs: int) -> Drawn:
    """Draws from exp(−potential); ``potential`` takes a batch and gives its gradients too."""
    rng, k = np.random.default_rng(0), len(mode)
    half = np.linalg.inv(np.linalg.cholesky(hessian)).T  # half @ halfᵀ is the inverse of H
    proposed = int(np.clip(1e7 / runs, draws, _PROPOSED))
    normal = rng.normal(size=(proposed, k))
    steps = normal / np.sqrt(rng.chisquare(_DOF, size=(proposed, 1)) / _DOF)
    q = mode + steps @ half.T
    parts = np.array_split(q, max(int(proposed * runs / _AT_ONCE), 1))
    value = np.concatenate([potential(part)[0] for part in parts])
    log_weight = -value + 0.5 * (_DOF + k) * np.log1p(np.sum(steps**2, axis=1) / _DOF)
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    weight = np.exp(log_weight - np.max(log_weight))
    weight /= np.sum(weight)
    effective = 1 / float(np.sum(weight**2))
    if effective >= min(_FEWEST_EFFECTIVE, 0.25 * proposed):
        points = (np.arange(draws) + rng.random()) / draws
        picked = np.minimum(np.searchsorted(np.cumsum(weight), points), proposed - 1)
        return Drawn(q[picked], f"importance sampling ({effective:.0f} of {proposed} effective)")
    if runs > _MOST_RUNS:
        return Drawn(mode + normal[:draws] @ half.T, "normal around the mode")
    flat = weight**0.25
    start = rng.choice(proposed, size=_CHAINS, p=flat / np.sum(flat))
    return _hamiltonian(potential, mode, half, q[start], draws, rng)


def _hamiltonian(
    potential: Potential,
    mode: Floats,
    half: Floats,
    q: Floats,
    draws: int,
    rng: np.random.Generator,
) -> Drawn:
    step, kept = 0.15, [q]
    for phase in range(_PHASES + 1):
        last = phase == _PHASES
        kept, step = _chains(potential, mode, half, kept[-1], step, _KEPT if last else 0, rng)
        if not last:
            seen = np.concatenate(kept[len(kept) // 2 :])
            spread = np.cov(seen.T)
            spread = 0.95 * spread + 0.05 * np.diag(np.diag(spread))
            half = np.asarray(np.linalg.cholesky(spread), dtype=np.float64)
            mode, step = np.median(seen, axis=0), 0.2
    chains = np.array(kept[-_KEPT:])  # (iterations, chains, k)
    within = np.mean(np.var(chains, axis=0, ddof=1), axis=0)
    between = np.var(np.mean(chains, axis=0), axis=0, ddof=1)
    flat = chains.reshape(-1, len(mode))
    every = flat[np.linspace(0, len(flat) - 1, draws).astype(int)]
    mixing = float(np.sqrt(np.max(1 + between / within)))
    return Drawn(every, f"Hamiltonian Monte Carlo ({len(q)} chains)", mixing)


def _chains(
    potential: Potential,
    mode: Floats,
    half: Floats,
    q: Floats,
    step: float,
    kept: int,
    rng: np.random.Generator,
) -> tuple[list[Floats], float]:
    """All chains after each step, and the step length, which is no longer adapted over the ``kept``."""

    def state(xi: Floats) -> tuple[Floats, Floats]:
        value, gradient = potential(mode + xi @ half.T)
        return value, gradient @ half

    xi: Floats = np.asarray(np.linalg.solve(half, (q - mode).T).T, dtype=np.float64)
    (value, gradient), out = state(xi), []
    for i in range(_WARMUP + kept):
        p = rng.normal(size=xi.shape)
        energy = value + 0.5 * np.sum(p**2, axis=1)
        at, g, new = xi, gradient, value
        h = step * rng.uniform(0.6, 1.2)
        for _ in range(_LEAPS):
            p = p - 0.5 * h * g
            at = at + h * p
            new, g = state(at)
            p = p - 0.5 * h * g
        gain = energy - new - 0.5 * np.sum(p**2, axis=1)
        chance = np.exp(np.clip(np.where(np.isfinite(gain), gain, -99.0), -99.0, 0.0))
        move = rng.random(len(xi)) < chance
        xi, gradient = np.where(move[:, None], at, xi), np.where(move[:, None], g, gradient)
        value = np.where(move, new, value)
        if i < _WARMUP:
            step = float(np.clip(step * np.exp(0.5 * (np.mean(chance) - _ACCEPTED)), 0.01, 0.5))
        out.append(mode + xi @ half.T)
    return out, step
