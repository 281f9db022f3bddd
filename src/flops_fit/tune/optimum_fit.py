"""Where a loss is lowest along ln x, from a few noisy runs in each of several cells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.flops.functions import Floats

Points = Sequence[tuple[float, float]]

_CURVATURE_ERRORS = 2.0  # standard errors by which a curvature has to exceed zero
_LEVEL = 0.9
_DISAGREE_P = 0.05
_FAR_EDGE = 3.0  # factor from which what was tried is believed before a parabola


@dataclass(frozen=True)
class OptimumFit:
    """The factor where one cell's parabola is lowest, and its 90 % interval; ``None`` if there is none."""

    factor: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class OptimumFits:
    """Parabolas in ln x through the losses of several cells, which share their curvature.

    ln L = a_c − k·μ·ln x + ½·k·(ln x)², with an offset a_c for each cell c, one curvature k, which
    depends little on size, and either one optimum e^μ for all cells or one for each.

    ``factor`` is where the loss is lowest if all ``cells`` agree, and ``interval`` its 90 % interval; they
    are ``None`` if the losses do not bend. ``curvature`` is k: at a factor e^t off, the loss is k·t²/2
    higher, as a share of it. ``agree`` is the p-value of one optimum for all cells, ``None`` without
    degrees of freedom.
    """

    factor: float | None
    interval: tuple[float, float] | None
    curvature: float
    cells: tuple[OptimumFit, ...]
    agree: float | None

    @property
    def disagree(self) -> bool:
        """Whether the cells' optima differ by more than noise."""
        return self.agree is not None and self.agree < _DISAGREE_P

    def regret(self, ratio: float) -> float:
        """The relative loss that a factor ``ratio`` from the optimum costs."""
        return math.expm1(0.5 * max(self.curvature, 0.0) * math.log(ratio) ** 2)

    def sure_factor(self, edge: float) -> float:
        """The factor that serves all cells, 1 if its 90 % interval holds 1.

        It is ``edge``, the best that was tried, if no parabola bends, or if its interval holds 1 while what
        was tried says more than a parabola: valleys far from 1 are none.
        """
        if self.factor is None:
            return rounded(edge)
        if self.interval is not None and self.interval[0] <= 1 <= self.interval[1]:
            return rounded(edge) if abs(math.log(edge)) > math.log(_FAR_EDGE) else 1.0
        return rounded(self.factor)


@dataclass(frozen=True)
class _Parabolas:
    """Least squares of y on an offset a cell, slopes, and one curvature."""

    beta: Floats
    cov: Floats  # times σ²
    rss: float
    dof: int
    variance: float  # NaN without degrees of freedom


def fit_optima(cells: Sequence[Points], reach: float) -> OptimumFits:
    """The optima of cells of (x, loss), from the points within a factor ``reach`` of each lowest."""
    limit = math.log(reach) * (1 + 1e-9)
    near: list[Points] = []
    for points in cells:
        lowest = min(points, key=lambda p: p[1])[0] if points else 1.0
        near.append([p for p in points if abs(math.log(p[0] / lowest)) <= limit])
    used = [i for i, points in enumerate(near) if len(points) >= 2]
    x, y = np.log([p for i in used for p in near[i]]).reshape(-1, 2).T
    offsets = np.eye(len(used))[[c for c, i in enumerate(used) for _ in near[i]]]
    slopes = x[:, None], x[:, None] * offsets  # one for all cells, or one for each
    shared, apart = (_fitted(np.column_stack([offsets, s, 0.5 * x**2]), y) for s in slopes)
    optima = [OptimumFit()] * len(cells)
    if shared is None:
        return OptimumFits(None, None, 0.0, tuple(optima), None)
    best = apart if apart is not None and apart.dof > 0 else shared
    if apart is not None and _bends(apart, best.variance):
        for column, i in enumerate(used):
            optima[i] = _optimum(apart, len(used) + column, best)
    bends = _bends(shared, best.variance)
    pooled = _optimum(shared, len(used), best) if bends else OptimumFit()
    agree = None if apart is None else _p_one_slope(shared, apart)
    return OptimumFits(pooled.factor, pooled.interval, float(best.beta[-1]), tuple(optima), agree)


def _fitted(X: Floats, y: Floats) -> _Parabolas | None:
    """The least squares of y on the columns of X; ``None`` if the points do not determine them."""
    dof = X.shape[0] - X.shape[1]
    if dof < 0 or np.linalg.matrix_rank(X) < X.shape[1]:
        return None
    beta, *_ = np.linalg.lstsq(X, y, rcond=None)
    rss = float(np.sum((y - X @ beta) ** 2))
    variance = rss / dof if dof > 0 else math.nan
    return _Parabolas(np.asarray(beta), np.asarray(np.linalg.inv(X.T @ X)), rss, dof, variance)


def _bends(fit: _Parabolas, variance: float) -> bool:
    """Whether the curvature is above zero by more than its error, if that is known."""
    k = float(fit.beta[-1])
    error = 0.0 if math.isnan(variance) else math.sqrt(variance * fit.cov[-1, -1])
    return k > _CURVATURE_ERRORS * error and k > 0


def _optimum(fit: _Parabolas, column: int, noise: _Parabolas) -> OptimumFit:
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
        interval = (_bounded_exp(centre - half), _bounded_exp(centre + half))
    return OptimumFit(_bounded_exp(centre), interval)


def _p_one_slope(shared: _Parabolas, apart: _Parabolas) -> float | None:
    """P of the F-test that the cells' slopes are one."""
    from scipy.stats import f

    more = shared.dof - apart.dof
    if apart.dof <= 0 or more <= 0:
        return None
    if apart.rss <= 1e-24:
        return 1.0 if shared.rss <= 1e-20 else 0.0
    return float(f.sf((shared.rss - apart.rss) / more / apart.variance, more, apart.dof))


def best_offset(losses: Mapping[int, Mapping[int, float]]) -> int:
    """Of the offsets with a loss in every cell the lowest on average, 0 if that may be chance.

    By a one-sided t-test of the relative differences from offset 0, at 5 %, unless runs there diverged.

    >>> best_offset({0: {-1: 2.0, 0: 2.1}, 1: {-1: 3.0, 0: 3.15}, 2: {-1: 2.5, 0: 2.63}})
    -1
    """
    from scipy.stats import t

    cells = losses.values()
    common = set.intersection(*map(set, cells)) if cells else set()
    diverged = common and 0 not in common and all(0 in c or len(c) > 1 for c in cells)
    if diverged:
        return min(common, key=lambda offset: sum(math.log(cell[offset]) for cell in cells))
    if 0 not in common or len(cells) < 2:
        return 0
    best, lowest = 0, 0.0
    for offset in sorted(common - {0}):
        gains = np.log([cell[offset] / cell[0] for cell in cells])
        mean, error = float(np.mean(gains)), float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
        if mean < min(lowest, -float(t.ppf(0.95, len(gains) - 1)) * error):
            best, lowest = offset, mean
    return best


def seed_noise(groups: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Pooled relative standard deviation between seeds, and its degrees of freedom."""
    logs = [np.log(group) for group in groups if len(group) > 1]
    dof = sum(len(group) - 1 for group in logs)
    if dof == 0:
        return None, 0
    squares = sum(float(np.sum((group - np.mean(group)) ** 2)) for group in logs)
    return math.sqrt(squares / dof), dof


def rounded(factor: float) -> float:
    """To three digits: what a plan shows is then what was used."""
    return float(f"{factor:.3g}")


def _bounded_exp(value: float) -> float:
    return math.exp(min(max(value, -50.0), 50.0))
