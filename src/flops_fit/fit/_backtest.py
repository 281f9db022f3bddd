"""Would the fit have foreseen the largest budgets, had they not been run yet?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import FitError, InputError
from flops_fit.fit._fit import Fit
from flops_fit.fit._fit_runs import fit_runs
from flops_fit.fit._isoflop import parabola
from flops_fit.fit._prediction import Interval, Prediction
from flops_fit.fit._sandwich import student_t
from flops_fit.table import RunTable

__all__ = ["Backtest", "HeldOut", "backtest"]


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
        Confidence intervals of N* and of the law's own loss there.
    run_interval
        Prediction interval for the loss of one run at N*: the law's uncertainty and
        that run's noise in quadrature.
    vertex_params, vertex_loss
        Of the parabola through the budget's runs; ``None`` where its minimum is not inside.
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
    best_label: str
    best_params: float
    best_loss: float
    params_inside: bool | None
    loss_inside: bool | None


@dataclass(frozen=True)
class Backtest:
    """A fit without the largest budgets, and how it did on them, cheapest first."""

    fit: Fit
    held_out: tuple[HeldOut, ...]
    level: float

    @property
    def passed(self) -> bool | None:
        """Whether every measured loss lies inside; ``None`` where none could be judged."""
        judged = [h.loss_inside for h in self.held_out if h.loss_inside is not None]
        return all(judged) if judged else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "law": self.fit.law.name,
            "runs": len(self.fit.runs),
            "level": self.level,
            "passed": self.passed,
            "held_out": [dict(vars(h)) for h in self.held_out],
        }


def backtest(runs: Any, top: int = 1, *, level: float = 0.9, **options: Any) -> Backtest:
    """Fit without the ``top`` largest budgets and predict them.

    Parameters
    ----------
    runs
        Anything :func:`~flops_fit.fit.fit_runs` accepts.
    top
        How many of the largest budgets to hold out.
    level
        Of all intervals.
    **options
        As for :func:`~flops_fit.fit.fit_runs`.

    Raises
    ------
    FitError
        The budgets that would remain determine no law; at least two, and more runs than parameters,
        have to.
    """
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise InputError(f"expected top to be a number of budgets, 1 or more; got {top!r}.")
    table = RunTable.read(runs, options.pop("columns", None))
    budgets = np.unique(table.budget)
    if len(budgets) - top < 2:
        raise FitError(
            f"expected two budgets or more to remain after holding out {top}; the runs have "
            f"{len(budgets)}. Add budgets, or hold out fewer."
        )
    held = budgets[-top:]
    fit = fit_runs(table.select(table.budget < held[0], "held out to check the fit"), **options)
    if options.get("n") == "non_embedding" and table.non_embedding is not None:
        sizes = table.non_embedding
    else:
        sizes = table.params
    judged = []
    for budget in held:
        part = table.select(table.budget == budget)
        judged.append(_judge(fit, part, sizes[table.budget == budget], level))
    return Backtest(fit, tuple(judged), level)


def _judge(fit: Fit, part: RunTable, sizes: Any, level: float) -> HeldOut:
    part = replace(part, params=sizes)
    compute = float(np.mean(part.flops))
    prediction = fit.predict(compute, level)
    run_interval = _one_run(fit, prediction, level)
    vertex = parabola(part)
    found = vertex is not None and vertex.interior
    best = int(np.argmin(part.loss))
    seen = vertex.loss if vertex is not None and found else float(part.loss[best])
    params_interval = prediction.intervals["optimal_params"]
    return HeldOut(
        compute=compute,
        runs=len(part),
        predicted_params=prediction.optimal_params,
        predicted_loss=prediction.expected_loss,
        params_interval=params_interval,
        loss_interval=prediction.intervals["expected_loss"],
        run_interval=run_interval,
        vertex_params=vertex.params if vertex is not None and found else None,
        vertex_loss=vertex.loss if vertex is not None and found else None,
        best_label=part.labels[best],
        best_params=float(part.params[best]),
        best_loss=float(part.loss[best]),
        params_inside=_inside(vertex.params, params_interval)
        if vertex is not None and found
        else None,
        loss_inside=_inside(seen, run_interval),
    )


def _one_run(fit: Fit, prediction: Prediction, level: float) -> Interval | None:
    """The loss interval widened by one run's noise, in quadrature on the log scale."""
    interval = prediction.intervals["expected_loss"]
    if interval is None:
        return None
    centre = np.log(prediction.expected_loss)
    sd = fit.noise_sd if fit.loss_space == "log" else fit.noise_sd / prediction.expected_loss
    noise = student_t(level, fit.dof) * sd
    low = centre - float(np.hypot(centre - np.log(interval[0]), noise))
    high = centre + float(np.hypot(np.log(interval[1]) - centre, noise))
    return float(np.exp(low)), float(np.exp(high))


def _inside(value: float, interval: Interval | None) -> bool | None:
    return None if interval is None else bool(interval[0] <= value <= interval[1])
