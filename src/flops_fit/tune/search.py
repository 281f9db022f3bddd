"""Trials of rates and batches: in which cells, and round after round until each optimum is inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flops_fit.errors import InputError, PlanError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.plan.experiments import ExperimentFactory, UnmetBudgetError
from flops_fit.recipes.resolve import TunedRecipe
from flops_fit.records import Experiment, Run

_SPACING = 3.0  # factor between the anchors' sizes, and between their lengths
_RUNS_PER_CELL = 8.0  # three rates, three batches, and those beyond an edge
_RATES_PER_CELL = 5.0  # the same without batches
_FEWEST_STEPS = 50  # shorter runs tell nothing about a rate
_SIZE_TOLERANCE = 0.25  # in ln N, between a planned size and the one looked for
_MOST_OFFSETS = 6  # steps from where a search begins

CarryOut = Callable[[Sequence[Experiment]], Sequence[Run]]
Axis = Literal["lr", "batch"]


@dataclass(frozen=True)
class Cell:
    """A size and a budget at which several hyper-parameters are tried."""

    size: Any
    budget: float


@dataclass(frozen=True)
class Point:
    """One trial in a cell: factors on the recipe's rate and batch, and the number of the seed."""

    cell: int
    lr: float = 1.0
    batch: float = 1.0
    repeat: int = 0


@dataclass(frozen=True)
class Trial:
    """A trial and its run."""

    point: Point
    run: Run

    @property
    def loss(self) -> float | None:
        """The held-out loss; ``None`` if the run diverged or failed."""
        return self.run.loss if self.run.state == "completed" else None


