"""The optimum over compute, N* of other approaches and forms, and what held-out budgets say of it."""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.backtesting import Backtest
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import HeldOut
from flops_fit.flops.functions import Floats
from flops_fit.report import style
from flops_fit.report.isoflop import law_name
from flops_fit.report.style import Axes, Figure, Row, rows_of

APPROACH_NAMES = {"surface": "3 surface", "isoflop": "2 parabolas", "envelope": "1 envelope"}
_MARKS = ("o", "s", "^")
_LARGEST_LOG_RATIO = np.log(100.0)  # what differs from the answer by more is off the chart


@dataclass(frozen=True)
class OptimalPath:
    """A quantity along the compute-optimal path, with its interval where one exists."""

    compute: Floats
    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class OptimumCurve:
    """N*, D* or the loss over compute, observed (C, value) by kind, and C of the largest run.

    ``level`` is that of the intervals; ``run`` has that of one run's loss, ``loss`` is what axes call it.
    """

    quantity: str
    unit: str
    path: OptimalPath
    source: str
    observed: dict[str, Floats]
    largest: float
    level: float
    run: OptimalPath | None = None
    loss: str = "Held-out loss"

    def rows(self) -> list[Row]:
        """The path with its intervals, and observations, distinguished by ``kind``."""
        p, name = self.path, self.quantity
        path = {"compute": p.compute, name: p.value, "low": p.low, "high": p.high}
        if self.run is not None:
            path |= {"run_low": self.run.low, "run_high": self.run.high}
        rows = rows_of(kind=self.source, **path)
        for kind, points in self.observed.items():
            rows += rows_of(kind=kind, **{"compute": points[:, 0], name: points[:, 1]})
        return rows


Paths = dict[str, OptimalPath]


def optimal_path(fit: Fit, level: float = 0.9) -> Paths:
    """N*, D*, the loss and that of one run, from the smallest budget to ten times the largest."""
    largest = fit.largest_compute
    start = min(float(fit.runs.budget.min()), largest) / 1.5
    inside, beyond = np.geomspace(start, largest, 20), np.geomspace(largest, largest * 10.0, 8)
    compute = np.unique(np.concatenate([inside, beyond]))
    path = fit.predict_path(compute, level)
    names = ("params", "tokens", "loss", "tokens_per_param", "run_loss")
    return {n: OptimalPath(compute, *ends) for n, ends in zip(names, path, strict=True)}


def optimum_data(
    fit: Fit, quantity: str, level: float = 0.9, paths: Paths | None = None
) -> OptimumCurve:
    """``"params"``, ``"tokens"`` or ``"loss"`` at the optimum over compute.

    With N* and D* come the minima of approach 2 and the winners of approach 1, with the loss each
    budget's best run.
    """
    runs = fit.runs
    if quantity == "loss":
        lowest = [(b, runs.loss[runs.budget == b].min()) for b in np.unique(runs.budget)]
        observed = {"best run of a budget": lowest}
    else:
        winners = fit.envelope.points if fit.envelope else ()
        minima = [(p.budget, getattr(p, quantity)) for p in fit.isoflop.interior]
        envelope = [(w.compute, getattr(w, quantity)) for w in winners]
        observed = {"minimum of a parabola": minima, "point on the envelope": envelope}
    seen = {kind: np.array(pairs, float) for kind, pairs in observed.items() if pairs}
    on_lines = any(a.headline for a in fit.approaches[:2])
    source = "line through the minima" if on_lines else "median of the drawn surfaces"
    paths = paths or optimal_path(fit, level)
    path, run = paths[quantity], paths["run_loss"] if quantity == "loss" else None
    largest, name = fit.largest_compute, style.loss_name(runs)
    return OptimumCurve(quantity, runs.unit, path, source, seen, largest, level, run, name)


