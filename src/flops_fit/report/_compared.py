"""The numbers behind the figures that hold the fit against something: a surface, a past, others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit import Backtest, Fit, HeldOut

__all__ = [
    "Approaches",
    "Held",
    "Surface",
    "approaches_data",
    "backtest_data",
    "surface_data",
]

Floats = NDArray[np.float64]
Row = dict[str, Any]
_GRID = 70
_CONTOURS = 7


@dataclass(frozen=True)
class Surface:
    """The loss over N and D, shape (D, N), with the runs and the optima of the law.

    ``levels`` are the optimal losses of evenly spaced budgets, so that each contour touches the
    budget that first reaches it.
    """

    unit: str
    params: Floats
    tokens: Floats
    loss: Floats
    levels: Floats
    run_params: Floats
    run_tokens: Floats
    run_loss: Floats
    best_params: Floats
    best_tokens: Floats

    def rows(self) -> list[Row]:
        """Runs, optima and the grid, told apart by ``kind``."""
        out: list[Row] = []
        nan = np.full_like(self.best_params, np.nan)
        N, D = np.meshgrid(self.params, self.tokens)
        for kind, columns in (
            ("run", (self.run_params, self.run_tokens, self.run_loss)),
            ("optimum", (self.best_params, self.best_tokens, nan)),
            ("law", (N.ravel(), D.ravel(), self.loss.ravel())),
        ):
            for n, d, value in zip(*columns, strict=True):
                out.append(
                    {"kind": kind, "params": float(n), "tokens": float(d), "loss": float(value)}
                )
        return out


def surface_data(fit: Fit) -> Surface:
    """The fitted law over the range of the runs."""
    runs = fit.runs
    N = np.geomspace(runs.params.min() / 1.6, runs.params.max() * 1.6, _GRID)
    D = np.geomspace(runs.tokens.min() / 1.6, runs.tokens.max() * 1.6, _GRID)
    loss = np.asarray(fit.law.loss(N[None, :], D[:, None]))
    reach = np.geomspace(runs.flops.min() / 8, runs.flops.max() * 8, 60)
    best = fit.law.optimal(reach, fit.flops)
    n, d = np.asarray(best.params), np.asarray(best.tokens)
    inside = (n > N[0]) & (n < N[-1]) & (d > D[0]) & (d < D[-1])
    at = np.geomspace(runs.flops.min() / 2, runs.flops.max() * 1.5, _CONTOURS)
    levels = np.unique(np.asarray(fit.law.optimal(at, fit.flops).loss))
    if np.sum((levels > loss.min()) & (levels < loss.max())) < 3:  # an optimum far from all runs
        levels = np.unique(np.linspace(loss.min(), loss.max(), _CONTOURS + 2)[1:-1])
    return Surface(
        runs.unit,
        N,
        D,
        loss,
        levels,
        runs.params,
        runs.tokens,
        runs.loss,
        n[inside],
        d[inside],
    )


@dataclass(frozen=True)
class Held:
    """What cheaper budgets foretell of dearer ones, and what was measured there.

    Attributes
    ----------
    held_out
        For each number of budgets held out, those budgets.
    compute, loss
        Every budget with the lowest loss that one of its runs has.
    """

    held_out: tuple[tuple[HeldOut, ...], ...]
    compute: Floats
    loss: Floats

    def rows(self) -> list[Row]:
        """One row a budget held out."""
        return [
            {
                "held_out": len(group),
                "compute": h.compute,
                "predicted_loss": h.predicted_loss,
                "measured_loss": measured_loss(h),
                "low": h.run_interval[0] if h.run_interval else None,
                "high": h.run_interval[1] if h.run_interval else None,
                "predicted_params": h.predicted_params,
                "measured_params": h.vertex_params,
            }
            for group in self.held_out
            for h in group
        ]


def measured_loss(held: HeldOut) -> float:
    """The minimum of the budget's parabola, or else its best run."""
    return held.best_loss if held.vertex_loss is None else held.vertex_loss


