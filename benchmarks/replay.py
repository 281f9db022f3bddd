"""Adaptive sweeps on published runs: how few of them give the answer of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.report import Result, Table, at_least, at_most
from flops_fit import fit_runs, reference
from flops_fit.design import Asked, Candidates, run_adaptive
from flops_fit.flops import FlopsFunction
from flops_fit.table import RunTable

SETS: tuple[tuple[str, dict[str, str]], ...] = (
    ("hoffmann2022_epoch", {}),
    ("llama3_2024", {}),
    ("marin2026_dclm", {}),
    ("porian2024_refinedweb", {"hparams": "tuned"}),
)
MOST = 0.5  # of the table's FLOPs
FURTHER = 10.0  # target over the largest run


class Published:
    """Only the runs of a table can be made, each once."""

    def __init__(self, runs: RunTable, flops: FlopsFunction) -> None:
        self.runs, self.flops = runs, flops

    def candidates(self, params: np.ndarray, budget: np.ndarray) -> Candidates:
        """The run nearest to each one wanted, in ln N and ln C."""
        r = self.runs
        away = (np.log(r.params)[None] - np.log(params)[:, None]) ** 2
        away += (np.log(r.flops)[None] - np.log(budget)[:, None]) ** 2
        i = np.unique(np.argmin(away, axis=1))
        return Candidates(r.params[i], r.tokens[i], r.flops[i], r.budget[i], repeats=False)

    def run(self, chosen: Candidates) -> Sequence[float]:
        r = self.runs
        return [
            float(r.loss[np.flatnonzero((r.params == n) & (r.tokens == d))[0]])
            for n, d in chosen.pairs()
        ]


def replay(quick: bool) -> Result:
    """Each published table as an oracle."""
    rows, goals = [], []
    for name, where in SETS:
        fit = fit_runs(reference.runs(name, **where))
        runs = reference.runs(name, **where)
        dearest, total = float(np.max(runs.flops)), float(np.sum(runs.flops))
        told = fit.predict(FURTHER * dearest)
        low, high = told.intervals["optimal_params"] or (np.nan, np.nan)
        budgets = np.unique(runs.budget)
        if len(budgets) > 20:  # no tiers: three within the cheapest decade
            budgets = float(np.min(runs.flops)) * np.array([1.0, 3.0, 10.0])
        asked = Asked(
            FURTHER * dearest,
            float(np.sqrt(high / low)) - 1,
            max_flops=total,
            max_run_flops=dearest * (1 + 1e-9),
            pilot_budgets=tuple(budgets[:3]),
        )
        found = run_adaptive(Published(runs, fit.flops), asked)
        own = found.interval or (np.nan, np.nan)
        inside = low <= found.optimal_params <= high
        rows.append(
            (
                name,
                str(len(runs)),
                f"{told.optimal_params:.3g} ({low:.3g}–{high:.3g})",
                str(len(found.runs)),
                f"{100 * found.spent / total:.2g} %",
                f"{found.optimal_params:.3g} ({own[0]:.3g}–{own[1]:.3g})",
                "yes" if inside else "no",
                "yes" if found.gap.told or not (found.check and found.check.passed) else "no",
            )
        )
        goals.append(at_most(f"{name}: share of the FLOPs", found.spent / total, MOST))
        goals.append(at_least(f"{name}: N* inside the interval of all", float(inside), 1.0))
    columns = ("runs of", "all", "N* at 10 C_max", "chosen", "FLOPs", "N*", "inside", "warned")
    return [Table("Published runs, chosen adaptively", columns, tuple(rows))], goals
