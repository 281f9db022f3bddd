"""Fit any law of positive parameters: log parameters, numeric derivatives, its own starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, TableError
from flops_fit.fit.newton import ROUNDING, huber
from flops_fit.fit.sandwich import covariance, student_t
from flops_fit.fit.solver import Bound, BoundKind, DeltaRule, Solution, mad_delta
from flops_fit.fit.surface import Points
from flops_fit.laws.law import Law
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]
Model = Callable[[Floats], Floats]

_LONGEST = 3.0  # the farthest a log parameter moves in one step
_TINY = 1e-11
_QUIET = 8


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended: θ, the summed loss there, and whether it is a minimum."""

    theta: Floats
    objective: float
    converged: bool


def descend(
    model: Model, start: Floats, z: Floats, weights: Floats, delta: float, iterations: int = 200
) -> Descent:
    """Minimise from ``start``; each iteration costs 2k + 1 evaluations of ``model`` at most.

    It has converged where a step hardly damped promises less than 1e-11 of the objective, 1e-4
    standard errors of a parameter, or where a rejected one or several in a row promise next to
    nothing (runs that cross δ back and forth keep the damping up).
    """
    theta, damping = np.array(start, dtype=np.float64), 1e-3
    used = weights > 0
    r, w = (z - model(theta))[used], weights[used]
    objective = float(np.sum(w * huber(r, delta)))
    J = jacobian(model, theta)[used]
    quiet = 0
    for _ in range(iterations):
        if objective <= ROUNDING * len(r):
            return Descent(theta, objective, True)
        step, promise = _step(J, r, w, delta, damping)
        trial = theta + step
        moved = (z - model(trial))[used]
        value = float(np.sum(w * huber(moved, delta)))
        gain = objective - value
        quiet = quiet + 1 if promise <= 100 * _TINY * objective else 0
        if (promise <= _TINY * objective and damping <= 1e-2) or quiet > _QUIET:
            return Descent(theta, objective, True)
        if gain > 0:
            theta, r, objective = trial, moved, value
            J = jacobian(model, theta)[used]
            damping = max(damping * (0.1 if gain > 0.5 * promise else 1.0), 1e-12)
            continue
        if promise <= 100 * _TINY * objective:
            return Descent(theta, objective, True)
        damping *= 6.0
    return Descent(theta, objective, False)


def _step(J: Floats, r: Floats, w: Floats, delta: float, damping: float) -> tuple[Floats, float]:
    """The damped step and the decrease that the quadratic model promises for it."""
    size = np.maximum(np.abs(r), 1e-300)
    omega = w * np.minimum(1.0, delta / size)
    inside = w * (size <= delta)
    unit = np.sqrt(np.sum(omega[:, None] * J**2, axis=0))
    unit = np.where(unit > 1e-14 * np.max(unit, initial=1e-300), unit, np.inf)
    rows = np.sqrt(inside)[:, None] * J / unit
    gradient = (J / unit).T @ (omega * r)
    k = J.shape[1]
    # Runs beyond δ push without curvature: their push enters through the damping's own rows.
    push = (J / unit).T @ (omega * r * (size > delta))
    root = np.sqrt(damping)
    stacked = np.vstack([rows, root * np.eye(k)])
    move = np.linalg.lstsq(stacked, np.concatenate([np.sqrt(inside) * r, push / root]), rcond=None)[
        0
    ]
    promise = float(gradient @ move - 0.5 * np.sum((rows @ move) ** 2))
    step = move / unit
    longest = float(np.max(np.abs(step)))
    if longest > _LONGEST:
        step *= _LONGEST / longest
    return step, promise


def jacobian(model: Model, theta: Floats, step: float = 1e-5) -> Floats:
    """∂m/∂θ by central differences, shape (runs, k)."""
    columns = []
    for i in range(len(theta)):
        move = np.zeros_like(theta)
        move[i] = step
        columns.append((model(theta + move) - model(theta - move)) / (2 * step))
    return np.column_stack(columns)


_FLOOR = 1e-12
_FARTHEST = 300.0  # a parameter beyond e^±300 stays there, inside floating point
_AGREE_WITHIN = 1e-6
_NO_EFFECT = 1e-7  # largest relative change of a loss, per unit of a log parameter
_ANYTHING = np.log(1e3)  # an interval this far to each side says nothing about a parameter
_VANISHED = np.log(1e-9)
_SEARCH, _KEPT = 8, 6  # iterations for every start, and how many of them are carried to the end


@dataclass(frozen=True)
class _OwnLawAt:
    """The law for values of its log parameters; ``held`` are the fields that do not move."""

    law: type[Law]
    names: tuple[str, ...]
    held: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, theta: Floats) -> Law:
        values = np.exp(np.clip(theta, -_FARTHEST, _FARTHEST)).tolist()
        return self.law(**dict(zip(self.names, values, strict=True)), **self.held)


