"""Tuning before a sweep: from its trials to the recipe that the sweep uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flops_fit.errors import PlanError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.plan.experiments import ExperimentFactory
from flops_fit.recipes.published import Recipe
from flops_fit.recipes.resolve import TunedRecipe, coupled
from flops_fit.records import Experiment
from flops_fit.text import format_count
from flops_fit.tune.optimum_fit import OptimumFits, best_offset, fit_optima, rounded, seed_noise
from flops_fit.tune.search import CarryOut, Point, Search, per_size_cells, pilot_cells
from flops_fit.tune.tuning import REACH, Tune, TunedCell, Tuning

_BATCH_CELLS = 4  # of more cells the cheapest are enough for one factor
_SEED_CELLS = 2


def run_tuning(
    options: Tune,
    factory: ExperimentFactory,
    planned: Sequence[Experiment],
    flops: FlopsFunction,
    carry_out: CarryOut,
    total: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Find the rates and batches for a sweep, within a share of its FLOPs, from the losses alone.

    1. A recipe whose rate is the same at all lengths while its batch is not is coupled to its batch.
    2. Rates: three in each cell, a step apart, and more beyond an edge while the lowest lies there.
       A parabola in ln lr, of one curvature for all cells, gives the optimum of each cell, and of
       all. A pilot whose cells agree moves the recipe by one factor. If they do not agree, it moves
       it by each anchor's own, log-linear in N between the anchors and constant beyond.
    3. Batches in the same way, at the rate found, which follows the square root of the batch
       (Malladi et al. 2022, arXiv:2205.10287).
    4. A few seeds show how much of a difference is noise.

    A factor whose 90 % interval holds 1 is left at 1. ``planned`` are the runs of the sweep, ``total`` its
    FLOPs if they are not those of ``planned``. PlanError if the share is too small for informative
    runs, or every trial failed.
    """
    sweep = math.fsum(e.flops for e in planned) if total is None else total
    most = options.most / (1 - options.most) * sweep
    if options.kind == "per-size":
        cells = per_size_cells(factory, planned, most)
    else:
        cells = pilot_cells(factory, planned, flops, most)
    own = factory.recipe
    if factory.batch_size == "auto":
        unit, smallest = factory.counter.unit, factory.spec.require(cells[0].size)
        lengths = [c.budget / factory.counter.per_unit(c.size) for c in cells]
        factory = replace(factory, recipe=coupled(own, smallest, lengths, unit))
    search = Search(cells, factory, carry_out, most, options.step)
    sizes = [factory.spec.require(c.size).total for c in cells]
    reach = options.step**REACH

    low, high = (f(c.budget for c in cells) for f in (min, max))
    say(
        f"tuning: rates in {len(cells)} cells, N {format_count(min(sizes))} to "
        f"{format_count(max(sizes))}, {low:.2g} to {high:.2g} FLOPs a run"
    )
    starts = {c: Point(c) for c in range(len(cells))}
    edge = options.step ** best_offset(search.along("lr", starts))
    lr = fit_optima([search.losses("lr", start) for start in starts.values()], reach)
    if not any(t.loss is not None for t in search.trials.values()):
        why = next((t.run.reason for t in search.trials.values()), "no run could be made")
        raise PlanError(f"tune: expected trials with a loss; all failed or diverged: {why}.")
    factors = _factors(options, lr, edge, sizes)
    tuned = {c: Point(c, lr=factor) for c, factor in enumerate(factors)}

    by_cost = sorted(starts, key=lambda c: cells[c].budget)
    batch, batch_factor = None, 1.0
    batch_losses: list[list[tuple[float, float]]] = [[] for _ in cells]
    if options.batch and factory.batch_size == "auto":
        batch_starts = {c: tuned[c] for c in by_cost[:_BATCH_CELLS]}
        say(f"tuning: batches in {len(batch_starts)} cells")
        edge = options.step ** best_offset(search.along("batch", batch_starts))
        batch_losses = [
            search.losses("batch", tuned[c]) if c in batch_starts else [] for c in starts
        ]
        batch = fit_optima(batch_losses, reach)
        batch_factor = batch.sure_factor(edge)

    seeds: list[list[float]] = []
    if options.seeds:
        cheapest = by_cost[:_SEED_CELLS]
        say(f"tuning: {options.seeds} seeds in {len(cheapest)} cells")
        seeds = search.seeds([search.nearest(tuned[c]).point for c in cheapest], options.seeds)
    sd, dof = seed_noise(seeds)
    tuning = Tuning(
        options=options,
        recipe=_recipe(options, factory.recipe, sizes, factors, batch_factor),
        cells=tuple(_cell(search, own, tuned[c], batch_losses[c]) for c in starts),
        lr=lr,
        batch=batch,
        seed_sd=sd,
        seed_dof=dof,
        flops=search.spent,
        share=search.spent / (search.spent + sweep),
        trials=tuple(search.trials.values()),
        notes=_limits(options, search, planned),
        unit=factory.counter.unit,
    )
    say(tuning.in_words())
    return tuning


