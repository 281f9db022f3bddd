"""Tuning from its cells to its recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flops_fit.errors import PlanError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.plan.experiments import ExperimentFactory
from flops_fit.recipes.published import Recipe
from flops_fit.records import Experiment
from flops_fit.text import format_count
from flops_fit.tune.optimum_fit import OptimumFits, fit_optima
from flops_fit.tune.options import Tune
from flops_fit.tune.recipe import TunedRecipe, couple, rounded
from flops_fit.tune.search import CarryOut, Cell, Point, Search, per_size_cells, pilot_cells
from flops_fit.tune.tuning import REACH, CellFound, Tuning, seed_noise

_BATCH_CELLS = 4  # of more cells the cheapest are enough for one factor
_SEED_CELLS = 2


def run_tuning(
    asked: Tune,
    maker: ExperimentFactory,
    planned: Sequence[Experiment],
    flops: FlopsFunction,
    carry_out: CarryOut,
    total: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Find the rates and batches for a sweep, within a share of its FLOPs.

    A recipe whose rate is the same at all lengths while its batch is not is coupled to its batch
    first (``couple``). Then rates: in each cell three, a step apart, and on beyond an edge while
    the lowest lies there. A parabola in ln lr, of one curvature for all cells, gives where each is
    lowest, and where all are. A pilot whose cells agree moves the recipe by one factor; where they do
    not, by each anchor's own, log-linear in N between the anchors and constant beyond. Batches next,
    the same way at the rate that was found, which goes with the square root of the batch (Malladi et
    al. 2022, arXiv:2205.10287). A factor whose 90 % interval holds 1 is left at 1. Last, a few seeds
    say how much of a difference is noise. Decisions follow from losses alone.

    Parameters
    ----------
    asked
        How: see :class:`Tune`.
    maker
        The plan's, with the recipe to tune.
    planned
        The runs of the sweep.
    flops
        F(N).
    carry_out
        From experiments to their runs, in order.
    total
        FLOPs of the sweep, where they are not those of ``planned``.
    say
        Gets a line for each stage.

    Raises
    ------
    PlanError
        The share leaves no room for runs that tell anything, or every trial failed.
    """
    sweep = math.fsum(e.flops for e in planned) if total is None else total
    most = asked.most / (1 - asked.most) * sweep
    passed_over: list[Any] = []
    if asked.kind == "per-size":
        cells, passed_over = per_size_cells(maker, planned, most)
    else:
        cells = pilot_cells(maker, planned, flops, most)
    own = maker.recipe
    maker = replace(maker, recipe=_carried(maker, cells))
    search = Search(cells, maker, carry_out, most, asked.step)
    every = range(len(cells))
    say(f"tuning: rates in {len(cells)} cells, {_described(maker, cells)}")
    places = search.along("lr", Point, every)
    lr = fit_optima([search.points("lr", c, Point) for c in every], asked.step**REACH)
    if not any(t.loss is not None for t in search.trials.values()):
        why = next((t.run.reason for t in search.trials.values()), "no run could be made")
        raise PlanError(f"tune: expected trials with a loss; all failed or diverged: {why}.")
    edge = asked.step ** best_place(places)
    factors = _factors(asked, lr, edge, [maker.spec.require(c.size).total for c in cells])

    def tuned(c: int) -> Point:
        return Point(c, lr=factors[c])

    batch, batch_cells, size = None, [], 1.0
    if asked.batch and maker.batch_size == "auto":
        batch_cells = sorted(every, key=lambda c: cells[c].budget)[:_BATCH_CELLS]
        say(f"tuning: batches in {len(batch_cells)} cells")
        places = search.along("batch", tuned, batch_cells)
        found = [search.points("batch", c, tuned) if c in batch_cells else [] for c in every]
        batch = fit_optima(found, asked.step**REACH)
        size = _sure(batch, asked.step ** best_place(places))
    seeds: list[list[float]] = []
    if asked.seeds:
        cheap = sorted(every, key=lambda c: cells[c].budget)[:_SEED_CELLS]
        say(f"tuning: {asked.seeds} seeds in {len(cheap)} cells")
        seeds = search.seeds([_best(search, c, tuned) for c in cheap], asked.seeds)
    sd, dof = seed_noise(seeds)
    tuning = Tuning(
        asked=asked,
        recipe=_recipe(asked, maker, cells, factors, size),
        cells=tuple(_found(search, own, c, tuned, c in batch_cells) for c in every),
        lr=lr,
        batch=batch,
        seed_sd=sd,
        seed_dof=dof,
        flops=search.spent,
        share=search.spent / (search.spent + sweep),
        trials=tuple(search.trials.values()),
        notes=_limits(asked, search, passed_over),
        unit=maker.counter.unit,
    )
    say(tuning.in_words())
    return tuning


