"""A budget that was held out of a fit: what was foretold for it and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flops_fit.fit.estimate import Interval
from flops_fit.fit.isoflop import Parabola, parabola
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.table.run_table import RunTable

_NEAR = 5.0


@dataclass(frozen=True)
class HeldOut:
    """One budget that was held out: what was predicted for it and what was measured.

    Attributes
    ----------
    compute
        Mean C of the budget's runs.
    predicted_params, predicted_loss
        N* and L from the cheaper budgets.
    params_interval, loss_interval
        Confidence intervals of N* and of the law's own loss there; ``None`` where none was made.
    run_interval
        Prediction interval for the loss of one run at N*: the law's uncertainty and
        that run's noise in quadrature.
    vertex_params, vertex_loss
        Of the parabola through the budget's runs within ×5 of it; ``None`` where its minimum is not
        inside the sampled sizes.
    regret
        By how much, relative to the vertex's loss, the loss at the predicted N exceeds it on that
        parabola; ``None`` without a vertex.
    best_label, best_params, best_loss
        The run with the lowest loss. The lowest of several is low by luck as well.
    params_inside, loss_inside
        Whether the vertex's N lies in ``params_interval`` and the vertex's loss (without a vertex:
        the lowest run's) in ``run_interval``; ``None`` where one of the two is missing.
    """

    compute: float
    runs: int
    predicted_params: float
    predicted_loss: float
    params_interval: Interval | None
    loss_interval: Interval | None
    run_interval: Interval | None
    vertex_params: float | None
    vertex_loss: float | None
    regret: float | None
    best_label: str
    best_params: float
    best_loss: float
    params_inside: bool | None
    loss_inside: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))


def measured(
    part: RunTable,
    predicted_params: float,
    predicted_loss: float,
    intervals: tuple[Interval | None, Interval | None, Interval | None] = (None, None, None),
) -> HeldOut:
    """A prediction for a budget beside its runs; intervals of N*, the law's loss and one run."""
    params_interval, loss_interval, run_interval = intervals
    found = parabola(part, _NEAR)
    vertex = found if found is not None and found.interior else None
    best = int(np.argmin(part.loss))
    seen = vertex.loss if vertex else float(part.loss[best])
    return HeldOut(
        compute=float(np.mean(part.flops)),
        runs=len(part),
        predicted_params=predicted_params,
        predicted_loss=predicted_loss,
        params_interval=params_interval,
        loss_interval=loss_interval,
        run_interval=run_interval,
        vertex_params=vertex.params if vertex else None,
        vertex_loss=vertex.loss if vertex else None,
        regret=regret_of(vertex, predicted_params) if vertex else None,
        best_label=part.labels[best],
        best_params=float(part.params[best]),
        best_loss=float(part.loss[best]),
        params_inside=_inside(vertex.params, params_interval) if vertex else None,
        loss_inside=_inside(seen, run_interval),
    )


def regret_of(vertex: Parabola, params: float) -> float:
    """Relative loss above a parabola's minimum at another size."""
    distance = float(np.log(params / vertex.params))
    return 0.5 * vertex.curvature * distance**2 / vertex.loss


def predict_held_out(law: Law, flops: FlopsFunction, part: RunTable) -> HeldOut:
    """A law fitted without ``part`` beside it, without intervals."""
    best = law.optimal(float(np.mean(part.flops)), flops)
    return measured(part, float(best.params), float(best.loss))


def _inside(value: float, interval: Interval | None) -> bool | None:
    return None if interval is None else bool(interval[0] <= value <= interval[1])