def _factors(options: Tune, lr: OptimumFits, edge: float, sizes: Sequence[int]) -> list[float]:
    """The factor on the recipe's rate in each cell; ``edge`` if no parabola has a lowest point."""
    if options.kind == "pilot" and not lr.disagree:
        return [lr.sure_factor(edge)] * len(sizes)
    if options.kind == "per-size":
        other = edge if lr.factor is None else lr.factor
        return [rounded(other if fit.factor is None else fit.factor) for fit in lr.cells]
    # The recipe's exponents do not hold: each anchor has its own factor, the mean over its lengths.
    other = 1.0 if lr.factor is None else lr.factor
    logs = [math.log(other if fit.factor is None else fit.factor) for fit in lr.cells]
    means = {
        size: np.mean([x for x, n in zip(logs, sizes, strict=True) if n == size]) for size in sizes
    }
    return [rounded(math.exp(float(means[size]))) for size in sizes]


def _recipe(
    options: Tune, base: Recipe, sizes: Sequence[int], factors: Sequence[float], batch: float
) -> TunedRecipe:
    root = math.sqrt(batch)
    knots = {float(n): rounded(f * root) for n, f in zip(sizes, factors, strict=True)}
    if len(set(knots.values())) == 1:
        knots = {1.0: next(iter(knots.values()))}
    return TunedRecipe(base, tuple(sorted(knots.items())), batch, options.kind)


def _cell(
    search: Search, own: Recipe, tuned: Point, batch_losses: Sequence[tuple[float, float]]
) -> TunedCell:
    factory, cell = search.factory, search.cells[tuned.cell]
    params = factory.spec.require(cell.size)
    units = cell.budget / factory.counter.per_unit(cell.size)
    base, tried = (r(params, units, factory.counter.unit) for r in (own, factory.recipe))
    start = Point(tuned.cell)
    batch_units = base.batch_units
    if start in search.trials:
        first = search.trials[start].run.experiment
        batch_units = first.batch_size * first.units_per_sample
    return TunedCell(
        cell=cell,
        params=params.total,
        units=units,
        lr=tried.lr,
        recipe_lr=base.lr,
        batch_units=batch_units,
        lrs=tuple(sorted(search.losses("lr", start))),
        batches=tuple(sorted(batch_losses)),
        noise_scale=search.nearest(tuned).run.noise_scale,
    )


def _limits(options: Tune, search: Search, planned: Sequence[Experiment]) -> tuple[str, ...]:
    """What the share or the range of the search left open."""
    notes = []
    tried = [c.size for c in search.cells]
    ordered = sorted(planned, key=lambda e: e.params.total)
    sizes: list[Any] = list({repr(e.size): e.size for e in ordered}.values())
    skipped = [str(s) for s in sizes if s not in tried] if options.kind == "per-size" else []
    if skipped:
        listed = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
        notes.append(
            f"{len(skipped)} sizes ({listed}) would have had too few steps in the share for tuning: "
            "their rates are those of their neighbours."
        )
    if search.short:
        notes.append(
            f"The share of {options.most:.2g} ended the search for hyper-parameters before it was "
            "complete: give a larger one, Tune(share=...)."
        )
    return (*notes, *search.limits())
