"""The power law with an offset: a search in one variable, as the others are linear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["log_values", "slopes_of", "solve_with_offset"]

Floats = NDArray[np.float64]

_STEEPEST = 30.0  # the largest |a|·(spread of ln x) searched: a factor e^30 from end to end


def solve_with_offset(t: Floats, z: Floats, w: Floats) -> Floats:
    """(ln k, a, offset ≥ 0) of least Σ w·(1 − ŷ/y)²; ``t`` is ln x, ``z`` ln y, both centred.

    For given a the model is linear in k and offset (variable projection, Golub & Pereyra 1973):
    a grid over a, refined around its lowest points, then Gauss–Newton on all three.
    """
    steepest = _STEEPEST / float(np.ptp(t))
    falling = -np.geomspace(steepest, 1e-3 / float(np.ptp(t)), 60)
    grid = np.concatenate([falling, -falling[::-1]])
    misfits = _projected(grid, t, z, w)[1]
    around = np.concatenate([[np.inf], misfits, [np.inf]])
    valleys = np.flatnonzero((misfits <= around[:-2]) & (misfits <= around[2:]))
    ends = []
    for i in valleys[np.argsort(misfits[valleys], kind="stable")[:3]]:
        near = np.linspace(grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)], 17)
        for _ in range(15):
            best = int(np.argmin(_projected(near, t, z, w)[1]))
            near = np.linspace(near[max(best - 1, 0)], near[min(best + 1, 16)], 17)
        thetas, found = _projected(near, t, z, w)
        ends.append(_polished(thetas[np.argmin(found)], t, z, w))
    return min(ends, key=lambda theta: _misfit(theta, t, z, w))


def _projected(a: Floats, t: Floats, z: Floats, w: Floats) -> tuple[Floats, Floats]:
    """The best (ln k, a, offset) for each a, shape (many, 3), and Σ w·(1 − ŷ/y)² of each."""
    root = np.sqrt(w)
    power = a[:, None] * t
    shift = np.max(power, axis=1)
    term, one = root * np.exp(power - shift[:, None] - z), root * np.exp(-z)
    # Least squares on the two columns ``term`` and ``one`` by Gram and Schmidt.
    rest = term - np.outer(term @ one / (one @ one), one)
    k = rest @ root / np.maximum(np.sum(rest**2, axis=1), 1e-300)
    offset = (root - k[:, None] * term) @ one / (one @ one)
    alone = term @ root / np.sum(term**2, axis=1)
    both = (k > 0) & (offset >= 0)
    k, offset = np.where(both, k, alone), np.where(both, offset, 0.0)
    misfit = np.sum((root - k[:, None] * term - offset[:, None] * one) ** 2, axis=1)
    return np.column_stack([np.log(k) - shift, a, offset]), misfit


def slopes_of(theta: Floats, t: Floats) -> Floats:
    """Derivatives of ln ŷ in (ln k, a, offset), shape (..., 3)."""
    term = np.exp(theta[0] + theta[1] * t)
    value = term + theta[2]
    return np.stack([term / value, t * term / value, 1.0 / value], axis=-1)


def _polished(theta: Floats, t: Floats, z: Floats, w: Floats) -> Floats:
    """Gauss–Newton on all free parameters, halving steps that do not improve."""
    free = 3 if theta[2] > 0 else 2
    root, misfit = np.sqrt(w), _misfit(theta, t, z, w)
    for _ in range(50):
        ratio = np.exp(log_values(theta, t) - z)
        J = (root * ratio)[:, None] * slopes_of(theta, t)[:, :free]
        unit = np.maximum(np.sqrt(np.sum(J**2, axis=0)), 1e-300)
        step = np.linalg.lstsq(J / unit, root * (1 - ratio), rcond=None)[0] / unit
        for halved in 0.5 ** np.arange(30):
            trial = theta.copy()
            trial[:free] += halved * step
            if trial[2] >= 0 and _misfit(trial, t, z, w) < misfit:
                break
        else:
            return theta
        theta, misfit = trial, _misfit(trial, t, z, w)
    return theta


def log_values(theta: Floats, t: Floats) -> Floats:
    return np.asarray(np.log(np.exp(theta[0] + theta[1] * t) + theta[2]))


def _misfit(theta: Floats, t: Floats, z: Floats, w: Floats) -> float:
    with np.errstate(over="ignore"):
        return float(np.sum(w * (1 - np.exp(log_values(theta, t) - z)) ** 2))
