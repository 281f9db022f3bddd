"""Fits that several tests look at."""

from __future__ import annotations

import numpy as np
import pytest

import flops_fit
from flops_fit.laws import Hoffmann


def law_runs(
    budgets: tuple[float, ...],
    noise: float = 0.003,
    sizes: int = 7,
    spread: float = 5.0,
    seed: int = 0,
) -> list[dict[str, float]]:
    """IsoFLOP runs of a known law around its optima, with seeded noise."""
    law = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    rng = np.random.default_rng(seed)
    rows = []
    for budget in budgets:
        best = float(law.optimal(budget).params)
        for ratio in np.geomspace(1 / spread, spread, sizes):
            N = best * ratio
            D = budget / (6 * N)
            loss = float(law.loss(N, D)) * float(np.exp(noise * rng.standard_normal()))
            rows.append({"params": N, "tokens": D, "flops": budget, "loss": loss})
    return rows


@pytest.fixture(scope="session")
def sound() -> flops_fit.Fit:
    """Five budgets with little noise."""
    return flops_fit.fit_runs(law_runs((1e18, 3e18, 1e19, 3e19, 1e20)))


@pytest.fixture(scope="session")
def lost() -> flops_fit.Fit:
    """Noise that hides the surface's optimum: approach 2 answers."""
    return flops_fit.fit_runs(
        law_runs((1e18, 2e18, 4e18, 8e18), noise=0.1, sizes=5, spread=2.0, seed=6)
    )


@pytest.fixture(scope="session")
def few() -> flops_fit.Fit:
    """Two budgets."""
    return flops_fit.fit_runs(law_runs((1e18, 3e18)))