def pilot_cells(
    factory: ExperimentFactory, planned: Sequence[Experiment], flops: FlopsFunction, most: float
) -> list[Cell]:
    """Two sizes, each at two lengths, a factor 3 apart, around the sweep's own middle.

    All trials together cost at most ``most`` FLOPs. The middle size at the cheapest budget of the plan
    is taken to be near its optimum; the anchors lie around √C times that size.
    """
    cheapest, largest = (f(e.budget for e in planned) for f in (min, max))
    sizes = sorted(
        {repr(e.size): e for e in planned if e.budget == cheapest}.values(),
        key=lambda e: e.params.total,
    )
    middle = sizes[len(sizes) // 2].params.total
    # Costs are about 1, 3, 3 and 9 times the least.
    least = min(most / (_RUNS_PER_CELL * (1 + _SPACING) ** 2), largest / _SPACING**2)
    centre = middle * math.sqrt(least * _SPACING / cheapest)
    small = _nearest(factory, planned, centre / math.sqrt(_SPACING))
    large = _nearest(factory, planned, centre * math.sqrt(_SPACING), above=small)
    n_small, n_large = (factory.spec.require(s).total for s in (small, large))
    ratio = math.sqrt(n_large / n_small)
    length = least * _SPACING / float(flops(math.sqrt(n_small * n_large)))
    cells = [
        Cell(size, length * factor * float(flops(n)))
        for size, n in ((small, n_small), (large, n_large))
        for factor in (1 / ratio, ratio)
    ]
    scale = min(1.0, most / (_RUNS_PER_CELL * sum(c.budget for c in cells)))
    cells = [replace(c, budget=c.budget * scale) for c in cells]
    _require_steps(factory, cells, most)
    return cells


def per_size_cells(
    factory: ExperimentFactory, planned: Sequence[Experiment], most: float
) -> list[Cell]:
    """Each size of the sweep, ascending, at its cheapest budget or as near to it as the share allows.

    Sizes whose runs would have too few steps there are left out.
    """
    cheapest: dict[str, Experiment] = {}
    for e in sorted(planned, key=lambda e: e.budget):
        cheapest.setdefault(repr(e.size), e)
    ordered = sorted(cheapest.values(), key=lambda e: e.params.total)
    scale = min(1.0, most / (_RATES_PER_CELL * sum(e.budget for e in ordered)))
    cells = [Cell(e.size, e.budget * scale) for e in ordered]
    kept = [c for c in cells if _steps(factory, c) >= _FEWEST_STEPS]
    if len(kept) < 2:
        _require_steps(factory, cells, most)
    return kept


def _trial_experiment(factory: ExperimentFactory, cell: Cell, point: Point) -> Experiment | None:
    """The exact run of a trial; ``None`` if whole steps cannot meet its budget."""
    moved = TunedRecipe(factory.recipe, ((1.0, point.lr),), point.batch, "trial")
    trials = replace(factory, recipe=moved, branch=False)
    try:
        return trials.make(cell.budget, cell.size, point.repeat)
    except UnmetBudgetError:
        return None


def _steps(factory: ExperimentFactory, cell: Cell) -> int:
    experiment = _trial_experiment(factory, cell, Point(0))
    return 0 if experiment is None else experiment.steps


def _require_steps(factory: ExperimentFactory, cells: Sequence[Cell], most: float) -> None:
    """Refuse cells in which the recipe's own runs have too few steps."""
    for cell in cells:
        if (steps := _steps(factory, cell)) < _FEWEST_STEPS:
            raise PlanError(
                f"tune: {most:.3g} FLOPs may be spent, which leaves {steps} steps to a run of size "
                f"{cell.size} at {cell.budget:.3g} FLOPs; expected {_FEWEST_STEPS} or more. Give a "
                "larger share, Tune(share=...), larger budgets or a smaller batch."
            )


def _nearest(
    factory: ExperimentFactory, planned: Sequence[Experiment], params: float, above: Any = None
) -> Any:
    """A size of about so many parameters, one of the planned sizes if one is near."""
    floor = 0 if above is None else factory.spec.require(above).total
    sizes = {repr(e.size): e for e in planned if e.params.total > floor}.values()
    near = min(sizes, key=lambda e: abs(math.log(e.params.total / params)), default=None)
    if near is not None and abs(math.log(near.params.total / params)) < _SIZE_TOLERANCE:
        return near.size
    if factory.spec.size_param is not None:
        other = factory.spec.nearest(params)
        if other is not None and other[1].total > floor:
            return other[0]
    if near is None:
        raise InputError(
            'tune: expected two sizes or more to tune at; got one. Give tune="none", or sizes.'
        )
    return near.size


@dataclass
class Search:
    """Trials so far, and what they cost.

    ``carry_out`` takes all experiments so far and does not run finished ones again; ``most`` is what
    may be spent in FLOPs, ``step`` the factor between neighbours.
    """

    cells: Sequence[Cell]
    factory: ExperimentFactory
    carry_out: CarryOut
    most: float
    step: float
    trials: dict[Point, Trial] = field(default_factory=dict)
    short: bool = False  # whether a trial was left out for its cost
    _experiments: dict[Point, Experiment | None] = field(default_factory=dict)
    _runs: dict[str, Run] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """FLOPs of all trials; two that rounding makes one run count once."""
        return math.fsum(run.experiment.flops for run in self._runs.values())

    def along(self, axis: Axis, starts: Mapping[int, Point]) -> dict[int, dict[int, float]]:
        """Three neighbours in each cell, then more beyond an edge while the lowest lies there.

        A run that diverged, or that whole steps and samples cannot meet, ends the search on its side.
        ``starts`` are the middles of the cells' three; the result has losses by offset from them.
        """
        tried = {
            c: [offset for offset in (-1, 0, 1) if self._differs(axis, start, offset)]
            for c, start in starts.items()
        }
        wanted = {c: list(offsets) for c, offsets in tried.items()}
        while any(wanted.values()):
            self._run(
                self._shifted(axis, starts[c], offset)
                for c, offsets in wanted.items()
                for offset in offsets
            )
            wanted = {c: self._beyond(axis, starts[c], tried[c]) for c in tried}
            for c, offsets in wanted.items():
                tried[c] += offsets
        return {c: self._losses(axis, starts[c], sorted(offsets)) for c, offsets in tried.items()}

    def seeds(self, points: Sequence[Point], count: int) -> list[list[float]]:
        """The losses of each point under ``count`` seeds, its own among them."""
        groups = [[replace(point, repeat=repeat) for repeat in range(count)] for point in points]
        self._run(point for group in groups for point in group)
        losses = [[self._loss(point) for point in group] for group in groups]
        return [[x for x in group if x is not None] for group in losses]

    def losses(self, axis: Axis, start: Point) -> list[tuple[float, float]]:
        """(factor, loss) of a cell's trials along an axis; the batch's is by whole samples."""
        base = self._experiment(Point(start.cell))
        out: dict[str, tuple[float, float]] = {}
        for p, trial in self.trials.items():
            if p.cell != start.cell or p.repeat or trial.loss is None:
                continue
            experiment = trial.run.experiment
            if axis == "lr" and p.batch == start.batch:
                out[experiment.id] = (p.lr, trial.loss)
            follows = math.isclose(p.lr, start.lr * math.sqrt(p.batch / start.batch))
            if axis == "batch" and follows and base is not None:
                out[experiment.id] = (experiment.batch_size / base.batch_size, trial.loss)
        return list(out.values())

    def rates(self, cell: int) -> dict[float, Trial]:
        """The trials of a cell at the recipe's batch and its own seed, by their factor on the rate."""
        return {
            p.lr: trial
            for p, trial in self.trials.items()
            if p.cell == cell and p.batch == 1.0 and not p.repeat
        }

    def nearest(self, point: Point) -> Trial:
        """The trial of a cell nearest to a rate, at the recipe's batch."""
        rates = self.rates(point.cell)
        return rates[min(rates, key=lambda lr: abs(math.log(lr / point.lr)))]

    def limits(self) -> list[str]:
        """What the range of the search left open."""
        best: dict[int, list[str]] = {0: [], -1: []}
        for c, cell in enumerate(self.cells):
            rates = self.rates(c)
            losses = {lr: t.loss for lr, t in rates.items() if t.loss is not None}
            for end, sizes in best.items():
                if losses and min(losses, key=lambda lr: losses[lr]) == sorted(rates)[end]:
                    sizes.append(str(cell.size))
        return [
            f"The {which} rate tried is the best in {len(best[end])} cells (size "
            f"{', '.join(best[end])}): better ones may lie {where}."
            for end, which, where in ((0, "lowest", "below"), (-1, "highest", "above"))
            if best[end]
        ]

    def _loss(self, point: Point) -> float | None:
        trial = self.trials.get(point)
        return None if trial is None else trial.loss

    def _losses(self, axis: Axis, start: Point, offsets: Iterable[int]) -> dict[int, float]:
        losses = {o: self._loss(self._shifted(axis, start, o)) for o in offsets}
        return {offset: loss for offset, loss in losses.items() if loss is not None}

    def _shifted(self, axis: Axis, start: Point, offset: int) -> Point:
        """A neighbour along an axis; the rate follows the square root of the batch."""
        factor = self.step**offset
        if axis == "lr":
            return Point(start.cell, start.lr * factor, start.batch)
        return Point(start.cell, start.lr * math.sqrt(factor), start.batch * factor)

    def _beyond(self, axis: Axis, start: Point, tried: Sequence[int]) -> list[int]:
        """The next offset, if the lowest of those tried is the last on a side."""
        losses = self._losses(axis, start, tried)
        if not losses:  # all diverged: rates were too high
            lower = min(tried) - 1
            return [lower] if axis == "lr" and abs(lower) <= _MOST_OFFSETS else []
        best = min(losses, key=lambda offset: losses[offset])
        following = best - 1 if best == min(tried) else best + 1 if best == max(tried) else None
        if following is None or abs(following) > _MOST_OFFSETS:
            return []
        return [following] if self._differs(axis, start, following) else []

    def _differs(self, axis: Axis, start: Point, offset: int) -> bool:
        """Whether an offset has another batch than the one before it: the smallest is one sample."""
        if axis == "lr" or offset == 0:
            return True
        inner = self._experiment(self._shifted(axis, start, offset + (-1 if offset > 0 else 1)))
        outer = self._experiment(self._shifted(axis, start, offset))
        return outer is not None and (inner is None or outer.batch_size != inner.batch_size)

    def _experiment(self, point: Point) -> Experiment | None:
        if point not in self._experiments:
            cell = self.cells[point.cell]
            self._experiments[point] = _trial_experiment(self.factory, cell, point)
        return self._experiments[point]

    def _run(self, points: Iterable[Point]) -> None:
        """Run new points, if whole steps can meet them and the share pays for them."""
        new: dict[str, Experiment] = {}
        ids: dict[Point, str] = {}
        spent = self.spent
        for point in dict.fromkeys(points):
            experiment = self._experiment(point)
            if experiment is None or point in self.trials:
                continue
            if experiment.id not in self._runs and experiment.id not in new:
                if spent + experiment.flops > self.most:
                    self.short = True
                    continue
                new[experiment.id] = experiment
                spent += experiment.flops
            ids[point] = experiment.id
        if new:
            before = [run.experiment for run in self._runs.values()]
            runs = self.carry_out([*before, *new.values()])[len(before) :]
            self._runs |= dict(zip(new, runs, strict=True))
        self.trials |= {point: Trial(point, self._runs[i]) for point, i in ids.items()}