@dataclass(frozen=True, eq=False)
class _ModelAt:
    """The model of ``points.z`` at the runs, for values of the log parameters."""

    law_at: _OwnLawAt
    columns: tuple[Floats, ...]
    points: Points

    def __call__(self, theta: Floats) -> Floats:
        loss: Callable[..., Any] = self.law_at(theta).loss
        with np.errstate(all="ignore"):
            predicted = np.asarray(loss(*self.columns)) / self.points.scale
        predicted = np.where(np.isfinite(predicted), np.clip(predicted, 1e-100, 1e100), 1e100)
        return np.asarray(np.log(predicted) if self.points.log else predicted)


def with_covariates(table: RunTable, law: type[Law]) -> RunTable:
    """The runs that have all columns a law asks for.

    Raises
    ------
    TableError
        A column is no column of a RunTable, or is not there, or has no usable value.
    """
    for name in law.covariates:
        column = getattr(table, name, None)
        if not isinstance(column, np.ndarray):
            raise TableError(
                f"expected a column {name!r}, which {law.__name__} needs of every run; the table "
                f"has none. Add it, or say which it is: columns={{{name!r}: 'your_column'}}."
            )
        sound = np.isfinite(column) & (column > 0)
        if not np.any(sound):
            raise TableError(f"expected positive numbers in the column {name!r}; it has none.")
        if not np.all(sound):
            table = table.select(sound, f"{name} is not a positive finite number")
    return table


def asked_about(solution: Solution, **conditions: float) -> Solution:
    """The same solution of a law asked under other conditions, such as ``unique=1e9``."""
    law_at = solution.law_at
    assert isinstance(law_at, _OwnLawAt)
    moved = replace(law_at, held={**law_at.held, **conditions})
    return replace(solution, law=replace(solution.law, **conditions), law_at=moved)


def solve_generic(
    law: type[Law],
    runs: RunTable,
    points: Points,
    weights: Floats,
    delta: DeltaRule,
    warm: Solution | None = None,
) -> Solution:
    """Fit a law whose parameters are positive, from its own :meth:`~flops_fit.laws.Law.starts`.

    A parameter with a limit (:attr:`~flops_fit.laws.Law.limits`) that the runs leave open by a
    factor of a thousand is held at that limit, and ``Solution.held`` says so.
    """
    columns = (runs.params, runs.tokens, *(getattr(runs, name) for name in law.covariates))
    if warm is not None and isinstance(warm.law_at, _OwnLawAt):
        names, held = warm.law_at.names, dict(warm.law_at.held)
        starts = [_log(warm.law.params[n] for n in names)]
    else:
        names, held = law.parameters(), {}
        starting: Callable[..., Any] = law.starts
        given = starting(runs.params, runs.tokens, runs.loss, *columns[2:])
        starts = [_log_start(law, names, values) for values in given]
    if not starts:
        raise FitError(
            f"expected {law.__name__}.starts to find constants near these runs; it found none. "
            "Check the units of N, D and the loss, or fit law='auto'."
        )
    task = _GenericProblem(law, columns, points, weights, delta)
    solution = task.solve(names, held, starts)
    for name, limit in law.limits.items():
        if warm is None and _undetermined(solution, name):
            held[name] = limit
            names = tuple(n for n in names if n not in held)
            again = _log(solution.law.params[n] for n in names)
            moved = [_log_start(law, law.parameters(), v) for v in given]
            keep = [i for i, n in enumerate(law.parameters()) if n in names]
            starts = [again, *np.unique([s[keep] for s in moved], axis=0)]
            simpler = task.solve(names, held, starts)
            if _as_good(simpler, solution):
                solution = simpler
            else:
                held.pop(name)
                names = tuple(n for n in law.parameters() if n not in held)
    return solution


