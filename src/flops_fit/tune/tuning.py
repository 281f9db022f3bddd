"""How tuning is configured, what it found, and how much that matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from flops_fit.errors import InputError, InputTypeError, check_choice, is_number, is_whole
from flops_fit.recipes.resolve import TunedRecipe
from flops_fit.records import Diagnostic, Findings, Run, finite_json
from flops_fit.text import format_count, format_regret, render, sentence, values_table
from flops_fit.tune.optimum_fit import OptimumFits

if TYPE_CHECKING:
    from rich.table import Table


TuneKind = Literal["none", "pilot", "per-size", "joint"]
_SHARES = {"none": 0.0, "pilot": 0.15, "per-size": 0.5, "joint": 0.15}

REACH = 1.6  # steps from its lowest run over which a parabola is fitted; batches are uneven
_FACTOR_APART = 1.5  # between the best rates of cells, before it is reported
_SMALL_REGRET = 0.001  # a relative loss that is too small to report
finding = Findings(Path(__file__).with_name("findings.toml"))


@dataclass(frozen=True)
class Tune:
    """How hyper-parameters are tuned before a sweep, or in it.

    The ``kind`` ``"pilot"`` tries rates and batches at two sizes and two lengths, and moves the recipe by
    one factor for all runs; ``"per-size"`` finds a rate for each size of the sweep; ``"none"`` takes the
    recipe as it is. Tuning may take a ``share`` of all FLOPs, the sweep's included: 0.15 or, per size, 0.5.
    ``step`` is the factor between neighbouring rates, and between neighbouring batches; ``batch`` says
    whether batches are tried too. ``seeds`` runs, 2 or more, measure the noise between seeds; 0 leaves it
    unmeasured. InputError where a value is out of its range.

    ``"joint"`` varies rate and batch in the sweep itself and fits them with the law: within ``step``² of the
    best known at the smallest budget and ``step`` at the largest; the ``share`` is for runs that have to be
    made again, where the best lay beyond all that was tried. With ``decay`` it varies the weight decay too,
    by the share of the run B/(η·λ·D) over which AdamW averages. ``seeds`` have no effect.
    """

    kind: TuneKind = "pilot"
    share: float | None = None
    step: float = 2.0
    batch: bool = True
    seeds: int = 3
    decay: bool = False

    def __post_init__(self) -> None:
        check_choice("tune", self.kind, get_args(TuneKind))
        if self.share is not None and not (is_number(self.share) and 0 < self.share < 1):
            raise InputError(f"tune: expected share between 0 and 1; got {self.share!r}.")
        if not (is_number(self.step) and 1.2 <= self.step <= 8):
            raise InputError(f"tune: expected step as a factor from 1.2 to 8; got {self.step!r}.")
        if self.decay and (self.kind != "joint" or not self.batch):
            raise InputError(
                "tune: expected decay=True with 'joint' and batch=True, with which its effect changes; "
                f"got {self.kind!r}, batch={self.batch}."
            )
        if not is_whole(self.seeds) or (self.seeds < 2 and self.seeds != 0):
            raise InputError(f"tune: expected 0 seeds, or 2 or more; got {self.seeds!r}.")

    @property
    def most(self) -> float:
        """``share``, or the default of its kind."""
        return _SHARES[self.kind] if self.share is None else self.share


def resolve_tune(tune: Any) -> Tune:
    """A :class:`Tune` from a name or from itself."""
    if isinstance(tune, Tune):
        return tune
    if isinstance(tune, str):
        return Tune(kind=tune)  # type: ignore[arg-type]  # Tune checks it
    raise InputTypeError(
        f"tune: expected a name or a flops_fit.tune.Tune; got {type(tune).__name__}."
    )


@dataclass(frozen=True)
class Cell:
    """A size and a budget in FLOPs."""

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


@dataclass(frozen=True)
class TunedCell:
    """One size at one length, and its trials.

    ``params`` and ``units`` are N and D of the recipe's own run, ``recipe_lr`` its rate. Factors multiply
    ``lr`` and ``batch_units``, which are the recipe's, the rate coupled to the batch if need be. ``lrs`` and
    ``batches`` are (factor, loss) of the trials along the rate, and along the batch, whose square root the
    rate follows. ``noise_scale`` is the gradient noise scale in units at the end of the run with the
    recipe's batch (McCandlish et al. 2018).
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
    """What tuning tried, found and cost; prints as a table with its findings.

    ``recipe`` is the one for the sweep; ``cells`` are the sizes and lengths where hyper-parameters were
    tried. ``lr`` and ``batch`` are parabolas through the losses along factors on the recipe's rate, and on
    its batch (``None`` if it was not tried). ``seed_sd`` is the relative standard deviation of a loss between
    seeds (``None``: not measured), with ``seed_dof`` degrees of freedom. The ``trials`` cost ``flops``,
    ``share`` of all with the sweep's. ``notes`` say what could not be done.
    """

    options: Tune
    recipe: TunedRecipe
    cells: tuple[TunedCell, ...]
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
        """The factor on the recipe's rate at this N, before a change of batch."""
        return self.recipe.factor(params) / math.sqrt(self.recipe.batch)

    def untuned_regret(self, i: int) -> float | None:
        """Relative loss that the recipe's own rate costs in a cell; infinite if it diverged there."""
        best, cell = self.lr.cells[i].factor, self.cells[i]
        if best is None:
            return None
        factor, step = cell.recipe_lr / cell.lr, math.log(self.options.step)
        # By the parabola within its reach, else by the trial within half a step of that rate.
        if abs(math.log(factor / best)) <= REACH * step:
            return self.lr.regret(factor / best)
        nearest, loss = min(cell.lrs, key=lambda trial: abs(math.log(trial[0] / factor)))
        tried = abs(math.log(nearest / factor)) <= step / 2
        return loss / min(x for _, x in cell.lrs) - 1 if tried else math.inf

    def tuned_regret(self, i: int) -> float | None:
        """The same of the tuned rate: the loss when one factor serves cells that differ."""
        best = self.lr.cells[i].factor
        return None if best is None else self.lr.regret(best / self.factor(self.cells[i].params))

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Findings to read before relying on the sweep."""
        limits = (finding("tuning_limits", note=note) for note in self.notes)
        about = (self._changes(), self._regret(), *self._exponents(), *self._critical())
        return (*about, *limits)

    def in_words(self) -> str:
        """What was changed, and what it cost, in a sentence."""
        return sentence(self._changes().message)

    def _changes(self) -> Diagnostic:
        factors = [f for _, f in self.recipe.lr]
        low, high = f"×{min(factors):.3g}", f"×{max(factors):.3g}"
        span = low if low == high else f"{low} to {high}"
        coupled = ", following the square root of the batch" if self.coupled else ""
        counts = {"cells": len(self.cells), "runs": len({t.run.experiment.id for t in self.trials})}
        return finding("tuning", tuning=self, span=span, coupled=coupled, **counts)

    @property
    def coupled(self) -> float | None:
        """The batch relative to which the recipe's rate follows its batch; ``None`` if it does not."""
        return getattr(self.recipe.base, "reference", None)

    def _regret(self) -> Diagnostic:
        """What the untuned recipe would have cost, compared with the noise of a seed."""
        indices = range(len(self.cells))
        lost = [r for r in map(self.untuned_regret, indices) if r is not None]
        left = [r for r in map(self.tuned_regret, indices) if r is not None]
        if not lost:
            moved = any(self.factor(c.params) != 1 for c in self.cells)
            choice = "the best of the rates that were tried is taken" if moved else "it is kept"
            return finding("tuning_flat", choice=choice)
        noise = "" if self.seed_sd is None else f" A seed's noise is {self.seed_sd:.2%}."
        small = max(left) <= max(self.seed_sd or 0.0, _SMALL_REGRET)
        action = 'tune="per-size"' if self.options.kind == "pilot" else "a smaller step"
        cost = _span(lost) + ("" if 1 <= max(lost) < math.inf else " of the loss")
        words = {"lost": cost, "left": _span(left), "noise": noise, "action": action}
        return finding("tuning_regret", "note" if small else None, not small, **words)

    def _exponents(self) -> list[Diagnostic]:
        """Whether one factor serves small and large, short and long."""
        pairs = zip(self.cells, self.lr.cells, strict=True)
        best = [(c, fit.factor) for c, fit in pairs if fit.factor is not None]
        factors = [factor for _, factor in best]
        if self.options.kind != "pilot" or not self.lr.disagree:
            return []
        if max(factors) < _FACTOR_APART * min(factors):
            return []
        rates = ", ".join(
            f"{c.lr * factor:.2g} at N = {format_count(c.params)}, D = {format_count(c.units)} "
            f"(recipe {c.recipe_lr:.2g})"
            for c, factor in best
        )
        return [finding("tuning_exponents", rates=rates, p=self.lr.agree)]

    def _critical(self) -> list[Diagnostic]:
        """Batches larger than the gradient noise scale."""
        scales = [(c, c.noise_scale) for c in self.cells if c.noise_scale]
        c, scale = max(scales, key=lambda pair: pair[0].batch_units / pair[1], default=(None, 1.0))
        if c is None or (batch := c.batch_units * self.recipe.batch) <= scale:
            return []
        counts = {"N": c.params, "D": c.units, "batch": batch, "scale": scale}
        shown = {name: format_count(count) for name, count in counts.items()}
        return [finding("large_batch", unit=self.unit, **shown)]

    def rows(self) -> list[dict[str, str]]:
        """One row a size and length: its rates with their regrets, its batches, its noise scale."""
        rows = []
        for i, c in enumerate(self.cells):
            best, span = self.lr.cells[i].factor, self.lr.cells[i].interval
            batch = None if self.batch is None else self.batch.cells[i].factor
            rows.append({
                "size": str(c.cell.size), "N": format_count(c.params),
                f"D ({self.unit})": format_count(c.units), "lr: recipe": f"{c.recipe_lr:.3g}",
                "best": "–" if best is None else f"{c.lr * best:.3g}",
                "90 %": "–" if span is None else f"{c.lr * span[0]:.2g}–{c.lr * span[1]:.2g}",
                "lr: used": f"{c.lr * self.factor(c.params):.3g}",
                "regret: recipe": _percent(self.untuned_regret(i)),
                "used": _percent(self.tuned_regret(i)),
                f"batch ({self.unit})": format_count(c.batch_units),
                "best ×": "–" if batch is None else f"{batch:.2g}",
                "noise scale": "–" if c.noise_scale is None else format_count(c.noise_scale),
            })  # fmt: skip
        return rows

    def __rich__(self) -> Table:
        rows = self.rows()
        table = values_table(f"Tuning: {self.options.kind}", rows[0], left=0)
        for row in rows:
            table.add_row(*row.values())
        return table

    def __str__(self) -> str:
        return "\n".join([render(self, 140), *(str(d) for d in self.diagnostics)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.options.kind, "lr": [list(knot) for knot in self.recipe.lr],
            "batch": self.recipe.batch, "flops": self.flops, "share": self.share,
            "seed_sd": self.seed_sd, "seed_dof": self.seed_dof,
            "agree": self.lr.agree, "curvature": self.lr.curvature,
            "cells": [self._cell_dict(i) for i in range(len(self.cells))],
            "diagnostics": [str(d) for d in self.diagnostics],
        }  # fmt: skip

    def _cell_dict(self, i: int) -> dict[str, Any]:
        c, best = self.cells[i], self.lr.cells[i]
        return {
            **vars(c.cell), "params": c.params, "units": c.units, "recipe_lr": c.recipe_lr,
            "base_lr": c.lr, "recipe_batch_units": c.batch_units,
            "lr": [list(point) for point in c.lrs], "batch": [list(point) for point in c.batches],
            "best_lr_factor": best.factor, "best_lr_interval": best.interval,
            "regret_untuned": finite_json(self.untuned_regret(i)),
            "regret_tuned": self.tuned_regret(i), "noise_scale": c.noise_scale,
        }  # fmt: skip


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if math.isinf(low):
        return "all (runs diverged)"
    if math.isinf(high):
        return f"{format_regret(low)} and more (some runs diverged)"
    return " to ".join(format_regret(v) for v in (low, high))


def _percent(value: float | None) -> str:
    return "diverged" if value is not None and math.isinf(value) else format_regret(value)
