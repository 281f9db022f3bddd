"""The numbers behind each figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit import Fit, Prediction

__all__ = ["IsoflopCurve", "Path", "isoflop_curves", "optimal_path"]

Floats = NDArray[np.float64]
_POINTS = 80


@dataclass(frozen=True)
class IsoflopCurve:
    """The runs of one budget, the fitted law across their sizes, and the optimum on it."""

    budget: float
    params: Floats
    loss: Floats
    curve_params: Floats
    curve_loss: Floats
    best_params: float
    best_loss: float


def isoflop_curves(fit: Fit) -> list[IsoflopCurve]:
    """One curve a budget, cheapest first."""
    curves = []
    for budget in np.unique(fit.runs.budget):
        here = fit.runs.budget == budget
        params, loss = fit.runs.params[here], fit.runs.loss[here]
        best = fit.law.optimal(budget, fit.flops)
        low, high = min(params.min(), best.params), max(params.max(), best.params)
        along = np.geomspace(low / 1.15, high * 1.15, _POINTS)
        on_curve = np.asarray(fit.law.loss(along, budget / fit.flops(along)))
        order = np.argsort(params)
        curves.append(
            IsoflopCurve(
                float(budget),
                params[order],
                loss[order],
                along,
                on_curve,
                float(best.params),
                float(best.loss),
            )
        )
    return curves


@dataclass(frozen=True)
class Path:
    """A quantity along the compute-optimal path, with its interval where one exists."""

    compute: Floats
    value: Floats
    low: Floats
    high: Floats


def optimal_path(fit: Fit, level: float = 0.9, reach: float = 10.0) -> dict[str, Path]:
    """N*, D* and the loss from the cheapest budget to ``reach`` times the dearest."""
    compute = np.geomspace(fit.runs.budget.min() / 1.5, fit.largest_compute * reach, 25)
    predictions = [fit.predict(float(c), level) for c in compute]
    names = ("optimal_params", "optimal_tokens", "expected_loss")
    return {name: _path(compute, predictions, name) for name in names}


def _path(compute: Floats, predictions: list[Prediction], name: str) -> Path:
    spans = [p.intervals[name] or (np.nan, np.nan) for p in predictions]
    return Path(
        compute,
        np.array([getattr(p, name) for p in predictions]),
        np.array([s[0] for s in spans]),
        np.array([s[1] for s in spans]),
    )
