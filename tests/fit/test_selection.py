"""Runs that are left out by their outcome are counted and said; a cell that no run has is found."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.errors import FitError
from flops_fit.fit import Fit, fit_runs
from flops_fit.fit.selection import stray_runs
from flops_fit.laws import Hoffmann, Kappa
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable
from tests.fit._runs import sweep
from tests.fit.test_published_runs import STEPS

LAW = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
JOINED = Kappa(E=1.7, A=9e4, B=2e6, alpha=0.7, beta=0.8, kappa=0.5)


def finding(fit: Fit, code: str) -> Diagnostic | None:
    return next((d for d in fit.diagnostics if d.code == code), None)


# --- selection by outcome


def lost(how: str, at: list[int], sizes: int = 7, **changed: Any) -> Diagnostic | None:
    """What is said of a sound sweep whose runs ``at`` are lost in one of several ways."""
    table: dict[str, Any] = {**sweep(LAW, sizes=sizes, sd=0.003), **changed}
    count = len(table["loss"])
    state = np.full(count, "finished", dtype=object)
    planned = table["tokens"].copy()
    for i in at:
        if how in ("nan", "inf"):
            table["loss"][i] = float(how)
        elif how == "huge":
            table["loss"][i] = 1e60
        elif how == "short":
            planned[i] *= 4
        else:
            state[i] = how
    if how == "short":
        table["planned_tokens"] = planned
    elif how in ("crashed", "failed", "running"):
        table["state"] = state
    return finding(fit_runs(table), "selected_by_outcome")


WAYS = ("nan", "inf", "huge", "short", "crashed", "failed", "running")


@pytest.mark.parametrize("how", WAYS)
def test_runs_lost_by_their_outcome_are_counted_by_budget(how):
    """Two of seven at the second budget: a warning that names both."""
    found = lost(how, [9, 10])
    assert found is not None
    assert found.severity == "warning"
    assert "2 of 7 at C = 3e+18" in found.message


@pytest.mark.parametrize("how", WAYS)
def test_the_largest_run_of_a_budget_is_never_lost_by_a_note(how):
    """One of thirteen, and it is the largest."""
    found = lost(how, [12], sizes=13)
    assert found is not None
    assert found.severity == "warning"
    assert "1 of 13 at C = 1e+18, its largest among them" in found.message


@pytest.mark.parametrize("how", ["short", "crashed", "failed", "running"])
def test_the_best_looking_run_of_a_budget_is_never_lost_by_a_note(how):
    """One of thirteen with the lowest loss, left out for its state."""
    table = sweep(LAW, sizes=13, sd=0.003)
    best = int(np.argmin(table["loss"][13:26])) + 13
    found = lost(how, [best], sizes=13)
    assert found is not None
    assert found.severity == "warning"
    assert "its best-looking among them" in found.message


def test_one_run_in_the_middle_of_many_is_a_note():
    """Its count is said all the same."""
    found = lost("nan", [15], sizes=13)
    assert found is not None
    assert found.severity == "note"
    assert "1 of 13 at C = 3e+18" in found.message


def test_a_whole_budget_lost_is_said():
    """No run of it is left to count by."""
    found = lost("crashed", list(range(28, 35)))
    assert found is not None
    assert found.severity == "warning"
    assert "7 of 7 at C = 1e+20" in found.message


def test_a_cell_without_a_size_is_no_outcome():
    """A missing N says nothing about how the run went."""
    table = sweep(LAW, sd=0.003)
    table["params"][3] = np.nan
    assert finding(fit_runs(table), "selected_by_outcome") is None


# --- a cell that is wrong by a factor of a thousand


def confirmed(factor: float) -> dict[str, Any]:
    """A sweep with two runs far above it, near their optimum."""
    parts = [sweep(LAW, sd=0.005), sweep(LAW, (1e20 * factor,), 2, 1.3, sd=0.005, seed=9)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def tapered() -> dict[str, Any]:
    """Fewer and nearer sizes at larger budgets."""
    shape = ((1e18, 9, 8), (3e18, 7, 6), (1e19, 5, 4), (3e19, 4, 3), (1e20, 3, 2))
    parts = [sweep(LAW, (C,), n, reach, sd=0.005, seed=n) for C, n, reach in shape]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def rectangle() -> dict[str, Any]:
    """Every size on every amount of data."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 2e9, 5), np.geomspace(5e8, 5e10, 5)))
    noise = np.exp(0.005 * np.random.default_rng(0).normal(size=N.size))
    return {"params": N, "tokens": D, "loss": LAW.loss(N, D) * noise}


