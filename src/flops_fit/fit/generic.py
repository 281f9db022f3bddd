"""Fit any law of positive parameters: log parameters, numeric derivatives, its own starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flops_fit.errors import FitError
from flops_fit.fit.intervals import covariance, student_t
from flops_fit.fit.solver import (
    AGREE_WITHIN,
    Bound,
    BoundKind,
    DeltaRule,
    Solution,
    huber,
    mad_delta,
)
from flops_fit.fit.surface import ROUNDING, Points
from flops_fit.flops.functions import Floats
from flops_fit.laws.law import Law
from flops_fit.table.run_table import RunTable

Model = Callable[[Floats], Floats]

_LOG_ZERO = np.log(1e-12)  # of a start that is zero
_LOG_LARGEST = 300.0  # a parameter beyond e^±300 stays there, inside floating point
_LOG_VANISHED = np.log(1e-9)
_STEP = 1e-5  # of a log parameter, for derivatives
_NO_EFFECT = 1e-7  # largest relative change of a loss, per unit of a log parameter
_UNDETERMINED_LOG_HALF = np.log(1e3)  # of an interval that says nothing about a parameter
_ITERATIONS, _SEARCH, _REFIT = 200, 8, 25  # of a fit, for every start, of a resample
_KEPT = 6  # starts that are carried to the end


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended: θ, Σ w·ρ_δ there, and whether it is a minimum."""

    theta: Floats
    objective: float
    converged: bool


def descend(
    model: Model, start: Floats, z: Floats, weights: Floats, delta: float, steps: int = _ITERATIONS
) -> Descent:
    """Minimise Σ w·ρ_δ(z − model(θ)) from ``start``: SciPy's trust region on numeric derivatives."""
    from scipy.optimize import least_squares

    used = weights > 0
    w, z = weights[used], z[used]
    objective = float(np.sum(w * huber(z - model(start)[used], delta)))
    if objective <= ROUNDING * len(z):
        return Descent(np.asarray(start), objective, True)

    def rho(squared: Floats) -> Floats:
        """2·w·ρ_δ(√s), and its first and second derivative with respect to s."""
        size = np.sqrt(squared)
        inner = np.minimum(size, delta)
        slope = inner / np.maximum(size, 1e-300)
        slope[size == 0] = 1.0
        bend = np.where(size > delta, -0.5 * slope / np.maximum(squared, 1e-300), 0.0)
        return np.asarray(w * np.array([inner * (2 * size - inner), slope, bend]))

    end = least_squares(
        lambda theta: model(theta)[used] - z,
        start,
        jac=lambda theta: jacobian(model, theta)[used],
        loss=rho,
        x_scale="jac",
        ftol=1e-13,
        xtol=1e-12,
        gtol=1e-15,
        max_nfev=steps + 1,
    )
    return Descent(end.x, float(end.cost), end.status > 0 or end.cost <= ROUNDING * len(z))


def jacobian(model: Model, theta: Floats) -> Floats:
    """∂m/∂θ by central differences, shape (runs, k)."""
    moves = _STEP * np.eye(len(theta))
    return np.column_stack([(model(theta + m) - model(theta - m)) / (2 * _STEP) for m in moves])


