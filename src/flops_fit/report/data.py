"""The numbers behind the figures of runs, optima and losses; drawing is elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import Prediction

Floats = NDArray[np.float64]
Row = dict[str, Any]
_POINTS = 80
_BEYOND = 10.0  # how far a curve follows the law beyond its runs to reach an optimum
_LAWS = {"kappa": "κ-law", "hoffmann": "additive law"}


class FigureData(Protocol):
    """What every figure is drawn from."""

    def rows(self) -> list[Row]:
        """The same numbers as a table, one dict a row."""


@dataclass(frozen=True)
class IsoflopCurve:
    """The runs of one budget, the fitted law across their sizes, and the optimum on it.

    ``vertex_params`` and ``vertex_loss`` are of approach 2's parabola, NaN where it has no minimum
    inside the sampled sizes.
    """

    budget: float
    params: Floats
    loss: Floats
    curve_params: Floats
    curve_loss: Floats
    best_params: float
    best_loss: float
    vertex_params: float = float("nan")
    vertex_loss: float = float("nan")


@dataclass(frozen=True)
class Isoflop:
    """All IsoFLOP curves, cheapest first; ``flagged`` holds (N, loss) of outliers, shape (k, 2)."""

    curves: tuple[IsoflopCurve, ...]
    flagged: Floats
    law: str

    def rows(self) -> list[Row]:
        """Runs, points of the curves, optima and minima, told apart by ``kind``."""
        return list(_isoflop_rows(self.curves))


def _isoflop_rows(curves: Iterable[IsoflopCurve]) -> Iterator[Row]:
    for c in curves:
        groups: tuple[tuple[str, Sequence[float] | Floats, Sequence[float] | Floats], ...] = (
            ("run", c.params, c.loss),
            ("curve", c.curve_params, c.curve_loss),
            ("optimum", [c.best_params], [c.best_loss]),
            ("parabola's minimum", [c.vertex_params], [c.vertex_loss]),
        )
        for kind, params, loss in groups:
            for n, value in zip(params, loss, strict=True):
                if n == n:
                    yield {
                        "kind": kind,
                        "compute": c.budget,
                        "params": float(n),
                        "loss": float(value),
                    }


def isoflop_data(fit: Fit) -> Isoflop:
    """Loss against size at each budget, with the law, its optima and approach 2's minima."""
    far = {o.label for o in fit.outliers}
    flagged = [i for i, label in enumerate(fit.runs.labels) if label in far]
    points = np.column_stack([fit.runs.params[flagged], fit.runs.loss[flagged]])
    return Isoflop(
        tuple(isoflop_curves(fit)), points, _LAWS.get(fit.law.name, f"{fit.law.name} law")
    )


def isoflop_curves(fit: Fit) -> list[IsoflopCurve]:
    """One curve a budget, cheapest first."""
    vertices = {p.budget: p for p in fit.isoflop.interior}
    curves = []
    for budget in np.unique(fit.runs.budget):
        here = fit.runs.budget == budget
        params, loss = fit.runs.params[here], fit.runs.loss[here]
        best = fit.law.optimal(budget, fit.flops)
        low, high = (
            np.clip(best.params, params.min() / _BEYOND, params.max() * _BEYOND) * factor
            for factor in (1 / 1.15, 1.15)
        )
        along = np.geomspace(min(low, params.min() / 1.15), max(high, params.max() * 1.15), _POINTS)
        on_curve = np.asarray(fit.law.loss(along, budget / fit.flops(along)))
        order = np.argsort(params)
        vertex = vertices.get(float(budget))
        curves.append(
            IsoflopCurve(
                float(budget),
                params[order],
                loss[order],
                along,
                on_curve,
                float(best.params),
                float(best.loss),
                vertex.params if vertex else float("nan"),
                vertex.loss if vertex else float("nan"),
            )
        )
    return curves


@dataclass(frozen=True)
class OptimalPath:
    """A quantity along the compute-optimal path, with its interval where one exists."""

    compute: Floats
    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Seen:
    """What was observed beside a path, and what that is."""

    what: str
    compute: Floats
    value: Floats


@dataclass(frozen=True)
class OptimumCurve:
    """One quantity of the optimum over compute.

    Attributes
    ----------
    quantity, unit
        ``"params"``, ``"tokens"`` or ``"loss"``, and what D counts.
    path, source
        The quantity with its interval, and what gives it.
    seen
        Observations beside it.
    largest
        C of the largest run: beyond it the path is an extrapolation.
    level
        Of the interval.
    """

    quantity: str
    unit: str
    path: OptimalPath
    source: str
    seen: tuple[Seen, ...]
    largest: float
    level: float

    def rows(self) -> list[Row]:
        """The path with its interval, and observations, told apart by ``kind``."""
        p = self.path
        columns = zip(p.compute, p.value, p.low, p.high, strict=True)
        out: list[Row] = [
            {"kind": self.source, "compute": float(c), self.quantity: v, "low": a, "high": b}
            for c, v, a, b in columns
        ]
        for s in self.seen:
            pairs = zip(s.compute, s.value, strict=True)
            out += [
                {"kind": s.what, "compute": float(c), self.quantity: float(v)} for c, v in pairs
            ]
        return out


