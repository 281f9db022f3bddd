"""Where hyper-parameters are tried: sizes and lengths, and what runs there may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flops_fit.errors import InputError, PlanError
from flops_fit.flops import FlopsFunction
from flops_fit.plan import RunMaker
from flops_fit.records import Experiment
from flops_fit.tune._recipe import TunedRecipe

__all__ = ["Cell", "Point", "make_run", "per_size_cells", "pilot_cells"]

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


def make_run(maker: RunMaker, cell: Cell, point: Point) -> Experiment | None:
    """The exact run of a trial; ``None`` where whole steps cannot meet its budget."""
    moved = TunedRecipe(maker.recipe, ((1.0, point.lr),), point.batch, "trial")
    made = replace(maker, recipe=moved, branch=False).make(cell.budget, cell.size, point.repeat)
    return made if isinstance(made, Experiment) else None


def pilot_cells(
    maker: RunMaker, planned: Sequence[Experiment], flops: FlopsFunction, most: float
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
    maker: RunMaker, planned: Sequence[Experiment], most: float
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


def _steps(maker: RunMaker, cell: Cell) -> int:
    made = make_run(maker, cell, Point(0))
    return 0 if made is None else made.steps


def _trainable(maker: RunMaker, cells: list[Cell], most: float) -> list[Cell]:
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
    maker: RunMaker, planned: Sequence[Experiment], params: float, above: Any = None
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