def _carried(maker: ExperimentFactory, cells: Sequence[Cell]) -> Recipe:
    """What is tuned, so that it can be carried to other lengths: the recipe, or coupled to its batch."""
    if maker.batch_size != "auto":
        return maker.recipe
    lengths = [c.budget / maker.counter.per_unit(c.size) for c in cells]
    smallest = maker.spec.require(cells[0].size)
    return couple(maker.recipe, smallest, lengths, maker.counter.unit) or maker.recipe


def _described(maker: ExperimentFactory, cells: Sequence[Cell]) -> str:
    sizes = [maker.spec.require(c.size).total for c in cells]
    low, high = (f(c.budget for c in cells) for f in (min, max))
    return f"N {format_count(min(sizes))} to {format_count(max(sizes))}, {low:.2g} to {high:.2g} FLOPs a run"


def _sure(valleys: OptimumFits, edge: float) -> float:
    """The factor that serves all cells, or 1 where its 90 % interval holds 1.

    ``edge`` stands in where no parabola has a lowest point.
    """
    if valleys.factor is None:
        return rounded(edge)
    interval = valleys.interval
    if interval is not None and interval[0] <= 1 <= interval[1]:
        return 1.0
    return rounded(valleys.factor)


def best_place(places: Mapping[int, Mapping[int, float]]) -> int:
    """Of the places with a loss in every cell the lowest on average, 0 where that may be chance.

    For losses that fall up to an edge, or up to where runs diverge, so that no parabola has a lowest
    point. By a one-sided t-test of the cells' relative differences from place 0, at 5 %; where runs at
    place 0 diverged there is nothing to test.

    Examples
    --------
    >>> best_place({0: {-1: 2.0, 0: 2.1, 1: 2.2}, 1: {-1: 3.01, 0: 3.1, 1: 3.3}, 2: {-1: 2.5, 0: 2.6}})
    -1
    """
    from scipy.stats import t

    common = set.intersection(*(set(losses) for losses in places.values())) if places else set()
    if common and not any(0 in losses for losses in places.values()):
        return min(common, key=lambda p: sum(math.log(x[p]) for x in places.values()))
    if 0 not in common or len(places) < 2:
        return 0
    best, lowest = 0, 0.0
    for place in sorted(common - {0}):
        gains = np.log([losses[place] / losses[0] for losses in places.values()])
        mean, error = float(np.mean(gains)), float(np.std(gains, ddof=1)) / math.sqrt(len(gains))
        if mean < min(lowest, -float(t.ppf(0.95, len(gains) - 1)) * error):
            best, lowest = place, mean
    return best


def _factors(asked: Tune, lr: OptimumFits, edge: float, sizes: Sequence[int]) -> list[float]:
    """On the recipe's rate in each cell; ``edge`` where no parabola has a lowest point."""
    if asked.kind == "pilot":
        return _anchored(lr, sizes) if lr.disagree else [_sure(lr, edge)] * len(sizes)
    known = [rounded(v.factor) if v.factor is not None else None for v in lr.cells]
    other = rounded(edge if lr.factor is None else lr.factor)
    return [other if factor is None else factor for factor in known]


