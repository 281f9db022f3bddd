"""A further argument that varied over a sweep: which value is best at a budget, and how much it matters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flops_fit.errors import InputError, check_number, columns_there
from flops_fit.flops.functions import Floats
from flops_fit.table.run_table import RunTable

_DRAWS, _GRID = 4000, 201
_LEAST_DOF = 3
_SPREAD = 1.5  # between the least and the largest of positive values, from which on their logarithm counts


@dataclass(frozen=True)
class AxisEffect:
    """What an argument besides the size does to the loss; its text is the answer.

    Attributes
    ----------
    name, compute, level
        The argument, the training FLOPs that are asked about, and the probability of intervals.
    best, interval
        The value of least loss among those of the runs and between them, and where it lies. Of texts the
        best one, without an interval.
    excess
        For each value of the runs: its loss above that of the best, relative, and the interval of that.
    p_value
        How probable differences like these are where the argument makes none.
    """

    name: str
    compute: float
    level: float
    best: float | str
    interval: tuple[float, float] | None
    excess: dict[float | str, tuple[float, tuple[float, float]]]
    p_value: float

    def __str__(self) -> str:
        span = "" if self.interval is None else " ({:.3g}–{:.3g})".format(*self.interval)
        best = self.best if isinstance(self.best, str) else f"{self.best:.3g}"
        costs = (
            f"{v if isinstance(v, str) else f'{v:g}'} {100 * x:.2f} % ({100 * low:.2f}–{100 * high:.2f})"
            for v, (x, (low, high)) in self.excess.items()
        )
        p = "< 0.001" if self.p_value < 1e-3 else f"= {self.p_value:.2g}"
        return (
            f"{self.name}: best {best}{span} at {self.compute:.3g} FLOPs. "
            f"Loss above that: {', '.join(costs)}. p {p} for no difference."
        )


def axis_effect(
    runs: RunTable, residuals: Floats, name: str, compute: float, level: float
) -> AxisEffect:
    """The effect of a column on relative residuals of a law: quadratic in a number, by text else."""
    if not isinstance(name, str) or name not in runs.texts:
        raise InputError(
            "name: expected a column that splits the runs into a few values, and is no other quantity; got "
            f"{name!r}: {columns_there(name, runs.texts)}"
        )
    check_number("compute", compute, above=0)
    known = np.array([cell != "" for cell in runs.texts[name]])
    runs, residuals = runs.select(known), residuals[known]
    cells = runs.texts[name]
    if len(set(cells)) < 2:
        raise InputError(
            f"name: expected two values of {name!r} or more; the runs fitted have one."
        )
    numbers = next(iter(runs.covariates([name])), None)
    numbers = numbers if numbers is not None and np.all(np.isfinite(numbers)) else None
    budgets = np.log(runs.budget)
    at = math.log(compute) - float(np.mean(budgets))
    plain = np.stack(
        [np.ones(len(cells)), _centred(np.log(runs.params)), _centred(budgets)], axis=1
    )
    values: list[float | str]
    if numbers is None:
        values = sorted(set(cells))
        grid, own = np.eye(len(values)), np.eye(len(values))[[values.index(c) for c in cells]]
        own, grid, swept = own[:, 1:], grid[:, 1:], grid[:, 1:]
        points: Floats = np.arange(len(values), dtype=float)
    else:
        marks = np.unique(numbers)
        values = [float(mark) for mark in marks]
        logs = bool(marks[0] > 0 and marks[-1] / marks[0] >= _SPREAD)
        scale = np.log(numbers) if logs else numbers
        middle, width = float(np.mean(scale)), float(np.std(scale))
        steps = np.linspace(float(scale.min()), float(scale.max()), _GRID)
        points = np.exp(steps) if logs else steps
        bends, turns = len(values) > 2, len(values) > 2 and len(np.unique(np.round(budgets, 2))) > 2

        def columns(x: Floats, c: Floats) -> Floats:
            u = (x - middle) / width
            return np.stack([u, *[u**2] * bends, *[u * c] * turns], axis=1)

        own = columns(scale, budgets - np.mean(budgets))
        grid = columns(steps, np.full(_GRID, at))
        swept = columns(np.log(marks) if logs else marks, np.full(len(values), at))
    design = np.hstack([plain, own])
    dof = len(cells) - np.linalg.matrix_rank(design)
    if dof < _LEAST_DOF:
        raise InputError(
            f"name: expected {_LEAST_DOF} runs more than the {design.shape[1]} constants of {name!r}; got "
            f"{len(cells)} runs."
        )
    solved, left = (_least_squares(d, residuals) for d in (design, plain))
    square = solved[1] / dof
    gain = (left[1] - solved[1]) / own.shape[1]
    from scipy.special import fdtrc  # which takes a tenth of a second to import

    p_value = float(fdtrc(own.shape[1], dof, gain / square)) if square > 0 else 0.0
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(
        square * np.linalg.pinv(design.T @ design) + 1e-18 * np.eye(len(design.T))
    )
    scatter = rng.standard_normal((_DRAWS, len(root))) @ root.T
    scatter *= np.sqrt(dof / rng.chisquare(dof, _DRAWS))[:, None]
    coefficients = (solved[0] + np.vstack([scatter[0] * 0, scatter]))[:, plain.shape[1] :]
    along = coefficients @ grid.T
    values_at, where = coefficients @ swept.T, points[along.argmin(axis=1)]
    above = values_at - np.minimum(along.min(axis=1), values_at.min(axis=1))[:, None]
    tails = [(1 - level) / 2, (1 + level) / 2]
    spans = np.quantile(above[1:], tails, axis=0).T
    excess = {
        v: (float(x), (float(a), float(b)))
        for v, x, (a, b) in zip(values, above[0], spans, strict=True)
    }
    if numbers is None:
        return AxisEffect(name, compute, level, values[int(where[0])], None, excess, p_value)
    low, high = np.quantile(where[1:], tails)
    return AxisEffect(
        name, compute, level, float(where[0]), (float(low), float(high)), excess, p_value
    )


def _centred(values: Floats) -> Floats:
    return np.asarray(values - np.mean(values))


def _least_squares(design: Floats, y: Floats) -> tuple[Floats, float]:
    solution = np.asarray(np.linalg.lstsq(design, y, rcond=None)[0], dtype=np.float64)
    return solution, float(np.sum((y - design @ solution) ** 2))