def optimal_path(fit: Fit, level: float = 0.9, reach: float = 10.0) -> dict[str, OptimalPath]:
    """N*, D* and the loss from the cheapest budget to ``reach`` times the dearest."""
    largest = fit.largest_compute
    start = min(float(fit.runs.budget.min()), largest) / 1.5
    compute = np.unique(
        np.concatenate(
            [np.geomspace(start, largest, 20), np.geomspace(largest, largest * reach, 8)]
        )
    )
    predictions = [fit.predict(float(c), level) for c in compute]
    names = ("optimal_params", "optimal_tokens", "expected_loss")
    return {name: _path(compute, predictions, name) for name in names}


def _path(compute: Floats, predictions: list[Prediction], name: str) -> OptimalPath:
    spans = [p.intervals[name] or (np.nan, np.nan) for p in predictions]
    return OptimalPath(
        compute,
        np.array([getattr(p, name) for p in predictions]),
        np.array([s[0] for s in spans]),
        np.array([s[1] for s in spans]),
    )


def params_data(fit: Fit, level: float = 0.9, path: OptimalPath | None = None) -> OptimumCurve:
    """N* over compute, with the minima of approach 2 and the winners of approach 1."""
    return _size_data(fit, level, "params", path)


def tokens_data(fit: Fit, level: float = 0.9, path: OptimalPath | None = None) -> OptimumCurve:
    """D* over compute, with the minima of approach 2 and the winners of approach 1."""
    return _size_data(fit, level, "tokens", path)


def _size_data(fit: Fit, level: float, quantity: str, path: OptimalPath | None) -> OptimumCurve:
    minima = fit.isoflop.interior
    found = [("minimum of a parabola", [(p.budget, getattr(p, quantity)) for p in minima])]
    if fit.envelope:
        winners = [(w.compute, getattr(w, quantity)) for w in fit.envelope.points]
        found.append(("a size's stretch of the envelope", winners))
    seen = tuple(_seen(what, pairs) for what, pairs in found if pairs)
    line = path or optimal_path(fit, level)[f"optimal_{quantity}"]
    return OptimumCurve(
        quantity, fit.runs.unit, line, _source(fit), seen, fit.largest_compute, level
    )


def loss_data(fit: Fit, level: float = 0.9, path: OptimalPath | None = None) -> OptimumCurve:
    """The loss at the optimum over compute, with each budget's best run."""
    budgets = np.unique(fit.runs.budget)
    best = [float(fit.runs.loss[fit.runs.budget == b].min()) for b in budgets]
    seen = _seen("best run of a budget", list(zip(budgets, best, strict=True)))
    line = path or optimal_path(fit, level)["expected_loss"]
    return OptimumCurve(
        "loss", fit.runs.unit, line, _source(fit), (seen,), fit.largest_compute, level
    )


def _source(fit: Fit) -> str:
    on_lines = any(a.headline for a in fit.approaches[:2])
    return "line through the minima" if on_lines else "fitted law"


def _seen(what: str, pairs: Sequence[tuple[float, float]]) -> Seen:
    compute, value = np.array(pairs, dtype=np.float64).T
    return Seen(what, compute, value)


@dataclass(frozen=True)
class Residuals:
    """How far each run lies from the law, in % of it or in units of the loss.

    ``distance`` is N/N* at the run's own compute; ``p_value`` that of no pattern, ``None`` with too
    few runs.
    """

    labels: tuple[str, ...]
    compute: Floats
    budget: Floats
    params: Floats
    distance: Floats
    residual: Floats
    in_percent: bool
    p_value: float | None

    def rows(self) -> list[Row]:
        """One row a run."""
        name = "residual_percent" if self.in_percent else "residual"
        columns = zip(
            self.labels, self.compute, self.params, self.distance, self.residual, strict=True
        )
        return [
            {
                "run": label,
                "compute": float(c),
                "params": float(n),
                "params_over_optimum": float(d),
                name: float(r),
            }
            for label, c, n, d, r in columns
        ]


def residuals_data(fit: Fit) -> Residuals:
    """Residuals of all fitted runs, with where each run stands."""
    best = np.asarray(fit.law.optimal(fit.runs.flops, fit.flops).params)
    in_percent = fit.loss_space == "log"
    return Residuals(
        fit.runs.labels,
        fit.runs.flops,
        fit.runs.budget,
        fit.runs.params,
        fit.runs.params / best,
        100 * fit.residuals if in_percent else fit.residuals,
        in_percent,
        fit.residual_map.p_value,
    )
