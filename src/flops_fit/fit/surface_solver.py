"""Fit the additive law and the κ-law, and choose between them.

Starts for the additive law come from variable projection: for fixed exponents
L ≈ E + A·e^{−αx} + B·e^{−βy} is linear in (E, A, B) ≥ 0, so the search is two-dimensional (Golub &
Pereyra 1973). Relative residuals, (L − model)/L, stand in for log ones. The κ-law continues the
additive solution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from flops_fit.fit.intervals import covariance
from flops_fit.fit.misfit_mean import Known
from flops_fit.fit.solver import (
    AGREE_WITHIN,
    Bound,
    BoundKind,
    DeltaRule,
    Solution,
    mad_delta,
    robust_sd,
)
from flops_fit.fit.surface import LOWER, UPPER, Penalty, Points, derivatives, model_values, polish
from flops_fit.flops.functions import Bools, Floats, Indices
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law

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
NAMES = ("E", "A", "B", "alpha", "beta", "kappa")


@dataclass(frozen=True, eq=False)
class SurfaceSolver:
    """The solver of :class:`~flops_fit.laws.Hoffmann` and :class:`~flops_fit.laws.Kappa`."""

    law: type[Law]
    points: Points
    known: Known = field(default_factory=Known)

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
            starts, count = self._starts(weights, delta, near)
        theta, used = self._settle(starts, weights, delta)
        sd = robust_sd(points.z - model_values(theta[:1], points)[0], weights, int(np.sum(free)))
        penalty = self._penalty(weights, sd)
        final = polish(theta, points, weights, used, free, penalty=penalty)
        best = int(np.argmin(final.objective))
        within = final.objective[best] * (1 + AGREE_WITHIN) + _ROUNDING * len(points.z)
        coordinates = final.theta[best] if penalty is None else penalty.hold(final.theta[best])
        d = derivatives(coordinates[None], points)
        known = np.isin(NAMES, list(self.known.fixed))
        bounds, fixed = self._bounds(coordinates, known)
        index = np.flatnonzero(free & ~fixed & ~known)
        slopes = d.gradient[0].copy()
        slopes[5] += (known[3:5] * coordinates[3:5]) @ slopes[3:5]  # p = ακ follows κ
        return Solution(
            law=self._law(coordinates),
            theta=coordinates[index],
            names=tuple(NAMES[i] for i in index),
            coordinates=coordinates,
            log_names=("kappa",),
            residuals=points.z - d.model[0],
            jacobian=slopes[index].T,
            weights=weights,
            delta=used,
            bounds=bounds,
            points=points,
            solver=self,
            starts=int(np.sum(count)),
            agree=int(np.sum(count[final.objective <= within])),
            converged=bool(final.converged[best]),
            fixed=int(np.sum(known)),
        )

    def _penalty(self, weights: Floats, sd: float = 0.0) -> Penalty | None:
        """What is known, as a penalty; priors count from the noise ``sd`` of a run on."""
        return self.known.penalty(self.points, sd**2, float(np.sum(weights)))

    def _starts(
        self, weights: Floats, delta: DeltaRule, additive: Solution | None
    ) -> tuple[Floats, Indices]:
        """Starts, and how many others each stands for where a sample of the runs was searched."""
        points, hold = self.points, self._penalty(weights)
        sampled = len(points.z) > _SEARCH_RUNS
        if sampled:
            order = np.random.default_rng(0).permutation(np.flatnonzero(weights))[:_SEARCH_RUNS]
            x, y, z = points.x[order], points.y[order], points.z[order]
            points, weights = replace(points, x=x, y=y, z=z, groups=None), weights[order]

        def wide(theta: Floats) -> float:
            """A first δ: wide enough for curvature, narrow enough to ignore outliers."""
            mad = mad_delta(points.z - model_values(theta[:1], points)[0], weights, 5)
            return mad if delta == "mad" else max(mad, float(delta))

        def rough(theta: Floats, delta: float) -> Floats:
            ends = polish(theta, points, weights, delta, _ADDITIVE, penalty=hold, iterations=_ROUGH)
            return ends.theta

        if additive is None:
            grid = grid_starts(points, weights)
            starts = rough(grid, wide(grid))
        else:
            starts = additive.coordinates[None]
        if self.law is Kappa:  # hold κ at each of a few values, fit the rest
            kappa = self.known.fixed.get("kappa")
            kappas = _KAPPAS if kappa is None else np.log([kappa])
            held = np.repeat(starts[:1], len(kappas), axis=0)
            held[:, 5] = kappas
            starts = rough(held, wide(starts))
        if not sampled:
            return starts, np.ones(len(starts), dtype=np.intp)
        ends = polish(starts, points, weights, wide(starts), self.free, penalty=hold)
        level = np.round(np.log(np.maximum(ends.objective, 1e-300)) / AGREE_WITHIN)
        _, first, count = np.unique(level, return_index=True, return_counts=True)
        return ends.theta[first], count

    def _settle(self, starts: Floats, weights: Floats, delta: DeltaRule) -> tuple[Floats, float]:
        """δ, and every start polished near it; for ``"mad"`` δ follows the best start's residuals."""
        if delta != "mad":
            return starts, float(delta)
        points, free, penalty = self.points, self.free, self._penalty(weights)
        parameters = int(np.sum(free))
        residuals = points.z - model_values(starts, points)
        used = min(mad_delta(r, weights, parameters) for r in residuals)
        first = polish(starts, points, weights, used, free, penalty=penalty, iterations=60)
        order = np.argsort(first.objective, kind="stable")
        theta = first.theta[order]
        best, previous = theta[:1], used
        for rounds in range(_DELTA_ROUNDS):
            used = mad_delta(points.z - model_values(best, points)[0], weights, parameters)
            if abs(used - previous) <= 1e-4 * previous:
                break
            if rounds >= 5:  # δ and median can chase each other between two runs
                used = float(np.sqrt(used * previous))
            ends = polish(best, points, weights, used, free, penalty=penalty, iterations=_ROUND)
            best = ends.theta
            previous = used
        return np.vstack([best, theta[1:]]), used

    def _bounds(self, theta: Floats, known: Bools) -> tuple[tuple[Bound, ...], Bools]:
        """The bounds, and a mask of the coordinates that do not move; without what is known."""
        bounds, points = [], self.points
        at_lower, at_upper = (theta <= LOWER) & ~known, (theta >= UPPER) & ~known
        fixed = at_lower | at_upper
        if self.law is Hoffmann:
            fixed[5] = False
        if fixed[0]:
            bounds.append(Bound("E", BoundKind.FLOOR))
            fixed[0] = False  # its error still belongs to the loss's interval
        for i in (3, 4, 5):
            if fixed[i]:
                bounds.append(Bound(NAMES[i], BoundKind.LOWER if at_lower[i] else BoundKind.UPPER))
        value = np.exp(points.z) if points.log else points.z
        for i, slope, position in ((1, 3, points.x), (2, 4, points.y)):
            share = np.exp(np.minimum(theta[i] - theta[slope] * position, 50)) / value
            if float(np.max(share)) < _VANISHING:
                bounds.append(Bound(NAMES[i], BoundKind.VANISHED))
                fixed[i] = fixed[slope] = True
        return tuple(bounds), fixed

    def holding(self, values: Mapping[str, float]) -> SurfaceSolver:
        """See :class:`flops_fit.fit.solver.Solver`."""
        return replace(self, known=Known({**self.known.fixed, **values}, self.known.prior))

    def refit(
        self, solution: Solution, weights: Floats, targets: Floats, delta: float
    ) -> list[Law]:
        """See :class:`flops_fit.fit.solver.Solver`."""
        start = np.repeat(solution.coordinates[None], len(weights), axis=0)
        penalty = self._penalty(solution.weights, solution.residual_sd)
        ends = polish(
            start, self.points, weights, delta, self.free, targets=targets, penalty=penalty
        )
        return [self._law(theta) for theta in ends.theta]

    def law_at(self, solution: Solution, theta: Floats) -> Law:
        """See :class:`flops_fit.fit.solver.Solver`."""
        full = solution.coordinates.copy()
        full[[NAMES.index(name) for name in solution.names]] = theta
        return self._law(full)

    def _law(self, theta: Floats) -> Law:
        penalty, fixed = self._penalty(np.ones(1)), self.known.fixed
        held = theta if penalty is None else penalty.hold(theta)
        return replace(self.points.law_at(held, self.law), **fixed)


