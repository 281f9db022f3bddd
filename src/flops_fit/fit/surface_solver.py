"""Fit the additive law and the κ-law, and choose between them.

Starts for the additive law come from variable projection: for fixed exponents
L ≈ E + A·e^{−αx} + B·e^{−βy} is linear in (E, A, B) ≥ 0, so the search is two-dimensional (Golub &
Pereyra 1973). Relative residuals, (L − model)/L, stand in for log ones. The κ-law continues the
additive solution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.intervals import covariance
from flops_fit.fit.solver import (
    AGREE_WITHIN,
    Bound,
    BoundKind,
    DeltaRule,
    Solution,
    mad_delta,
)
from flops_fit.fit.surface import LOWER, UPPER, Points, derivatives, model_values, polish
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ADDITIVE = np.array([True, True, True, True, True, False])
_KAPPAS = np.log([0.25, 0.4, 0.6, 0.8, 1.0, 1.5])
_DELTA_ROUNDS = 12
_ROUGH, _ROUND = 12, 2  # iterations before the polish that counts
_ROUNDING = 1e-18  # objectives below this a run are those of noiseless losses
_SEARCH_RUNS = 4000  # enough to find every basin; the polish then takes all runs
_VANISHING = 1e-5  # largest share of a loss that a term without effect has
_EXPONENTS = np.geomspace(0.04, 1.6, 14)
_SUBSETS = ((0, 1, 2), (1, 2), (0, 1), (0, 2), (1,), (2,), (0,))
_LEVEL = 0.05
_SPARE_RUNS = 3
_NAMES = ("E", "A", "B", "alpha", "beta", "kappa")


@dataclass(frozen=True, eq=False)
class SurfaceSolver:
    """The solver of :class:`~flops_fit.laws.Hoffmann` and :class:`~flops_fit.laws.Kappa`."""

    law: type[Law]
    points: Points

    @property
    def free(self) -> Bools:
        """Which of the six coordinates are fitted."""
        return _ADDITIVE if self.law is Hoffmann else np.ones(6, dtype=bool)

    def fit(self, weights: Floats, delta: DeltaRule, near: Solution | None = None) -> Solution:
        """See :class:`flops_fit.fit.solver.Solver`; the κ-law continues an additive ``near``."""
        points, free = self.points, self.free
        if near is not None and type(near.law) is self.law:
            starts = np.where(free, near.coordinates, 0.0)[None]
            count = np.ones(1, dtype=np.intp)
        else:
            few, light = _sample(points, weights)
            starts = _additive_starts(few, light, delta) if near is None else near.coordinates[None]
            if self.law is Kappa:
                starts = _kappa_starts(starts, few, light, delta)
            count = np.ones(len(starts), dtype=np.intp)
            if few is not points:
                starts, count = _basins(starts, few, light, delta, free)
        theta, used = _settle(starts, points, weights, delta, free)
        final = polish(theta, points, weights, used, free)
        best = int(np.argmin(final.objective))
        within = final.objective[best] * (1 + AGREE_WITHIN) + _ROUNDING * len(points.z)
        agree = int(np.sum(count[final.objective <= within]))
        solution = self._solution(final.theta[best], weights, used)
        converged = bool(final.converged[best])
        return replace(solution, starts=int(np.sum(count)), agree=agree, converged=converged)

    def refit(
        self, solution: Solution, weights: Floats, targets: Floats, delta: float
    ) -> list[Law]:
        """See :class:`flops_fit.fit.solver.Solver`."""
        start = np.repeat(solution.coordinates[None], len(weights), axis=0)
        ends = polish(start, self.points, weights, delta, self.free, targets=targets)
        return [self.points.law_at(theta, self.law) for theta in ends.theta]

    def _solution(self, theta: Floats, weights: Floats, delta: float) -> Solution:
        d = derivatives(theta[None], self.points)
        bounds, fixed = _bounds(theta, self.points, self.law)
        index = np.flatnonzero(self.free & ~fixed)
        return Solution(
            law=self.points.law_at(theta, self.law),
            theta=theta[index],
            names=tuple(_NAMES[i] for i in index),
            coordinates=theta,
            law_at=_SurfaceAt(self.points, theta, index, self.law),
            log_names=("kappa",),
            residuals=self.points.z - d.model[0],
            jacobian=d.gradient[0, index].T,
            weights=weights,
            delta=delta,
            bounds=bounds,
            points=self.points,
            solver=self,
        )


@dataclass(frozen=True, eq=False)
class _SurfaceAt:
    """The law for values of the free coordinates; the others stay where the fit left them."""

    points: Points
    theta: Floats
    index: NDArray[np.intp]
    law: type[Law]

    def __call__(self, values: Floats) -> Law:
        full = self.theta.copy()
        full[self.index] = values
        return self.points.law_at(full, self.law)


def _sample(points: Points, weights: Floats) -> tuple[Points, Floats]:
    """The runs to look for starts in: all, or a random pick of those that weigh anything."""
    if len(points.z) <= _SEARCH_RUNS:
        return points, weights
    kept = np.flatnonzero(weights)
    order = np.random.default_rng(0).permutation(kept)[:_SEARCH_RUNS]
    some = replace(points, x=points.x[order], y=points.y[order], z=points.z[order], groups=None)
    return some, weights[order]


def _basins(
    starts: Floats, points: Points, weights: Floats, delta: DeltaRule, free: Bools
) -> tuple[Floats, NDArray[np.intp]]:
    """One start for each different minimum of a sample, and how many starts come to it."""
    wide = _wide_delta(starts[:1], points, weights, delta)
    ends = polish(starts, points, weights, wide, free)
    level = np.round(np.log(np.maximum(ends.objective, 1e-300)) / AGREE_WITHIN)
    _, first, count = np.unique(level, return_index=True, return_counts=True)
    return ends.theta[first], count


def _additive_starts(points: Points, weights: Floats, delta: DeltaRule) -> Floats:
    starts = grid_starts(points, weights)
    wide = _wide_delta(starts[:1], points, weights, delta)
    return polish(starts, points, weights, wide, _ADDITIVE, iterations=_ROUGH).theta


def _kappa_starts(additive: Floats, points: Points, weights: Floats, delta: DeltaRule) -> Floats:
    """Continue the additive solution in κ: hold κ at each of a few values, fit the rest."""
    wide = _wide_delta(additive[:1], points, weights, delta)
    starts = np.repeat(additive[:1], len(_KAPPAS), axis=0)
    starts[:, 5] = _KAPPAS
    return polish(starts, points, weights, wide, _ADDITIVE, iterations=_ROUGH).theta


def _wide_delta(theta: Floats, points: Points, weights: Floats, delta: DeltaRule) -> float:
    """A first δ: wide enough for curvature, narrow enough to ignore outliers."""
    wide = mad_delta(points.z - model_values(theta, points)[0], weights, 5)
    return wide if delta == "mad" else max(wide, float(delta))


def _settle(
    starts: Floats, points: Points, weights: Floats, delta: DeltaRule, free: Bools
) -> tuple[Floats, float]:
    """δ, and every start polished near it; for ``"mad"`` δ follows the best start's residuals."""
    if delta != "mad":
        return starts, float(delta)
    parameters = int(np.sum(free))
    residuals = points.z - model_values(starts, points)
    used = min(mad_delta(r, weights, parameters) for r in residuals)
    first = polish(starts, points, weights, used, free, iterations=60)
    order = np.argsort(first.objective, kind="stable")
    theta = first.theta[order]
    best, previous = theta[:1], used
    for rounds in range(_DELTA_ROUNDS):
        used = mad_delta(points.z - model_values(best, points)[0], weights, parameters)
        if abs(used - previous) <= 1e-4 * previous:
            break
        if rounds >= 5:  # δ and median can chase each other between two runs
            used = float(np.sqrt(used * previous))
        best = polish(best, points, weights, used, free, iterations=_ROUND).theta
        previous = used
    return np.vstack([best, theta[1:]]), used