@dataclass(frozen=True, eq=False)
class GenericSolver:
    """The solver of every law with starts; what the runs leave open is held at the law's limit."""

    law: type[Law]
    runs: RunTable
    points: Points
    fixed: Mapping[str, float] = field(default_factory=dict)

    def fit(self, weights: Floats, delta: DeltaRule, near: Solution | None = None) -> Solution:
        """See :class:`flops_fit.fit.solver.Solver`."""
        if near is not None:
            left = [i for i, name in enumerate(near.names) if name not in self.fixed]
            names, known = tuple(near.names[i] for i in left), {**_fixed(near), **self.fixed}
            return self._search(names, known, [near.theta[left]], weights, delta)
        every, starts = self.law.parameters(), self._starts()
        names = tuple(n for n in every if n not in self.fixed)
        if self.fixed:
            rest = [every.index(n) for n in names]
            starts = list(np.unique([s[rest] for s in starts], axis=0))
        solution = self._search(names, self.fixed, starts, weights, delta)
        held: dict[str, float] = {}
        for name, limit in self.law.limits.items():
            if name in self.fixed or not _undetermined(solution, name):
                continue
            trial = {**held, name: limit}
            free = tuple(n for n in names if n not in trial)
            keep = [names.index(n) for n in free]
            again = _log(solution.law.params[n] for n in free)
            fewer = [again, *np.unique([s[keep] for s in starts], axis=0)]
            simpler = self._search(free, {**self.fixed, **trial}, fewer, weights, delta)
            value = float(np.sum(weights * huber(simpler.residuals, solution.delta)))
            if value <= solution.objective + _tolerated(solution):
                solution, held = simpler, trial
        return solution

    def holding(self, values: Mapping[str, float]) -> GenericSolver:
        """See :class:`flops_fit.fit.solver.Solver`."""
        return replace(self, fixed={**self.fixed, **values})

    def refit(
        self, solution: Solution, weights: Floats, targets: Floats, delta: float
    ) -> list[Law]:
        """See :class:`flops_fit.fit.solver.Solver`; at most 25 steps each, and none that is worse."""
        model, start = self.model(solution.names, _fixed(solution)), solution.theta
        return [
            self.law_at(solution, descend(model, start, z, w, delta, _REFIT).theta)
            for w, z in zip(weights, targets, strict=True)
        ]

    def law_at(self, solution: Solution, theta: Floats) -> Law:
        """See :class:`flops_fit.fit.solver.Solver`."""
        return replace(solution.law, **_parameters(solution.names, theta))

    def model(self, names: Sequence[str], fixed: Mapping[str, float]) -> Model:
        """The model of ``points.z`` at the runs, for the logs of the named parameters."""
        columns, points = self._columns(), self.points

        def values(theta: Floats) -> Floats:
            loss: Callable[..., Any] = self.law(**_parameters(names, theta), **fixed).loss
            with np.errstate(all="ignore"):
                ratio = (np.asarray(loss(*columns)) + points.shift) / points.scale
            least = 1e-100 if points.log else -1e100
            ratio = np.where(np.isfinite(ratio), np.clip(ratio, least, 1e100), 1e100)
            return np.asarray(np.log(ratio) if points.log else ratio)

        return values

    def _columns(self) -> tuple[Floats, ...]:
        runs = self.runs
        return runs.params, runs.tokens, *runs.covariates(self.law.covariates)

    def _starts(self) -> list[Floats]:
        law, names = self.law, self.law.parameters()
        N, D, *further = self._columns()
        starting: Callable[..., Any] = law.starts
        starts = []
        for values in starting(N, D, self.runs.loss, *further):
            if not isinstance(values, dict) or set(values) != set(names):
                raise FitError(
                    f"expected {law.__name__}.starts to return dicts with the keys {list(names)}; "
                    f"got {values!r}."
                )
            starts.append(_log(float(values[n]) for n in names))
        if not starts:
            raise FitError(
                f"expected {law.__name__}.starts to find constants near these runs; it found none. "
                "Check the units of N, D and the loss, or fit law='auto'."
            )
        return starts

    def _search(
        self,
        names: tuple[str, ...],
        fixed: Mapping[str, float],
        starts: list[Floats],
        weights: Floats,
        delta: DeltaRule,
    ) -> Solution:
        """Search from every start, carry the best to the end, let δ settle on them."""
        z, k, model = self.points.z, len(names), self.model(names, fixed)
        spreads = [mad_delta(z - model(s), weights, k) for s in starts]
        used = min(spreads) if delta == "mad" else float(delta)
        wide = max(used, float(np.median(spreads)))
        ends = [descend(model, s, z, weights, wide, _SEARCH) for s in starts]
        ends = sorted(ends, key=lambda e: e.objective)[:_KEPT]
        ends = [descend(model, e.theta, z, weights, wide) for e in ends]
        best = min(ends, key=lambda e: e.objective)
        for _ in range(20 if delta == "mad" else 0):
            previous, used = used, mad_delta(z - model(best.theta), weights, k)
            best = descend(model, best.theta, z, weights, used)
            if abs(used - previous) <= 1e-6 * used:
                break
        ends = [descend(model, e.theta, z, weights, used) for e in (best, *ends)]
        best = min(ends, key=lambda e: e.objective)
        within = best.objective * (1 + AGREE_WITHIN) + 1e-18 * len(z)
        slopes = jacobian(model, best.theta)
        moves = np.max(np.abs(slopes), axis=0) > _NO_EFFECT
        free = tuple(n for n, m in zip(names, moves, strict=True) if m)
        limits = self.law.limits
        return Solution(
            law=self.law(**_parameters(names, best.theta), **fixed),
            theta=best.theta[moves],
            names=free,
            coordinates=best.theta[moves],
            log_names=free,
            residuals=z - model(best.theta),
            jacobian=slopes[:, moves],
            weights=weights,
            delta=used,
            bounds=tuple(
                Bound(n, BoundKind.FLOOR if t < _LOG_VANISHED else BoundKind.NO_EFFECT)
                for n, t in zip(names, best.theta, strict=True)
                if n not in free and n not in limits
            ),
            points=self.points,
            solver=self,
            starts=len(ends) - 1,
            agree=int(sum(e.objective <= within for e in ends[1:])),
            converged=best.converged,
            held={n: v for n, v in fixed.items() if n in limits and n not in self.fixed},
            fixed=len(self.fixed),
        )


