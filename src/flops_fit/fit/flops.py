"""F(N) for a table of runs: the factor k where C = k·N·D holds, else a curve that tends to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flops_fit.flops.functions import FlopsFunction, LinearFlops, SmoothFlops
from flops_fit.laws.law import FlopsLike, as_flops
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]

_CONSTANT_WITHIN = 0.01


def flops_of(runs: RunTable, given: FlopsLike | None) -> FlopsFunction:
    """F(N) as given, else from the table's own C/(N·D).

    Where that ratio is constant within 1 % it is k. Otherwise SmoothFlops, fitted towards its limit
    k for large N: attention, head and embeddings weigh less and less there. A log-log line
    would run away from it instead.
    """
    if given is not None:
        return as_flops(given)
    ratio = runs.flops / (runs.params * runs.tokens)
    k = float(np.median(ratio))
    if np.max(ratio) <= np.min(ratio) * (1 + _CONSTANT_WITHIN):
        return LinearFlops(k)
    return _smooth(runs.params, ratio) or LinearFlops(k)


def flops_misfit(runs: RunTable, flops: FlopsFunction) -> float:
    """The largest relative difference between F(N)·D and the C of a run."""
    counted = np.asarray(flops(runs.params)) * runs.tokens
    return float(np.max(np.abs(counted / runs.flops - 1)))


def _smooth(N: Floats, ratio: Floats) -> SmoothFlops | None:
    """Least squares in relative error for each power p; the best one that stays positive."""
    n0 = float(np.exp(np.mean(np.log(N))))
    best: tuple[float, SmoothFlops] | None = None
    for p in np.linspace(0.1, 1.5, 57):
        basis = np.column_stack([1 / ratio, (N / n0) ** -p / ratio])
        coefficients, _, rank, _ = np.linalg.lstsq(basis, np.ones_like(ratio), rcond=None)
        k, c = (float(v) for v in coefficients)
        fitted = basis @ coefficients
        positive_below = k + c * (0.1 * float(N.min()) / n0) ** -p > 0
        if rank < 2 or k <= 0 or np.any(fitted <= 0) or not positive_below:
            continue
        misfit = float(np.sum((fitted - 1) ** 2))
        if best is None or misfit < best[0]:
            worst = float(np.max(np.abs(fitted - 1)))
            law = SmoothFlops(k, c, float(p), n0, float(N.min()), float(N.max()), worst)
            best = (misfit, law)
    return best[1] if best else None
