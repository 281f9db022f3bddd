"""Do the residuals look like noise? A map of them, a test for a pattern, and what repeats say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._solve import Solution
from flops_fit.flops import FlopsFunction
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable

__all__ = ["ResidualMap", "residual_diagnostics", "residual_map"]

Floats = NDArray[np.float64]

_EDGES = (0.5, 2.0)
_LEVEL = 0.01
_SPARE = 5
_REPEATS = 4
_CELL = 3
_VISIBLE = 0.01


@dataclass(frozen=True)
class ResidualMap:
    """Mean residual by compute and by distance from the optimum, in the loss space of the fit.

    Attributes
    ----------
    compute_edges
        C that separate the lower, middle and upper third of the fitted runs.
    size_edges
        N/N* that separate runs below, near and above the optimum of their own compute.
    mean, count
        Weighted mean residual and number of runs, shape (3, 3): thirds of compute × distance.
        A mean over no run is NaN.
    p_value
        Of no pattern: an F-test of three terms beside the law, (ln N/N*)², (ln C)² and their
        product of firsts, with HC3 errors; ``None`` with too few runs.
    """

    compute_edges: tuple[float, float]
    size_edges: tuple[float, float]
    mean: Floats
    count: NDArray[np.intp]
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "compute_edges": list(self.compute_edges),
            "size_edges": list(self.size_edges),
            "mean": [[None if np.isnan(v) else float(v) for v in row] for row in self.mean],
            "count": self.count.tolist(),
            "p_value": self.p_value,
        }


def residual_map(solution: Solution, runs: RunTable, flops: FlopsFunction) -> ResidualMap:
    """Where the law lies above and below its runs."""
    kept = np.flatnonzero(solution.weights)
    C, w = runs.flops[kept], solution.weights[kept]
    r = solution.residuals[kept] * solution.points.unit
    best = np.asarray(solution.law.optimal(C, flops).params)
    ratio = runs.params[kept] / best
    low, high = (float(v) for v in np.quantile(C, [1 / 3, 2 / 3]))
    row = np.searchsorted([low, high], C)
    column = np.searchsorted(_EDGES, ratio)
    total, weight = np.zeros((3, 3)), np.zeros((3, 3))
    count = np.zeros((3, 3), dtype=np.intp)
    np.add.at(total, (row, column), w * r)
    np.add.at(weight, (row, column), w)
    np.add.at(count, (row, column), 1)
    mean = np.divide(total, weight, out=np.full((3, 3), np.nan), where=weight > 0)
    extra = _extra_terms(np.log(ratio), np.log(C))
    return ResidualMap((low, high), _EDGES, mean, count, _pattern(solution, kept, extra))


def _extra_terms(distance: Floats, log_c: Floats) -> Floats:
    t = log_c - log_c.mean()
    return np.column_stack([distance**2, t**2, distance * t])


def _pattern(solution: Solution, kept: NDArray[np.intp], extra: Floats) -> float | None:
    """P value of the extra terms' coefficients all being zero, by HC3 and F."""
    from scipy.special import fdtrc

    if solution.residual_sd < 1e-9 or solution.points.groups is not None:
        return None
    J = solution.jacobian[kept]
    extra = extra[:, np.ptp(extra, axis=0) > 0]
    size = np.abs(solution.residuals[kept])
    omega = solution.weights[kept] * np.minimum(1.0, solution.delta / np.maximum(size, 1e-300))
    spare = len(kept) - J.shape[1] - extra.shape[1]
    if extra.shape[1] == 0 or spare < _SPARE:
        return None
    root = np.sqrt(omega)[:, None]
    design = root * np.column_stack([J, extra])
    length = np.linalg.norm(design, axis=0)
    if not np.all((length > 0) & np.isfinite(length)):
        return None
    design /= length
    q, upper = np.linalg.qr(design)
    diagonal = np.abs(np.diag(upper))
    leverage = np.sum(q**2, axis=1)
    if np.min(diagonal) < 1e-8 or np.max(leverage) > 0.999:
        return None
    score = root[:, 0] * solution.residuals[kept]
    left = score - q @ (q.T @ score)
    inverse = np.linalg.inv(upper)
    coefficients = (inverse @ (q.T @ score))[J.shape[1] :]
    half = inverse @ (q * (left / (1 - leverage))[:, None]).T
    variance = (half @ half.T)[J.shape[1] :, J.shape[1] :]
    wald = float(coefficients @ np.linalg.solve(variance, coefficients)) / len(coefficients)
    return float(fdtrc(len(coefficients), spare, wald))


def residual_diagnostics(
    found: ResidualMap, solution: Solution, runs: RunTable
) -> list[Diagnostic]:
    """Whether a pattern is left, and how the law's misses compare with repeated runs."""
    out = []
    if found.p_value is not None and np.any(found.count >= _CELL):
        cells = np.where(found.count >= _CELL, np.abs(found.mean), -1.0)
        worst = np.unravel_index(int(np.argmax(cells)), cells.shape)
        off = float(found.mean[worst]) / solution.points.unit
        place = ("below half the optimal size", "near the optimum", "above twice the optimal size")
        third = ("lower", "middle", "upper")[worst[0]]
        where = f"{place[worst[1]]} in the {third} third of compute: {100 * off:+.2g} % on average"
        if found.p_value < _LEVEL:
            text = f"the residuals follow a pattern (p = {found.p_value:.1g}), most {where}"
            action = "the law's form misses something: trust it near the runs, not far from them"
            bad = abs(off) > _VISIBLE
            out.append(Diagnostic("residual_pattern", "warning" if bad else "note", text, action))
        else:
            text = f"the residuals show no pattern (p = {found.p_value:.2g})"
            out.append(Diagnostic("residual_pattern", "ok", text))
    repeats = _seed_noise(runs)
    if repeats is not None:
        seeds, spare = repeats
        law = solution.residual_sd
        text = (
            f"repeated runs scatter by {100 * seeds:.2g} % ({spare} repeats), runs around the law by "
            f"{100 * law:.2g} %"
        )
        far = spare >= _REPEATS and law > 3 * seeds
        action = (
            "more is missing than seeds explain: hyper-parameters, data order or the law's form"
        )
        out.append(
            Diagnostic("seed_noise", "warning" if far else "ok", text, action if far else "")
        )
    return out


def _seed_noise(runs: RunTable) -> tuple[float, int] | None:
    """Pooled sd of ln L over runs of equal N and D, and its degrees of freedom."""
    _, group = np.unique(np.column_stack([runs.params, runs.tokens]), axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    spare = int(np.sum(count - 1))
    if spare < 1:
        return None
    z = np.log(runs.loss)
    mean = np.bincount(group, z) / count
    return float(np.sqrt(np.sum((z - mean[group]) ** 2) / spare)), spare
