"""The recipe that tuning leaves behind: another one, with its rates and batches moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flops_fit.hparams import HParams
from flops_fit.recipes.published import Recipe
from flops_fit.records import ParamCount


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe times factors that were found by trying.

    lr = lr_base(N, D)·f(N) and batch = batch_base(N, D)·g: how they change with N and D stays the
    base's. With several knots ln f is linear in ln N between them, and constant beyond.

    Attributes
    ----------
    base
        The recipe that was tuned.
    lr
        (N, f) of each knot, ascending in N.
    batch
        g.
    name
        Put behind the base's name on every run.

    Examples
    --------
    >>> base = lambda params, units, unit: HParams(lr=0.01, batch_units=100, recipe="mine-1")
    >>> tuned = TunedRecipe(base, lr=((1e3, 2.0),), batch=0.5, name="pilot")
    >>> made = tuned(ParamCount(10, 10, 10, 10), 1e4, "tokens")
    >>> made.lr, made.batch_units, made.recipe
    (0.02, 50.0, 'mine-1 + pilot')
    """

    base: Recipe
    lr: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    batch: float = 1.0
    name: str = ""

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The base's values at this size and length, moved."""
        made = self.base(params, units, unit)
        return replace(
            made,
            lr=made.lr * self.factor(params.total),
            batch_units=made.batch_units * self.batch,
            recipe=f"{made.recipe} + {self.name}" if self.name else made.recipe,
        )

    def factor(self, params: float) -> float:
        """F at this N."""
        sizes, factors = zip(*self.lr, strict=True)
        return math.exp(float(np.interp(math.log(params), np.log(sizes), np.log(factors))))


@dataclass(frozen=True)
class Coupled:
    """A recipe whose rate goes with the square root of its batch, relative to the batch ``reference``.

    Malladi et al. 2022 (arXiv:2205.10287) for Adam; with a batch that grows as D^0.571 the rate grows
    as D^0.29, where Li et al. 2025 (arXiv:2503.04715) measured D^0.307.
    """

    base: Recipe
    reference: float

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The base's values, the rate coupled to the batch."""
        made = self.base(params, units, unit)
        return replace(made, lr=made.lr * self.factor(made.batch_units))

    def factor(self, batch_units: float) -> float:
        """On the base's rate, at this batch of the base."""
        return math.sqrt(batch_units / self.reference)


def couple(base: Recipe, params: ParamCount, lengths: Sequence[float], unit: str) -> Coupled | None:
    """The recipe to tune at some lengths and to carry to longer ones, where it has to be coupled.

    A rate that is the best at one length is not at another with another batch. A recipe that says
    nothing of it, its rate being the same at every length while its batch is not, is coupled; others
    are left as they are (``None``). The reference is the geometric mean of its batches at ``lengths``.
    """
    made = [base(params, units, unit) for units in (lengths[0], 100 * lengths[0])]
    if made[0].lr != made[1].lr or made[0].batch_units == made[1].batch_units:
        return None
    batches = [base(params, units, unit).batch_units for units in lengths]
    return Coupled(base, float(np.exp(np.mean(np.log(batches)))))


def rounded(factor: float) -> float:
    """To three digits: what a plan shows is then what was used."""
    return float(f"{factor:.3g}")
