"""The default intervals hold the truth about as often as they say (benchmarks/coverage: more)."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.fit import fit_runs
from flops_fit.laws import Hoffmann, Kappa
from tests.fit._runs import sweep

SIMS = 30
CASES = {
    "additive": Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37),
    "kappa": Kappa(E=1.7, A=9e3, B=6e7, alpha=0.56, beta=0.9, kappa=0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_ninety_per_cent_intervals_cover(name):
    """N* and loss at 10× the largest run, over seeded sweeps with 0.5 % noise.

    Of 30 intervals that cover 86 % each, fewer than 23 hits come up once in 20, of 90 % once in 100.
    """
    law, hits = CASES[name], np.zeros(2)
    truth = law.optimal(1e21)
    for seed in range(SIMS):
        p = fit_runs(sweep(law, sd=0.005, seed=seed)).predict(1e21)
        for j, (key, value) in enumerate(
            (("optimal_params", truth.params), ("expected_loss", truth.loss))
        ):
            low, high = p.intervals[key]
            hits[j] += low <= value <= high
    assert np.all(hits >= 23), hits
