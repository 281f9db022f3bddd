"""Tables of runs that tests share: published ones, and exact or noisy ones from known laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flops_fit import reference
from flops_fit.fit import Fit
from flops_fit.laws import Law
from flops_fit.table import RunTable


def chinchilla() -> RunTable:
    """The 240 points that Besiroglu et al. keep: losses strictly below the fifth largest."""
    table = reference.runs("hoffmann2022_epoch")
    return table.select(table.loss < np.sort(table.loss)[-5], "among the five largest losses")


def llama() -> RunTable:
    """All 133 points."""
    return reference.runs("llama3_2024")


def sweep(
    law: Law,
    budgets: Any = (1e18, 3e18, 1e19, 3e19, 1e20),
    sizes: int = 7,
    reach: float = 8.0,
    sd: float = 0.0,
    seed: int = 0,
    centre: float = 1.2,
) -> dict[str, np.ndarray]:
    """An IsoFLOP sweep around each budget's optimum, as columns."""
    C = np.repeat(np.asarray(budgets, dtype=float), sizes)
    best = law.optimal(C).params
    N = centre * best * np.tile(np.geomspace(1 / reach, reach, sizes), len(budgets))
    D = C / (6 * N)
    noise = np.random.default_rng(seed).normal(size=len(N))
    return {
        "params": N,
        "tokens": D,
        "flops": C,
        "budget": C,
        "loss": law.loss(N, D) * np.exp(sd * noise),
    }


def unconverged(fit: Fit) -> Fit:
    """The fit as if its solver had not converged, so that nothing of it has an interval."""
    evidence = fit._evidence
    solution = replace(evidence.solution, converged=False)
    return replace(fit, _evidence=replace(evidence, solution=solution))
