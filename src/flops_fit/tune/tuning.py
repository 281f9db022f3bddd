"""What tuning found: the recipe for the sweep, and how much it matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flops_fit.records import Diagnostic, finite_json
from flops_fit.text import format_count, render
from flops_fit.tune.optimum_fit import OptimumFits
from flops_fit.tune.options import Tune
from flops_fit.tune.recipe import Coupled, TunedRecipe
from flops_fit.tune.search import Cell, Trial

if TYPE_CHECKING:
    from rich.table import Table


REACH = 1.6
"""Steps from its lowest run that a parabola goes through and is good for; batches are uneven."""

_FAR = 1.5  # a rate so many times off its cell's own is worth a word
_SMALL = 0.001  # a relative loss that nobody needs to be told of


@dataclass(frozen=True)
class CellFound:
    """One size at one length, and what its trials said.

    Attributes
    ----------
    cell
        Where.
    params, units
        N and D of the recipe's own run.
    lr, batch_units
        Those that factors are on: the recipe's, with a rate that is coupled to the batch where the
        recipe says nothing of other lengths.
    recipe_lr
        The recipe's own rate.
    lrs
        (factor, loss) of the trials along the rate.
    batches
        (factor, loss) along the batch, at rates that follow by the square root.
    noise_scale
        Gradient noise scale in units at the end of the run with the recipe's batch: the batch from
        which on a larger one brings little (McCandlish et al. 2018).
    """

    cell: Cell
    params: int
    units: float
    lr: float
    recipe_lr: float
    batch_units: float
    lrs: tuple[tuple[float, float], ...]
    batches: tuple[tuple[float, float], ...] = ()
    noise_scale: float | None = None


@dataclass(frozen=True)
class Tuning:
    """What tuning tried, found and cost; prints as a table with what to make of it.

    Attributes
    ----------
    asked
        What for.
    recipe
        The recipe for the sweep.
    cells
        Each size and length where hyper-parameters were tried.
    lr, batch
        Parabolas through the losses along the rate, and along the batch (``None`` where it was not
        tried), as factors on the recipe's own.
    seed_sd, seed_dof
        Relative standard deviation of a loss between seeds, and its degrees of freedom; ``None``
        where it was not measured.
    flops, share
        What the trials cost, and which part that is of all FLOPs with the sweep's.
    trials
        All of them.
    notes
        What could not be done as asked.
    """

    asked: Tune
    recipe: TunedRecipe
    cells: tuple[CellFound, ...]
    lr: OptimumFits
    batch: OptimumFits | None
    seed_sd: float | None
    seed_dof: int
    flops: float
    share: float
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str = "tokens"

    def factor(self, params: float) -> float:
        """On the recipe's rate at this N, before a change of batch."""
        return self.recipe.factor(params) / math.sqrt(self.recipe.batch)

    def untuned_regret(self, i: int) -> float | None:
        """Relative loss that the recipe's own rate costs in a cell.

        By the cell's own parabola where that reaches so far, else by the trial nearest to that rate,
        and infinite where there is none within half a step: what was tried there diverged.
        """
        own, cell = self.lr.cells[i].factor, self.cells[i]
        if own is None:
            return None
        at, step = cell.recipe_lr / cell.lr, math.log(self.asked.step)
        if abs(math.log(at / own)) <= REACH * step:
            return self.lr.regret(at / own)
        nearest, loss = min(cell.lrs, key=lambda trial: abs(math.log(trial[0] / at)))
        if abs(math.log(nearest / at)) > step / 2:
            return math.inf
        return loss / min(x for _, x in cell.lrs) - 1

    def left_regret(self, i: int) -> float | None:
        """The same of the tuned rate: what is lost where one factor serves cells that differ."""
        own = self.lr.cells[i].factor
        return None if own is None else self.lr.regret(own / self.factor(self.cells[i].params))

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What a reader should know before relying on the sweep."""
        return (
            Diagnostic("tuning", "note", self.in_words()),
            *self._regret(),
            *self._exponents(),
            *self._critical(),
            *(Diagnostic("tuning_limits", "warning", note) for note in self.notes),
        )

    def in_words(self) -> str:
        """What was changed, and what it cost."""
        factors = [f for _, f in self.recipe.lr]
        coupled = ", and goes with the square root of the batch" if self.coupled else ""
        span = f"×{min(factors):.3g}"
        if max(factors) > min(factors):
            span += f" to ×{max(factors):.3g}"
        return (
            f"Hyper-parameters were tuned ({self.asked.kind}) in {len(self.cells)} cells with "
            f"{len({t.run.experiment.id for t in self.trials})} runs, {self.share:.2g} of all FLOPs: "
            f"learning rate {span}{coupled}; batch ×{self.recipe.batch:.3g}."
        )

    @property
    def coupled(self) -> Coupled | None:
        """How the recipe's rate was made to follow its batch; ``None`` where it says so itself."""
        return self.recipe.base if isinstance(self.recipe.base, Coupled) else None

    def _regret(self) -> list[Diagnostic]:
        """What the recipe as it was would have cost, against the noise of a seed."""
        lost = [r for i in range(len(self.cells)) if (r := self.untuned_regret(i)) is not None]
        left = [r for i in range(len(self.cells)) if (r := self.left_regret(i)) is not None]
        if not lost:
            moved = any(self.factor(c.params) != 1 for c in self.cells)
            then = "the best of the rates that were tried is taken" if moved else "it is kept"
            text = f"No rate is seen to be better than those beside it by more than noise: {then}."
            return [Diagnostic("tuning_flat", "note", text)]
        noise = "" if self.seed_sd is None else f" A seed's noise is {self.seed_sd:.2%}."
        text = (
            f"The recipe's own rate costs {_span(lost)} of the loss where it was tried, the tuned one "
            f"{_span(left)}.{noise}"
        )
        limit = max(self.seed_sd or 0.0, _SMALL)
        if max(left) > limit:
            return [
                Diagnostic(
                    "tuning_regret",
                    "warning",
                    text,
                    'tune="per-size"' if self.asked.kind == "pilot" else "a smaller step",
                )
            ]
        return [Diagnostic("tuning_regret", "note", text)]

    def _exponents(self) -> list[Diagnostic]:
        """Whether one factor serves small and large, short and long."""
        own = [v.factor for v in self.lr.cells if v.factor is not None]
        if self.asked.kind != "pilot" or not self.lr.disagree or max(own) < _FAR * min(own):
            return []
        pairs = zip(self.cells, self.lr.cells, strict=True)
        told = ", ".join(
            f"{c.lr * v.factor:.2g} at N = {format_count(c.params)}, D = {format_count(c.units)} "
            f"(recipe {c.recipe_lr:.2g})"
            for c, v in pairs
            if v.factor is not None
        )
        return [
            Diagnostic(
                "tuning_exponents",
                "warning",
                f"The best rates do not change with size and length as the recipe's do: {told} (p = "
                f"{self.lr.agree:.2g} that one factor serves all). Far from these sizes the sweep "
                "may be badly tuned, which bends the law.",
                'tune="per-size"',
            )
        ]

    def _critical(self) -> list[Diagnostic]:
        """Batches beyond what the gradient's noise can use."""
        known = [c for c in self.cells if c.noise_scale is not None]
        large = [
            c for c in known if c.noise_scale and c.batch_units * self.recipe.batch > c.noise_scale
        ]
        if not large:
            return []
        c = max(large, key=lambda c: c.batch_units / (c.noise_scale or 1.0))
        return [
            Diagnostic(
                "large_batch",
                "note",
                f"At N = {format_count(c.params)} and D = {format_count(c.units)} the batch of "
                f"{format_count(c.batch_units * self.recipe.batch)} {self.unit} is above "
                f"the gradient noise scale of {format_count(c.noise_scale or 0.0)}: "
                "data are spent where steps would help.",
            )
        ]

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(title=f"Tuning: {self.asked.kind}", title_justify="left")
        names = (
            "size", "N", f"D ({self.unit})", "lr: recipe", "best", "90 %", "used",
            "regret: recipe", "used", f"batch ({self.unit})", "best ×", "noise scale",
        )  # fmt: skip
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for i, c in enumerate(self.cells):
            best = self.lr.cells[i]
            wide = None if self.batch is None else self.batch.cells[i]
            table.add_row(
                str(c.cell.size),
                format_count(c.params),
                format_count(c.units),
                f"{c.recipe_lr:.3g}",
                "–" if best.factor is None else f"{c.lr * best.factor:.3g}",
                "–"
                if best.interval is None
                else f"{c.lr * best.interval[0]:.2g}–{c.lr * best.interval[1]:.2g}",
                f"{c.lr * self.factor(c.params):.3g}",
                _percent(self.untuned_regret(i)),
                _percent(self.left_regret(i)),
                format_count(c.batch_units),
                _number(None if wide is None else wide.factor),
                "–" if c.noise_scale is None else format_count(c.noise_scale),
            )
        return table

    def __str__(self) -> str:
        return "\n".join([render(self, 140), *(str(d) for d in self.diagnostics)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.asked.kind,
            "lr": [list(knot) for knot in self.recipe.lr],
            "batch": self.recipe.batch,
            "flops": self.flops,
            "share": self.share,
            "seed_sd": self.seed_sd,
            "seed_dof": self.seed_dof,
            "agree": self.lr.agree,
            "curvature": self.lr.curvature,
            "cells": [self._cell_dict(i) for i in range(len(self.cells))],
            "diagnostics": [str(d) for d in self.diagnostics],
        }

    def _cell_dict(self, i: int) -> dict[str, Any]:
        c, best = self.cells[i], self.lr.cells[i]
        return {
            "size": c.cell.size,
            "budget": c.cell.budget,
            "params": c.params,
            "units": c.units,
            "recipe_lr": c.recipe_lr,
            "base_lr": c.lr,
            "recipe_batch_units": c.batch_units,
            "lr": [list(point) for point in c.lrs],
            "batch": [list(point) for point in c.batches],
            "best_lr_factor": best.factor,
            "best_lr_interval": best.interval,
            "regret_untuned": finite_json(self.untuned_regret(i)),
            "regret_tuned": self.left_regret(i),
            "noise_scale": c.noise_scale,
        }


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if math.isinf(high):
        return (
            f"{_percent(low)} and more (some runs diverged)"
            if low < high
            else "all (runs diverged)"
        )
    return f"{low:.2%} to {high:.2%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    return "diverged" if math.isinf(value) else f"{value:.2%}"


def seed_noise(groups: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Pooled relative standard deviation between seeds, and its degrees of freedom.

    Examples
    --------
    >>> sd, dof = seed_noise([[1.0, 1.02], [2.0, 2.04]])
    >>> round(sd, 4), dof
    (0.014, 2)
    """
    logs = [np.log(group) for group in groups if len(group) > 1]
    dof = sum(len(group) - 1 for group in logs)
    if dof == 0:
        return None, 0
    squares = sum(float(np.sum((group - np.mean(group)) ** 2)) for group in logs)
    return math.sqrt(squares / dof), dof
