"""Trying rates and batches, round after round, until each cell's lowest lies inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flops_fit.errors import InputError, PlanError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.plan.experiments import ExperimentFactory
from flops_fit.records import Experiment, Run
from flops_fit.tune.recipe import TunedRecipe

_APART = 3.0  # factor between the anchors' sizes, and between their lengths
_RUNS = 8.0  # a cell takes: three rates, three batches, and what goes on beyond an edge
_RATES = 5.0  # the same without batches
_FEWEST_STEPS = 50  # a run of fewer says nothing about a rate
_NEAR = 0.25  # of ln N: how near a planned size is to a wanted one


@dataclass(frozen=True)
class Cell:
    """A size and a budget where several hyper-parameters are tried."""

    size: Any
    budget: float


@dataclass(frozen=True)
class Point:
    """One trial in a cell: factors on the recipe's rate and batch, and which seed."""

    cell: int
    lr: float = 1.0
    batch: float = 1.0
    repeat: int = 0


def make_run(maker: ExperimentFactory, cell: Cell, point: Point) -> Experiment | None:
    """The exact run of a trial; ``None`` where whole steps cannot meet its budget."""
    moved = TunedRecipe(maker.recipe, ((1.0, point.lr),), point.batch, "trial")
    made = replace(maker, recipe=moved, branch=False).make(cell.budget, cell.size, point.repeat)
    return made if isinstance(made, Experiment) else None