def _anchored(lr: OptimumFits, sizes: Sequence[int]) -> list[float]:
    """Each anchor's own factor, the mean over its lengths: the recipe's exponents do not hold."""
    usual = 1.0 if lr.factor is None else lr.factor
    logs = [math.log(usual if v.factor is None else v.factor) for v in lr.cells]
    return [
        rounded(
            math.exp(float(np.mean([x for x, n in zip(logs, sizes, strict=True) if n == size])))
        )
        for size in sizes
    ]


def _recipe(
    asked: Tune,
    maker: ExperimentFactory,
    cells: Sequence[Cell],
    factors: Sequence[float],
    batch: float,
) -> TunedRecipe:
    root = math.sqrt(batch)
    sizes = [float(maker.spec.require(c.size).total) for c in cells]
    knots = {n: rounded(f * root) for n, f in zip(sizes, factors, strict=True)}
    if len(set(knots.values())) == 1:
        knots = {1.0: next(iter(knots.values()))}
    return TunedRecipe(maker.recipe, tuple(sorted(knots.items())), batch, asked.kind)


def _best(search: Search, cell: int, tuned: Callable[[int], Point]) -> Point:
    """The trial nearest to the tuned rate, at the recipe's batch."""
    wanted = tuned(cell)
    made = [p for p in search.trials if p.cell == cell and p.batch == 1.0 and not p.repeat]
    return min(made, key=lambda p: abs(math.log(p.lr / wanted.lr)))


def _found(
    search: Search, own: Recipe, cell: int, tuned: Callable[[int], Point], batches: bool
) -> CellFound:
    maker, at = search.maker, search.cells[cell]
    params = maker.spec.require(at.size)
    units = at.budget / maker.counter.per_unit(at.size)
    base, tried = (recipe(params, units, maker.counter.unit) for recipe in (own, maker.recipe))
    run = next((t.run for p, t in search.trials.items() if p == Point(cell)), None)
    nearest = search.trials[_best(search, cell, tuned)].run
    return CellFound(
        cell=at,
        params=params.total,
        units=units,
        lr=tried.lr,
        recipe_lr=base.lr,
        batch_units=(
            base.batch_units
            if run is None
            else run.experiment.batch_size * run.experiment.units_per_sample
        ),
        lrs=tuple(sorted(search.points("lr", cell, Point))),
        batches=tuple(sorted(search.points("batch", cell, tuned))) if batches else (),
        noise_scale=nearest.noise_scale,
    )


def _limits(asked: Tune, search: Search, passed_over: Sequence[Any]) -> tuple[str, ...]:
    """What the share or the search's reach left open."""
    out = []
    if passed_over:
        out.append(
            f"{len(passed_over)} sizes ({', '.join(map(str, passed_over[:3]))}"
            f"{', …' if len(passed_over) > 3 else ''}) would have had too few steps in the share for "
            "tuning: their rates are those of their neighbours."
        )
    if search.short:
        out.append(
            f"The share of {asked.most:.2g} ended the search for hyper-parameters before it was "
            "through: give a larger one, Tune(share=...)."
        )
    low, high = ([c for c in range(len(search.cells)) if _open(search, c, end)] for end in (0, -1))
    for cells, which, where in ((low, "lowest", "below"), (high, "highest", "above")):
        if cells:
            sizes = ", ".join(str(search.cells[c].size) for c in cells)
            out.append(
                f"The {which} rate tried is the best in {len(cells)} cells (size {sizes}): better ones "
                f"may lie {where}."
            )
    return tuple(out)


def _open(search: Search, cell: int, end: int) -> bool:
    """Whether the best rate of a cell is the last one tried at an end, with nothing beyond it."""
    tried = {
        p.lr: t.loss
        for p, t in search.trials.items()
        if p.cell == cell and p.batch == 1.0 and not p.repeat
    }
    losses = {x: loss for x, loss in tried.items() if loss is not None}
    return bool(losses) and min(losses, key=lambda x: losses[x]) == sorted(tried)[end]
