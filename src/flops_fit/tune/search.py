"""Tuning before a sweep: trials of rates and batches, until each optimum lies inside what was tried."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from flops_fit.errors import InputError, PlanError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.plan.experiments import ExperimentFactory, UnmetBudgetError
from flops_fit.recipes.published import Recipe
from flops_fit.recipes.resolve import TunedRecipe, coupled
from flops_fit.records import Experiment, Run
from flops_fit.text import format_count, listed
from flops_fit.tune.optimum_fit import OptimumFits, best_offset, fit_optima, rounded, seed_noise
from flops_fit.tune.tuning import REACH, Cell, Point, Trial, Tune, TunedCell, Tuning, finding

_BATCH_CELLS = 4  # of more cells the cheapest are enough for one factor
_SEED_CELLS = 2
_SPACING = 3.0  # factor between the anchors' sizes, and between their lengths
_RUNS_PER_CELL = 8.0  # three rates, three batches, and those beyond an edge
_RATES_PER_CELL = 5.0  # the same without batches
_FEWEST_STEPS = 50  # shorter runs tell nothing about a rate
_MOST_TIMES, _MOST_SHARE = 1e4, 0.7  # that are looked for and proposed where a share is too small
_SIZE_TOLERANCE = 0.25  # in ln N, between a planned size and the one looked for
_MOST_OFFSETS = 9  # steps from where a search begins

CarryOut = Callable[[Sequence[Experiment]], Sequence[Run]]
Axis = Literal["lr", "batch"]


def pilot_cells(
    factory: ExperimentFactory,
    planned: Sequence[Experiment],
    flops: FlopsFunction,
    most: float,
    total: float,
) -> list[Cell]:
    """Two sizes, each at two lengths, a factor 3 apart; trials cost at most ``most`` FLOPs in all."""
    # The middle size at the cheapest budget is taken as its optimum, which grows as √C.
    cheapest, largest = (f(e.budget for e in planned) for f in (min, max))
    of_cheapest = {repr(e.size): e for e in planned if e.budget == cheapest}
    sizes = sorted(of_cheapest.values(), key=lambda e: e.params.total)
    middle = sizes[len(sizes) // 2].params.total

    def cells(most: float) -> list[Cell]:
        # Costs are about 1, 3, 3 and 9 times the least.
        least = min(most / (_RUNS_PER_CELL * (1 + _SPACING) ** 2), largest / _SPACING**2)
        centre = middle * math.sqrt(least * _SPACING / cheapest)
        small = _nearest(factory, planned, centre / math.sqrt(_SPACING))
        large = _nearest(factory, planned, centre * math.sqrt(_SPACING), above=small)
        n_small, n_large = (factory.spec.require(s).total for s in (small, large))
        ratio = math.sqrt(n_large / n_small)
        length = least * _SPACING / float(flops(math.sqrt(n_small * n_large)))
        of_lengths = [
            Cell(size, length * factor * float(flops(n)))
            for size, n in ((small, n_small), (large, n_large))
            for factor in (1 / ratio, ratio)
        ]
        scale = min(1.0, most / (_RUNS_PER_CELL * sum(c.budget for c in of_lengths)))
        return [replace(c, budget=c.budget * scale) for c in of_lengths]

    return _long_enough(factory, cells, most, total, fewest=4)


def per_size_cells(
    factory: ExperimentFactory, planned: Sequence[Experiment], most: float, total: float
) -> list[Cell]:
    """Each size of the sweep, ascending, near its cheapest budget; those of too few steps are left out."""
    cheapest: dict[str, Experiment] = {}
    for e in sorted(planned, key=lambda e: e.budget):
        cheapest.setdefault(repr(e.size), e)
    ordered = sorted(cheapest.values(), key=lambda e: e.params.total)

    def cells(most: float) -> list[Cell]:
        scale = min(1.0, most / (_RATES_PER_CELL * sum(e.budget for e in ordered)))
        return [Cell(e.size, e.budget * scale) for e in ordered]

    return _long_enough(factory, cells, most, total, fewest=2)


def _long_enough(
    factory: ExperimentFactory,
    cells: Callable[[float], list[Cell]],
    most: float,
    total: float,
    fewest: int,
) -> list[Cell]:
    """The cells whose runs have enough steps; where these are too few, refused with what to spend."""

    def kept(most: float) -> list[Cell]:
        return [c for c in cells(most) if _steps(factory, c) >= _FEWEST_STEPS]

    if len(found := kept(most)) >= fewest:
        return found
    larger = np.geomspace(1.0, _MOST_TIMES, 41)[1:] * most
    enough = next((m for m in larger.tolist() if len(kept(m)) >= fewest), math.inf)
    share = math.ceil(1000 * enough / (enough + total)) / 1000 if enough < math.inf else 1.0
    action = f"Give Tune(share={share:g}), larger" if share < _MOST_SHARE else "Give larger"
    cell = min(cells(most), key=lambda cell: _steps(factory, cell))
    raise PlanError(
        f"tune: {most:.3g} FLOPs may be spent, which leaves {_steps(factory, cell)} steps to a run of size "
        f"{cell.size} at {cell.budget:.3g} FLOPs; expected {_FEWEST_STEPS} or more. {action} budgets or a "
        "smaller batch."
    )


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


def _nearest(
    factory: ExperimentFactory, planned: Sequence[Experiment], params: float, above: Any = None
) -> Any:
    """A size of about so many parameters, one of the planned sizes if one is near."""
    floor = 0 if above is None else factory.spec.require(above).total
    larger = [e for e in planned if e.params.total > floor]
    near = min(larger, key=lambda e: abs(math.log(e.params.total / params)), default=None)
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
    """Trials so far, and what they cost."""

    cells: Sequence[Cell]
    factory: ExperimentFactory
    carry_out: CarryOut  # takes all experiments so far, and does not run finished ones again
    most: float  # FLOPs that may be spent
    step: float  # the factor between neighbours
    trials: dict[Point, Trial] = field(default_factory=dict)
    short: bool = False  # whether a trial was left out for its cost
    _experiments: dict[Point, Experiment | None] = field(default_factory=dict)
    _runs: dict[str, Run] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """FLOPs of all trials; two that rounding makes one run count once."""
        return math.fsum(run.experiment.flops for run in self._runs.values())

    def along(self, axis: Axis, starts: Mapping[int, Point]) -> dict[int, dict[int, float]]:
        """The losses of three neighbours around each cell's start, by offset from it.

        More are tried beyond an edge while the lowest lies there; a run that diverged or was hopeless ends
        its side.
        """
        new = {c: [o for o in (-1, 0, 1) if self._differs(axis, s, o)] for c, s in starts.items()}
        tried: dict[int, list[int]] = {c: [] for c in starts}
        while any(new.values()):
            self._run(self._shifted(axis, starts[c], o) for c in new for o in new[c])
            tried = {c: tried[c] + new[c] for c in tried}
            new = {c: self._beyond(axis, starts[c], tried[c]) for c in tried}
        return {c: self._losses(axis, starts[c], sorted(offsets)) for c, offsets in tried.items()}

    def seeds(self, points: Sequence[Point], count: int) -> list[list[float]]:
        """The losses of each point under ``count`` seeds, its own among them."""
        groups = [[replace(point, repeat=repeat) for repeat in range(count)] for point in points]
        self._run(point for group in groups for point in group)
        trials = ([self.trials[p] for p in group if p in self.trials] for group in groups)
        return [[t.loss for t in group if t.loss is not None] for group in trials]

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
        return {p.lr: t for p, t in self.trials.items() if p == Point(cell, p.lr)}

    def nearest(self, point: Point) -> Trial:
        """The trial of a cell nearest to a rate, at the recipe's batch."""
        rates = self.rates(point.cell)
        return rates[min(rates, key=lambda lr: abs(math.log(lr / point.lr)))]

    def limits(self, options: Tune, planned: Sequence[Experiment]) -> list[str]:
        """What the share or the range of the search left open."""
        notes = []
        known = [repr(c.size) for c in self.cells]
        sizes = {repr(e.size): str(e.size) for e in sorted(planned, key=lambda e: e.params.total)}
        skipped = [size for key, size in sizes.items() if key not in known]
        if skipped and options.kind == "per-size":
            shown = listed(skipped, 3, ", ")
            notes.append(finding("tuning_sizes", number=len(skipped), sizes=shown).message)
        if self.short:
            notes.append(finding("tuning_share", share=options.most).message)
        best: dict[int, list[str]] = {0: [], -1: []}
        for c, cell in enumerate(self.cells):
            rates = self.rates(c)
            losses = {lr: t.loss for lr, t in rates.items() if t.loss is not None}
            for end, edges in best.items():
                if losses and min(losses, key=lambda lr: losses[lr]) == sorted(rates)[end]:
                    edges.append(str(cell.size))
        for end, which, where in ((0, "lowest", "below"), (-1, "highest", "above")):
            words = {"which": which, "where": where, "sizes": ", ".join(best[end])}
            if best[end]:
                notes.append(finding("tuning_edge", cells=len(best[end]), **words).message)
        return notes

    def _losses(self, axis: Axis, start: Point, offsets: Iterable[int]) -> dict[int, float]:
        trials = {o: self.trials.get(self._shifted(axis, start, o)) for o in offsets}
        return {o: t.loss for o, t in trials.items() if t is not None and t.loss is not None}

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


