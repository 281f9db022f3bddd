"""The numbers behind the figures of hyper-parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.tune import REACH, Collapse, Tuning

__all__ = ["Collapsed", "Trials", "Tried", "batch_data", "collapse_data", "rate_data"]

Floats = NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Tried:
    """One size at one length: what was tried, and how much more than the lowest loss it gave.

    Attributes
    ----------
    params, units
        N and D.
    value, excess
        Learning rates or batches, and the loss above the cell's lowest, as a share of it.
    curve_value, curve_excess
        The fitted parabola where it is good for something; empty where there is none.
    recipe, used
        The recipe's own value, and what the sweep uses there.
    noise_scale
        Of the gradient, in units; ``None`` where it was not measured, and for learning rates.
    """

    params: float
    units: float
    value: Floats
    excess: Floats
    curve_value: Floats
    curve_excess: Floats
    recipe: float
    used: float
    noise_scale: float | None = None


@dataclass(frozen=True, eq=False)
class Trials:
    """What was tried along one axis, ``"lr"`` or ``"batch"``."""

    axis: str
    unit: str
    cells: tuple[Tried, ...]
    seed_sd: float | None

    def rows(self) -> list[Row]:
        """A row a trial."""
        return [
            {
                "params": c.params,
                "units": c.units,
                self.axis: float(x),
                "excess": float(y),
                "recipe": c.recipe,
                "used": c.used,
                "noise_scale": c.noise_scale,
            }
            for c in self.cells
            for x, y in zip(c.value, c.excess, strict=True)
        ]


def rate_data(tuning: Tuning | None) -> Trials | None:
    """Learning rates that were tried at the recipe's batch."""
    if tuning is None or not any(c.lrs for c in tuning.cells):
        return None
    cells = []
    for i, c in enumerate(tuning.cells):
        if not c.lrs:
            continue
        x, y = np.array(c.lrs).T
        best = tuning.lr.cells[i].factor
        curve = _parabola(best, tuning.lr.curvature, tuning.asked.step)
        used = c.lr * tuning.factor(c.params)
        cells.append(
            Tried(
                c.params,
                c.units,
                x * c.lr,
                y / y.min() - 1,
                curve[0] * c.lr,
                curve[1],
                c.recipe_lr,
                used,
            )
        )
    return Trials("lr", tuning.unit, tuple(cells), tuning.seed_sd)


def batch_data(tuning: Tuning | None) -> Trials | None:
    """Batches that were tried, at rates that follow by the square root, and the noise scales."""
    if tuning is None or tuning.batch is None:
        return None
    cells = []
    for i, c in enumerate(tuning.cells):
        if not c.batches:
            continue
        x, y = np.array(c.batches).T
        best = tuning.batch.cells[i].factor
        curve = _parabola(best, tuning.batch.curvature, tuning.asked.step)
        b = c.batch_units
        cells.append(
            Tried(
                c.params,
                c.units,
                x * b,
                y / y.min() - 1,
                curve[0] * b,
                curve[1],
                b,
                b * tuning.recipe.batch,
                c.noise_scale,
            )
        )
    return Trials("batch", tuning.unit, tuple(cells), tuning.seed_sd) if cells else None


def _parabola(best: float | None, curvature: float, step: float) -> tuple[Floats, Floats]:
    if best is None or curvature <= 0:
        return np.empty(0), np.empty(0)
    t = np.linspace(-1, 1, 41) * REACH * math.log(step)
    return best * np.exp(t), np.expm1(0.5 * curvature * t**2)


@dataclass(frozen=True, eq=False)
class Collapsed:
    """Training curves on one scale; see :class:`flops_fit.tune.Collapse`."""

    found: Collapse

    def rows(self) -> list[Row]:
        """A row a point."""
        c = self.found
        return [
            {"label": label, "params": float(n), "share": float(x), "scaled_loss": float(y)}
            for label, n, curve in zip(c.labels, c.params, c.curves, strict=True)
            for x, y in zip(c.shares, curve, strict=True)
        ]


def collapse_data(found: Collapse | None) -> Collapsed | None:
    """The training curves on one scale, where there are enough."""
    return None if found is None else Collapsed(found)
