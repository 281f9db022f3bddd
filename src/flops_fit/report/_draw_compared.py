"""The figures that hold the fit against something, each drawn from its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flops_fit.report._compared import Approaches, Held, Surface, measured_loss
from flops_fit.report._style import (
    BLUE,
    CLEAR,
    FAINT,
    GREEN,
    INK,
    PINK,
    SHADE,
    SMALL,
    VERMILLION,
    axes_of,
    compute_colours,
    exponents,
    figure_of,
    grid,
    key,
    log_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_approaches", "draw_backtest", "draw_surface"]

_FARTHEST = np.log(100.0)
_DASHES = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (2, 2)))


def draw_surface(data: Surface, ax: Axes | None = None) -> Figure:
    """Contours of the fitted loss over N and D, the runs and the path of the optima."""
    ax = axes_of(ax, "surface")
    ax.plot(data.run_params, data.run_tokens, "o", color=FAINT, ms=2, mew=0, label="runs")
    ax.set_xlim(data.params[0], data.params[-1])
    ax.set_ylim(data.tokens[0], data.tokens[-1])
    log_axis(ax, "x", "Parameters N")  # before the contours, whose labels leave gaps by distance
    log_axis(ax, "y", f"{data.unit.capitalize()} D")
    if len(data.levels):
        # Losses fall with N and D: dark is low, as dear budgets are light elsewhere.
        colours = compute_colours(len(data.levels))[::-1]
        lines = ax.contour(
            data.params,
            data.tokens,
            data.loss,
            levels=data.levels,
            colors=colours,
            linewidths=0.9,
        )
        at = _where_contours_cross(data)
        ax.clabel(lines, fmt=_as_loss(data), fontsize=SMALL, colors=INK, manual=at or False)
    ax.plot(data.best_params, data.best_tokens, color=BLUE, lw=1.4, label="compute-optimal path")
    grid(ax)
    ax.plot([], [], color=FAINT, lw=0.9, label="equal loss")
    key(ax, columns=3)
    return figure_of(ax)


def _as_loss(data: Surface) -> str:
    """Digits enough to tell neighbouring contours apart."""
    gaps = np.diff(data.levels)
    digits = 2 if len(gaps) == 0 else int(np.clip(np.ceil(-np.log10(gaps.min())), 2, 5))
    return f"%.{digits}f"


def _where_contours_cross(data: Surface) -> list[tuple[float, float]]:
    """A place for the label of each contour: beside the path, on the side of smaller sizes."""
    found = []
    columns = np.arange(len(data.params))
    log_n, log_d = np.log(data.params), np.log(data.tokens)
    path = np.zeros_like(log_n)
    if len(data.best_params):
        path = np.interp(log_n, np.log(data.best_params), np.log(data.best_tokens))
    for level in data.levels:
        rows = np.argmin(np.abs(data.loss - level), axis=0)  # of the contour in each column
        here = np.flatnonzero((rows > 4) & (rows < 0.92 * len(log_d)))
        if len(here):
            crossing = here[np.argmin(np.abs(log_d[rows] - path)[here])]
            wanted = crossing + np.array([-10, 10])
            free = [w for w in wanted if w in here]
            column = free[0] if free else here[np.argmax(np.abs(columns[here] - crossing))]
            found.append((float(data.params[column]), float(data.tokens[rows[column]])))
    return found


def draw_backtest(data: Held, ax: Axes | None = None) -> Figure:
    """What cheaper budgets foretold of the largest, beside what was measured, in % of it."""
    ax = axes_of(ax, "backtest")
    ax.axhline(0, color=FAINT, lw=0.6)
    places: list[int] = []
    names: list[str] = []
    for group, colour, mark in zip(data.held_out, (BLUE, VERMILLION, GREEN), "oDs", strict=False):
        word = "the largest budget" if len(group) == 1 else f"the {len(group)} largest budgets"
        for held in group:
            seen = measured_loss(held)
            x = len(places)
            if held.run_interval is not None:
                span = [100 * (v / seen - 1) for v in held.run_interval]
                ax.plot([x, x], span, color=colour, lw=3.5, alpha=0.3, solid_capstyle="butt")
            off = 100 * (held.predicted_loss / seen - 1)
            label = f"without {word}" if held is group[0] else None
            ax.plot([x], [off], mark, color=colour, ms=4.5, label=label)
            ax.annotate(
                f"{held.predicted_loss:.4g}\nfor {seen:.4g}",
                (x, off),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=SMALL,
                color=INK,
                bbox=CLEAR,
            )
            places.append(x)
            names.append(exponents(held.compute))
    ax.set_xticks(places, names)
    ax.set_xlim(-0.5, len(places) - 0.25)
    low, high = ax.get_ylim()
    reach = max(abs(low), abs(high), 0.5) * 1.15
    ax.set_ylim(-reach, reach)
    ax.set_xlabel("Budget foretold C, FLOPs")
    ax.set_ylabel("Foretold loss over measured, %")
    grid(ax)
    ax.grid(False, axis="x")
    key(ax, columns=1)
    return figure_of(ax)


def draw_approaches(data: Approaches, ax: Axes | None = None) -> Figure:
    """N* of every approach and law form over that of the answer, with the answer's interval."""
    ax = axes_of(ax, "approaches")
    ax.axvspan(data.largest, data.compute[-1], color=SHADE, lw=0, label="beyond the runs")
    if np.any(np.isfinite(data.low)):
        label = f"{100 * data.level:g} % interval"
        ax.fill_between(
            data.compute, data.low, data.high, color=BLUE, alpha=0.25, lw=0, label=label
        )
    ax.axhline(1.0, color=BLUE, lw=1.2, label=f"{data.answer} (the answer)")
    colours = (VERMILLION, GREEN, PINK, INK)
    for (name, line), colour, dash in zip(data.lines.items(), colours, _DASHES, strict=False):
        off = np.all(np.abs(np.log(line)) > _FARTHEST)
        label = f"{name} (off the chart)" if off else name
        ax.plot(data.compute, line, color=colour, ls=dash, lw=1.2, label=label)
    if len(data.minima):
        ax.plot(*data.minima.T, "o", color=INK, ms=3, label="minimum of a parabola")
    _reasonable(ax, data)
    ax.set_xlim(data.compute[0], data.compute[-1])
    log_axis(ax, "x", "Training compute C, FLOPs", exponents)
    log_axis(ax, "y", "N* over that of the answer", lambda v: f"{v:.4g}")
    grid(ax)
    key(ax, columns=2)
    return figure_of(ax)


def _reasonable(ax: Axes, data: Approaches) -> None:
    """Wide enough for the lines and minima, and no wider where an interval opens."""
    drawn = [np.ones(1), data.minima[:, 1], *data.lines.values()]
    away = np.abs(np.log(np.concatenate(drawn)))
    spans = np.abs(np.log(np.concatenate([data.low, data.high])))
    reach = float(np.max(away[away < _FARTHEST]))
    if np.any(np.isfinite(spans)):
        reach = max(reach, min(float(np.nanmax(spans)), reach + 1.0))
    reach = 1.1 * max(reach, 0.03)
    ax.set_ylim(np.exp(-reach), np.exp(reach))
