"""The figures of runs, optima and losses, each drawn from its data into axes of any figure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from flops_fit.report.data import Isoflop, OptimumCurve, Residuals
from flops_fit.report.style import (
    BLUE,
    CLEAR,
    FAINT,
    INK,
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


_CURVES = 12
_LABELS = {
    "params": "Optimal parameters N*",
    "loss": "Held-out loss at the optimum",
}
_NEXT_MARKS = ("o", "s", "^")


def draw_isoflop(data: Isoflop, ax: Axes | None = None) -> Figure:
    """Loss against size, a colour for each budget, with the law's optimum on each curve.

    Parameters
    ----------
    data
        Of :func:`isoflop_data`.
    ax
        Where to draw; by default the axes of a new figure.

    Returns
    -------
    Figure
        The one that holds the axes.
    """
    ax = axes_of(ax, "isoflop")
    curves = data.curves
    colours = compute_colours(len(curves))
    drawn = _some_curves(data)
    losses = np.concatenate([c.loss for c in curves])
    best = min(losses.min(), *(curves[i].curve_loss.min() for i in drawn))
    room = 0.07 * (losses.max() - best)
    for i, (curve, colour) in enumerate(zip(curves, colours, strict=True)):
        ax.plot(curve.params, curve.loss, "o", color=colour, ms=2.8, mec="white", mew=0.3)
        if i not in drawn:
            continue
        inside = curve.curve_loss <= losses.max() + room
        ax.plot(curve.curve_params[inside], curve.curve_loss[inside], "-", color=colour, lw=1.0)
        ax.plot(
            curve.vertex_params,
            curve.vertex_loss,
            "D",
            ms=3.2,
            mfc="none",
            mec=INK,
            mew=0.6,
            zorder=5,
        )
        if curve.curve_params[0] <= curve.best_params <= curve.curve_params[-1]:
            star: dict[str, Any] = {"ms": 7, "mec": INK, "mew": 0.5, "zorder": 4}
            ax.plot(curve.best_params, curve.best_loss, "*", color=colour, **star)
    ax.plot(*data.flagged.T, "o", ms=6.5, mfc="none", mec=VERMILLION, mew=0.8)
    ax.set_ylim(best - room, losses.max() + room)
    sizes = np.concatenate(
        [*(c.params for c in curves), *(curves[i].curve_params[[0, -1]] for i in drawn)]
        + [[curves[i].vertex_params] for i in drawn if curves[i].vertex_params > 0]
    )
    width = sizes.max() / sizes.min()
    ax.set_xlim(sizes.min() / width**0.04, sizes.max() * width**0.2)  # room for labels
    log_axis(ax, "x", "Parameters N")
    ax.set_ylabel("Held-out loss")
    grid(ax)
    _label_curves(ax, data, drawn)
    for mark, colour, label in (
        ("*", FAINT, f"optimum of the {data.law}"),
        ("D", "none", "minimum of a parabola"),
        *((("o", "none", "outlier"),) if len(data.flagged) else ()),
    ):
        edge = VERMILLION if label == "outlier" else INK
        style = {"mec": edge, "mew": 0.6, "ms": 6 if mark == "*" else 4, "label": label}
        ax.plot([], [], mark, color=colour, **style)
    key(ax)
    return figure_of(ax)


def _label_curves(ax: Axes, data: Isoflop, drawn: list[int]) -> None:
    """C at the right end of each curve, left out where two labels would touch."""
    (x0, x1), (y0, y1) = (np.log(ax.get_xlim()), ax.get_ylim())
    taken: list[tuple[float, float]] = []
    for i in reversed(drawn):
        curve = data.curves[i]
        shown = np.flatnonzero(curve.curve_loss <= y1)
        if not len(shown):
            continue
        end = (curve.curve_params[shown[-1]], curve.curve_loss[shown[-1]])
        x, y = (np.log(end[0]) - x0) / (x1 - x0), (end[1] - y0) / (y1 - y0)
        if any(abs(x - a) < 0.2 and abs(y - b) < 0.06 for a, b in taken):
            continue
        text = ("" if taken else "C = ") + exponents(curve.budget)
        taken.append((x, y))
        ax.annotate(
            text,
            end,
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=INK,
            bbox=CLEAR,
        )


def _some_curves(data: Isoflop) -> list[int]:
    """Which budgets get a curve: all, or of very many those with most runs, spaced over compute."""
    curves = data.curves
    if len(curves) <= _CURVES:
        return list(range(len(curves)))
    log_c = np.log([c.budget for c in curves])
    edges = np.linspace(log_c[0], log_c[-1] * (1 + 1e-12), _CURVES + 1)
    found = []
    for low, high in pairwise(edges):
        here = [i for i, c in enumerate(log_c) if low <= c <= high and len(curves[i].params) >= 3]
        if here:
            found.append(max(here, key=lambda i: len(curves[i].params)))
    return found or [0]


def _some(items: list[int], most: int) -> list[int]:
    """At most so many of them, evenly spaced, the first and last among them."""
    if len(items) <= most:
        return items
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, most)]


def draw_optimum(data: OptimumCurve, ax: Axes | None = None) -> Figure:
    """N*, D* or the loss over compute with its interval, dashed beyond the largest run.

    Parameters
    ----------
    data
        Of :func:`params_data`, :func:`tokens_data` or :func:`loss_data`.
    ax
        Where to draw; by default the axes of a new figure.

    Returns
    -------
    Figure
        The one that holds the axes.
    """
    ax = axes_of(ax, data.quantity)
    path = data.path
    known = path.compute <= data.largest * (1 + 1e-9)
    beyond = path.compute >= data.largest * (1 - 1e-9)
    ax.axvspan(data.largest, path.compute[-1], color=SHADE, lw=0, label="beyond the runs")
    if np.any(np.isfinite(path.low)):
        label = f"{100 * data.level:g} % interval"
        ax.fill_between(
            path.compute, path.low, path.high, color=BLUE, alpha=0.25, lw=0, label=label
        )
    if np.any(np.isfinite(path.value)):
        ax.plot(path.compute[known], path.value[known], color=BLUE, lw=1.2, label=data.source)
        ax.plot(path.compute[beyond], path.value[beyond], color=BLUE, lw=1.2, ls=(0, (3, 2)))
    for seen, mark in zip(data.seen, _NEXT_MARKS, strict=False):
        fill = INK if mark == "o" else "none"
        ax.plot(
            seen.compute,
            seen.value,
            mark,
            ms=3,
            mfc=fill,
            mec=INK,
            mew=0.6,
            zorder=3,
            label=seen.what,
        )
    ax.set_xlim(path.compute[0], path.compute[-1])
    log_axis(ax, "x", "Training compute C, FLOPs", exponents)
    if data.quantity == "loss":
        ax.set_ylabel(_LABELS["loss"])
        _whole_loss(ax, data)
    else:
        label = _LABELS.get(data.quantity, f"Optimal {data.unit} D*")
        log_axis(ax, "y", label)
    grid(ax)
    key(ax)
    return figure_of(ax)


def _whole_loss(ax: Axes, data: OptimumCurve) -> None:
    """An interval that opens far beyond the runs must not flatten all that was measured."""
    values = np.concatenate([data.path.value, *(s.value for s in data.seen)])
    low, high = np.nanmin(values), np.nanmax(values)
    room = max(high - low, 1e-3 * abs(high))
    floor = data.path.low[np.isfinite(data.path.low)]
    bottom = max(floor.min(), low - 0.5 * room) if len(floor) else low
    ax.set_ylim(bottom - 0.05 * room, high + 0.08 * room)


def draw_residuals(data: Residuals, ax: Axes | None = None) -> Figure:
    """How far each run lies from the law, over its size; a colour for each budget."""
    ax = axes_of(ax, "residuals")
    budgets = np.unique(data.budget)
    colours = compute_colours(len(budgets))
    shown = set(_some(list(range(len(budgets))), 5))
    for i, (budget, colour) in enumerate(zip(budgets, colours, strict=True)):
        here = data.budget == budget
        label = (
            (f"C = {exponents(budget)}" if i == 0 else exponents(budget)) if i in shown else None
        )
        style: dict[str, Any] = {"ms": 3, "mec": "white", "mew": 0.3, "label": label}
        ax.plot(data.params[here], data.residual[here], "o", color=colour, **style)
    ax.axhline(0, color=FAINT, lw=0.6)
    log_axis(ax, "x", "Parameters N")
    ax.set_ylabel(_residual_label(data))
    grid(ax)
    key(ax, columns=3)
    return figure_of(ax)


def draw_residual_map(data: Residuals, ax: Axes | None = None) -> Figure:
    """Where the law lies above and below its runs: area by size of the residual, colour by sign."""
    ax = axes_of(ax, "residual_map")
    unit = " %" if data.in_percent else ""
    typical = float(np.quantile(np.abs(data.residual), 0.95)) or 1.0
    size = 45 * np.minimum(np.abs(data.residual) / typical, 2.0)
    for above, colour, word in ((True, VERMILLION, "above"), (False, BLUE, "below")):
        here = (data.residual > 0) == above
        face = colour if above else "none"
        ax.scatter(
            data.compute[here],
            data.distance[here],
            s=size[here],
            facecolor=face,
            edgecolor=colour,
            linewidth=0.7,
            alpha=0.8,
        )
        label = f"loss {typical:.2g}{unit} {word} the law"
        ax.scatter([], [], s=45, facecolor=face, edgecolor=colour, linewidth=0.7, label=label)
    ax.axhline(1.0, color=FAINT, lw=0.6)
    ax.margins(0.06)
    log_axis(ax, "x", "Compute of the run C, FLOPs", exponents)
    log_axis(ax, "y", "Size over the optimum, N/N*", _factor)
    grid(ax)
    key(ax, columns=2)
    return figure_of(ax)


def _residual_label(data: Residuals) -> str:
    return "Loss over the law, %" if data.in_percent else "Loss − law"


def _factor(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e4 else exponents(value)
