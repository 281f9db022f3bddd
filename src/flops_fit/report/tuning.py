"""The figures of hyper-parameters, each drawn from its data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.report.style import (
    CLEAR,
    FAINT,
    INK,
    SHADE,
    SMALL,
    VERMILLION,
    axes_of,
    compute_colours,
    figure_of,
    grid,
    key,
    log_axis,
)
from flops_fit.text import format_count
from flops_fit.tune.effects import Collapse
from flops_fit.tune.tuning import REACH, Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


_MOST = 0.12  # of the loss: what is worse is off the figure, and its marks stand at the edge
_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_MARKS = "osD^"


def draw_trials(data: Trials, ax: Axes | None = None) -> Figure:
    """Loss above the lowest of each cell against the learning rate, or against the batch.

    A colour for each size, a mark and a line style for each length. Triangles at the axis say what the
    sweep uses there; those at the upper edge are runs that lie above it.

    Parameters
    ----------
    data
        Of :func:`rate_data` or :func:`batch_data`.
    ax
        Where to draw; by default the axes of a new figure.
    """
    ax = axes_of(ax, "rates" if data.axis == "lr" else "batches")
    sizes = sorted({c.params for c in data.cells})
    colours = dict(zip(sizes, compute_colours(len(sizes)), strict=True))
    worst = min(_MOST, max(float(c.excess.max()) for c in data.cells) * 1.15 + 1e-4)
    for c in data.cells:
        lengths = sorted({d.units for d in data.cells if d.params == c.params})
        i = lengths.index(c.units) % len(_STYLES)
        colour = colours[c.params]
        shown = c.curve_excess <= worst
        if shown.any():
            # The parabola's own lowest point lies at, or a little below, the lowest run.
            ax.plot(
                c.curve_value[shown], 100 * c.curve_excess[shown],
                color=colour, lw=0.9, ls=_STYLES[i],
            )  # fmt: skip
        off = c.excess > worst
        label = (
            f"N = {format_count(c.params)}, D = {format_count(c.units)}"
            if len(data.cells) <= 6
            else None
        )
        ax.plot(
            c.value[~off], 100 * c.excess[~off], _MARKS[i], color=colour, ms=3.2,
            mec="white", mew=0.3, label=label, zorder=3,
        )  # fmt: skip
        ax.plot(c.value[off], [100 * worst] * off.sum(), "^", color=colour, ms=4, mew=0)
        ax.plot(
            c.used, -0.035 * 100 * worst, "^", color=colour, ms=5, mec=INK, mew=0.5,
            clip_on=False, zorder=4,
        )  # fmt: skip
    if data.seed_sd is not None:
        ax.axhspan(0, 100 * min(data.seed_sd, worst), color=SHADE, lw=0, zorder=0)
        ax.text(
            0.99, 100 * min(data.seed_sd, worst), "noise of a seed ", ha="right", va="bottom",
            fontsize=SMALL, color=FAINT, transform=ax.get_yaxis_transform(), bbox=CLEAR,
        )  # fmt: skip
    values = np.concatenate([np.append(c.value, c.used) for c in data.cells])
    ax.set_xlim(values.min() / 1.25, values.max() * 1.25)
    ax.set_ylim(-0.04 * 100 * worst, 100 * worst * 1.03)
    name = "Learning rate" if data.axis == "lr" else f"Batch ({data.unit})"
    log_axis(ax, "x", name, format_count if data.axis == "batch" else lambda v: f"{v:g}")
    ax.set_ylabel("Loss above the lowest, %")
    grid(ax)
    if len(data.cells) > 6:
        for n in (sizes[0], sizes[-1]):
            ax.plot([], [], "o", color=colours[n], ms=3.2, label=f"N = {format_count(n)}")
    ax.plot([], [], "^", color="none", mec=INK, mew=0.6, ms=5, label="used by the sweep")
    scales = [c.noise_scale for c in data.cells if c.noise_scale is not None]
    if scales and data.axis == "batch":
        low, high = format_count(min(scales)), format_count(max(scales))
        span = low if low == high else f"{low}–{high}"
        ax.plot([], [], " ", label=f"gradient noise scale: {span}")
    key(ax)
    return figure_of(ax)


def draw_collapse(data: Collapsed, ax: Axes | None = None) -> Figure:
    """Training curves on one scale, dark for small models; those apart in red with their names."""
    ax = axes_of(ax, "collapse")
    c = data.found
    order = np.argsort(c.params)
    colours = compute_colours(len(order))
    for colour, i in zip(colours, order, strict=True):
        odd = c.labels[i] in c.odd
        ax.plot(
            c.shares, c.curves[i], color=VERMILLION if odd else colour, lw=1.1 if odd else 0.7,
            zorder=3 if odd else 2,
        )  # fmt: skip
    ends = (order[0], order[-1])
    for colour, i in zip((colours[0], colours[-1]), ends, strict=True):
        ax.plot([], [], color=colour, lw=1, label=f"N = {format_count(c.params[i])}")
    if c.odd:
        ax.plot([], [], color=VERMILLION, lw=1, label=f"apart: {c.odd[0]}")
    ax.set_xlim(0, 1)
    high = float(np.percentile(c.curves[:, c.shares >= 0.15].max(axis=1), 95))
    ax.set_ylim(min(0.97, float(c.curves.min())), max(high, 1.05) * 1.02)
    ax.set_xlabel("Share of the run seen")
    ax.set_ylabel("(L − E) / (L₁ − E)" if c.floor else "Training loss L / its last L₁")
    if c.floor:
        ax.plot([], [], " ", label=f"E = {c.floor:.2f}")
    grid(ax)
    key(ax, 2 if not c.odd else 1)
    return figure_of(ax)
