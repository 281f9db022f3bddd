"""What a table of runs shows before any law is fitted to it, each finding with what to do."""

from __future__ import annotations

from typing import Literal

import numpy as np

from flops_fit.fit._flops import flops_misfit
from flops_fit.fit._isoflop import IsoFLOP
from flops_fit.fit._plausible import implausible
from flops_fit.flops import FlopsFunction
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable

__all__ = ["table_findings"]

Severity = Literal["ok", "note", "warning", "critical"]

_FEW_SIZES, _FEW_BUDGETS = 5, 4


def table_findings(
    runs: RunTable, shape: IsoFLOP, flops: FlopsFunction, repeats_known: bool
) -> list[Diagnostic]:
    """What was assumed and left out, magnitudes, repeats, budgets, sizes and minima at edges.

    ``repeats_known`` says that the law fitted takes repeated data into account.
    """
    return [*_columns(runs, flops), *_repeats(runs, repeats_known), *_grid(runs), *_edges(shape)]


def _columns(runs: RunTable, flops: FlopsFunction) -> list[Diagnostic]:
    found = [Diagnostic("assumed", "note", note) for note in runs.notes]
    if runs.excluded:
        shown = "; ".join(f"{e.label}: {e.reason}" for e in runs.excluded[:5])
        more = f"; and {len(runs.excluded) - 5} more" if len(runs.excluded) > 5 else ""
        found.append(
            Diagnostic(
                "excluded", "note", f"{len(runs.excluded)} runs are not fitted ({shown}{more})"
            )
        )
    found += implausible(runs)
    misfit = flops_misfit(runs, flops)
    if misfit > 0.05:
        found.append(
            Diagnostic(
                "flops_misfit",
                "warning",
                f"F(N)·D differs from the table's compute by up to {100 * misfit:.2g} %",
                "give flops_per_unit= as a function of N",
            )
        )
    per_product = runs.flops / (6 * runs.params * runs.tokens)
    if float(np.max(np.abs(np.log(per_product)))) > 0.05:
        found.append(
            Diagnostic(
                "flops_convention",
                "note",
                f"the table's compute is {np.min(per_product):.3g} to {np.max(per_product):.3g} times "
                "6·N·D; predictions speak of the table's own",
            )
        )
    if runs.non_embedding is not None:
        which = (
            "without embeddings" if np.array_equal(runs.params, runs.non_embedding) else "in all"
        )
        found.append(Diagnostic("n_convention", "note", f"N counts parameters {which}"))
    return found


def _repeats(runs: RunTable, known: bool) -> list[Diagnostic]:
    if runs.unique_tokens is None or known:
        return []
    epochs = float(np.nanmax(runs.tokens / runs.unique_tokens, initial=1.0))
    if epochs <= 1.05:
        return []
    # Muennighoff et al. 2023 (arXiv:2305.16264): no loss up to 4 epochs, R* = 15.4.
    severity: Severity = "critical" if epochs > 16 else "warning" if epochs > 4 else "note"
    text = f"runs see their data up to {epochs:.3g} times; the law counts repeats as new"
    action = "fit runs of at most four epochs" if epochs > 4 else ""
    return [Diagnostic("repeated_data", severity, text, action)]


def _grid(runs: RunTable) -> list[Diagnostic]:
    found = []
    budgets, counts = np.unique(runs.budget, return_counts=True)
    sizes = [len(np.unique(runs.params[runs.budget == b])) for b in budgets]
    if len(budgets) < _FEW_BUDGETS:
        found.append(
            Diagnostic(
                "few_budgets",
                "critical" if len(budgets) < 3 else "warning",
                f"{len(budgets)} budgets cannot show a curved trend",
                f"add {_FEW_BUDGETS - len(budgets)} or more budgets",
            )
        )
    grouped = float(np.median(counts)) >= 3
    fewest = int(np.median(sizes)) if grouped else len(np.unique(runs.params))
    if fewest < _FEW_SIZES:
        found.append(
            Diagnostic(
                "few_sizes",
                "warning",
                f"{fewest} sizes {'a budget' if grouped else 'in all'} bracket no optimum reliably",
                f"run {_FEW_SIZES} or more sizes at each budget",
            )
        )
    return found


def _edges(shape: IsoFLOP) -> list[Diagnostic]:
    outside = [p for p in shape.parabolas if not p.interior]
    few = shape.usable and len(outside) <= 0.25 * len(shape.parabolas)
    found = [
        Diagnostic(
            "edge_minimum",
            "note" if few else "warning",
            f"at C = {p.budget:.3g} {p.reason}; approach 2 leaves this budget out",
            f"run N ≈ {p.next_params:.3g} at that budget",
        )
        for p in outside
    ]
    if shape.parabolas and not shape.usable:
        found.append(
            Diagnostic(
                "isoflop_unusable",
                "note",
                f"approach 2 has {len(shape.interior)} budgets with a minimum inside; it needs 3",
                "widen the sizes of the budgets named above",
            )
        )
    return found