def backtest_data(fit: Fit, tests: tuple[Backtest, ...] = ()) -> Held | None:
    """Budgets held out of the fit, ``None`` where too few are there.

    By default those that every fit looks at, without intervals; ``tests`` are back-tests with
    theirs.
    """
    held = tuple(t.held_out for t in tests) or fit.sensitivity.held_out
    if not held:
        return None
    budgets = np.unique(fit.runs.budget)
    best = np.array([float(fit.runs.loss[fit.runs.budget == b].min()) for b in budgets])
    return Held(held, budgets, best)


@dataclass(frozen=True)
class Approaches:
    """N* of each approach and of each other law form over N* of the answer.

    Attributes
    ----------
    compute, low, high
        Where lines are given, and the answer's interval over the answer (NaN where it has none).
    lines
        By name, the ratio along ``compute``.
    minima
        (C, ratio) of approach 2's minima, shape (k, 2).
    answer
        What everything is divided by.
    largest, level
        C of the largest run, and the level of the interval.
    """

    compute: Floats
    low: Floats
    high: Floats
    lines: dict[str, Floats]
    minima: Floats
    answer: str
    largest: float
    level: float

    def rows(self) -> list[Row]:
        """Ratios along compute, told apart by ``kind``."""
        out: list[Row] = [
            {"kind": name, "compute": float(c), "params_over_answer": float(v)}
            for name, line in self.lines.items()
            for c, v in zip(self.compute, line, strict=True)
        ]
        out += [
            {
                "kind": self.answer,
                "compute": float(c),
                "params_over_answer": 1.0,
                "low": a,
                "high": b,
            }
            for c, a, b in zip(self.compute, self.low, self.high, strict=True)
        ]
        return out + [
            {"kind": "parabola's minimum", "compute": float(c), "params_over_answer": float(v)}
            for c, v in self.minima
        ]


def approaches_data(fit: Fit, level: float = 0.9, reach: float = 10.0) -> Approaches:
    """The three approaches and the other law forms beside the answer."""
    compute = np.geomspace(fit.runs.flops.min() / 1.3, fit.largest_compute * reach, 24)
    predictions = [fit.predict(float(c), level) for c in compute]
    answer = np.array([p.optimal_params for p in predictions])
    spans = [p.intervals["optimal_params"] or (np.nan, np.nan) for p in predictions]
    low, high = (np.array(v) / answer for v in zip(*spans, strict=True))
    names = {"surface": "3 surface", "isoflop": "2 parabolas", "envelope": "1 envelope"}
    named = next((names[a.name] for a in fit.approaches if a.headline), names["surface"])
    lines: dict[str, Floats] = {}
    if named != names["surface"]:
        lines[names["surface"]] = _ratio(fit.law.optimal(compute, fit.flops).params, answer)
    for name, found in (("isoflop", fit.isoflop), ("envelope", fit.envelope)):
        line = found.n_line if found is not None and found.usable else None
        if line is not None and named != names[name]:
            lines[names[name]] = _ratio([line(float(c)) for c in compute], answer)
    forms = {"hoffmann": "additive law", "kappa": "κ-law"}
    for other in fit.alternatives:
        if other.status.usable and other.law.name != fit.law.name:
            label = forms.get(other.law.name, f"{other.law.name} law")
            lines[label] = _ratio(other.law.optimal(compute, fit.flops).params, answer)
    minima = [(p.budget, p.params / fit.optimal(p.budget).params) for p in fit.isoflop.interior]
    return Approaches(
        compute,
        low,
        high,
        lines,
        np.array(minima).reshape(-1, 2),
        named,
        fit.largest_compute,
        level,
    )


def _ratio(params: Any, answer: Floats) -> Floats:
    return np.asarray(params, dtype=np.float64) / answer
