"""Runs that determine no law are refused here, with the runs to add."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, TableError
from flops_fit.fit.flops import flops_misfit
from flops_fit.fit.minima import IsoFLOP
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic, Excluded
from flops_fit.table.run_table import RunTable

_MOST_PARAMS, _MOST_TOKENS, _MOST_COMPUTE, _MOST_LOSS = 1e16, 1e19, 1e32, 1e4
_FEW_PARAMS, _FEW_TOKENS = 1e3, 1e4
_APART = 1e6  # between N and D of one run, either way
_FALL = 1e-3
_COMPUTE_OFF, _COMPUTE_WRONG = 10.0, 1e4


def implausible(runs: RunTable) -> list[Diagnostic]:
    """Findings about the units of N, D, C and the loss.

    Above 1e16 parameters, 1e19 tokens, 1e32 FLOPs or a loss of 1e4, and where one of N and D is
    tiny and the other a million times larger, a unit is wrong for certain and the finding is
    critical. C off 6·N·D by ten times or more may have a reason (experts, samples of many
    tokens), so that is a warning; beyond ten thousand times it has none. Runs that count
    samples are judged by N, D and C alone.
    """
    found = []
    for name, values, most, ask in (
        ("N", runs.params, _MOST_PARAMS, "are N parameters, one by one?"),
        ("D", runs.tokens, _MOST_TOKENS, "are D tokens, one by one?"),
        ("C", runs.flops, _MOST_COMPUTE, "are C FLOPs, one by one?"),
    ):
        if np.max(values) >= most:
            found.append(_critical(f"{name} reaches {np.max(values):.3g}", ask))
    ratio = float(np.median(runs.tokens / runs.params))
    if np.max(runs.params) < _FEW_PARAMS and ratio > _APART:
        text = f"N is at most {np.max(runs.params):.3g} and D is {ratio:.2g} times it"
        found.append(_critical(text, "are N in millions or billions? Give parameters one by one"))
    if np.max(runs.tokens) < _FEW_TOKENS and ratio < 1 / _APART:
        text = f"D is at most {np.max(runs.tokens):.3g} and N is {1 / ratio:.2g} times it"
        found.append(_critical(text, "are D in millions or billions? Give tokens one by one"))
    if runs.unit != "tokens":
        return found
    if np.max(runs.loss) >= _MOST_LOSS:
        text = f"the loss reaches {np.max(runs.loss):.3g}"
        found.append(_critical(text, "is it a cross-entropy in nats a token?"))
    off = float(np.median(runs.flops / (6 * runs.params * runs.tokens)))
    if max(off, 1 / off) >= _COMPUTE_OFF:
        found.append(
            Diagnostic(
                "flops_implausible",
                "critical" if max(off, 1 / off) >= _COMPUTE_WRONG else "warning",
                f"C is {off:.2g} times 6·N·D",
                "check the units of N, D and C: one may be in millions, billions or petaFLOPs",
            )
        )
    return found


def flat(law: Law, runs: RunTable) -> list[Diagnostic]:
    """A critical finding where the law does not fall by 0.1 % over the runs' range of N, or of D."""
    N, D = (float(np.exp(np.mean(np.log(c)))) for c in (runs.params, runs.tokens))
    ends = {
        "N": (law.loss(np.min(runs.params), D), law.loss(np.max(runs.params), D)),
        "D": (law.loss(N, np.min(runs.tokens)), law.loss(N, np.max(runs.tokens))),
    }
    still = [name for name, (low, high) in ends.items() if not high < (1 - _FALL) * low]
    if not still:
        return []
    text = f"the fitted loss does not fall with {' or '.join(still)}: there is no optimum to find"
    return [Diagnostic("flat_law", "critical", text, "check the losses, and add other sizes")]


def _critical(message: str, action: str) -> Diagnostic:
    return Diagnostic("implausible_units", "critical", message, action)


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


_LARGEST = 1e50


def check_runs(table: RunTable, parameters: int) -> RunTable:
    """The table's usable runs, each once, or an error that says what is missing.

    Raises
    ------
    FitError
        Not more runs than parameters, one size, one budget, D tied to N, or a loss without spread.
    TableError
        A column with values that no run can have.
    """
    columns = (table.params, table.tokens, table.flops, table.loss)
    # Powers and squares of anything beyond would leave floating point.
    sound: NDArray[np.bool_] = np.all(
        [(c > 1 / _LARGEST) & (c < _LARGEST) for c in columns], axis=0
    )
    if not np.all(sound):
        what = f"N, D, C or loss is no positive number from {1 / _LARGEST:g} to {_LARGEST:g}"
        table = table.select(sound, what)
    if len(table) == 0:
        reasons = "; ".join(f"{e.label}: {e.reason}" for e in table.excluded[:3])
        raise TableError(f"expected runs with positive N, D and loss; none is left ({reasons}).")
    table = _once(table)
    count = len(table)
    distinct = len(np.unique(np.column_stack([table.params, table.tokens]), axis=0))
    if distinct <= parameters:
        raise FitError(
            f"expected more than {parameters} runs of different N or D, as many as the law has "
            f"parameters; got {count} ({distinct} different). Add {parameters + 1 - distinct} or "
            "more runs: five sizes at each of four budgets is a good sweep."
        )
    sizes = len(np.unique(table.params))
    if sizes < 2:
        raise FitError(
            f"expected several model sizes; all {count} runs have N = {table.params[0]:.3g}, which "
            "cannot show what size does. Add runs at other sizes."
        )
    if len(np.unique(table.budget)) < 2:
        raise FitError(
            f"expected two budgets or more; all {count} runs have C ≈ {table.budget[0]:.3g}, where "
            "N and D trade off exactly and cannot be told apart. Add runs at other budgets."
        )
    x, y = np.log(table.params), np.log(table.tokens)
    spread = np.linalg.svd(np.column_stack([x - x.mean(), y - y.mean()]), compute_uv=False)
    if spread[1] < 1e-3 * spread[0]:
        raise FitError(
            f"expected N and D to vary independently; in these {count} runs one follows from the "
            "other. Add runs with other numbers of tokens at the same sizes."
        )
    if np.ptp(table.loss) <= 1e-12 * np.max(table.loss):
        raise FitError(
            f"expected losses that differ between runs; all {count} are {table.loss[0]:.6g}. "
            "Check the loss column."
        )
    return table


def _once(table: RunTable) -> RunTable:
    """Without rows equal in N, D, C and loss: one run logged twice is no second observation."""
    rows = np.column_stack([table.params, table.tokens, table.flops, table.loss])
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(table):
        return table
    keep = np.zeros(len(table), dtype=bool)
    keep[first] = True
    original = first[which.ravel()]
    twice = tuple(
        Excluded(table.labels[i], f"the same N, D, C and loss as {table.labels[original[i]]}")
        for i in np.flatnonzero(~keep).tolist()
    )
    return replace(table.select(keep), excluded=table.excluded + twice)
