"""Runs that are left out: by their outcome, which selects, and for a cell that no honest run has."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.records import Diagnostic, Excluded
from flops_fit.table.run_table import RunTable
from flops_fit.text import listed

Floats = NDArray[np.float64]

_MOST_LOST = 0.1  # share of a budget's runs that may be lost without a warning
_SAME_BUDGET = np.log(1.1)


def lost_by_outcome(runs: RunTable) -> list[Diagnostic]:
    """How many runs of each budget their own outcome left out, and whether that can bend the answer.

    Runs do not diverge or fail at random: those left are the better ones, or the smaller. A warning
    where more than a tenth of a budget is lost, or its largest run, or the one that looked best.
    """
    lost = [e for e in runs.excluded if e.by_outcome]
    if not lost:
        return []
    budgets, groups = np.unique(runs.budget), dict[float | None, list[Excluded]]()
    for e in lost:
        groups.setdefault(_nearest(budgets, e.budget), []).append(e)
    texts, severe = [], False
    for budget, group in sorted(groups.items(), key=lambda item: item[0] or 0.0):
        kept = np.ones(len(runs), bool) if budget is None else runs.budget == budget
        total = int(np.sum(kept)) + len(group)
        largest_kept = float(np.max(runs.params[kept], initial=0.0))
        lowest_kept = float(np.min(runs.loss[kept], initial=np.inf))
        largest = any(e.params is not None and e.params >= largest_kept for e in group)
        best = any(e.loss is not None and e.loss < lowest_kept for e in group)
        severe |= len(group) > _MOST_LOST * total or largest or best
        which = [w for w, true in (("its largest", largest), ("its best-looking", best)) if true]
        where = "of all, their budget not known" if budget is None else f"at C = {budget:.3g}"
        with_these = f", {' and '.join(which)} among them" if which else ""
        texts.append(f"{len(group)} of {total} {where}{with_these}")
    text = f"runs were left out by their own outcome: {listed(texts, 8)}"
    action = "the runs left are a selection: repeat the lost ones, or distrust those budgets"
    severity: Literal["note", "warning"] = "warning" if severe else "note"
    return [Diagnostic("selected_by_outcome", severity, text, action if severe else "")]


def _nearest(budgets: Floats, compute: float | None) -> float | None:
    """The budget of runs that a compute belongs to, else the compute itself."""
    if compute is None or compute <= 0:
        return None
    off = np.abs(np.log(budgets / compute))
    return float(budgets[np.argmin(off)]) if np.min(off) < _SAME_BUDGET else compute
