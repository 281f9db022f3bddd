"""Where an adaptive sweep begins, and where it goes on if it began beside the optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.design._points import Candidates, Oracle
from flops_fit.fit import Evidence
from flops_fit.table import RunTable

__all__ = ["explore", "off_centre", "pilot", "pilot_budgets", "pilot_grid"]

Floats = NDArray[np.float64]

Side = Literal["", "below", "above"]

_SIZES = (5, 4, 3)
_REACH = 6.0
_STEP = 10.0**0.5
_SHARE = 0.015  # of what may be spent
_BEYOND = (2.2, 5.0)


def pilot(
    oracle: Oracle,
    max_flops: float,
    budgets: Sequence[float] = (),
    centre: Callable[[float], float] | None = None,
) -> Candidates:
    """Five, four and three sizes at three cheap budgets, ×6 either way of a first guess of N*."""
    N, C = pilot_grid(budgets or pilot_budgets(max_flops), centre)
    return distinct(oracle.candidates(N, C))


def pilot_budgets(max_flops: float) -> tuple[float, ...]:
    """Three budgets, half a decade apart, whose runs take 1.5 % of what may be spent."""
    first = _SHARE * max_flops / sum(n * _STEP**i for i, n in enumerate(_SIZES))
    return tuple(first * _STEP**i for i in range(len(_SIZES)))


def pilot_grid(
    budgets: Sequence[float], centre: Callable[[float], float] | None = None
) -> tuple[Floats, Floats]:
    """N and C wanted of the pilot's runs; N* is guessed at twenty tokens a parameter, √(C/120)."""
    guess = centre or (lambda C: float(np.sqrt(C / 120)))
    N, C = [], []
    for i, budget in enumerate(sorted(budgets)):
        count = _SIZES[min(i, len(_SIZES) - 1)]
        N.append(guess(budget) * np.geomspace(1 / _REACH, _REACH, count))
        C.append(np.full(count, budget))
    return np.concatenate(N), np.concatenate(C)


def distinct(runs: Candidates) -> Candidates:
    """Each run once."""
    _, first = np.unique(np.column_stack([runs.params, runs.tokens]), axis=0, return_index=True)
    return runs.pick(np.sort(first))


def off_centre(evidence: Evidence) -> Side:
    """The side on which the optimum lies outside the sizes that were run, if it does.

    By the law where it has an optimum; else by which half of the sizes has the lowest losses.
    """
    runs = evidence.runs
    budgets = np.unique(runs.budget)
    sizes = [np.log(runs.params[runs.budget == b]) for b in budgets]
    many = [i for i, s in enumerate(sizes) if len(s) >= 3]
    broken = any("vanish" in b or b.startswith(("alpha", "beta")) for b in evidence.solution.bounds)
    if not many:
        return ""
    if broken:
        low = [
            sizes[i][np.argmin(runs.loss[runs.budget == budgets[i]])] < np.mean(sizes[i])
            for i in many
        ]
        return "below" if np.mean(low) > 0.5 else "above"
    best = np.log(np.asarray(evidence.law.optimal(budgets[many], evidence.flops).params))
    below = np.mean([best[j] < np.min(sizes[i]) for j, i in enumerate(many)])
    above = np.mean([best[j] > np.max(sizes[i]) for j, i in enumerate(many)])
    if max(below, above) < 0.5:
        return ""
    return "below" if below > above else "above"


def explore(oracle: Oracle, runs: RunTable, side: Side) -> Candidates:
    """Two sizes beyond the edge at each of the cheapest three budgets."""
    N, C = [], []
    for budget in np.unique(runs.budget)[:3]:
        here = runs.params[runs.budget == budget]
        edge = float(np.min(here) if side == "below" else np.max(here))
        for factor in _BEYOND:
            N.append(edge / factor if side == "below" else edge * factor)
            C.append(float(budget))
    return distinct(oracle.candidates(np.array(N), np.array(C)))
