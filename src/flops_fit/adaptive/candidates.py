"""Runs that could be made, who makes them, and the pilot that a sweep begins with."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import InputError, PlanError
from flops_fit.fit.intervals import Evidence
from flops_fit.flops.functions import Floats, FlopsFunction
from flops_fit.model.spec import ModelSpec
from flops_fit.plan.experiments import ExperimentFactory, UnmetBudgetError
from flops_fit.records import Experiment, Run
from flops_fit.table.run_table import RunTable

Side = Literal["", "below", "above"]

_SIZE_RANGE = 5.0  # sizes lie from N*/5 to 5·N*
_SIZES_PER_BUDGET = 9
_BUDGET_STEP = 2.0  # between budgets that runs are chosen from

_PILOT_SIZES = (5, 4, 3)  # at each of its budgets
_PILOT_RANGE = 6.0
_PILOT_STEP = 10.0**0.5  # between its budgets
_PILOT_SHARE = 0.015  # of what may be spent
_BEYOND_EDGE = (2.2, 5.0)  # sizes beyond the edge of those made, as factors


@dataclass(frozen=True, eq=False)
class Candidates:
    """Runs that could be made: N, D, C and tier of each; arrays have shape (candidates,).

    ``repeats``: whether the same run may be made again, with another seed. ``price``: FLOPs that each
    would take now, if that is not its C: branches of a trunk.
    """

    params: Floats
    tokens: Floats
    flops: Floats
    budget: Floats
    repeats: bool = True
    price: Floats | None = None

    @property
    def prices(self) -> Floats:
        """FLOPs that each would take now, less than its C if another run has made its trunk."""
        return self.flops if self.price is None else self.price

    @classmethod
    def of(cls, rows: ArrayLike, flops: FlopsFunction, *, repeats: bool = True) -> Self:
        """From pairs (N, D), shape (candidates, 2)."""
        try:
            values = np.asarray(rows, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.ndim != 2 or values.shape[1] != 2 or not np.all(values > 0):
            raise InputError(
                f"candidates: expected pairs (N, D) of positive numbers, one a run; got {rows!r}."
            )
        C = np.asarray(flops(values[:, 0])) * values[:, 1]
        return cls(values[:, 0], values[:, 1], C, C, repeats)

    def __len__(self) -> int:
        return len(self.params)

    def pick(self, index: Any) -> Self:
        """Those at ``index``, a mask or positions, which may repeat."""
        arrays = [(n, v) for n, v in vars(self).items() if isinstance(v, np.ndarray)]
        return replace(self, **{name: values[index] for name, values in arrays})

    def distinct(self) -> Self:
        """Each run once."""
        rows = np.column_stack([self.params, self.tokens])
        return self.pick(np.sort(np.unique(rows, axis=0, return_index=True)[1]))

    @property
    def cost(self) -> float:
        """FLOPs of all together."""
        return float(np.sum(self.prices))

    def pairs(self) -> list[tuple[float, float]]:
        """(N, D) of each."""
        return list(zip(self.params.tolist(), self.tokens.tolist(), strict=True))

    def to_dicts(self) -> tuple[dict[str, float], ...]:
        """``params``, ``tokens`` and ``flops`` of each, smallest C first."""
        order = np.lexsort((self.params, self.flops))
        names = ("params", "tokens", "flops")
        return tuple({n: float(getattr(self, n)[i]) for n in names} for i in order)


class Oracle(Protocol):
    """Makes runs: a trainer, a simulation, a published table."""

    @property
    def flops(self) -> FlopsFunction:
        """Training FLOPs per unit, F(N)."""

    def candidates(self, params: Floats, budget: Floats) -> Candidates:
        """The runs that can be made, nearest to N parameters at each budget."""

    def run(self, chosen: Candidates) -> Sequence[float]:
        """The losses of runs out of :meth:`candidates`, in order; NaN where a run has none."""


@dataclass
class Experimenter:
    """The oracle that trains: makes each run an exact experiment and carries it out.

    ``sizes`` are by default whatever the model's constructor accepts. ``runs`` are those made already, and
    ``drawn`` gives the experiments of a batch rates of their own.
    """

    factory: ExperimentFactory
    flops: FlopsFunction
    carry_out: Callable[[Sequence[Experiment]], Sequence[Run]]  # takes all experiments so far
    sizes: Sequence[Any] | None = None
    runs: Sequence[Run] = ()
    drawn: Callable[[Sequence[Experiment]], Sequence[Experiment]] = lambda batch: batch
    _known: dict[tuple[float, float], tuple[float, Any]] = field(default_factory=dict)
    _repeats: Counter[tuple[float, float]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._before = Counter((e.budget, repr(e.size)) for e in self.experiments)

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """What was carried out."""
        return tuple(run.experiment for run in self.runs)

    @property
    def known(self) -> tuple[Candidates, list[float]]:
        """The runs so far and their losses."""
        rows = [(e.params.total, e.tokens, e.flops, e.budget) for e in self.experiments]
        return Candidates(*np.array(rows, dtype=np.float64).reshape(-1, 4).T), losses_of(self.runs)

    def candidates(self, params: Floats, budget: Floats) -> Candidates:
        """The nearest sizes at each budget, in whole steps; those that cannot be are left out."""
        rows: dict[tuple[float, float], tuple[float, float]] = {}
        for n, C in zip(params.tolist(), budget.tolist(), strict=True):
            size = self._nearest(n)
            if size is None:
                continue
            try:
                experiment = self.factory.make(C, size, reads=False)
            except UnmetBudgetError:
                continue
            key = (float(experiment.params.total), float(experiment.tokens))
            self._known[key] = (C, size)
            rows[key] = (experiment.flops, C)
        values = np.array([(*key, *row) for key, row in rows.items()]).reshape(-1, 4)
        return Candidates(*values.T)

    def run(self, chosen: Candidates) -> Sequence[float]:
        """The losses; NaN for a run that did not complete."""
        batch: list[Experiment] = []
        for pair in chosen.pairs():
            budget, size = self._known[pair]
            repeat = self._repeats[pair] + self._before[budget, repr(size)]
            try:
                made = self.factory.make(budget, size, repeat)
            except UnmetBudgetError:  # with the samples that it would read
                made = self.factory.make(budget, size, repeat, reads=False)
            batch.append(made)
            self._repeats[pair] += 1
        self.runs = self.carry_out([*self.experiments, *self.drawn(batch)])
        return losses_of(self.runs[-len(batch) :])

    def _nearest(self, params: float) -> Any:
        spec = self.factory.spec
        if self.sizes is None:
            near = spec.nearest(params)
            return None if near is None else near[0]
        return min(self.sizes, key=lambda s: abs(np.log(spec.require(s).total / params)))


def losses_of(runs: Sequence[Run]) -> list[float]:
    """The loss of each; NaN for one that did not complete."""
    return [math.nan if run.measured is None else run.measured for run in runs]


def lattice(centre: Floats, budgets: Floats) -> tuple[Floats, Floats]:
    """N and C of nine sizes at each budget, from N*/5 to 5·N* around its ``centre``."""
    factors = np.geomspace(1 / _SIZE_RANGE, _SIZE_RANGE, _SIZES_PER_BUDGET)
    return np.outer(centre, factors).ravel(), np.repeat(budgets, _SIZES_PER_BUDGET)


def around(evidence: Evidence, low: float, high: float) -> tuple[Floats, Floats]:
    """N and C of nine sizes around the fitted optimum of each budget from low to high."""
    count = max(round(float(np.log(high / low) / np.log(_BUDGET_STEP))), 0) + 1
    budgets = np.asarray(high * _BUDGET_STEP ** -np.arange(count, dtype=np.float64))[::-1]
    return lattice(np.asarray(evidence.law.optimal(budgets, evidence.flops).params), budgets)


def table_of(runs: Sequence[Candidates], losses: Sequence[float]) -> RunTable:
    """Runs and their losses as a table; those without a loss are left out."""
    loss = np.asarray(losses, dtype=np.float64)
    names = ("params", "tokens", "flops", "budget")
    N, D, C, budget = (np.concatenate([getattr(c, name) for c in runs]) for name in names)
    table = RunTable(N, D, C, loss, tuple(f"run {i + 1}" for i in range(len(loss))), budget)
    valid = np.isfinite(loss)
    return table if np.all(valid) else table.select(valid, "no finite loss")


def pilot_budgets(max_flops: float) -> tuple[float, ...]:
    """Three budgets, half a decade apart, whose runs take 1.5 % of what may be spent."""
    steps = [_PILOT_STEP**i for i in range(len(_PILOT_SIZES))]
    first = _PILOT_SHARE * max_flops / sum(n * s for n, s in zip(_PILOT_SIZES, steps, strict=True))
    return tuple(first * step for step in steps)


def pilot_grid(
    budgets: Sequence[float], centre: Callable[[float], float] | None = None
) -> tuple[Floats, Floats]:
    """N and C of the pilot: 5, 4 and 3 sizes from N*/6 to 6·N*, by ``centre`` or at D = 20·N."""
    guess = centre or (lambda C: float(np.sqrt(C / 120)))
    counts = [_PILOT_SIZES[min(i, len(_PILOT_SIZES) - 1)] for i in range(len(budgets))]
    C = np.repeat(np.array(sorted(budgets), dtype=np.float64), counts)
    factors = [np.geomspace(1 / _PILOT_RANGE, _PILOT_RANGE, count) for count in counts]
    return np.array([guess(c) for c in C.tolist()]) * np.concatenate(factors), C


def pilot_sizes(spec: ModelSpec, budgets: Sequence[float]) -> dict[float, list[Any]] | None:
    """By budget, the sizes of the pilot's runs that the model has."""
    if spec.size_param is None:
        return None
    sizes: dict[float, list[Any]] = {float(b): [] for b in budgets}
    for n, C in zip(*pilot_grid(budgets), strict=True):
        near = spec.nearest(float(n))
        if near is not None and near[0] not in sizes[float(C)]:
            sizes[float(C)].append(near[0])
    if not all(sizes.values()):
        least = min(b for b, fitting in sizes.items() if not fitting)
        raise PlanError(
            f"max_flops: no size of the model fits the pilot's budget of {least:.3g} FLOPs. Give more "
            "max_flops, or compute_budgets for the pilot."
        )
    return sizes


