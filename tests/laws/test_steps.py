"""What a batch costs: the best one, how large one may be, and the fit that says so."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.errors import InputError, TableError
from flops_fit.fit import fit_runs, load_fit
from flops_fit.laws import Hoffmann, Steps

LAW = Steps(1.5, 60.0, 400.0, 0.25, 0.3, G=8.0, H=100.0, gamma=0.6)


def batches(noise=0.002, factors=(0.2, 1.0, 5.0)):
    """Runs at five budgets and sizes, at some factors of the best batch."""
    C = np.repeat(np.geomspace(1e18, 1e20, 5), 5 * len(factors))
    sizes = np.tile(np.repeat(np.geomspace(0.25, 4, 5), len(factors)), 5)
    N = LAW.optimal(C).params * sizes
    D = C / (6 * N)
    batch = LAW.best_batch(D) * np.tile(factors, 25)
    loss = LAW.loss(N, D, batch) * np.exp(noise * np.random.default_rng(0).normal(size=len(N)))
    return {"params": N, "tokens": D, "flops": C, "batch_tokens": batch, "loss": loss}


@pytest.fixture(scope="module")
def fit():
    return fit_runs(batches(), law="steps")


def test_the_best_batch_has_the_least_loss_and_the_largest_costs_what_was_asked():
    N, D = 1e9, np.array([2e9, 2e10, 2e11])
    around = LAW.best_batch(D)[:, None] * np.array([0.98, 1.0, 1.02])
    losses = LAW.loss(N, D[:, None], around)
    assert np.all(losses[:, 1] < losses[:, ::2].min(axis=1))
    assert LAW.best_batch(4e10) == pytest.approx(2 * LAW.best_batch(1e10))
    for excess in (0.001, 0.01, 0.1):
        batch = LAW.largest_batch(N, D, excess)
        assert LAW.loss(N, D, batch) == pytest.approx((1 + excess) * LAW.loss(N, D))
        assert np.all(batch > LAW.best_batch(D))
    assert LAW.largest_batch(N, 2e10, 0.0) == pytest.approx(LAW.best_batch(2e10))
    with pytest.raises(InputError, match="excess"):
        LAW.largest_batch(N, 2e10, -0.1)


def test_at_the_best_batch_it_is_a_law_of_size_and_data_alone():
    """With a further power of D, γ/2, for both costs together."""
    N, D = np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7)
    alone = Hoffmann(1.5, 60.0, 400.0, 0.25, 0.3)
    both = 2 * np.sqrt(LAW.G * LAW.H) * D**-0.3
    assert LAW.loss(N, D) == pytest.approx(alone.loss(N, D) + both)
    assert LAW.with_batch(1e6).loss(1e9, 2e10) == LAW.loss(1e9, 2e10, 1e6)
    assert LAW.with_batch(1e6).with_batch(0) == LAW


def test_batches_that_are_too_large_ask_for_smaller_models():
    """Fewer steps are left, and more data is what they want."""
    best, large = LAW.optimal(1e20), LAW.with_batch(3e7).optimal(1e20)
    assert large.params < best.params
    assert large.loss > best.loss
    sizes = best.params * np.array([0.9, 1.0, 1.1])
    losses = LAW.loss(sizes, 1e20 / (6 * sizes))
    assert losses.argmin() == 1


def test_a_fit_finds_the_law_that_made_its_runs(fit):
    assert fit.trust == "ok"
    for quantity in (
        lambda law: law.best_batch(2e10),
        lambda law: law.largest_batch(1e9, 2e10, 0.01),
        lambda law: law.gamma,
    ):
        low, high = fit.estimate(quantity).interval
        assert low < quantity(LAW) < high
    exact = fit_runs(batches(noise=0.0), law="steps").params
    assert exact == pytest.approx(LAW.params, rel=1e-3)


def test_a_fit_answers_at_a_given_batch(fit, tmp_path):
    best, large = fit.predict(1e20), fit.with_batch(3e7).predict(1e20)
    assert large.optimal_params < best.optimal_params
    assert large.expected_loss > best.expected_loss
    low, high = large.intervals["expected_loss"]
    assert low < LAW.with_batch(3e7).optimal(1e20).loss < high
    again = load_fit(fit.save(tmp_path / "fit.json"))
    assert again.params == fit.params
    with pytest.raises(InputError, match="expected a law of steps"):
        fit_runs(batches(), "hoffmann").with_batch(1e6)
    with pytest.raises(InputError, match="batch_units"):
        LAW.with_batch(-1.0)


def test_a_search_tries_it_where_batches_vary_and_are_not_fitted_with_the_law():
    found = {f.law: f for f in fit_runs(batches(), "search", hparams=None).search.forms}
    assert found["steps"].loss_error < 0.5 * found["auto"].loss_error
    taken = fit_runs(batches(), "search", hparams=None)
    assert taken.law.name == "steps"
    one = {**batches(factors=(1.0,)), "batch_tokens": np.full(25, 5e5)}
    assert "steps" not in {f.law for f in fit_runs(one, "search", hparams=None).search.forms}
    none = {k: v for k, v in batches().items() if k != "batch_tokens"}
    with pytest.raises(TableError, match="expected a column 'batch_units'"):
        fit_runs(none, "steps")