def least_value(solution: Solution, name: str) -> float | None:
    """The value at which the profile of a parameter held at infinity reaches 2ΔΣρ/σ² = 2.71."""
    solver = solution.solver
    assert isinstance(solver, GenericSolver)  # of every law with limits
    most, z, w = _tolerated(solution), solution.points.z, solution.weights

    def rise(log_value: float) -> float:
        fixed = {**_fixed(solution), name: float(np.exp(log_value))}
        model = solver.model(solution.names, fixed)
        end = descend(model, solution.theta, z, w, solution.delta, 2 * _SEARCH)
        return end.objective - solution.objective

    low, high = float(np.log(0.1)), float(np.log(1e4))
    if rise(low) < most:
        return None
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rise(middle) > most else (low, middle)
    return float(np.exp(high))


def _fixed(solution: Solution) -> dict[str, float]:
    return {n: v for n, v in solution.law.params.items() if n not in solution.names}


def _tolerated(solution: Solution) -> float:
    """How far Σρ may rise before 2ΔΣρ/σ² reaches 2.71; more than rounding in any case."""
    return 0.5 * 2.71 * solution.residual_sd**2 + 1e-16 * len(solution.residuals)


def _undetermined(solution: Solution, name: str) -> bool:
    """Whether the runs leave a parameter open by a factor of a thousand or more."""
    if name not in solution.names:
        return True
    cov = covariance(solution)
    if cov.matrix is None:
        return cov.dof >= 1
    i = solution.names.index(name)
    return bool(student_t(0.9, cov.dof) * np.sqrt(cov.matrix[i, i]) > _UNDETERMINED_LOG_HALF)


def _log(values: Iterable[float]) -> Floats:
    return np.array([np.log(v) if v > 0 else _LOG_ZERO for v in values])


def _parameters(names: Sequence[str], theta: Floats) -> dict[str, float]:
    """The named parameters from their logs."""
    values = np.exp(np.clip(theta, -_LOG_LARGEST, _LOG_LARGEST)).tolist()
    return dict(zip(names, values, strict=True))