DESIGNS = {
    "sweep": sweep(LAW, sd=0.005),
    "few": sweep(LAW, (1e18, 4e18, 2e19, 1e20), 5, sd=0.005),
    "wide": sweep(LAW, np.geomspace(1e17, 1e21, 6), 9, 16, sd=0.005),
    "near": sweep(LAW, reach=3, sd=0.005),
    "confirmed": confirmed(10),
    "confirmed far": confirmed(100),
    "tapered": tapered(),
    "rectangle": rectangle(),
}


def strays(table: dict[str, Any]) -> set[int]:
    return set(stray_runs(RunTable.read(table), log=True))


@pytest.mark.parametrize("name", DESIGNS)
def test_honest_designs_are_left_alone(name):
    """With few runs far above the rest too."""
    assert strays(DESIGNS[name]) == set()


def test_a_budget_whose_losses_are_bent_is_no_wrong_cell():
    """Its runs stay in the fit: what they say is judged by the fit's findings."""
    table = sweep(LAW, sd=0.001, seed=1)
    bent = table["budget"] == 1e18
    table["loss"][bent] *= (table["params"][bent] / np.median(table["params"][bent])) ** 0.05
    assert strays(table) == set()


@pytest.mark.parametrize("name", reference.RUN_NAMES)
def test_published_sweeps_are_left_alone(name):
    """Outliers among them lie in a crowd, which bounds their pull."""
    assert stray_runs(reference.runs(name), log=True) == {}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: "-".join(step.values()))
def test_so_is_each_configuration_of_a_published_sweep(step):
    """The corners of a grid lie far from the law and have neighbours."""
    assert stray_runs(reference.runs("porian2024_refinedweb", **step), log=True) == {}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("factor", [1e3, 1e-3])
