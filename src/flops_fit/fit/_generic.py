"""Fit any law of positive parameters: log parameters, numeric derivatives, its own starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, TableError
from flops_fit.fit._levenberg import descend, jacobian
from flops_fit.fit._newton import huber
from flops_fit.fit._sandwich import covariance, student_t
from flops_fit.fit._solve import DeltaRule, Solution, mad_delta
from flops_fit.fit._surface import Points
from flops_fit.laws import Law
from flops_fit.table import RunTable

__all__ = ["asked_about", "least_value", "solve_generic", "with_covariates"]

Floats = NDArray[np.float64]

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
    task = _Task(law, columns, points, weights, delta)
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
class _Task:
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
            f"{n} ≈ 0 (its floor)" if t < _VANISHED else f"{n} without effect"
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
