"""Starts for the additive law by variable projection: a grid in (α, β), the rest is linear.

For fixed exponents L ≈ E + A·e^{−αx} + B·e^{−βy} is linear in (E, A, B) ≥ 0, so the search is
two-dimensional (Golub & Pereyra 1973). Relative residuals, (L − model)/L, stand in for log ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._surface import Points

__all__ = ["grid_starts"]

Floats = NDArray[np.float64]

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