def grid_starts(points: Points, weights: Floats, count: int = 4) -> Floats:
    """Starts as θ, shape (starts, 6): the grid's local minima, best first, then its quadrants'."""
    loss = np.exp(points.z) if points.log else points.z
    relative = np.sqrt(weights) / (loss if points.log else np.ones_like(loss))
    n_terms = np.exp(-_EXPONENTS[:, None] * points.x) * relative
    d_terms = np.exp(-_EXPONENTS[:, None] * points.y) * relative
    target, size = relative * loss, len(_EXPONENTS)
    normal, right = np.empty((size, size, 3, 3)), np.empty((size, size, 3))
    normal[..., 0, 0] = relative @ relative
    normal[..., 0, 1] = normal[..., 1, 0] = (n_terms @ relative)[:, None]
    normal[..., 0, 2] = normal[..., 2, 0] = (d_terms @ relative)[None, :]
    normal[..., 1, 1] = np.sum(n_terms**2, axis=1)[:, None]
    normal[..., 2, 2] = np.sum(d_terms**2, axis=1)[None, :]
    normal[..., 1, 2] = normal[..., 2, 1] = n_terms @ d_terms.T
    right[..., 0] = relative @ target
    right[..., 1], right[..., 2] = (n_terms @ target)[:, None], (d_terms @ target)[None, :]
    solution, misfit = _non_negative(normal.reshape(-1, 3, 3), right.reshape(-1, 3))
    starts = []
    for i, j in _lowest_cells(misfit.reshape(size, size), count):
        E, A, B = solution[i * size + j]
        tiny = 1e-6 * max(float(np.sum(solution[i * size + j])), 1e-300)
        u, v = np.log(max(A, tiny)), np.log(max(B, tiny))
        starts.append([E, u, v, _EXPONENTS[i], _EXPONENTS[j], 0.0])
    return np.array(starts)