def _bounds(theta: Floats, points: Points, law: type[Law]) -> tuple[tuple[Bound, ...], Bools]:
    """The bounds, and a mask of the coordinates that do not move."""
    bounds = []
    at_lower, at_upper = theta <= LOWER, theta >= UPPER
    fixed = at_lower | at_upper
    if law is Hoffmann:
        fixed[5] = False
    if fixed[0]:
        bounds.append(Bound("E", BoundKind.FLOOR))
        fixed[0] = False  # its error still belongs to the loss's interval
    for i in (3, 4, 5):
        if fixed[i]:
            bounds.append(Bound(_NAMES[i], BoundKind.LOWER if at_lower[i] else BoundKind.UPPER))
    value = np.exp(points.z) if points.log else points.z
    for i, slope, position in ((1, 3, points.x), (2, 4, points.y)):
        share = np.exp(np.minimum(theta[i] - theta[slope] * position, 50)) / value
        if float(np.max(share)) < _VANISHING:
            bounds.append(Bound(_NAMES[i], BoundKind.VANISHED))
            fixed[i] = fixed[slope] = True
    return tuple(bounds), fixed


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
    best, coefficients = np.full(len(normal), np.inf), np.zeros_like(right)
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
        coefficients[good] = full[good]
    return coefficients * scale, best


