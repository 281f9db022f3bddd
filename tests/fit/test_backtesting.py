"""Held-out budgets: predicted from the cheaper ones, with an interval for one run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flops_fit.errors import FitError, InputError, InputTypeError
from flops_fit.fit import backtest
from flops_fit.laws import Hoffmann, Kappa
from tests.fit._runs import llama, sweep

ADDITIVE = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
JOINED = Kappa(E=1.7, A=9e4, B=2e6, alpha=0.7, beta=0.8, kappa=0.5)


def test_the_held_out_budget_is_not_fitted():
    """The fit ends below the budget it is judged on; what is measured there is the table's."""
    runs = sweep(JOINED, sd=0.003, seed=2)
    check = backtest(runs)
    (held,) = check.held_out
    assert check.fit.largest_compute < 1e20
    assert held.compute == pytest.approx(1e20)
    assert held.runs == 7
    assert held.best_loss == runs["loss"][-7:].min()
    assert held.vertex_params == pytest.approx(JOINED.optimal(1e20).params, rel=0.2)
    assert held.predicted_params == pytest.approx(JOINED.optimal(1e20).params, rel=0.2)
    assert held.loss_inside
    assert check.passed
    json.dumps(check.to_dict(), allow_nan=False)


def test_the_interval_for_a_run_is_wider_than_the_law_s():
    """One run scatters around the law by the noise."""
    found = backtest(sweep(ADDITIVE, sd=0.01))
    (held,) = found.held_out
    assert held.run_interval[0] < held.loss_interval[0] < held.predicted_loss
    assert held.predicted_loss < held.loss_interval[1] < held.run_interval[1]
    assert np.log(held.run_interval[1] / held.run_interval[0]) > 2 * 1.6 * found.fit.residual_sd


def test_a_wrong_trend_does_not_pass():
    """A top budget 5 % worse than the law is outside under 0.3 % noise."""
    runs = sweep(ADDITIVE, sd=0.003)
    runs["loss"][-7:] *= 1.05
    check = backtest(runs, law="hoffmann")
    assert check.held_out[0].loss_inside is False
    assert check.passed is False


def test_several_budgets_can_be_held_out():
    """The three largest of Llama's ten budgets, cheapest first."""
    check = backtest(llama(), top=3)
    computes = [h.compute for h in check.held_out]
    assert computes == sorted(computes)
    assert len(computes) == 3
    assert check.fit.largest_compute < computes[0]


def test_too_few_budgets_are_refused():
    """Two budgets cannot be judged by holding one out."""
    with pytest.raises(FitError, match="remain"):
        backtest(sweep(ADDITIVE, budgets=(1e18, 1e19)))
    for top, kind in ((0, InputError), (-1, InputError), (1.5, InputError), (True, InputTypeError)):
        with pytest.raises(kind, match="top"):
            backtest(sweep(ADDITIVE), top=top)


def test_weights_stay_with_the_runs_that_remain():
    """Also where a row counts once, and where a held-out run is not to count."""
    runs = sweep(ADDITIVE, sd=0.003)
    runs = {name: np.append(column, column[0]) for name, column in runs.items()}
    weights = np.ones(35)
    weights[[20, 30]] = 0
    found = backtest(runs, law="hoffmann", window=None, weights=weights)
    assert len(found.fit.runs) == 27
    assert not {"run 21", "run 31", "run 36"} & {*found.fit.runs.labels}
    assert found.held_out[0].runs == 6
    with pytest.raises(InputError, match="one weight for each of the 35 usable runs"):
        backtest(runs, weights=weights[:30])


def test_groups_are_refused_by_name():
    with pytest.raises(InputError, match="group="):
        backtest(sweep(ADDITIVE), group="corpus")


def test_held_out_sizes_are_counted_as_in_the_fit():
    """By n="non_embedding" the total of a run says nothing, for the runs held out as well."""
    runs = sweep(ADDITIVE, sd=0.003)
    other = {**runs, "non_embedding": runs["params"], "params": 1e5 + 2 * runs["params"]}
    ask = {"law": "hoffmann", "window": None}
    assert backtest(other, n="non_embedding", **ask).held_out == backtest(runs, **ask).held_out
