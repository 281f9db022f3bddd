"""Whole budgets that lie off the law are told; noise, and a bend in compute, are not."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.fit import fit_runs
from flops_fit.laws import Hoffmann

LAW = Hoffmann(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
BUDGETS, SIZES = np.geomspace(1e18, 1e21, 9), np.geomspace(1 / 6, 6, 7)


def told(shared: float, seed: int, bend: float = 0.0) -> bool:
    """Whether a sweep whose budgets share an error of some standard deviation is said to."""
    rng = np.random.default_rng(seed)
    C = np.repeat(BUDGETS, len(SIZES))
    N = 0.09 * C**0.5 * np.tile(SIZES, len(BUDGETS))
    D = C / (6 * N)
    off = 0.003 * rng.normal(size=len(N)) + bend * np.log(C / C.mean()) ** 2
    off += np.repeat(shared * rng.normal(size=len(BUDGETS)), len(SIZES))
    fit = fit_runs({"N": N, "D": D, "loss": LAW.loss(N, D) * np.exp(off)})
    found = {d.code: d for d in fit.diagnostics}
    if "shared_errors" in found:
        assert found["shared_errors"].severity == "warning"
        assert fit.trust != "ok"
    return "shared_errors" in found


@pytest.mark.parametrize(("shared", "bend"), [(0.0, 0.0), (0.0, 0.004)])
def test_noise_and_a_bend_are_no_shared_errors(shared, bend):
    """Of ten sweeps none."""
    assert not any(told(shared, seed, bend) for seed in range(10))


def test_budgets_that_lie_off_the_law_are_told():
    """Where they scatter three times as far as runs of one budget."""
    assert sum(told(0.01, seed) for seed in range(10)) >= 9
