"""Runs that could be made: sizes, units and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]

REACH = 5.0
_OFFSETS = 9


@dataclass(frozen=True, eq=False)
class Candidates:
    """Runs that could be made; arrays have shape (candidates,).

    Attributes
    ----------
    params, tokens, flops
        N, D and C of each.
    budget
        The tier that each belongs to; by default its own C.
    repeats
        Whether the same run may be made again, with another seed.
    price
        FLOPs that each would take now, where that is not its C: branches of a trunk.
    """

    params: Floats
    tokens: Floats
    flops: Floats
    budget: Floats
    repeats: bool = True
    price: Floats | None = None

    @property
    def prices(self) -> Floats:
        """FLOPs that each would take now, its C less where another run has walked its trunk."""
        return self.flops if self.price is None else self.price

    @classmethod
    def of(cls, rows: Any, flops: FlopsFunction, *, repeats: bool = True) -> Candidates:
        """From pairs (N, D), shape (candidates, 2)."""
        try:
            values = np.asarray(rows, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.ndim != 2 or values.shape[1] != 2 or not np.all(values > 0):
            raise InputError(
                "candidates: expected pairs (N, D) of positive numbers, as many as there are runs to "
                f"choose from; got {rows!r}."
            )
        C = np.asarray(flops(values[:, 0])) * values[:, 1]
        return cls(values[:, 0], values[:, 1], C, C, repeats)

    def __len__(self) -> int:
        return len(self.params)

    def pick(self, index: Any) -> Candidates:
        """Those at ``index``, a mask or positions, which may repeat."""
        price = None if self.price is None else self.price[index]
        N, D, C, budget = (c[index] for c in (self.params, self.tokens, self.flops, self.budget))
        return Candidates(N, D, C, budget, self.repeats, price)

    @property
    def cost(self) -> float:
        """FLOPs of all together."""
        return float(np.sum(self.prices))

    def pairs(self) -> list[tuple[float, float]]:
        """(N, D) of each."""
        return list(zip(self.params.tolist(), self.tokens.tolist(), strict=True))


class Oracle(Protocol):
    """Whoever can make runs: a trainer, a simulation, a published table."""

    @property
    def flops(self) -> FlopsFunction:
        """Training FLOPs per unit, F(N)."""

    def candidates(self, params: Floats, budget: Floats) -> Candidates:
        """The runs that can really be made, nearest to N parameters at each budget."""

    def run(self, chosen: Candidates) -> Sequence[float]:
        """The losses of runs out of :meth:`candidates`, in order; NaN where a run has none."""


@dataclass(frozen=True)
class Grid:
    """Sizes between which nothing is missing: N as wanted and D = C/F(N)."""

    flops: FlopsFunction

    def candidates(self, params: Floats, budget: Floats) -> Candidates:
        """Exactly what is wanted."""
        return Candidates(params, budget / np.asarray(self.flops(params)), budget, budget)


def ladder(low: float, high: float, step: float) -> Floats:
    """Budgets from ``high`` downwards by ``step`` to about ``low``."""
    count = max(round(float(np.log(high / low) / np.log(step))), 0) + 1
    return np.asarray(high * step ** -np.arange(count, dtype=np.float64))[::-1]


def lattice(centre: Floats, budgets: Floats, reach: float = REACH) -> tuple[Floats, Floats]:
    """N and C of nine sizes at each budget, from N*/reach to N*·reach around its ``centre``."""
    factors = np.geomspace(1 / reach, reach, _OFFSETS)
    return np.outer(centre, factors).ravel(), np.repeat(budgets, _OFFSETS)


def table_of(made: Sequence[Candidates], losses: Sequence[float]) -> RunTable:
    """Runs and their losses as a table; those without a loss are left out."""
    loss = np.asarray(losses, dtype=np.float64)
    columns = [
        np.concatenate([getattr(c, n) for c in made])
        for n in ("params", "tokens", "flops", "budget")
    ]
    labels = tuple(f"run {i + 1}" for i in range(len(loss)))
    N, D, C, budget = columns
    table = RunTable(N, D, C, loss, labels, budget)
    sound = np.isfinite(loss) & (loss > 0)
    return table if np.all(sound) else table.select(sound, "no finite loss")
