"""A metric over compute: the runs' scores, each route along the best N and D, and the interval."""

from dataclasses import dataclass

import numpy as np

from flops_fit.fit.metrics import BOTH, MetricFit
from flops_fit.flops.functions import Floats
from flops_fit.report import style
from flops_fit.report.optima import draw_interval
from flops_fit.report.style import Axes, Figure, Row, rows_of

_AHEAD = 30.0  # times the largest run's compute
_COLOURS = (style.BLUE, style.VERMILLION, style.GREEN)
_DASHES = ("-", *style.DASHES[:2])


@dataclass(frozen=True)
class MetricCurve:
    """Scores of runs over ``run_compute``, and predictions along ``compute``, by route.

    ``fitted`` are what the headline says of the runs' own N and D; ``lines`` is empty where nothing can be
    predicted, and ``chance`` NaN for a loss.
    """

    column: str
    run_compute: Floats
    scores: Floats
    fitted: Floats
    compute: Floats
    lines: dict[str, Floats]
    low: Floats
    high: Floats
    chance: float
    level: float

    def rows(self) -> list[Row]:
        """Runs and lines, distinguished by ``kind``."""
        runs = {"compute": self.run_compute, self.column: self.scores, "fitted": self.fitted}
        rows = rows_of(kind="run", **runs)
        for name, line in self.lines.items():
            rows += rows_of(kind=name, **{"compute": self.compute, self.column: line})
        if self.lines:
            rows += rows_of(kind="interval", compute=self.compute, low=self.low, high=self.high)
        return rows


def metric_data(fit: MetricFit, level: float = 0.9) -> MetricCurve:
    """The curves of a metric, to thirty times the compute of the largest run."""
    runs, largest = fit.runs, float(np.max(fit.runs.flops))
    compute = np.geomspace(float(np.min(runs.flops)), _AHEAD * largest, 60)
    best = fit.loss_fit.optimal(compute)
    N, D = np.asarray(best.params, float), np.asarray(best.tokens, float)
    lines, low, high = {}, np.full_like(compute, np.nan), np.full_like(compute, np.nan)
    fitted = np.full(len(runs), np.nan)
    if fit.trust != "no":
        names = dict.fromkeys((fit.headline, *fit.held_out))
        lines = {name: fit.values(N, D, name) for name in names}
        low, high = fit.span(N, D, level)
        fitted = fit.values(runs.params, runs.tokens)
    chance = fit.chance if fit.kind != "loss" else float("nan")
    points = (runs.flops, fit.scores, fitted)
    return MetricCurve(fit.column, *points, compute, lines, low, high, chance, level)


def draw_metric(data: MetricCurve, ax: Axes | None = None) -> Figure:
    """Scores over compute; runs away from the best N and D lie below the line."""
    ax = style.axes_of(ax, "metric")
    largest, level = float(np.max(data.run_compute)), f"{100 * data.level:g} %"
    draw_interval(ax, data.low, data.high, data.compute, largest, f"{level} interval of one run")
    for i, (name, values) in enumerate(data.lines.items()):
        title = "mean of both routes" if name == BOTH else name
        width, label = (0.9, title) if i else (1.2, f"{title}, at the best N and D")
        ax.plot(data.compute, values, color=_COLOURS[i], lw=width, ls=_DASHES[i], label=label)
    ax.plot(data.run_compute, data.scores, "o", ms=2.6, mfc=style.INK, mec="none", label="runs")
    if np.isfinite(data.chance):
        ax.axhline(data.chance, color=style.FAINT, lw=0.7, ls=(0, (1, 1.5)), label="chance")
    ax.set_ylabel(data.column)
    return style.finish(ax)