@pytest.mark.parametrize("column", ["params", "tokens"])
@pytest.mark.parametrize("name", ["sweep", "few", "near", "confirmed", "tapered", "rectangle"])
def test_a_cell_wrong_by_a_thousand_is_found_wherever_it_sits(name, column, factor, kept):
    """First, last and others, with C of the wrong cell or of the right one; no other run is named.

    Where nearly no loss is left to gain the cell may stay, and then the fit is not trusted.
    """
    for at in (0, 3, len(DESIGNS[name]["loss"]) // 2, -2, -1):
        table = {n: DESIGNS[name][n].copy() for n in ("params", "tokens", "loss")}
        at %= len(table["loss"])
        if kept:
            table["flops"] = 6 * table["params"] * table["tokens"]
        table[column][at] *= factor
        found = strays(table)
        assert found == {at} or (not found and fit_runs(table).trust == "no")


@pytest.mark.parametrize("first", [0, 6, 17, 28])
@pytest.mark.parametrize("second", [1, 20, 34])
@pytest.mark.parametrize("column", ["params", "tokens"])
@pytest.mark.parametrize("factor", [1e3, 1e-3])
def test_two_wrong_cells_do_not_hide_each_other(first, second, column, factor):
    """Side by side or far apart, in one column."""
    table = {n: DESIGNS["sweep"][n].copy() for n in ("params", "tokens", "loss")}
    table[column][[first, second]] *= factor
    assert strays(table) == {first, second}


def test_a_wrong_cell_is_named_left_out_and_does_not_move_the_answer():
    """The fit is that of the other runs, and a warning names the run."""
    table = {n: DESIGNS["sweep"][n].copy() for n in ("params", "tokens", "loss")}
    clean = fit_runs({n: np.delete(c, 6) for n, c in table.items()})
    table["params"][6] *= 1e3
    fit = fit_runs(table)
    found = finding(fit, "stray_runs")
    assert found is not None
    assert found.severity == "warning"
    assert "run 7: N" in found.message
    assert [e.label for e in fit.excluded if "may be wrong" in e.reason] == ["run 7"]
    assert fit.predict(1e21).optimal_params == clean.predict(1e21).optimal_params


# --- losses that may be negative


@pytest.mark.parametrize("E", [-0.5, -2.2, -3.0, -30.0])
@pytest.mark.parametrize("law", [LAW, JOINED])
def test_a_law_with_a_negative_floor_is_recovered(law, E):
    """No run is dropped; N*, loss and E are right, and all questions have answers."""
    table = sweep(law, (1e18, 1e19, 1e20, 1e21), sd=0.002)
    table["loss"] += E - law.E
    if np.min(table["loss"]) > 0:
        table["loss"][:] -= 1
        E -= 1
    fit = fit_runs(table, law.name)
    assert (len(fit.runs) + sum("fitted optimum" in e.reason for e in fit.excluded)) == 28
    assert fit.law.params["E"] == pytest.approx(E, abs=0.02)
    assert finding(fit, "negative_losses").severity == "note"
    p, truth = fit.predict(1e22), law.optimal(1e22)
    assert np.log(p.optimal_params / truth.params) == pytest.approx(0, abs=0.15)
    assert p.expected_loss == pytest.approx(truth.loss + E - law.E, abs=0.02)
    assert fit.trust == "ok" or finding(fit, "starts_disagree")
    low, high = p.intervals["expected_loss"]
    assert low < truth.loss + E - law.E < high
    at = fit.loss_at(1e9, 2e10)
    assert at.value == pytest.approx(law.loss(1e9, 2e10) + E - law.E, abs=0.01)
    assert fit.tokens_for(1e9, at.value).value == pytest.approx(2e10, rel=0.1)
    assert fit.compute_for(p.expected_loss).value == pytest.approx(1e22, rel=0.2)
    assert fit.estimate(lambda law: law.loss(1e9, 2e10)).value == pytest.approx(at.value, abs=0.01)
    assert fit.trade_off(1e21, [0.5, 1, 2]).excess[0] > 0
    path = fit.predict_path(np.geomspace(1e18, 1e22, 30))
    assert np.all(np.isfinite(path))
    json.dumps({**fit.to_dict(), **p.to_dict()}, allow_nan=False)


def test_losses_that_cross_zero_keep_their_best_runs():
    """The answer is that of the same losses a constant higher."""
    high = sweep(LAW, sd=0.001)
    low = {**high, "loss": high["loss"] - 2.5}
    assert np.min(low["loss"]) < 0 < np.max(low["loss"])
    ours, theirs = fit_runs(low), fit_runs(high, loss_space="linear")
    assert not [e for e in ours.excluded if e.by_outcome]
    assert ours.predict(1e21).optimal_params == pytest.approx(
        theirs.predict(1e21).optimal_params, rel=0.05
    )


def test_a_law_that_cannot_be_negative_says_so():
    """Kaplan's law has no E."""
    table = sweep(LAW, sd=0.003)
    table["loss"] -= 3
    with pytest.raises(FitError, match="found none"):
        fit_runs(table, "kaplan")


def test_repeated_data_with_negative_losses_has_an_answer():
    """The law of repeated data is not for them: asked for it says so, else it is not tried."""
    table = sweep(LAW, sd=0.003)
    table["loss"] -= 3
    table["unique_tokens"] = table["tokens"] / np.tile([1, 2, 4, 8, 16, 8, 2], 5)
    assert fit_runs(table).law.params["E"] < 0
    with pytest.raises(FitError, match="expected positive losses"):
        fit_runs(table, "muennighoff")


@pytest.mark.parametrize("law", ["overfit", "experts", "steps"])
def test_a_law_of_positive_terms_says_that_losses_are_not_positive(law):
    table = sweep(LAW, sd=0.003)
    table["loss"] -= 3
    table["unique_tokens"] = table["tokens"] / 2
    table["active_params"] = table["params"] / np.tile([1, 2, 4, 8, 1, 2, 4], 5)
    table["batch_units"] = 1e5 * np.tile([1, 4, 2, 1, 2, 4, 2], 5)
    with pytest.raises(FitError, match="expected positive losses"):
        fit_runs(table, law)


def many(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(17, 23, count)), np.exp(rng.uniform(21, 26, count))
    loss = LAW.loss(N, D) * np.exp(0.005 * rng.normal(size=count))
    return {"params": N, "tokens": D, "flops": 6 * N * D, "loss": loss}


def test_of_thousands_of_runs_only_a_wrong_compute_is_looked_for():
    """No single one pulls the fit, but a cell of compute is wrong wherever it stands."""
    table = many(5_001)
    table["flops"][17] *= 100
    table["params"][40] *= 1e3
    table["flops"][40] *= 1e3
    assert strays(table) == {17}


@pytest.mark.parametrize(
    ("column", "at"), [("flops", range(0, 35, 3)), ("tokens", (0, 3, 8, 13, 18, 24, 30))]
)
def test_so_many_wrong_cells_are_no_typing_errors(column, at):
    """A fifth or a third of all: other findings say what is wrong, and no run is left out."""
    table = {n: v.copy() for n, v in DESIGNS["sweep"].items() if n in ("params", "tokens", "loss")}
    table["flops"] = 6 * table["params"] * table["tokens"]
    table[column][list(at)] *= 1e3
    if column == "tokens":
        del table["flops"]
    assert strays(table) == set()


def test_far_runs_that_a_joined_law_explains_are_no_wrong_cells():
    """Sizes over a factor of 900 bend as the additive law cannot: without them it predicts other losses."""
    law = Kappa(E=0.5, A=1e8**0.7, B=2e9**0.8, alpha=0.7, beta=0.8, kappa=0.4)
    assert strays(sweep(law, (1e18, 4e18, 2e19, 1e20), 4, 30, sd=0.001)) == set()