def draw_optimum(data: OptimumCurve, ax: Axes | None = None) -> Figure:
    """N*, D* or the loss over compute with its interval, dashed beyond the largest run."""
    ax = style.axes_of(ax, data.quantity)
    path = data.path
    interval = f"{100 * data.level:g} % interval"
    draw_interval(ax, path.low, path.high, path.compute, data.largest, interval)
    if data.run is not None and np.any(np.isfinite(data.run.low)):
        label = f"{interval} of one run"
        for end, name in ((data.run.low, label), (data.run.high, None)):
            line = ax.plot(
                path.compute, end, color=style.BLUE, lw=0.6, ls=(0, (1, 1.5)), label=name
            )
            style.tag(line, label)
    if np.any(np.isfinite(path.value)):
        x, y = path.compute, path.value
        within, beyond = x <= data.largest * (1 + 1e-9), x >= data.largest * (1 - 1e-9)
        ax.plot(x[within], y[within], color=style.BLUE, lw=1.2, label=data.source)
        line = ax.plot(x[beyond], y[beyond], color=style.BLUE, lw=1.2, ls=(0, (3, 2)))
        style.tag(line, data.source)
    for (kind, points), mark in zip(data.observed.items(), _MARKS, strict=False):
        face = style.INK if mark == "o" else "none"
        ax.plot(*points.T, mark, mfc=face, mec=style.INK, label=kind, ms=3, mew=0.6, zorder=3)
    if data.quantity == "loss":
        ax.set_ylabel(f"{data.loss} at the optimum")
        # An interval that opens far beyond the runs must not flatten all that was measured.
        values = np.concatenate([path.value, *(points[:, 1] for points in data.observed.values())])
        low, high = np.nanmin(values), np.nanmax(values)
        spread = max(high - low, 1e-3 * abs(high))
        ends = path.low[np.isfinite(path.low)]
        bottom = max(ends.min(), low - 0.5 * spread) if len(ends) else low
        ax.set_ylim(bottom - 0.05 * spread, high + 0.08 * spread)
    else:
        name = "parameters N" if data.quantity == "params" else f"{data.unit} D"
        style.log_axis(ax, "y", f"Optimal {name}*")
    return style.finish(ax)


def draw_interval(
    ax: Axes, low: Floats, high: Floats, compute: Floats, largest: float, label: str
) -> None:
    """The interval along compute, with what lies beyond the runs shaded; it sets the x axis."""
    ax.axvspan(largest, compute[-1], color=style.SHADE, lw=0, label="beyond the runs")
    if np.any(np.isfinite(low)):
        ax.fill_between(compute, low, high, color=style.BLUE, alpha=0.25, lw=0, label=label)
    ax.set_xlim(compute[0], compute[-1])
    style.log_axis(ax, "x", "Training compute C, FLOPs", style.exponents)


@dataclass(frozen=True)
class ApproachRatios:
    """N* of each approach and law form and the interval over N* of the answer, along ``compute``."""

    compute: Floats
    low: Floats
    high: Floats
    lines: dict[str, Floats]
    minima: Floats
    answer: str
    largest: float
    level: float

    def rows(self) -> list[Row]:
        """Ratios along compute, distinguished by ``kind``."""
        rows: list[Row] = []
        for name, line in self.lines.items():
            rows += rows_of(kind=name, compute=self.compute, params_over_answer=line)
        own = {"compute": self.compute, "low": self.low, "high": self.high}
        rows += rows_of(kind=self.answer, params_over_answer=1.0, **own)
        C, ratio = self.minima.T
        return rows + rows_of(kind="parabola's minimum", compute=C, params_over_answer=ratio)


def approaches_data(fit: Fit, level: float = 0.9, paths: Paths | None = None) -> ApproachRatios:
    """The three approaches and the law forms, relative to the answer."""
    path = (paths or optimal_path(fit, level))["params"]
    compute = path.compute
    headline = next((a.name for a in fit.approaches if a.headline), "surface")
    lines = {}
    if headline != "surface":
        lines[APPROACH_NAMES["surface"]] = fit.law.optimal(compute, fit.flops).params
    for name, approach in (("isoflop", fit.isoflop), ("envelope", fit.envelope)):
        line = approach.n_line if approach is not None and approach.usable else None
        if line is not None and headline != name:
            lines[APPROACH_NAMES[name]] = np.array([line(float(c)) for c in compute])
    for other in fit.alternatives:
        if other.status.usable and other.law.name != fit.law.name:
            lines[law_name(other.law.name)] = other.law.optimal(compute, fit.flops).params
    ratios = {name: np.asarray(N, np.float64) / path.value for name, N in lines.items()}
    minima = np.array([(p.budget, p.params) for p in fit.isoflop.interior]).reshape(-1, 2)
    if len(minima):
        minima[:, 1] /= fit.optimal(minima[:, 0]).params
    low, high = path.low / path.value, path.high / path.value
    answer, largest = APPROACH_NAMES[headline], fit.largest_compute
    return ApproachRatios(compute, low, high, ratios, minima, answer, largest, level)


