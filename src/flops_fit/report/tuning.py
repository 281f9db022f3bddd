"""Hyper-parameters: what was tried before the sweep, and training curves on one scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flops_fit.flops.functions import Floats
from flops_fit.report import style
from flops_fit.report.style import Colour, Row, rows_of
from flops_fit.report.table import WORDS, TextTable
from flops_fit.text import format_count, format_regret
from flops_fit.tune.effects import Collapse
from flops_fit.tune.optimum_fit import OptimumFits
from flops_fit.tune.tuning import REACH, Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_EXCESS = 0.12  # of the loss: what is worse is off the figure, and its marks stand at the edge
_MAX_KEYS = 6  # cells that are named
_LINES = ("-", *style.DASHES[:3])
_MARKS = "osD^"


@dataclass(frozen=True, eq=False)
class TrialCell:
    """What was tried at one N and D, the relative loss above the lowest, and the fitted parabola."""

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
    cells: tuple[TrialCell, ...]
    seed_sd: float | None

    def rows(self) -> list[Row]:
        """One row a trial."""
        rows = []
        for c in self.cells:
            rows += rows_of(
                params=c.params, units=c.units, **{self.axis: c.value}, excess=c.excess,
                recipe=c.recipe, used=c.used, noise_scale=c.noise_scale,
            )  # fmt: skip
        return rows


def rate_data(tuning: Tuning | None) -> Trials | None:
    """Learning rates that were tried at the recipe's batch."""
    return None if tuning is None else _trials("lr", tuning, tuning.lr)


def batch_data(tuning: Tuning | None) -> Trials | None:
    """Batches that were tried, at rates that follow by the square root, and the noise scales."""
    if tuning is None or tuning.batch is None:
        return None
    return _trials("batch", tuning, tuning.batch)


def _trials(axis: str, tuning: Tuning, fits: OptimumFits) -> Trials | None:
    cells = []
    for c, fit in zip(tuning.cells, fits.cells, strict=True):
        tried = c.lrs if axis == "lr" else c.batches
        if not tried:
            continue
        one = recipe = c.batch_units  # what the factors are of
        used, scale = recipe * tuning.recipe.batch, c.noise_scale
        if axis == "lr":
            one, recipe, used, scale = c.lr, c.recipe_lr, c.lr * tuning.factor(c.params), None
        x, y = np.array(tried).T
        curve, excess = np.empty(0), np.empty(0)
        if fit.factor is not None and fits.curvature > 0:
            t = np.linspace(-1, 1, 41) * REACH * math.log(tuning.options.step)
            curve, excess = fit.factor * np.exp(t) * one, np.expm1(0.5 * fits.curvature * t**2)
        tries = x * one, y / y.min() - 1
        cells.append(TrialCell(c.params, c.units, *tries, curve, excess, recipe, used, scale))
    return Trials(axis, tuning.unit, tuple(cells), tuning.seed_sd) if cells else None


def draw_trials(data: Trials, ax: Axes | None = None) -> Figure:
    """Loss above the lowest of each cell against the learning rate, or against the batch.

    A colour for each size, a mark and a line style for each length. Triangles on the axis mark what
    the sweep uses; those at the upper edge are runs that lie above it.
    """
    ax = style.axes_of(ax, "rates" if data.axis == "lr" else "batches")
    sizes = sorted({c.params for c in data.cells})
    colours = dict(zip(sizes, style.compute_colours(len(sizes)), strict=True))
    worst = min(_MAX_EXCESS, max(float(c.excess.max()) for c in data.cells) * 1.15 + 1e-4)
    for c in data.cells:
        _draw_cell(ax, data, c, colours[c.params], worst)
    if data.seed_sd is not None:
        top = 100 * min(data.seed_sd, worst)
        ax.axhspan(0, top, color=style.SHADE, lw=0, zorder=0)
        ax.text(
            0.99, top, "noise between seeds ", ha="right", va="bottom", fontsize=style.SMALL,
            color=style.FAINT, transform=ax.get_yaxis_transform(), bbox=style.CLEAR,
        )  # fmt: skip
    values = np.concatenate([np.append(c.value, c.used) for c in data.cells])
    ax.set_xlim(values.min() / 1.25, values.max() * 1.25)
    ax.set_ylim(-0.04 * 100 * worst, 100 * worst * 1.03)
    label = "Learning rate" if data.axis == "lr" else f"Batch ({data.unit})"
    style.log_axis(ax, "x", label, "{:g}".format if data.axis == "lr" else format_count)
    ax.set_ylabel("Loss above the lowest, %")
    if len(data.cells) > _MAX_KEYS:
        for n in (sizes[0], sizes[-1]):
            ax.plot([], [], "o", color=colours[n], ms=3.2, label=f"N = {format_count(n)}")
    ax.plot([], [], "^", color="none", mec=style.INK, mew=0.6, ms=5, label="used by the sweep")
    scales = [c.noise_scale for c in data.cells if c.noise_scale is not None]
    if scales and data.axis == "batch":
        low, high = format_count(min(scales)), format_count(max(scales))
        span = low if low == high else f"{low}–{high}"
        ax.plot([], [], " ", label=f"gradient noise scale: {span}")
    return style.finish(ax)


