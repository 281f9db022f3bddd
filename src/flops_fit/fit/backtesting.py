"""Would the fit have foreseen the largest budgets, had they not been run yet?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import FitError, InputError
from flops_fit.fit.estimate import Interval
from flops_fit.fit.fit import Fit
from flops_fit.fit.fitting import fit_runs
from flops_fit.fit.held_out import HeldOut, measured
from flops_fit.fit.prediction import Prediction
from flops_fit.fit.sandwich import student_t
from flops_fit.table.run_table import RunTable


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
            "held_out": [h.to_dict() for h in self.held_out],
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
    if options.get("curves") is not None:
        raise InputError(
            "expected no curves= in a back-test: training curves reach into the budgets that are "
            "held out. Leave them out here."
        )
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
    prediction = fit.predict(float(np.mean(part.flops)), level)
    intervals = (
        prediction.intervals["optimal_params"],
        prediction.intervals["expected_loss"],
        _one_run(fit, prediction, level),
    )
    N, L = prediction.optimal_params, prediction.expected_loss
    return measured(replace(part, params=sizes), N, L, intervals)


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