def draw_approaches(data: ApproachRatios, ax: Axes | None = None) -> Figure:
    """N* of every approach and law form over that of the answer, with the answer's interval."""
    ax = style.axes_of(ax, "approaches")
    interval = f"{100 * data.level:g} % interval"
    draw_interval(ax, data.low, data.high, data.compute, data.largest, interval)
    ax.axhline(1.0, color=style.BLUE, lw=1.2, label=f"{data.answer} (the answer)")
    colours = (style.VERMILLION, style.GREEN, style.PINK, style.INK)
    for (name, line), colour, dash in zip(data.lines.items(), colours, style.DASHES, strict=False):
        off = np.all(np.abs(np.log(line)) > _LARGEST_LOG_RATIO)
        label = f"{name} (off the chart)" if off else name
        ax.plot(data.compute, line, color=colour, ls=dash, lw=1.2, label=label)
    if len(data.minima):
        ax.plot(*data.minima.T, "o", color=style.INK, ms=3, label="minimum of a parabola")
    # Wide enough for the lines and minima, and no wider where an interval opens.
    drawn = [np.ones(1), data.minima[:, 1], *data.lines.values()]
    away = np.abs(np.log(np.concatenate(drawn)))
    spans = np.abs(np.log(np.concatenate([data.low, data.high])))
    reach = float(np.max(away[away < _LARGEST_LOG_RATIO]))
    if np.any(np.isfinite(spans)):
        reach = max(reach, min(float(np.nanmax(spans)), reach + 1.0))
    reach = 1.1 * max(reach, 0.03)
    ax.set_ylim(np.exp(-reach), np.exp(reach))
    style.log_axis(ax, "y", "N* over that of the answer", "{:.4g}".format)
    return style.finish(ax)


@dataclass(frozen=True)
class HeldOutBudgets:
    """For each number of budgets held out, what the smaller ones predict and what was measured."""

    held_out: tuple[tuple[HeldOut, ...], ...]

    def rows(self) -> list[Row]:
        """One row a budget held out."""
        rows: list[Row] = []
        for count, h in ((len(group), h) for group in self.held_out for h in group):
            low, high = h.run_interval or (None, None)
            loss = {"predicted_loss": h.predicted_loss, "measured_loss": measured_loss(h)}
            size = {"predicted_params": h.predicted_params, "measured_params": h.vertex_params}
            head = {"held_out": count, "compute": h.compute}
            rows.append({**head, **loss, "low": low, "high": high, **size})
        return rows


def measured_loss(held: HeldOut) -> float:
    """The minimum of the budget's parabola, or else its best run."""
    return held.best_loss if held.vertex_loss is None else held.vertex_loss


def backtest_data(fit: Fit, tests: tuple[Backtest, ...] = ()) -> HeldOutBudgets | None:
    """Budgets held out of the fit, or of ``tests`` with intervals; ``None`` where too few."""
    held = tuple(t.held_out for t in tests) or fit.sensitivity.held_out
    return HeldOutBudgets(held) if held else None


def draw_backtest(data: HeldOutBudgets, ax: Axes | None = None) -> Figure:
    """What smaller budgets predict of the largest, and what was measured, relative to that.

    In % where losses are positive, as differences where they are not.
    """
    ax = style.axes_of(ax, "backtest")
    ax.axhline(0, color=style.FAINT, lw=0.6)
    held = [h for group in data.held_out for h in group]
    budgets = sorted({h.compute for h in held})
    percent = all(measured_loss(h) > 0 for h in held)
    looks = zip((style.BLUE, style.VERMILLION, style.GREEN), "oDs", strict=True)
    for i, (group, (colour, mark)) in enumerate(zip(data.held_out, looks, strict=False)):
        word = "the largest budget" if len(group) == 1 else f"the {len(group)} largest budgets"
        name, shift = f"without {word}", 0.2 * (i - (len(data.held_out) - 1) / 2)
        for held_out in group:
            measured, x = measured_loss(held_out), budgets.index(held_out.compute) + shift
            values = [held_out.predicted_loss, *(held_out.run_interval or ())]
            error, *span = (100 * (v / measured - 1) if percent else v - measured for v in values)
            if span:
                bar = ax.plot([x, x], span, color=colour, lw=3.5, alpha=0.3, solid_capstyle="butt")
                style.tag(bar, name)
            said = f"{values[0]:#.4g}\nvs {measured:#.4g}"
            label = name if held_out is group[0] else None
            point = ax.plot([x], [error], mark, color=colour, ms=4.5, label=label)
            limits = " ({:#.4g}–{:#.4g})".format(*values[1:]) if span else ""
            tip = f"{name}: {values[0]:#.4g}{limits} predicted, {measured:#.4g} measured"
            style.tag(point, name, tips=[tip])
            # Of two, one stands higher: the next budget has its label on this side.
            side = 1 if shift < 0 else -1
            style.annotate(ax, said, (x, error), -6 * side, 11 * side * bool(shift))
    ax.set_xticks(range(len(budgets)), [style.exponents(b) for b in budgets])
    ax.set_xlim(-0.7, len(budgets) - 0.3)
    reach = max(*np.abs(ax.get_ylim()), 0.5 if percent else 0.0) * 1.15
    ax.set_ylim(-reach, reach)
    ax.set_xlabel("Predicted budget C, FLOPs")
    ax.set_ylabel("Predicted over measured loss, %" if percent else "Predicted − measured loss")
    figure = style.finish(ax, columns=1)
    ax.grid(False, axis="x")
    return figure
