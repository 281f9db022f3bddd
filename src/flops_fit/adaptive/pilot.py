"""The oracle that trains: sizes that the user's model has, and runs by the sweep's own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.adaptive.candidates import Candidates, Oracle
from flops_fit.errors import InputError, PlanError
from flops_fit.fit.intervals import Evidence
from flops_fit.flops.functions import FlopsFunction
from flops_fit.model.spec import ModelSpec
from flops_fit.plan.experiments import ExperimentFactory, UnmetBudgetError
from flops_fit.records import Experiment, Run
from flops_fit.table.run_table import RunTable

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
    if not many:
        return ""
    if evidence.solution.optimum_lost:
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


@dataclass
class Experimenter:
    """Makes each wanted run an exact :class:`~flops_fit.records.Experiment` and has it run.

    Attributes
    ----------
    factory
        The plan's: sizes, FLOPs, whole steps, seeds.
    flops
        F(N).
    carry_out
        From all experiments so far to their runs, in order; finished ones are not run again.
    sizes
        The sizes that may be used; by default whatever the model's constructor accepts.
    """

    factory: ExperimentFactory
    flops: FlopsFunction
    carry_out: Callable[[Sequence[Experiment]], Sequence[Run]]
    sizes: Sequence[Any] | None = None
    experiments: list[Experiment] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    _known: dict[tuple[float, float], tuple[float, Any]] = field(default_factory=dict)
    _made: Counter[tuple[float, float]] = field(default_factory=Counter)

    def candidates(self, params: Floats, budget: Floats) -> Candidates:
        """The nearest sizes at each budget, for whole steps; those that cannot be are left out."""
        rows: dict[tuple[float, float], tuple[float, float]] = {}
        for n, C in zip(params.tolist(), budget.tolist(), strict=True):
            size = self._nearest(n)
            if size is None:
                continue
            try:
                experiment = self.factory.make(C, size)
            except UnmetBudgetError:
                continue
            key = (float(experiment.params.total), float(experiment.tokens))
            self._known[key] = (C, size)
            rows[key] = (experiment.flops, C)
        N, D = (np.array([key[i] for key in rows]) for i in (0, 1))
        cost, tier = (np.array([row[i] for row in rows.values()]) for i in (0, 1))
        return Candidates(N, D, cost, tier)

    def run(self, chosen: Candidates) -> Sequence[float]:
        """The losses; NaN for a run that did not complete."""
        for pair in chosen.pairs():
            budget, size = self._known[pair]
            self.experiments.append(self.factory.make(budget, size, self._made[pair]))
            self._made[pair] += 1
        self.runs = list(self.carry_out(self.experiments))
        return [
            run.loss if run.state == "completed" and run.loss is not None else float("nan")
            for run in self.runs[-len(chosen) :]
        ]

    def _nearest(self, params: float) -> Any:
        spec = self.factory.spec
        if self.sizes is None:
            found = spec.nearest(params)
            return None if found is None else found[0]
        away = [abs(np.log(spec.require(s).total / params)) for s in self.sizes]
        return self.sizes[int(np.argmin(away))]


def check_adaptive(sizes: Any, repeats: int, branch: bool) -> None:
    """Refuse what an adaptive design decides itself, or cannot do."""
    if isinstance(sizes, Mapping):
        raise InputError(
            "sizes: an adaptive design chooses sizes for each budget; expected a list of those that "
            "it may use, or none; got a dict of budgets."
        )
    if repeats != 1:
        raise InputError(
            f"repeats: an adaptive design repeats runs where that tells most; got {repeats!r}. "
            "Leave it out."
        )
    if branch:
        raise InputError(
            "branch: an adaptive design plans runs one by one, and trunks have to be planned "
            'together. Use design="grid" for branches.'
        )


def pilot_sizes(spec: ModelSpec, budgets: Sequence[float]) -> dict[float, list[Any]] | None:
    """By budget, the sizes of the pilot's runs that the model has."""
    if spec.size_param is None:
        return None
    found: dict[float, list[Any]] = {float(b): [] for b in budgets}
    for n, C in zip(*pilot_grid(budgets), strict=True):
        near = spec.nearest(float(n))
        if near is not None and near[0] not in found[float(C)]:
            found[float(C)].append(near[0])
    if not all(found.values()):
        least = min(b for b, sizes in found.items() if not sizes)
        raise PlanError(
            f"max_flops: the pilot's budget of {least:.3g} FLOPs suits no size of the model. Give "
            "more max_flops, or compute_budgets for the pilot."
        )
    return found
