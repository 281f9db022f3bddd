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
    """N* and loss at the largest runs and 10× beyond, over seeded sweeps with 0.5 % noise.

    Of 30 intervals that cover 86 % each, fewer than 23 hits come up once in 20, of 90 % once in 100.
    """
    law, hits = CASES[name], np.zeros((2, 2))
    for seed in range(SIMS):
        fit = fit_runs(sweep(law, sd=0.005, seed=seed))
        for i, C in enumerate((1e20, 1e21)):
            intervals, truth = fit.predict(C).intervals, law.optimal(C)
            for j, key in enumerate(("optimal_params", "expected_loss")):
                low, high = intervals[key]
                hits[i, j] += low <= (truth.params, truth.loss)[j] <= high
    assert np.all(hits >= 23), hits
