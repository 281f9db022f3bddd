"""Repeated data with over-fitting: where repeats stop to pay, and which size wins."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.errors import InputError
from flops_fit.fit import fit_runs
from flops_fit.laws import Hoffmann, Overfit

LAW = Overfit(2.1, 1300.0, 1.5e4, 0.4, 0.45, 1.6e-4, 1.2, 0.8, 60.0)


def test_fresh_data_follow_the_additive_law() -> None:
    fresh = Hoffmann(2.1, 1300.0, 1.5e4, 0.4, 0.45)
    assert LAW.loss(1e9, 2e10) == fresh.loss(1e9, 2e10)
    assert LAW.with_unique(1e10).loss(1e9, 1e10) == pytest.approx(fresh.loss(1e9, 1e10))
    assert LAW.optimal(1e21).params == fresh.optimal(1e21).params
    assert LAW.best_epochs(1e9) == np.inf


@pytest.mark.parametrize(("N", "U"), [(1e8, 1e9), (1e9, 1e9), (1e10, 1e10)])
def test_the_loss_turns_after_the_best_epochs(N: float, U: float) -> None:
    epochs = LAW.best_epochs(N, U)
    around = LAW.loss(N, U * epochs * np.array([0.8, 1.0, 1.25]), U)
    assert around[1] < min(around[0], around[2])


def test_a_first_repeat_may_hurt() -> None:
    assert LAW.best_epochs(1e12, 1e8) == 1.0


def test_no_size_and_length_is_better_than_the_best_size() -> None:
    N, epochs, loss = LAW.best_size(1e9)
    sizes, lengths = np.meshgrid(N * np.geomspace(0.2, 5, 21), 1e9 * np.geomspace(1, 1e3, 61))
    assert loss == pytest.approx(LAW.loss(sizes, lengths, 1e9).min(), rel=1e-4)
    assert LAW.best_epochs(2 * N, 1e9) < epochs < LAW.best_epochs(N / 2, 1e9)


def test_nine_constants_return_from_runs_that_rise() -> None:
    N, U, epochs = (
        a.ravel() for a in np.meshgrid(np.geomspace(2e7, 4e9, 5), [1e8, 1e9, 1e10], [1, 4, 20, 150])
    )
    loss = LAW.loss(N, epochs * U, U)
    columns = {"params": N, "tokens": epochs * U, "unique_tokens": U, "loss": loss}
    fit = fit_runs(columns, "overfit")
    assert "repetition_hurts" not in {d.code for d in fit.diagnostics}
    assert fit.law.loss(1e10, 1e11, 2e9) == pytest.approx(LAW.loss(1e10, 1e11, 2e9), rel=1e-4)
    told = fit.estimate(lambda law: law.best_epochs(1e9, 1e9))
    assert told.value == pytest.approx(LAW.best_epochs(1e9, 1e9), rel=0.02)
    assert fit.with_unique(1e9).law == fit.law.with_unique(1e9)


def test_a_supply_is_positive() -> None:
    with pytest.raises(InputError, match="unique units"):
        LAW.with_unique(0)


def test_no_size_is_best_without_a_limit_of_data() -> None:
    """Only E is left, after one epoch of all there is."""
    assert LAW.best_size() == (np.inf, 1.0, LAW.E)


@pytest.mark.parametrize("C", [1e19, 1e21])
def test_the_optimum_on_scarce_data_is_the_lowest_of_all_sizes(C: float) -> None:
    scarce = LAW.with_unique(1e9)
    best = scarce.optimal(C)
    sizes = best.params * np.geomspace(0.1, 10, 401)
    assert best.loss <= scarce.loss(sizes, C / (6 * sizes)).min() * (1 + 1e-9)
    assert best.loss > LAW.optimal(C).loss