def _non_negative(normal: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Least squares under c ≥ 0 for many 3×3 systems: c and cᵀGc − 2cᵀb, over all active sets."""
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


def _lowest_cells(misfit: Floats, count: int) -> list[tuple[int, int]]:
    """The best ``count`` cells that no neighbour undercuts, then the lowest of each quadrant.

    With the quadrants agreement of starts says something where the grid has one minimum.
    """
    padded = np.pad(misfit, 1, constant_values=np.inf)
    lowest = misfit <= np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).min(axis=(2, 3))
    order = np.argsort(misfit[lowest], kind="stable")[:count]
    cells = [(int(i), int(j)) for i, j in np.argwhere(lowest)[order]]
    half = len(misfit) // 2
    for rows, columns in ((0, 0), (0, half), (half, 0), (half, half)):
        part = misfit[rows : rows + half, columns : columns + half]
        i, j = np.unravel_index(int(np.argmin(part)), part.shape)
        cells.append((int(i) + rows, int(j) + columns))
    return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Choice:
    """Whether the κ-law was chosen, why, and the p values of the tests of κ = 1."""

    kappa: bool
    reason: str
    wald_p: float | None = None
    tau_p: float | None = None


def choose(additive: Solution, kappa: Solution) -> Choice:
    """The κ-law where Wald's test on ln κ (HC3) or the robust τ-test rejects κ = 1 at 5 %."""
    from scipy.special import fdtrc, stdtr

    ln_kappa = float(kappa.coordinates[5])
    refused = ""
    if kappa.dof < _SPARE_RUNS:
        refused = f"{kappa.dof + 6} runs are too few to test κ"
    elif not kappa.converged:
        refused = "the κ-law did not converge"
    elif kappa.optimum_lost:
        refused = f"the κ-law ended on a bound ({', '.join(map(str, kappa.bounds))})"
    elif abs(ln_kappa) < 1e-6:
        refused = "κ is 1"
    if refused:
        return Choice(False, refused)
    tau_p = float(fdtrc(1, kappa.dof, _tau(additive, kappa)))
    cov, wald_p, wald = covariance(kappa), None, ""
    if cov.matrix is not None and "kappa" in kappa.names:
        i = kappa.names.index("kappa")
        error = max(float(np.sqrt(cov.matrix[i, i])), 1e-300)
        wald_p = float(2 * stdtr(cov.dof, -abs(ln_kappa) / error))
        wald = f"Wald p = {wald_p:.2g}, "
    supported = tau_p < _LEVEL or (wald_p is not None and wald_p < _LEVEL)
    word = "support" if supported else "do not support"
    tests = f"κ = {np.exp(ln_kappa):.3g}; {wald}τ-test p = {tau_p:.2g}"
    return Choice(supported, f"the runs {word} κ ≠ 1 ({tests})", wald_p, tau_p)


def _tau(additive: Solution, kappa: Solution) -> float:
    """2(Σρ_additive − Σρ_κ)/σ², compared with F(1, runs − 6), at the δ and scale of the κ fit.

    Ronchetti 1982; Hampel et al. 1986, §7.2.
    """
    assert isinstance(kappa.solver, SurfaceSolver)
    penalty = kappa.solver._penalty(kappa.weights, kappa.residual_sd)
    start = np.vstack([additive.coordinates, kappa.coordinates])
    refit = polish(start, kappa.points, kappa.weights, kappa.delta, _ADDITIVE, penalty=penalty)
    drop = max(float(refit.objective[0] - refit.objective[1]), 0.0)
    return 2 * drop / rho_scale(kappa)


def rho_scale(solution: Solution) -> float:
    """By what 2ΔΣρ of nested fits is divided for a χ² of as many degrees as they differ by."""
    w, r, delta = solution.weights, solution.residuals, solution.delta
    # E ψ² / E ψ′ takes the place of the variance, as in the asymptotics of M-estimators. Under
    # unequal weights a weighted sum of squares falls by Σw²/Σw of it per parameter.
    score = np.clip(r, -delta, delta)
    total = float(np.sum(w))
    spare = solution.dof / int(np.count_nonzero(w))
    variance = float(np.sum((w * score) ** 2)) / total / spare
    bend = max(float(np.sum(w * (np.abs(r) <= delta))) / total, 0.05)
    return max(variance / bend, 1e-300)
