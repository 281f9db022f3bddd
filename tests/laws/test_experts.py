"""The law of experts: dense models, sparse ones, and a cap on N_total."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.errors import InputError
from flops_fit.laws import Experts, Hoffmann

LAW = Experts(1.5, 60.0, 200.0, 0.25, 0.3, q=0.93, r=0.98)


def test_dense_models_follow_the_additive_law() -> None:
    dense = Hoffmann(1.5, 60.0, 200.0, 0.25, 0.3)
    assert LAW.loss(1e9, 2e10) == pytest.approx(dense.loss(1e9, 2e10), rel=1e-12)
    assert LAW.optimal(1e21).params == pytest.approx(dense.optimal(1e21).params, rel=1e-9)


def test_a_doubling_of_all_parameters_scales_both_terms() -> None:
    size, data = 60.0 * 1e9**-0.25, 200.0 * 2e10**-0.3
    assert LAW.loss(1e9, 2e10, 2.0) == pytest.approx(1.5 + 0.93 * size + 0.98 * data)
    assert LAW.with_experts(8).loss(1e9, 2e10) == pytest.approx(LAW.loss(1e9, 2e10, 8.0))


def test_the_optimum_of_sparse_models_is_where_a_search_finds_it() -> None:
    law = LAW.with_experts(8)
    N = np.geomspace(1e9, 1e11, 20001)
    found = N[np.argmin(law.loss(N, 1e22 / (6 * N)))]
    assert law.optimal(1e22).params == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("cap", [2e10, 4e10])
def test_under_a_cap_no_model_that_fits_is_better(cap: float) -> None:
    """Of all N_active and N_total from N_active to the cap, and to 8 times N_active."""
    law = LAW.with_experts(8, cap)
    best = law.optimal(1e21, max_params=cap)
    N, S = np.meshgrid(np.geomspace(1e8, cap, 801), np.geomspace(1, 8, 161))
    losses = np.where(cap >= N * S, LAW.loss(N, 1e21 / (6 * N), S), np.inf)
    assert best.loss == pytest.approx(losses.min(), rel=1e-4)
    assert best.loss <= losses.min() + 1e-9
    assert best.params * law.at(best.params) <= cap * (1 + 1e-9)


def test_a_cap_leaves_small_models_as_sparse_as_asked() -> None:
    law = LAW.with_experts(8, 1e10)
    assert law.at([1e8, 1e10 / 8, 5e9, 2e10]).tolist() == [8.0, 8.0, 2.0, 1.0]


@pytest.mark.parametrize("sparsity", [0.5, float("nan"), "8"])
def test_a_sparsity_is_a_number_of_at_least_one(sparsity: object) -> None:
    with pytest.raises((InputError, TypeError), match="N_total/N_active"):
        LAW.with_experts(sparsity)  # type: ignore[arg-type]


def test_runs_have_no_fewer_parameters_than_active_ones() -> None:
    with pytest.raises(InputError, match="at least 1"):
        LAW.loss(1e9, 2e10, 0.9)
    with pytest.raises(InputError, match="max_total_params"):
        LAW.with_experts(2, -1.0)
