"""The figures that hold the fit against something, each drawn from its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.backtesting import Backtest
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import HeldOut
from flops_fit.report.style import (
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


Floats = NDArray[np.float64]
Row = dict[str, Any]
_GRID = 70
_CONTOURS = 7


@dataclass(frozen=True)
class Surface:
    """The loss over N and D, shape (D, N), with the runs and the optima of the law.

    ``levels`` are the optimal losses of evenly spaced budgets, so that each contour touches the
    budget that first reaches it.
    """

    unit: str
    params: Floats
    tokens: Floats
    loss: Floats
    levels: Floats
    run_params: Floats
    run_tokens: Floats
    run_loss: Floats
    best_params: Floats
    best_tokens: Floats

    def rows(self) -> list[Row]:
        """Runs, optima and the grid, told apart by ``kind``."""
        out: list[Row] = []
        nan = np.full_like(self.best_params, np.nan)
        N, D = np.meshgrid(self.params, self.tokens)
        for kind, columns in (
            ("run", (self.run_params, self.run_tokens, self.run_loss)),
            ("optimum", (self.best_params, self.best_tokens, nan)),
            ("law", (N.ravel(), D.ravel(), self.loss.ravel())),
        ):
            for n, d, value in zip(*columns, strict=True):
                out.append(
                    {"kind": kind, "params": float(n), "tokens": float(d), "loss": float(value)}
                )
        return out


def surface_data(fit: Fit) -> Surface:
    """The fitted law over the range of the runs."""
    runs = fit.runs
    N = np.geomspace(runs.params.min() / 1.6, runs.params.max() * 1.6, _GRID)
    D = np.geomspace(runs.tokens.min() / 1.6, runs.tokens.max() * 1.6, _GRID)
    loss = np.asarray(fit.law.loss(N[None, :], D[:, None]))
    reach = np.geomspace(runs.flops.min() / 8, runs.flops.max() * 8, 60)
    best = fit.law.optimal(reach, fit.flops)
    n, d = np.asarray(best.params), np.asarray(best.tokens)
    inside = (n > N[0]) & (n < N[-1]) & (d > D[0]) & (d < D[-1])
    at = np.geomspace(runs.flops.min() / 2, runs.flops.max() * 1.5, _CONTOURS)
    levels = np.unique(np.asarray(fit.law.optimal(at, fit.flops).loss))
    if np.sum((levels > loss.min()) & (levels < loss.max())) < 3:  # an optimum far from all runs
        levels = np.unique(np.linspace(loss.min(), loss.max(), _CONTOURS + 2)[1:-1])
    return Surface(
        runs.unit,
        N,
        D,
        loss,
        levels,
        runs.params,
        runs.tokens,
        runs.loss,
        n[inside],
        d[inside],
    )


@dataclass(frozen=True)
class Held:
    """What cheaper budgets foretell of dearer ones, and what was measured there.

    Attributes
    ----------
    held_out
        For each number of budgets held out, those budgets.
    compute, loss
        Every budget with the lowest loss that one of its runs has.
    """

    held_out: tuple[tuple[HeldOut, ...], ...]
    compute: Floats
    loss: Floats

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


def backtest_data(fit: Fit, tests: tuple[Backtest, ...] = ()) -> Held | None:
    """Budgets held out of the fit, ``None`` where too few are there.

    By default those that every fit looks at, without intervals; ``tests`` are back-tests with
    theirs.
    """
    held = tuple(t.held_out for t in tests) or fit.sensitivity.held_out
    if not held:
        return None
    budgets = np.unique(fit.runs.budget)
    best = np.array([float(fit.runs.loss[fit.runs.budget == b].min()) for b in budgets])
    return Held(held, budgets, best)


@dataclass(frozen=True)
class Approaches:
    """N* of each approach and of each other law form over N* of the answer.

    Attributes
    ----------
    compute, low, high
        Where lines are given, and the answer's interval over the answer (NaN where it has none).
    lines
        By name, the ratio along ``compute``.
    minima
        (C, ratio) of approach 2's minima, shape (k, 2).
    answer
        What everything is divided by.
    largest, level
        C of the largest run, and the level of the interval.
    """

    compute: Floats
    low: Floats
    high: Floats
    lines: dict[str, Floats]
    minima: Floats
    answer: str
    largest: float
    level: float

    def rows(self) -> list[Row]:
        """Ratios along compute, told apart by ``kind``."""
        out: list[Row] = [
            {"kind": name, "compute": float(c), "params_over_answer": float(v)}
            for name, line in self.lines.items()
            for c, v in zip(self.compute, line, strict=True)
        ]
        out += [
            {
                "kind": self.answer,
                "compute": float(c),
                "params_over_answer": 1.0,
                "low": a,
                "high": b,
            }
            for c, a, b in zip(self.compute, self.low, self.high, strict=True)
        ]
        return out + [
            {"kind": "parabola's minimum", "compute": float(c), "params_over_answer": float(v)}
            for c, v in self.minima
        ]


def approaches_data(fit: Fit, level: float = 0.9, reach: float = 10.0) -> Approaches:
    """The three approaches and the other law forms beside the answer."""
    compute = np.geomspace(fit.runs.flops.min() / 1.3, fit.largest_compute * reach, 24)
    predictions = [fit.predict(float(c), level) for c in compute]
    answer = np.array([p.optimal_params for p in predictions])
    spans = [p.intervals["optimal_params"] or (np.nan, np.nan) for p in predictions]
    low, high = (np.array(v) / answer for v in zip(*spans, strict=True))
    names = {"surface": "3 surface", "isoflop": "2 parabolas", "envelope": "1 envelope"}
    named = next((names[a.name] for a in fit.approaches if a.headline), names["surface"])
    lines: dict[str, Floats] = {}
    if named != names["surface"]:
        lines[names["surface"]] = _ratio(fit.law.optimal(compute, fit.flops).params, answer)
    for name, found in (("isoflop", fit.isoflop), ("envelope", fit.envelope)):
        line = found.n_line if found is not None and found.usable else None
        if line is not None and named != names[name]:
            lines[names[name]] = _ratio([line(float(c)) for c in compute], answer)
    forms = {"hoffmann": "additive law", "kappa": "κ-law"}
    for other in fit.alternatives:
        if other.status.usable and other.law.name != fit.law.name:
            label = forms.get(other.law.name, f"{other.law.name} law")
            lines[label] = _ratio(other.law.optimal(compute, fit.flops).params, answer)
    minima = [(p.budget, p.params / fit.optimal(p.budget).params) for p in fit.isoflop.interior]
    return Approaches(
        compute,
        low,
        high,
        lines,
        np.array(minima).reshape(-1, 2),
        named,
        fit.largest_compute,
        level,
    )


def _ratio(params: Any, answer: Floats) -> Floats:
    return np.asarray(params, dtype=np.float64) / answer


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
