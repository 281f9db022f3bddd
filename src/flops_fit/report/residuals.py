"""How far runs lie from the law: those it was fitted to, and those of budgets that were held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flops_fit.fit.backtesting import Backtest
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import HeldOut
from flops_fit.report import style
from flops_fit.report.style import Floats, Row, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_KEYS = 5  # budgets that are named


@dataclass(frozen=True)
class Residuals:
    """How far each run lies from the law, in % of it or in units of the loss.

    ``distance`` is N/N* at the run's own compute.
    """

    labels: tuple[str, ...]
    compute: Floats
    budget: Floats
    params: Floats
    distance: Floats
    residual: Floats
    in_percent: bool

    def rows(self) -> list[Row]:
        """One row a run."""
        name = "residual_percent" if self.in_percent else "residual"
        return rows_of(
            run=self.labels, compute=self.compute, params=self.params,
            params_over_optimum=self.distance, **{name: self.residual},
        )  # fmt: skip


def residuals_data(fit: Fit) -> Residuals:
    """Residuals of all fitted runs, with where each run stands."""
    runs, in_percent = fit.runs, fit.loss_space == "log"
    best = np.asarray(fit.law.optimal(runs.flops, fit.flops).params)
    residual = 100 * fit.residuals if in_percent else fit.residuals
    return Residuals(
        runs.labels, runs.flops, runs.budget, runs.params, runs.params / best, residual, in_percent
    )  # fmt: skip


def draw_residuals(data: Residuals, ax: Axes | None = None) -> Figure:
    """How far each run lies from the law, over its size; a colour for each budget."""
    ax = style.axes_of(ax, "residuals")
    budgets = np.unique(data.budget)
    last = len(budgets) - 1
    named = [round(i) for i in np.linspace(0, last, min(len(budgets), _MAX_KEYS))]
    for i, (budget, colour) in enumerate(
        zip(budgets, style.compute_colours(last + 1), strict=True)
    ):
        at = data.budget == budget
        label = ("" if i else "C = ") + style.exponents(budget) if i in named else None
        ax.plot(
            data.params[at], data.residual[at], "o", color=colour, ms=3, mec="white", mew=0.3,
            label=label,
        )  # fmt: skip
    ax.axhline(0, color=style.FAINT, lw=0.6)
    style.log_axis(ax, "x", "Parameters N")
    ax.set_ylabel("Loss above the law, %" if data.in_percent else "Loss − law")
    return style.finish(ax, columns=3)


def draw_residual_map(data: Residuals, ax: Axes | None = None) -> Figure:
    """Where the law lies above and below its runs: area by size of the residual, colour by sign."""
    ax = style.axes_of(ax, "residual_map")
    unit = " %" if data.in_percent else ""
    typical = float(np.quantile(np.abs(data.residual), 0.95)) or 1.0
    area = 45 * np.minimum(np.abs(data.residual) / typical, 2.0)
    for above, colour, word in ((True, style.VERMILLION, "above"), (False, style.BLUE, "below")):
        at = (data.residual > 0) == above
        face = colour if above else "none"
        ax.scatter(
            data.compute[at], data.distance[at], s=area[at], facecolor=face, edgecolor=colour,
            linewidth=0.7, alpha=0.8,
        )  # fmt: skip
        label = f"loss {typical:.2g}{unit} {word} the law"
        ax.scatter([], [], s=45, facecolor=face, edgecolor=colour, linewidth=0.7, label=label)
    ax.axhline(1.0, color=style.FAINT, lw=0.6)
    ax.margins(0.06)
    style.compute_axis(ax, "Compute of the run C, FLOPs")
    style.log_axis(ax, "y", "Size over the optimum, N/N*", _ratio)
    return style.finish(ax)


def _ratio(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e4 else style.exponents(value)


@dataclass(frozen=True)
class HeldOutBudgets:
    """For each number of budgets held out, what the smaller ones predict and what was measured."""

    held_out: tuple[tuple[HeldOut, ...], ...]

    def rows(self) -> list[Row]:
        """One row a budget held out."""
        return [
            {
                "held_out": len(group),
                "compute": h.compute,
                "predicted_loss": h.predicted_loss,
                "measured_loss": measured_loss(h),
                "low": h.run_interval[0] if h.run_interval else None,
                "high": h.run_interval[1] if h.run_interval else None,
                "predicted_params": h.predicted_params,
                "measured_params": h.vertex_params,
            }
            for group in self.held_out
            for h in group
        ]


def measured_loss(held: HeldOut) -> float:
    """The minimum of the budget's parabola, or else its best run."""
    return held.best_loss if held.vertex_loss is None else held.vertex_loss


def backtest_data(fit: Fit, tests: tuple[Backtest, ...] = ()) -> HeldOutBudgets | None:
    """Budgets held out of the fit, ``None`` where there are too few.

    By default those that every fit checks, without intervals; ``tests`` are back-tests with theirs.
    """
    held = tuple(t.held_out for t in tests) or fit.sensitivity.held_out
    return HeldOutBudgets(held) if held else None


def draw_backtest(data: HeldOutBudgets, ax: Axes | None = None) -> Figure:
    """What smaller budgets predict of the largest, beside what was measured, in % of it."""
    ax = style.axes_of(ax, "backtest")
    ax.axhline(0, color=style.FAINT, lw=0.6)
    x = 0
    for group, colour, mark in zip(
        data.held_out, (style.BLUE, style.VERMILLION, style.GREEN), "oDs", strict=False
    ):
        word = "the largest budget" if len(group) == 1 else f"the {len(group)} largest budgets"
        for held in group:
            measured = measured_loss(held)
            if held.run_interval is not None:
                span = [100 * (v / measured - 1) for v in held.run_interval]
                ax.plot([x, x], span, color=colour, lw=3.5, alpha=0.3, solid_capstyle="butt")
            error = 100 * (held.predicted_loss / measured - 1)
            label = f"without {word}" if held is group[0] else None
            ax.plot([x], [error], mark, color=colour, ms=4.5, label=label)
            label = f"{held.predicted_loss:.4g}\nvs {measured:.4g}"
            style.annotate(ax, label, (x, error), 6)
            x += 1
    ax.set_xticks(range(x), [style.exponents(h.compute) for group in data.held_out for h in group])
    ax.set_xlim(-0.5, x - 0.25)
    reach = max(*np.abs(ax.get_ylim()), 0.5) * 1.15
    ax.set_ylim(-reach, reach)
    ax.set_xlabel("Predicted budget C, FLOPs")
    ax.set_ylabel("Predicted over measured loss, %")
    figure = style.finish(ax, columns=1)
    ax.grid(False, axis="x")
    return figure
