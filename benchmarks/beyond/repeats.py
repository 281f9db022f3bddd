"""Repeated data, rising runs included: large models from small ones (Muennighoff et al. 2023)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common.report import Result, Table, at_least
from flops_fit import Fit, RunTable, fit_runs
from flops_fit.laws import LAWS, Law

SMALL, LARGE = "muennighoff2023_small.csv", "muennighoff2023_large.csv"
FORMS = ("muennighoff", "overfit")
_SUPPLIES = (1e8, 4e8, 1.5e9)  # and the rest: each is left out once
_GOAL = 0.98


def _losses(law: Law, runs: RunTable) -> np.ndarray:
    unique = np.minimum(runs.unique_tokens, runs.tokens)
    return law.loss(runs.params, runs.tokens, unique)  # type: ignore[call-arg]


def _r2(losses: np.ndarray, runs: RunTable) -> float:
    off = losses - runs.loss
    return 1 - float(np.sum(off**2) / np.sum((runs.loss - runs.loss.mean()) ** 2))


def _answers(fit: Fit, runs: RunTable) -> tuple[np.ndarray, float]:
    """The loss that the library answers for each run, law and misfit; and how many of its intervals hold."""
    unique = np.minimum(runs.unique_tokens, runs.tokens)
    found = [
        fit.with_unique(float(u)).loss_at(float(n), float(d))
        for n, d, u in zip(runs.params, runs.tokens, unique, strict=True)
    ]
    spans = np.array([each.run_interval or (np.nan, np.nan) for each in found])
    held = (spans[:, 0] <= runs.loss) & (runs.loss <= spans[:, 1])
    return np.array([each.value for each in found]), float(np.mean(held))


def repeats(folder: Path, quick: bool) -> Result:
    """R² and intervals on the large models, and the error on supplies left out, of each form."""
    small, large = (RunTable.read(folder / name) for name in (SMALL, LARGE))
    supply = np.searchsorted(_SUPPLIES, small.unique_tokens)
    rows, r2 = [], {}
    for name in FORMS:
        fit = fit_runs(small, law=name)
        alone = _r2(_losses(fit.law, large), large)
        answers, held_by = _answers(fit, large)
        r2[name] = _r2(answers, large)
        errors = []
        for left_out in () if quick else np.unique(supply):
            law = fit_runs(small.select(supply != left_out), law=name).law
            held = small.select(supply == left_out)
            errors.append(float(np.sqrt(np.mean(np.log(_losses(law, held) / held.loss) ** 2))))
        shown = f"{np.mean(errors):.1%}" if errors else "–"
        counts = (str(len(LAWS[name].parameters())), str(len(fit.runs)))
        rows.append((name, *counts, f"{alone:.4f}", f"{r2[name]:.4f}", f"{held_by:.0%}", shown))
    columns = (
        "law",
        "constants",
        "runs used",
        "R² on the large models: the law",
        "as answered",
        "90 % of one run hold",
        "rms error of the law, supplies left out",
    )
    table = Table("Repeated data", columns, tuple(rows))
    return [table], [at_least("R² on large models, with over-fitting", r2["overfit"], _GOAL)]
