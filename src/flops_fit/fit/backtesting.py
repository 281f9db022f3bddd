"""What a fit is worth beside the largest budgets, held out."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import FitError, InputError, check_whole
from flops_fit.fit.conditions import read_for, with_covariates
from flops_fit.fit.experts import as_asked, by_active
from flops_fit.fit.fit import Fit
from flops_fit.fit.fitting import fit_runs, known_law
from flops_fit.fit.prediction import HeldOut, judge
from flops_fit.fit.table_checks import check_runs
from flops_fit.fit.window import run_weights
from flops_fit.records import finite_json


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
        record = {"law": self.fit.law.name, "runs": len(self.fit.runs), "level": self.level}
        return {**record, "passed": self.passed, "held_out": finite_json(self.held_out)}


def backtest(runs: Any, top: int = 1, *, level: float = 0.9, **options: Any) -> Backtest:
    """Fit without the ``top`` largest budgets and predict them.

    ``runs`` and ``options`` are as for :func:`~flops_fit.fit.fit_runs`, ``level`` is that of all
    intervals. Raises FitError where the remaining budgets determine no law: they have to be two or
    more, with more runs than parameters.
    """
    check_whole("top", top, expected="a number of budgets, 1 or more")
    if options.get("curves") is not None:
        raise InputError("expected no curves= in a back-test: they show the budgets held out.")
    if options.get("group") is not None:
        raise InputError("expected no group= in a back-test: give the runs of one group alone.")
    form = known_law(options.get("law", "auto"))
    table = read_for(form, runs, options.pop("columns", None))
    if options.get("n") == "non_embedding" and table.non_embedding is not None:
        table = replace(table, params=table.non_embedding)
    weights = options.get("weights", "equal")
    if not isinstance(weights, str):  # one for each run that a fit to all would use
        table = check_runs(with_covariates(table, form) if form else table, 0)
        weights = run_weights(weights, table, options.get("loss_space", "log") == "log")
        table, weights = table.select(weights > 0), weights[weights > 0]
    budgets = np.unique(table.budget)
    if len(budgets) - top < 2:
        raise FitError(
            f"expected two budgets or more to remain after holding out {top}; the runs have "
            f"{len(budgets)}. Add budgets, or hold out fewer."
        )
    held = budgets[-top:]
    left = table.budget < held[0]
    if not isinstance(weights, str):
        options["weights"] = weights[left]
    fit = fit_runs(table.select(left, "held out to check the fit"), **options)
    if fit.runs.sparsity is not None:
        table = by_active(table)
    table = as_asked(with_covariates(table, type(fit.law)), fit.law)
    judged = []
    for part in (table.select(table.budget == b) for b in held):
        part = part if fit.hparams is None else fit.hparams.freed(part)
        at = fit.predict(float(np.mean(part.flops)), level)
        spans = [at.intervals[name] for name in ("optimal_params", "expected_loss", "run_loss")]
        judged.append(judge(part, at.optimal_params, at.expected_loss, spans))
    return Backtest(fit, tuple(judged), level)