def check_pilot(cost: float, max_flops: float) -> None:
    """Refuse a pilot that costs more than may be spent."""
    if cost > max_flops:
        raise InputError(
            f"max_flops: expected more than the pilot costs, {cost:.3g} FLOPs; got {max_flops:.3g}. Give "
            "more, or a pilot of smaller budgets."
        )


def check_adaptive(sizes: Any, branch: bool) -> None:
    """Refuse what an adaptive design decides itself, or cannot do."""
    if isinstance(sizes, Mapping):
        raise InputError(
            "sizes: an adaptive design chooses sizes for each budget; expected a list of those that "
            "it may use, or none; got a dict of budgets."
        )
    if branch:
        raise InputError(
            "branch: an adaptive design plans runs one by one, and trunks have to be planned "
            'together. Use design="grid" for branches.'
        )


def off_centre(evidence: Evidence) -> Side:
    """The side on which the optimum lies outside the sizes that were run, if it does."""
    runs = evidence.runs
    groups = [runs.budget == b for b in np.unique(runs.budget)]
    sizes = [(b, np.log(runs.params[b])) for b in groups if np.sum(b) >= 3]
    if not sizes:
        return ""
    if evidence.solution.optimum_lost:
        # By which half of the sizes has the lowest losses.
        low = [x[np.argmin(runs.loss[b])] < np.mean(x) for b, x in sizes]
        return "below" if np.mean(low) > 0.5 else "above"
    budgets = np.array([runs.budget[b][0] for b, _ in sizes])
    best = np.log(np.asarray(evidence.law.optimal(budgets, evidence.flops).params))
    below = np.mean([n < np.min(x) for n, (_, x) in zip(best, sizes, strict=True)])
    above = np.mean([n > np.max(x) for n, (_, x) in zip(best, sizes, strict=True)])
    if max(below, above) < 0.5:
        return ""
    return "below" if below > above else "above"


def beyond_edge(runs: RunTable, side: Side) -> tuple[Floats, Floats]:
    """N and C of two sizes beyond the edge at each of the three smallest budgets."""
    budgets = np.unique(runs.budget)[:3]
    sizes = [runs.params[runs.budget == budget] for budget in budgets]
    factors = np.array(_BEYOND_EDGE)
    N = [np.min(n) / factors if side == "below" else np.max(n) * factors for n in sizes]
    return np.concatenate(N), np.repeat(budgets, len(factors))
