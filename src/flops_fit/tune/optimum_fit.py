"""Where a loss is lowest along ln x, from a few noisy runs in each of several cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = Sequence[tuple[float, float]]

_STEEP = 2.0  # standard errors by which a curvature has to exceed zero
_LEVEL = 0.9
_DOUBTFUL = 0.05


@dataclass(frozen=True)
class OptimumFit:
    """The lowest point of one cell, x as a factor on what the recipe says.

    Attributes
    ----------
    factor, interval
        Where the parabola is lowest, and its 90 % interval; ``None`` where there is none.
    regret
        How much higher the loss is at factor 1, as a share of it.
    """

    factor: float | None
    interval: tuple[float, float] | None
    regret: float | None


@dataclass(frozen=True)
class OptimumFits:
    """Parabolas in ln x through the losses of several cells, which share their curvature.

    ln L = a_c − k·μ·ln x + ½·k·(ln x)², with an offset a_c for each cell c, one curvature k, and
    either one optimum e^μ for all cells or one for each. A relative curvature is a property of
    the kind of model far more than of its size, and three runs a cell cannot tell it.

    Attributes
    ----------
    factor, interval
        Where the loss is lowest if all cells agree, and its 90 % interval; ``None`` where the
        losses do not bend.
    curvature
        k: at a factor e^t off, the loss is k·t²/2 higher, as a share of it.
    cells
        Each cell's own.
    sd
        Standard deviation of a relative loss around the parabolas.
    agree
        p-value of the hypothesis that one optimum serves all cells; ``None`` where there are no
        degrees of freedom to test it.
    """

    factor: float | None
    interval: tuple[float, float] | None
    curvature: float
    cells: tuple[OptimumFit, ...]
    sd: float
    agree: float | None

    @property
    def disagree(self) -> bool:
        """Whether the cells' optima differ by more than noise."""
        return self.agree is not None and self.agree < _DOUBTFUL

    def regret(self, off: float) -> float:
        """The relative loss that a factor ``off`` from the optimum costs."""
        return math.expm1(0.5 * max(self.curvature, 0.0) * math.log(off) ** 2)


@dataclass(frozen=True)
class _Parabolas:
    """Least squares of y on an offset a cell, slopes, and one curvature."""

    beta: NDArray[Any]
    cov: NDArray[Any]  # times σ²
    rss: float
    dof: int

    @property
    def variance(self) -> float:
        return self.rss / self.dof if self.dof > 0 else math.nan


def fit_optima(cells: Sequence[Points], reach: float) -> OptimumFits:
    """The valleys of cells of (x, loss), from the points within ``reach`` of each cell's lowest.

    Parameters
    ----------
    cells
        For each cell its factors x > 0 and losses > 0. What has no loss is left out by the caller.
    reach
        As a factor. A loss climbs faster on one side than on the other, so a parabola is local.

    Examples
    --------
    >>> found = fit_valleys([[(x, 2 + 0.1 * math.log(x / 2) ** 2) for x in (1, 2, 4)]] * 2, reach=4)
    >>> round(found.factor, 3), found.disagree
    (2.0, False)
    """
    near = [_near(points, reach) for points in cells]
    used = [i for i, points in enumerate(near) if len(points) >= 2]
    x = [np.array([math.log(p[0]) for p in near[i]]) for i in used]
    y = [np.array([math.log(p[1]) for p in near[i]]) for i in used]
    shared, apart = _fitted(x, y, common=True), _fitted(x, y, common=False)
    none = OptimumFit(None, None, None)
    if shared is None:
        return OptimumFits(None, None, 0.0, (none,) * len(cells), math.nan, None)
    best = apart if apart is not None and apart.dof > 0 else shared
    k, sd = float(best.beta[-1]), math.sqrt(best.variance)
    valleys = [none] * len(cells)
    if apart is not None and _bends(apart, best.variance):
        for column, i in enumerate(used):
            valleys[i] = _valley(apart, len(used) + column, best)
    agree = None if apart is None else _agree(shared, apart)
    pooled = _valley(shared, len(used), best) if _bends(shared, best.variance) else none
    return OptimumFits(pooled.factor, pooled.interval, k, tuple(valleys), sd, agree)


def _near(points: Points, reach: float) -> list[tuple[float, float]]:
    if not points:
        return []
    lowest = min(points, key=lambda p: p[1])[0]
    limit = math.log(reach) * (1 + 1e-9)
    return [p for p in points if abs(math.log(p[0] / lowest)) <= limit]


def _fitted(x: Sequence[Floats], y: Sequence[Floats], *, common: bool) -> _Parabolas | None:
    """One slope for all cells or one for each; ``None`` where the points do not determine them."""
    cells, n = len(x), sum(map(len, x))
    slopes = 1 if common else cells
    X = np.zeros((n, cells + slopes + 1))
    at = 0
    for c, values in enumerate(x):
        rows = slice(at, at := at + len(values))
        X[rows, c] = 1.0
        X[rows, cells + (0 if common else c)] = values
        X[rows, -1] = 0.5 * values**2
    if cells == 0 or n < X.shape[1] or np.linalg.matrix_rank(X) < X.shape[1]:
        return None
    z = np.concatenate(y)
    beta, *_ = np.linalg.lstsq(X, z, rcond=None)
    rss = float(np.sum((z - X @ beta) ** 2))
    return _Parabolas(np.asarray(beta), np.asarray(np.linalg.inv(X.T @ X)), rss, n - X.shape[1])


def _bends(fit: _Parabolas, variance: float) -> bool:
    """Whether the curvature is above zero by more than its error, where that is known."""
    k = float(fit.beta[-1])
    error = 0.0 if math.isnan(variance) else math.sqrt(variance * fit.cov[-1, -1])
    return k > _STEEP * error and k > 0


def _valley(fit: _Parabolas, column: int, noise: _Parabolas) -> OptimumFit:
    """μ = −b/k by its slope's column, with the delta method."""
    from scipy.stats import t

    b, k = float(fit.beta[column]), float(fit.beta[-1])
    centre = -b / k
    gradient = np.array([-1 / k, b / k**2])
    cov = fit.cov[np.ix_([column, -1], [column, -1])]
    interval = None
    if noise.dof > 0:
        error = math.sqrt(max(noise.variance * float(gradient @ cov @ gradient), 0.0))
        half = float(t.ppf(0.5 + _LEVEL / 2, noise.dof)) * error
        interval = (_exp(centre - half), _exp(centre + half))
    return OptimumFit(_exp(centre), interval, math.expm1(0.5 * k * centre**2))


def _agree(shared: _Parabolas, apart: _Parabolas) -> float | None:
    """P of the F-test that the cells' slopes are one."""
    from scipy.stats import f

    more = shared.dof - apart.dof
    if apart.dof <= 0 or more <= 0:
        return None
    if apart.rss <= 1e-24:
        return 1.0 if shared.rss <= 1e-20 else 0.0
    return float(f.sf((shared.rss - apart.rss) / more / apart.variance, more, apart.dof))


def _exp(value: float) -> float:
    return math.exp(min(max(value, -50.0), 50.0))
