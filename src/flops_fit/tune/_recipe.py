"""The recipe that tuning leaves behind: another one, with its rates and batches moved."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from flops_fit.recipes import HParams, Recipe
from flops_fit.records import ParamCount

__all__ = ["TunedRecipe", "rounded"]


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
        sizes, factors = zip(*self.lr, strict=True)
        log = np.interp(math.log(params.total), np.log(sizes), np.log(factors))
        return replace(
            made,
            lr=made.lr * math.exp(float(log)),
            batch_units=made.batch_units * self.batch,
            recipe=f"{made.recipe} + {self.name}" if self.name else made.recipe,
        )


def rounded(factor: float) -> float:
    """To three digits: what a plan shows is then what was used."""
    return float(f"{factor:.3g}")
