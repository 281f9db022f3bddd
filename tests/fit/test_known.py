"""Constants that are known: held in the law and in every drawn surface, or with a prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flops_fit import fit_runs
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit import Fit
from flops_fit.laws import Hoffmann, Kaplan, Kappa
from tests.fit._runs import sweep

LAW = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
JOINED = Kappa(1.8, 480.0, 2100.0, 0.5, 0.52, 0.7)


def drawn(fit: Fit, name: str) -> np.ndarray:
    return np.array([law.params[name] for law in fit._evidence.drawn_laws])


@pytest.mark.parametrize(
    ("law", "fixed"),
    [
        (LAW, {"E": 1.7}),
        (LAW, {"E": 0.0}),
        (LAW, {"alpha": 0.33, "beta": 0.4}),
        (JOINED, {"alpha": 0.48}),
        (JOINED, {"kappa": 0.6, "beta": 0.5}),
    ],
)
def test_a_fixed_constant_is_held_in_the_law_and_in_every_answer(
    law: Hoffmann | Kappa, fixed: dict[str, float]
) -> None:
    fit = fit_runs(sweep(law, sd=0.002), type(law), fixed=fixed)
    assert {name: fit.law.params[name] for name in fixed} == fixed
    assert fit.status.usable
    assert fit.dof == len(fit.runs) - len(fit.law.params) + len(fixed)
    for name, value in fixed.items():
        near = {"abs": 1e-6} if value == 0 else {"rel": 1e-3}
        if isinstance(law, Kappa) or name == "E":
            assert drawn(fit, name) == pytest.approx(value, **near)


def test_constants_fixed_at_the_truth_leave_the_others_true() -> None:
    fit = fit_runs(sweep(JOINED), "kappa", fixed={"E": 1.8, "alpha": 0.5})
    assert fit.law.params == pytest.approx(JOINED.params, rel=1e-4)
    free = fit_runs(sweep(LAW), "hoffmann", fixed={"beta": 0.37})
    assert free.law.params == pytest.approx(LAW.params, rel=1e-4)


def test_a_known_kappa_chooses_its_law() -> None:
    assert fit_runs(sweep(LAW, sd=0.002), fixed={"kappa": 0.8}).law.params["kappa"] == 0.8


def test_a_tight_prior_wins_and_a_wide_one_loses() -> None:
    runs = sweep(LAW, sd=0.003, seed=3)
    free = fit_runs(runs, "hoffmann")
    tight = fit_runs(runs, "hoffmann", prior={"E": (1.7, 1e-4)})
    wide = fit_runs(runs, "hoffmann", prior={"E": (1.7, 10.0)})
    assert tight.law.params["E"] == pytest.approx(1.7, abs=1e-3)
    assert wide.law.params["E"] == pytest.approx(free.law.params["E"], abs=1e-3)
    assert np.median(drawn(tight, "E")) == pytest.approx(1.7, abs=1e-3)
    assert np.std(drawn(tight, "E")) < 2e-4 < np.std(drawn(free, "E"))


def test_a_prior_meets_the_runs_in_the_middle() -> None:
    runs = sweep(LAW, sd=0.01, seed=3)
    free = fit_runs(runs, "hoffmann")
    moved = fit_runs(runs, "hoffmann", prior={"E": (1.0, 0.2)})
    assert 1.0 < moved.law.params["E"] < free.law.params["E"]
    assert np.median(drawn(moved, "E")) < np.median(drawn(free, "E"))


def test_other_laws_hold_their_constants_too() -> None:
    law = Kaplan(6.4e13, 1.8e13, 0.076, 0.103)
    fit = fit_runs(sweep(law, sd=0.001), "kaplan", fixed={"alpha_N": 0.076})
    assert fit.law.params["alpha_N"] == 0.076
    assert fit.law.params["alpha_D"] == pytest.approx(0.103, rel=0.05)
    assert drawn(fit, "alpha_N") == pytest.approx(0.076)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fixed": {"C": 1.0}}, InputError, "expected constants of"),
        ({"fixed": {"alpha": 0.0}}, InputError, "a positive number for alpha"),
        ({"fixed": 1.6}, InputTypeError, "expected a dict such as"),
        ({"prior": {"E": 1.6}}, InputError, "a mean and a standard deviation"),
        ({"prior": {"E": (1.6, 0.0)}}, InputError, "both positive"),
        ({"fixed": {"E": 1.6}, "prior": {"E": (1.6, 0.1)}}, InputError, "are in both"),
        ({"law": "hoffmann", "fixed": {"kappa": 0.5}}, InputError, "expected constants of"),
        ({"law": "kaplan", "prior": {"alpha_N": (0.1, 0.1)}}, InputError, "use fixed="),
    ],
)
def test_what_cannot_be_known_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        fit_runs(sweep(LAW), **options)


def test_a_held_floor_above_every_loss_is_a_finding() -> None:
    fit = fit_runs(sweep(LAW, sd=0.002), Hoffmann, fixed={"E": 20.0})
    assert fit.trust == "no"
    assert fit._evidence.no_interval
