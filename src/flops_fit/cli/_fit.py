"""Fit a table of runs and answer, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flops_fit.errors import InputError
from flops_fit.fit import Fit, fit_runs
from flops_fit.report import answer_in_words, approaches_table, chinchilla_table, write_report

__all__ = ["fit_table"]

_MOST_ROWS = 10


def fit_table(
    runs: Path,
    law: str = "auto",
    targets: Sequence[float] = (),
    columns: Sequence[str] = (),
    report: Path | None = None,
    curves: Path | None = None,
) -> str:
    """The table at ``targets``, by default at the runs' own budgets, and the answer in words.

    ``columns`` are ``name=column`` pairs where the table's headings are unusual;
    ``curves`` is a table of training curves for approach 1.
    """
    fit = fit_runs(runs, law, columns=_mapping(columns), curves=curves)
    predictions = [fit.predict(c) for c in targets or _budgets(fit)]
    findings = [d for p in predictions[-1:] for d in p.diagnostics]
    text = f"{chinchilla_table(predictions)}\n\n{_law_line(fit)}\n\n"
    text += f"{approaches_table(fit)}\n\n"
    text += answer_in_words(fit, predictions[-1], [*fit.diagnostics, *findings])
    if report is not None:
        path = write_report(fit, report, predictions=predictions, diagnostics=findings)
        text += f"\nReport: {path}"
    return text


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(
                f"--column: expected name=column, such as params=n_weights; got {pair!r}."
            )
    return dict(pair.split("=", 1) for pair in pairs)


def _budgets(fit: Fit) -> list[float]:
    """The runs' own budgets, or a few across their range where there are many."""
    own = np.unique(fit.runs.budget)
    few = own if len(own) <= _MOST_ROWS else np.geomspace(own[0], own[-1], 5)
    return [float(c) for c in few]


def _law_line(fit: Fit) -> str:
    constants = ", ".join(f"{k} = {v:.4g}" for k, v in fit.law.params.items())
    return f"{fit.law.formula}: {constants}. {fit.status}"