def pilot_cells(
    maker: ExperimentFactory, planned: Sequence[Experiment], flops: FlopsFunction, most: float
) -> list[Cell]:
    """Two sizes, each at two lengths, a factor 3 apart, around the sweep's own middle.

    Of the runs planned at the cheapest budget the middle size is taken to be near its optimum, and
    the anchors lie around √C times that: over- and undertrained alike.

    Parameters
    ----------
    flops
        F(N).
    most
        FLOPs that all trials together may cost.

    Raises
    ------
    PlanError
        The share is too small for runs that tell anything, or there is one size alone.
    """
    cheapest = min(e.budget for e in planned)
    sizes = sorted(
        {repr(e.size): e for e in planned if e.budget == cheapest}.values(),
        key=lambda e: e.params.total,
    )
    middle = sizes[len(sizes) // 2]
    dearest = max(e.budget for e in planned)
    # Costs are about 1, 3, 3 and 9 times the least.
    least = min(most / (_RUNS * (1 + _APART) ** 2), dearest / _APART**2)
    centre = middle.params.total * math.sqrt(least * _APART / cheapest)
    small = _nearest(maker, planned, centre / math.sqrt(_APART))
    large = _nearest(maker, planned, centre * math.sqrt(_APART), above=small)
    n_small, n_large = (maker.spec.require(s).total for s in (small, large))
    apart = math.sqrt(n_large / n_small)
    lengths = [
        least * _APART / float(flops(math.sqrt(n_small * n_large))) * f for f in (1 / apart, apart)
    ]
    cells = [
        Cell(s, d * float(flops(n)))
        for s, n in ((small, n_small), (large, n_large))
        for d in lengths
    ]
    total = _RUNS * sum(c.budget for c in cells)
    scale = min(1.0, most / total)
    return _trainable(maker, [replace(c, budget=c.budget * scale) for c in cells], most)


def per_size_cells(
    maker: ExperimentFactory, planned: Sequence[Experiment], most: float
) -> tuple[list[Cell], list[Any]]:
    """Each size of the sweep, at its own cheapest budget or as near to it as the share allows.

    Returns
    -------
    list of Cell
        Ascending in N.
    list
        Sizes whose runs would have too few steps there; they take the rates of their neighbours.

    Raises
    ------
    PlanError
        The share is too small for runs that tell anything.
    """
    cheapest: dict[str, Experiment] = {}
    for e in sorted(planned, key=lambda e: e.budget):
        cheapest.setdefault(repr(e.size), e)
    ordered = sorted(cheapest.values(), key=lambda e: e.params.total)
    scale = min(1.0, most / (_RATES * sum(e.budget for e in ordered)))
    cells = [Cell(e.size, e.budget * scale) for e in ordered]
    kept = [c for c in cells if _steps(maker, c) >= _FEWEST_STEPS]
    if len(kept) < 2:
        _trainable(maker, cells, most)
    return kept, [c.size for c in cells if c not in kept]


def _steps(maker: ExperimentFactory, cell: Cell) -> int:
    made = make_run(maker, cell, Point(0))
    return 0 if made is None else made.steps


def _trainable(maker: ExperimentFactory, cells: list[Cell], most: float) -> list[Cell]:
    """The cells, if the recipe's own runs there have steps enough."""
    for cell in cells:
        if (steps := _steps(maker, cell)) < _FEWEST_STEPS:
            raise PlanError(
                f"tune: {most:.3g} FLOPs may be spent, which leaves {steps} steps to a run of size "
                f"{cell.size} at {cell.budget:.3g} FLOPs; {_FEWEST_STEPS} tell something. Give a "
                "larger share, Tune(share=...), larger budgets or a smaller batch."
            )
    return cells


def _nearest(
    maker: ExperimentFactory, planned: Sequence[Experiment], params: float, above: Any = None
) -> Any:
    """A size of about so many parameters, of the planned ones where one is near."""
    known = {repr(e.size): e for e in planned}
    floor = 0 if above is None else maker.spec.require(above).total
    fitting = [e for e in known.values() if e.params.total > floor]
    near = min(fitting, key=lambda e: abs(math.log(e.params.total / params)), default=None)
    if near is not None and abs(math.log(near.params.total / params)) < _NEAR:
        return near.size
    if maker.spec.size_param is not None:
        found = maker.spec.nearest(params)
        if found is not None and found[1].total > floor:
            return found[0]
    if near is None:
        raise InputError(
            'tune: expected two sizes or more to tune at; there is one. Give tune="none", or sizes.'
        )
    return near.size


CarryOut = Callable[[Sequence[Experiment]], Sequence[Run]]
Axis = Literal["lr", "batch"]

_FARTHEST = 6  # steps from where the search begins


@dataclass(frozen=True)
class Trial:
    """A trial and what came of it."""

    point: Point
    run: Run

    @property
    def loss(self) -> float | None:
        """The held-out loss; ``None`` where the run diverged or failed."""
        return self.run.loss if self.run.state == "completed" else None


@dataclass
class Search:
    """Trials so far, and what they cost.

    Attributes
    ----------
    cells
        Where to try.
    maker
        The plan's.
    carry_out
        From all experiments so far to their runs, in order; finished ones are not run again.
    most
        FLOPs that may be spent.
    step
        The factor between neighbours.
    """

    cells: Sequence[Cell]
    maker: ExperimentFactory
    carry_out: CarryOut
    most: float
    step: float
    trials: dict[Point, Trial] = field(default_factory=dict)
    short: bool = False  # whether a trial was left out for its cost
    _made: dict[Point, Experiment | None] = field(default_factory=dict)
    _runs: dict[str, Run] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """FLOPs of all trials; two that rounding makes one run count once."""
        return math.fsum(run.experiment.flops for run in self._runs.values())

    def along(
        self, axis: Axis, start: Callable[[int], Point], cells: Iterable[int]
    ) -> dict[int, dict[int, float]]:
        """Three neighbours in each cell, and on beyond an edge while the lowest lies there.

        A run that diverged, or that whole steps and whole samples cannot meet, ends the search on
        its side.

        Parameters
        ----------
        start
            The middle of each cell's three.

        Returns
        -------
        dict
            For each cell the losses by place, in steps from its start.
        """
        tried = {c: [p for p in (-1, 0, 1) if self._differs(axis, start(c), p)] for c in cells}
        wanted = {cell: list(places) for cell, places in tried.items()}
        while any(wanted.values()):
            self._run(
                self._at(axis, start(cell), place)
                for cell, places in wanted.items()
                for place in places
            )
            wanted = {c: self._beyond(axis, start(c), tried[c]) for c in tried}
            for cell, places in wanted.items():
                tried[cell] += places
        return {
            c: {p: x for p in sorted(places) if (x := self.loss(self._at(axis, start(c), p)))}
            for c, places in tried.items()
        }

    def seeds(self, points: Sequence[Point], count: int) -> list[list[float]]:
        """The losses of each point under so many seeds, its own among them."""
        groups = [[Point(p.cell, p.lr, p.batch, repeat) for repeat in range(count)] for p in points]
        self._run(p for group in groups for p in group)
        losses = [[self.loss(p) for p in group] for group in groups]
        return [[x for x in group if x is not None] for group in losses]

    def points(
        self, axis: Axis, cell: int, start: Callable[[int], Point]
    ) -> list[tuple[float, float]]:
        """(factor, loss) along an axis through a cell's start, the factor as it was in fact.

        A batch is a whole number of samples, and a little smaller where that makes whole steps.
        """
        at = start(cell)
        out: dict[str, tuple[float, float]] = {}
        for p, trial in self.trials.items():
            if p.cell != cell or p.repeat or trial.loss is None:
                continue
            if axis == "lr" and p.batch == at.batch:
                out[trial.run.experiment.id] = (p.lr, trial.loss)
            elif axis == "batch" and math.isclose(p.lr, at.lr * math.sqrt(p.batch / at.batch)):
                out[trial.run.experiment.id] = (self._batch(trial), trial.loss)
        return list(out.values())

    def loss(self, point: Point) -> float | None:
        """Of a trial that was made and came to its end."""
        trial = self.trials.get(point)
        return None if trial is None else trial.loss

    def _batch(self, trial: Trial) -> float:
        """The factor on the recipe's batch, of the batch in samples."""
        made, base = trial.run.experiment, self._experiment(Point(trial.point.cell))
        assert base is not None
        return made.batch_size / base.batch_size

    def _at(self, axis: Axis, start: Point, place: int) -> Point:
        """A neighbour along an axis; a batch takes its rate with it, by the square root."""
        factor = self.step**place
        if axis == "lr":
            return Point(start.cell, start.lr * factor, start.batch)
        return Point(start.cell, start.lr * math.sqrt(factor), start.batch * factor)

    def _beyond(self, axis: Axis, start: Point, tried: Sequence[int]) -> list[int]:
        """The next place, where the lowest of those tried is the last on a side."""
        losses = {
            place: loss
            for place in tried
            if (loss := self.loss(self._at(axis, start, place))) is not None
        }
        if not losses:  # all diverged: rates were too high
            lower = min(tried) - 1
            return [lower] if axis == "lr" and abs(lower) <= _FARTHEST else []
        best = min(losses, key=lambda place: losses[place])
        place = best - 1 if best == min(tried) else best + 1 if best == max(tried) else None
        if place is None or abs(place) > _FARTHEST or not self._differs(axis, start, place):
            return []
        return [place]

    def _differs(self, axis: Axis, start: Point, place: int) -> bool:
        """Whether a place has another batch than the one before it: there is none below a sample."""
        if axis == "lr" or place == 0:
            return True
        inner = place - 1 if place > 0 else place + 1
        here, there = (self._experiment(self._at(axis, start, p)) for p in (place, inner))
        return here is not None and (there is None or here.batch_size != there.batch_size)

    def _experiment(self, point: Point) -> Experiment | None:
        if point not in self._made:
            self._made[point] = make_run(self.maker, self.cells[point.cell], point)
        return self._made[point]

    def _run(self, points: Iterable[Point]) -> None:
        """Those that were not run yet, that can be, and that the share pays for."""
        new: dict[str, Experiment] = {}
        named: list[tuple[Point, str]] = []
        spent = self.spent
        for point in dict.fromkeys(points):
            made = self._experiment(point)
            if made is None or point in self.trials:
                continue
            if made.id not in self._runs and made.id not in new:
                if spent + made.flops > self.most:
                    self.short = True
                    continue
                new[made.id] = made
                spent += made.flops
            named.append((point, made.id))
        if new:
            before = [run.experiment for run in self._runs.values()]
            runs = self.carry_out([*before, *new.values()])[len(before) :]
            self._runs |= dict(zip(new, runs, strict=True))
        self.trials |= {point: Trial(point, self._runs[i]) for point, i in named}
