"""Repeated data with over-fitting: where repeats stop to pay, and which size wins."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit import Fit, backtest, fit_runs
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


@pytest.mark.parametrize("unique", ["1B", None, [1e8, 1e9]])
def test_a_supply_is_one_number(unique: object) -> None:
    with pytest.raises(InputTypeError, match="unique units"):
        LAW.with_unique(unique)  # type: ignore[arg-type]


@pytest.mark.parametrize("gap", [0.001, 0.05, 0.5])
def test_the_least_compute_data_and_size_for_a_loss_are_those_before_it_rises(gap: float) -> None:
    """With a supply the loss has a minimum in N, in D and in C; answers lie on its near side."""
    scarce = LAW.with_unique(1e9)
    N, epochs, lowest = scarce.best_size()
    goal = lowest + gap
    C = scarce.compute_for(goal)
    assert scarce.optimal(C).loss == pytest.approx(goal, abs=1e-9)
    assert 6 * N * epochs * 1e9 > C
    D = scarce.tokens_for(N, goal)
    assert scarce.loss(N, D) == pytest.approx(goal)
    assert epochs * 1e9 > D
    size = scarce.params_for(epochs * 1e9, goal)
    assert scarce.loss(size, epochs * 1e9) == pytest.approx(goal)
    assert size < N
    served = scarce.optimal_for_inference(goal, 1e12)
    assert scarce.loss(served.params, served.tokens) == pytest.approx(goal)
    assert served.total_compute < C + 2 * scarce.optimal(C).params * 1e12


def test_a_loss_below_the_best_size_is_out_of_reach() -> None:
    scarce = LAW.with_unique(1e9)
    _, _, lowest = scarce.best_size()
    assert not scarce.reaches(lowest - 1e-6)
    assert scarce.compute_for(lowest - 1e-6) == np.inf
    assert scarce.tokens_for(1e8, 2.2) == np.inf


@pytest.fixture(scope="module")
def noisy() -> Fit:
    N, U, epochs = (
        a.ravel()
        for a in np.meshgrid(np.geomspace(2e7, 4e9, 5), [1e8, 1e9, 1e10], [1, 2, 4, 20, 150])
    )
    loss = LAW.loss(N, epochs * U, U) * np.exp(0.004 * np.random.default_rng(0).normal(size=len(N)))
    columns = {"params": N, "tokens": epochs * U, "unique_tokens": U, "loss": loss}
    return fit_runs(columns, "overfit")


def test_budgets_held_out_are_judged_by_their_own_supply(noisy: Fit) -> None:
    """The largest budgets have the most repeats, which an answer for fresh data does not."""
    held = [d for d in noisy.diagnostics if d.code.startswith("held_out")]
    assert {d.severity for d in held} == {"ok"}
    tested = backtest(noisy.runs, 2, law="overfit")
    assert all(abs(h.predicted_loss / h.best_loss - 1) < 0.05 for h in tested.held_out)


def test_compute_that_a_supply_cannot_use_is_said(noisy: Fit) -> None:
    scarce = noisy.with_unique(1e8)
    N, epochs, lowest = scarce.law.best_size()
    most = 6 * N * epochs * 1e8
    assert "supply_spent" in {d.code for d in scarce.predict(10 * most).diagnostics}
    assert "supply_spent" not in {d.code for d in scarce.predict(0.5 * most).diagnostics}
    assert "supply_spent" not in {d.code for d in noisy.predict(10 * most).diagnostics}
    with pytest.raises(InputError, match="1e\\+08 unique units allow"):
        scarce.compute_for(lowest - 0.01)