def _local_minima(misfit: Floats) -> list[tuple[int, int]]:
    """Cells no higher than their neighbours, best first."""
    padded = np.pad(misfit, 1, constant_values=np.inf)
    lowest = misfit <= np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).min(axis=(2, 3))
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


@dataclass(frozen=True)
class Choice:
    """Whether the κ-law was chosen, why, and the p values of the tests of κ = 1."""

    kappa: bool
    reason: str
    wald_p: float | None = None
    tau_p: float | None = None


def choose(additive: Solution, kappa: Solution) -> Choice:
    """The κ-law where a test rejects κ = 1 at 5 %, else the additive law.

    Two tests: Wald's on ln κ with its HC3 error, and the robust τ-test (Ronchetti 1982;
    Hampel et al. 1986, §7.2), 2(Σρ_additive − Σρ_κ)/σ² against F(1, runs − 6), both sums at the
    δ and scale of the κ fit.
    """
    from scipy.special import fdtrc, stdtr

    if kappa.dof < _SPARE_RUNS:
        return Choice(False, f"{kappa.dof + 6} runs are too few to test κ")
    if not kappa.converged:
        return Choice(False, "the κ-law did not converge")
    if kappa.optimum_lost:
        words = ", ".join(map(str, kappa.bounds))
        return Choice(False, f"the κ-law ended on a bound ({words})")
    ln_kappa = float(kappa.coordinates[5])
    if abs(ln_kappa) < 1e-6:
        return Choice(False, "κ is 1")
    tau_p = float(fdtrc(1, kappa.dof, _tau(additive, kappa)))
    cov = covariance(kappa)
    wald_p = None
    if cov.matrix is not None and "kappa" in kappa.names:
        i = kappa.names.index("kappa")
        error = float(np.sqrt(cov.matrix[i, i]))
        wald_p = float(2 * stdtr(cov.dof, -abs(ln_kappa) / max(error, 1e-300)))
    supported = tau_p < _LEVEL or (wald_p is not None and wald_p < _LEVEL)
    word = "support" if supported else "do not support"
    wald = "" if wald_p is None else f"Wald p = {wald_p:.2g}, "
    tests = f"κ = {np.exp(ln_kappa):.3g}; {wald}τ-test p = {tau_p:.2g}"
    return Choice(supported, f"the runs {word} κ ≠ 1 ({tests})", wald_p, tau_p)


def _tau(additive: Solution, kappa: Solution) -> float:
    """The τ statistic; both fits at the κ fit's δ."""
    start = additive.coordinates[None]
    refit = polish(start, kappa.points, kappa.weights, kappa.delta, _ADDITIVE)
    w, r = kappa.weights, kappa.residuals
    drop = max(float(refit.objective[0]) - kappa.objective, 0.0)
    # E ψ² / E ψ′ takes the place of the variance, as in the asymptotics of M-estimators. Under
    # unequal weights a weighted sum of squares falls by Σw²/Σw of it per parameter.
    score = np.clip(r, -kappa.delta, kappa.delta)
    total = float(np.sum(w))
    spare = kappa.dof / int(np.count_nonzero(w))
    variance = float(np.sum((w * score) ** 2)) / total / spare
    bend = max(float(np.sum(w * (np.abs(r) <= kappa.delta))) / total, 0.05)
    return 2 * drop / max(variance / bend, 1e-300)