def run_tuning(
    options: Tune,
    factory: ExperimentFactory,
    planned: Sequence[Experiment],
    flops: FlopsFunction,
    carry_out: CarryOut,
    total: float | None = None,  # FLOPs of the sweep if not those of the planned runs
    say: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Find the rates and batches for the sweep of the ``planned`` runs, within a share of its FLOPs.

    First rates, then batches at the rate found, which follows their square root (Malladi et al. 2022,
    arXiv:2205.10287), then a few seeds for the noise. A factor whose 90 % interval holds 1 stays 1.
    """
    sweep = math.fsum(e.flops for e in planned) if total is None else total
    most = options.most / (1 - options.most) * sweep
    if options.kind == "per-size":
        cells = per_size_cells(factory, planned, most, sweep)
    else:
        cells = pilot_cells(factory, planned, flops, most, sweep)
    own = factory.recipe
    if factory.batch_size == "auto":
        unit, smallest = factory.counter.unit, factory.spec.require(cells[0].size)
        lengths = [c.budget / factory.counter.per_unit(c.size) for c in cells]
        factory = replace(factory, recipe=coupled(own, smallest, lengths, unit))
    search = Search(cells, factory, carry_out, most, options.step)
    sizes = [factory.spec.require(c.size).total for c in cells]
    reach = options.step**REACH

    low, high = (f(c.budget for c in cells) for f in (min, max))
    spread = f"N {format_count(min(sizes))} to {format_count(max(sizes))}"
    say(f"tuning: rates in {len(cells)} cells, {spread}, {low:.2g} to {high:.2g} FLOPs a run")
    starts = {c: Point(c) for c in range(len(cells))}
    edge = options.step ** best_offset(search.along("lr", starts))
    lr = fit_optima([search.losses("lr", start) for start in starts.values()], reach)
    if all(t.loss is None for t in search.trials.values()):
        why = next((t.run.reason for t in search.trials.values()), "no run could be made")
        raise PlanError(f"tune: expected trials with a loss; all failed or diverged: {why}.")
    factors = _factors(options, lr, edge, sizes)
    tuned = {c: Point(c, lr=factor) for c, factor in enumerate(factors)}

    by_cost = sorted(starts, key=lambda c: cells[c].budget)
    batch, batch_factor = None, 1.0
    losses: list[list[tuple[float, float]]] = [[] for _ in cells]
    if options.batch and factory.batch_size == "auto":
        starts = {c: tuned[c] for c in by_cost[:_BATCH_CELLS]}
        say(f"tuning: batches in {len(starts)} cells")
        edge = options.step ** best_offset(search.along("batch", starts))
        losses = [search.losses("batch", tuned[c]) if c in starts else [] for c in tuned]
        batch = fit_optima(losses, reach)
        batch_factor = batch.sure_factor(edge)

    seeds: list[list[float]] = []
    if options.seeds:
        cheapest = [search.nearest(tuned[c]).point for c in by_cost[:_SEED_CELLS]]
        say(f"tuning: {options.seeds} seeds in {len(cheapest)} cells")
        seeds = search.seeds(cheapest, options.seeds)
    sd, dof = seed_noise(seeds)
    scaled = [rounded(factor * math.sqrt(batch_factor)) for factor in factors]
    knots = dict(zip(map(float, sizes), scaled, strict=True))
    knots = knots if len(set(scaled)) > 1 else {1.0: scaled[0]}
    recipe = TunedRecipe(factory.recipe, tuple(sorted(knots.items())), batch_factor, options.kind)
    tuned_cells = tuple(_cell(search, own, tuned[c], losses[c]) for c in tuned)
    tuning = Tuning(
        options, recipe, tuned_cells, lr, batch, sd, dof,
        flops=search.spent, share=search.spent / (search.spent + sweep),
        trials=tuple(search.trials.values()), notes=tuple(search.limits(options, planned)),
        unit=factory.counter.unit,
    )  # fmt: skip
    say(tuning.in_words())
    return tuning


def _factors(options: Tune, lr: OptimumFits, edge: float, sizes: Sequence[int]) -> list[float]:
    """The factor on the recipe's rate in each cell; ``edge`` if no parabola has a lowest point."""
    pilot = options.kind == "pilot"
    if pilot and not lr.disagree:
        return [lr.sure_factor(edge)] * len(sizes)
    pooled = lr.factor or edge
    factors = [fit.factor or pooled for fit in lr.cells]
    if not pilot:
        return [rounded(factor) for factor in factors]
    # The recipe's exponents do not hold: each anchor has its own factor, the mean over its lengths.
    logs = [(n, math.log(factor)) for n, factor in zip(sizes, factors, strict=True)]
    means = (np.mean([x for n, x in logs if n == size]) for size in sizes)
    return [rounded(math.exp(float(mean))) for mean in means]


def _cell(
    search: Search, own: Recipe, tuned: Point, batch_losses: Sequence[tuple[float, float]]
) -> TunedCell:
    factory, cell = search.factory, search.cells[tuned.cell]
    params = factory.spec.require(cell.size)
    units = cell.budget / factory.counter.per_unit(cell.size)
    base, tried = (r(params, units, factory.counter.unit) for r in (own, factory.recipe))
    start = Point(tuned.cell)
    first = search.trials[start].run.experiment if start in search.trials else None
    batch_units = first.batch_size * first.units_per_sample if first else base.batch_units
    lrs, batches = (tuple(sorted(x)) for x in (search.losses("lr", start), batch_losses))
    scale = search.nearest(tuned).run.noise_scale
    return TunedCell(cell, params.total, units, tried.lr, base.lr, batch_units, lrs, batches, scale)
