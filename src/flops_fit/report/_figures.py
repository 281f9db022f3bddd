"""The figures, drawn from their data; each returns a matplotlib Figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flops_fit.fit import Fit
from flops_fit.report._data import isoflop_curves, optimal_path
from flops_fit.text import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_all"]

_INK, _FAINT, _BAND = "#222222", "#888888", "#0072B2"  # the blue of Okabe and Ito 2008


def draw_all(fit: Fit, level: float = 0.9, managed: bool = False) -> list[Figure]:
    """IsoFLOP curves, the optimal path, the loss along it, and the residuals.

    ``managed`` figures belong to pyplot, so that its ``show()`` displays them.
    """
    path = optimal_path(fit, level)
    isoflop, path_n_d, loss, residuals = (
        _figure(managed, name, size)
        for name, size in (
            ("isoflop", (7.0, 4.6)),
            ("optimum", (9.0, 4.0)),
            ("loss", (6.0, 4.0)),
            ("residuals", (6.0, 3.6)),
        )
    )
    _draw_isoflop(isoflop.add_subplot(), fit)
    axes = path_n_d.subplots(1, 2)
    minima = fit.isoflop.interior
    for ax, name, title, seen in (
        (axes[0], "optimal_params", "Optimal parameters N*", [p.params for p in minima]),
        (axes[1], "optimal_tokens", f"Optimal {fit.runs.unit} D*", [p.tokens for p in minima]),
    ):
        _draw_path(ax, path[name], title, level, fit)
        ax.plot(
            [p.budget for p in minima],
            seen,
            "o",
            color=_INK,
            ms=5,
            zorder=3,
            label="minimum of a budget's parabola",
        )
        if fit.envelope and fit.envelope.points:
            attribute = name.removeprefix("optimal_")
            winners = [(w.compute, getattr(w, attribute)) for w in fit.envelope.points]
            label = "middle of a size's stretch of the envelope"
            ax.plot(*zip(*winners, strict=True), "o", mfc="none", mec=_FAINT, ms=6, label=label)
        ax.legend(loc="lower right", frameon=False, fontsize=8)
    _draw_loss(loss.add_subplot(), fit, path["expected_loss"], level)
    _draw_residuals(residuals.add_subplot(), fit)
    return [isoflop, path_n_d, loss, residuals]


def _figure(managed: bool, name: str, size: tuple[float, float]) -> Figure:
    if managed:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=size, layout="constrained", dpi=150)
    else:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained", dpi=150)
    figure.set_label(name)
    return figure


def _colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.75, n)]


def _draw_isoflop(ax: Axes, fit: Fit) -> None:
    curves = isoflop_curves(fit)
    bottom = min(fit.runs.loss.min(), *(c.best_loss for c in curves))
    room = 0.06 * (fit.runs.loss.max() - bottom)
    top = fit.runs.loss.max() + room
    for curve, colour in zip(curves, _colours(len(curves)), strict=True):
        ax.plot(curve.curve_params, curve.curve_loss, "-", color=colour, lw=1.5)
        ax.plot(curve.params, curve.loss, "o", color=colour, ms=4.5, mec="white", mew=0.5)
        ax.plot(
            [curve.best_params],
            [curve.best_loss],
            "*",
            color=colour,
            ms=12,
            mec=_INK,
            mew=0.7,
            zorder=4,
        )
        shown = np.flatnonzero(curve.curve_loss <= top)
        right = int(shown[-1]) if len(shown) else -1
        ax.annotate(
            f"{curve.budget:.2g}",
            (curve.curve_params[right], curve.curve_loss[right]),
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=8,
        )
    flagged = {o.label for o in fit.outliers}
    for i, label in enumerate(fit.runs.labels):
        if label in flagged:
            ax.plot(fit.runs.params[i], fit.runs.loss[i], "o", ms=11, mfc="none", mec="#D55E00")
    ax.set_ylim(bottom - room, top)
    ax.margins(x=0.12)
    ax.set_title(
        f"Loss against size at each compute budget ({_law_name(fit)}; ★ its optimum)",
        fontsize=10,
        loc="left",
        pad=12,
    )
    _axes(ax, "Parameters N", "Held-out loss", log_y=False)


def _law_name(fit: Fit) -> str:
    return {"kappa": "κ-law", "hoffmann": "additive law"}.get(fit.law.name, f"{fit.law.name} law")


def _draw_path(ax: Axes, path: Any, title: str, level: float, fit: Fit) -> None:
    if np.any(np.isfinite(path.low)):
        label = f"{100 * level:g} % interval"
        ax.fill_between(
            path.compute, path.low, path.high, color=_BAND, alpha=0.2, lw=0, label=label
        )
    if np.any(np.isfinite(path.value)):
        on_lines = any(a.headline for a in fit.approaches[:2])
        label = "line through the minima" if on_lines else "fitted law"
        ax.plot(path.compute, path.value, color=_BAND, lw=1.5, label=label)
    largest = fit.largest_compute
    ax.axvline(largest, ymin=0.3, color=_FAINT, lw=0.8, ls=":")  # clear of the legend
    ax.annotate(
        "largest run",
        (largest, 0.98),
        xycoords=("data", "axes fraction"),
        rotation=90,
        xytext=(3, 0),
        textcoords="offset points",
        color=_FAINT,
        fontsize=8,
        va="top",
    )
    ax.set_title(title, fontsize=10, loc="left")
    _axes(ax, "Training FLOPs C", "", log_y=True)


def _draw_loss(ax: Axes, fit: Fit, path: Any, level: float) -> None:
    _draw_path(ax, path, "Held-out loss at the optimum", level, fit)
    budgets = np.unique(fit.runs.budget)
    best = [float(fit.runs.loss[fit.runs.budget == b].min()) for b in budgets]
    ax.plot(budgets, best, "o", color=_INK, ms=5, zorder=3, label="best run of a budget")
    ax.legend(loc="upper right", frameon=False, fontsize=8)
    from matplotlib.ticker import FuncFormatter, NullFormatter

    ax.set_yscale("linear")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_residuals(ax: Axes, fit: Fit) -> None:
    budgets = np.unique(fit.runs.budget)
    in_percent = 100 * fit.residuals if fit.loss_space == "log" else fit.residuals
    for budget, colour in zip(budgets, _colours(len(budgets)), strict=True):
        here = fit.runs.budget == budget
        ax.plot(
            fit.runs.params[here],
            in_percent[here],
            "o",
            color=colour,
            ms=5,
            mec="white",
            mew=0.5,
            label=f"{budget:.2g}",
        )
    ax.axhline(0, color=_FAINT, lw=0.8)
    ax.set_title("Residuals of the fit", fontsize=10, loc="left")
    _axes(
        ax,
        "Parameters N",
        "Loss over law, %" if fit.loss_space == "log" else "Loss − law",
        log_y=False,
    )
    if len(budgets) <= 12:
        ax.legend(
            title="C",
            frameon=False,
            fontsize=8,
            title_fontsize=8,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
        )


def _axes(ax: Axes, x: str, y: str, *, log_y: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if x.startswith("Parameters"):
        low, high = ax.get_xlim()
        subs = (1.0, 2.0, 5.0) if high / low < 3e3 else (1.0,)
        ax.xaxis.set_major_locator(LogLocator(subs=subs))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: count(v)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    if log_y:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        subs = (1.0, 2.0, 5.0) if high / low < 3e2 else (1.0,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: count(v)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#e6e6e6", lw=0.6)
    ax.set_axisbelow(True)