@dataclass(frozen=True, eq=False)
class _GenericProblem:
    law: type[Law]
    columns: tuple[Floats, ...]
    points: Points
    weights: Floats
    delta: DeltaRule

    def solve(
        self, names: tuple[str, ...], held: Mapping[str, float], starts: list[Floats]
    ) -> Solution:
        """Search from every start, carry the best to the end, let δ settle on them."""
        z, weights = self.points.z, self.weights
        law_at = _OwnLawAt(self.law, names, dict(held))
        model = _ModelAt(law_at, self.columns, self.points)
        spreads = [mad_delta(z - model(s), weights, len(names)) for s in starts]
        used = min(spreads) if self.delta == "mad" else float(self.delta)
        wide = max(used, float(np.median(spreads)))
        ends = [descend(model, s, z, weights, wide, _SEARCH) for s in starts]
        ends = sorted(ends, key=lambda e: e.objective)[:_KEPT]
        ends = [descend(model, e.theta, z, weights, wide) for e in ends]
        best = min(ends, key=lambda e: e.objective)
        for _ in range(20 if self.delta == "mad" else 0):
            previous, used = used, mad_delta(z - model(best.theta), weights, len(names))
            best = descend(model, best.theta, z, weights, used)
            if abs(used - previous) <= 1e-6 * used:
                break
        ends = [descend(model, e.theta, z, weights, used) for e in (best, *ends)]
        best = min(ends, key=lambda e: e.objective)
        within = best.objective * (1 + _AGREE_WITHIN) + 1e-18 * len(z)
        agree = sum(e.objective <= within for e in ends[1:])
        return self._solution(model, best.theta, best.converged, used, (len(ends) - 1, agree))

    def _solution(
        self,
        model: _ModelAt,
        theta: Floats,
        converged: bool,
        delta: float,
        starts: tuple[int, int],
    ) -> Solution:
        residuals = self.points.z - model(theta)
        slopes = jacobian(model, theta)
        names = model.law_at.names
        moves = np.max(np.abs(slopes), axis=0) > _NO_EFFECT
        bounds = [
            Bound(n, BoundKind.FLOOR if t < _VANISHED else BoundKind.NO_EFFECT)
            for n, t, m in zip(names, theta, moves, strict=True)
            if not m and n not in self.law.limits
        ]
        still = {
            n: float(np.exp(np.clip(t, -_FARTHEST, _FARTHEST)))
            for n, t, m in zip(names, theta, moves, strict=True)
            if not m
        }
        free = tuple(n for n, m in zip(names, moves, strict=True) if m)
        law_at = _OwnLawAt(self.law, free, {**model.law_at.held, **still})
        return Solution(
            law=model.law_at(theta),
            theta=theta[moves],
            law_at=law_at,
            residuals=residuals,
            jacobian=slopes[:, moves],
            weights=self.weights,
            delta=delta,
            objective=float(np.sum(self.weights * huber(residuals, delta))),
            starts=starts[0],
            agree=int(starts[1]),
            converged=converged,
            bounds=tuple(bounds),
            names=free,
            points=self.points,
            held={n: v for n, v in model.law_at.held.items() if n in self.law.limits},
            model_at=replace(model, law_at=law_at),
        )


def least_value(solution: Solution, name: str) -> float | None:
    """The value below which a parameter held at infinity fits worse than noise explains.

    Where 2ΔΣρ/σ² reaches 2.71, one side of a 90 % profile interval, all else refitted; ``None``
    where not even a tenth does.
    """
    model = solution.model_at
    if not isinstance(model, _ModelAt):
        return None
    most = _tolerated(solution)

    def rise(log_value: float) -> float:
        held = {**model.law_at.held, name: float(np.exp(log_value))}
        at = replace(model, law_at=replace(model.law_at, held=held))
        z, w = solution.points.z, solution.weights
        end = descend(at, solution.theta, z, w, solution.delta, 2 * _SEARCH)
        return end.objective - solution.objective

    low, high = float(np.log(0.1)), float(np.log(1e4))
    if rise(low) < most:
        return None
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rise(middle) > most else (low, middle)
    return float(np.exp(high))


def _tolerated(solution: Solution) -> float:
    """How far Σρ may rise before 2ΔΣρ/σ² reaches 2.71; more than rounding in any case."""
    return 0.5 * 2.71 * solution.residual_sd**2 + 1e-16 * len(solution.residuals)


def _as_good(simpler: Solution, full: Solution) -> bool:
    """Whether holding a parameter costs no more than noise explains, at the same δ."""
    value = float(np.sum(full.weights * huber(simpler.residuals, full.delta)))
    return value <= full.objective + _tolerated(full)


def _undetermined(solution: Solution, name: str) -> bool:
    """Whether the runs leave a parameter open by :data:`_ANYTHING` or more."""
    if name not in solution.names:
        return True
    cov = covariance(solution)
    if cov.matrix is None:
        return cov.dof >= 1
    i = solution.names.index(name)
    return bool(student_t(0.9, cov.dof) * np.sqrt(cov.matrix[i, i]) > _ANYTHING)


def _log_start(law: type[Law], names: tuple[str, ...], values: object) -> Floats:
    if not isinstance(values, dict) or set(values) != set(names):
        raise FitError(
            f"expected {law.__name__}.starts to return dicts with the keys {list(names)}; "
            f"got {values!r}."
        )
    return _log(float(values[n]) for n in names)


def _log(values: Iterable[float]) -> Floats:
    """Logs, of :data:`_FLOOR` where a start is zero."""
    return np.log([v if v > 0 else _FLOOR for v in values])