def _draw_cell(ax: Axes, data: Trials, c: TrialCell, colour: Colour, worst: float) -> None:
    lengths = sorted({d.units for d in data.cells if d.params == c.params})
    length = lengths.index(c.units) % len(_LINES)
    shown = c.curve_excess <= worst
    if shown.any():
        # The parabola's own lowest point lies at, or a little below, the lowest run.
        x, y = c.curve_value[shown], 100 * c.curve_excess[shown]
        ax.plot(x, y, color=colour, lw=0.9, ls=_LINES[length])
    off = c.excess > worst
    name = f"N = {format_count(c.params)}, D = {format_count(c.units)}"
    ax.plot(
        c.value[~off], 100 * c.excess[~off], _MARKS[length], color=colour, ms=3.2, mec="white",
        mew=0.3, label=name if len(data.cells) <= _MAX_KEYS else None, zorder=3,
    )  # fmt: skip
    ax.plot(c.value[off], [100 * worst] * off.sum(), "^", color=colour, ms=4, mew=0)
    used = (c.used, -0.035 * 100 * worst)
    ax.plot(*used, "^", color=colour, ms=5, mec=style.INK, mew=0.5, clip_on=False, zorder=4)


def tuning_table(tuning: Tuning) -> TextTable:
    """Each size and length with its best rate and regrets."""
    head = f"N|D ({tuning.unit})|Recipe's rate|Best rate|Rate used|Recipe's regret|Regret left|Noise scale"
    rows = [head.split("|")]
    for i, c in enumerate(tuning.cells):
        best, scale = tuning.lr.cells[i].factor, c.noise_scale
        rates = (c.recipe_lr, None if best is None else c.lr * best, c.lr * tuning.factor(c.params))
        regrets = (tuning.untuned_regret(i), tuning.tuned_regret(i))
        rows.append(
            [format_count(c.params), format_count(c.units)]
            + ["–" if v is None else f"{v:.3g}" for v in rates]
            + [format_regret(v) for v in regrets]
            + ["–" if scale is None else format_count(scale)]
        )
    noise = "" if tuning.seed_sd is None else f"The noise between seeds is {tuning.seed_sd:.2%}. "
    note = WORDS["tuning"].format(noise=noise)
    return TextTable("Where hyper-parameters were tried", rows, note)


def collapse_data(collapse: Collapse | None) -> Collapse | None:
    """The training curves on one scale, where there are enough."""
    return collapse


def draw_collapse(data: Collapse, ax: Axes | None = None) -> Figure:
    """Training curves on one scale, dark for small models; those apart in red with their names."""
    ax = style.axes_of(ax, "collapse")
    order = np.argsort(data.params)
    colours = style.compute_colours(len(order))
    for colour, i in zip(colours, order, strict=True):
        odd = data.labels[i] in data.odd
        shown, width = (style.VERMILLION, 1.1) if odd else (colour, 0.7)
        ax.plot(data.shares, data.curves[i], color=shown, lw=width, zorder=3 if odd else 2)
    for end in (0, -1):
        name = f"N = {format_count(data.params[order[end]])}"
        ax.plot([], [], color=colours[end], lw=1, label=name)
    if data.odd:
        ax.plot([], [], color=style.VERMILLION, lw=1, label=f"apart: {data.odd[0]}")
    ax.set_xlim(0, 1)
    high = float(np.percentile(data.curves[:, data.shares >= 0.15].max(axis=1), 95))
    ax.set_ylim(min(0.97, float(data.curves.min())), max(high, 1.05) * 1.02)
    ax.set_xlabel("Share of the run")
    ax.set_ylabel("(L − E) / (L₁ − E)" if data.floor else "Training loss L / final loss L₁")
    if data.floor:
        ax.plot([], [], " ", label=f"E = {data.floor:.2f}")
    return style.finish(ax, 1 if data.odd else 2)
