"""Learning rate and batch where they were fitted with the law: the valley, and the rule over compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flops_fit.fit.fit import Fit
from flops_fit.fit.hparam_rule import EXPONENTS
from flops_fit.fit.prediction import Prediction
from flops_fit.flops.functions import Floats
from flops_fit.recipes.published import RECIPES
from flops_fit.records import ParamCount
from flops_fit.report import style
from flops_fit.report.style import Row, rows_of
from flops_fit.report.table import TextTable, best_settings
from flops_fit.text import format_count, format_regret

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COMPARED = ("steplaw2025", "deepseek2024", "default")
_WORDS = {"lr": "Learning rate", "batch_units": "Batch"}
_MOST_COLOURS = 12  # budgets that are told apart
_POINTS = 9  # of a line over compute


@dataclass(frozen=True, eq=False)
class ValleyCurve:
    """Loss above the best against a setting over its best: runs, and the curve with its interval."""

    axis: str
    budget: Floats  # of each run
    ratio: Floats
    excess: Floats
    at: Floats
    value: Floats
    low: Floats
    high: Floats

    def rows(self) -> list[Row]:
        """The runs, and the curve, distinguished by ``kind``."""
        curve = {"ratio": self.at, "excess": self.value, "low": self.low, "high": self.high}
        own = {"budget": self.budget, "ratio": self.ratio, "excess": self.excess}
        return rows_of(kind="run", **own) + rows_of(kind="curve", **curve)


def valley_data(fit: Fit, axis: str, level: float = 0.9) -> ValleyCurve | None:
    """The valley along ``"lr"`` or ``"batch_units"``: runs less what the other setting costs."""
    rule, runs = fit.hparams, fit.runs
    if rule is None or axis not in rule.names or runs.regret is None:
        return None
    off, own = rule.parts(runs)[axis]
    ratio = np.exp(off)
    excess = np.expm1(own + fit.residuals / (1 if fit.loss_space == "log" else runs.loss))
    at = np.geomspace(min(ratio.min(), 1 / 3), max(ratio.max(), 3), 61)
    u, draws = np.log(at), rule.valley.draws
    if axis == "lr":
        rise = np.exp(draws[:, 7:8] + draws[:, 9:] * np.tanh(u)) * u**2
    else:
        rise = np.exp(draws[:, 8:9]) * u**2
    low, value, high = np.expm1(np.quantile(rise, [0.5 - level / 2, 0.5, 0.5 + level / 2], axis=0))
    return ValleyCurve(axis, runs.budget, ratio, excess, at, value, low, high)


def draw_valley(data: ValleyCurve, ax: Axes | None = None) -> Figure:
    """Loss above the best over the ratio of a setting to its best."""
    ax = style.axes_of(ax, f"{data.axis}_valley")
    ax.fill_between(data.at, 100 * data.low, 100 * data.high, color=style.BLUE, alpha=0.2, lw=0)
    ax.plot(data.at, 100 * data.value, color=style.BLUE, lw=1.2, label="fitted valley")
    shown = data.excess <= max(1.5 * float(data.value.max()), 1e-4)
    budgets = np.unique(data.budget)
    few = len(budgets) <= _MOST_COLOURS
    colours = style.compute_colours(len(budgets)) if few else [style.INK]
    for i, colour in enumerate(colours):
        own = shown & ((data.budget == budgets[i]) | (not few))
        label = style.exponents(budgets[i]) if i in (0, len(budgets) - 1) else None
        x, y, label = data.ratio[own], 100 * data.excess[own], label if few else "runs"
        ax.plot(x, y, "o", color=colour, ms=2.6, mew=0, alpha=0.8, label=label)
    style.log_axis(ax, "x", f"{_WORDS[data.axis]} over its best", "{:g}".format)
    ax.set_ylabel("Loss above the best, %")
    return style.finish(ax)


@dataclass(frozen=True, eq=False)
class RuleCurve:
    """The best setting along N*(C) with its interval, that of published rules, and the runs'."""

    axis: str
    unit: str
    compute: Floats
    value: Floats
    low: Floats
    high: Floats
    others: dict[str, Floats]
    runs: Floats  # (runs, 2): C and the setting
    exponents: str

    def rows(self) -> list[Row]:
        """One row a budget and rule, and one a run."""
        own = {"value": self.value, "low": self.low, "high": self.high}
        rows = rows_of(kind="fitted", compute=self.compute, **own)
        for name, value in self.others.items():
            rows += rows_of(kind=name, compute=self.compute, value=value)
        return rows + rows_of(kind="run", compute=self.runs[:, 0], value=self.runs[:, 1])


def rule_data(fit: Fit, axis: str, level: float = 0.9) -> RuleCurve | None:
    """The rule for ``"lr"`` or ``"batch_units"`` from the smallest budget to ten times the largest."""
    rule, runs = fit.hparams, fit.runs
    if rule is None or axis not in rule.names:
        return None
    compute = np.geomspace(float(runs.flops.min()), 10 * fit.largest_compute, _POINTS)
    best = fit.optimal(compute)
    pairs = list(zip(np.atleast_1d(best.params), np.atleast_1d(best.tokens), strict=True))
    told = [rule.optimal(float(n), float(d), level) for n, d in pairs]
    spans = [t.lr_interval if axis == "lr" else t.batch_interval for t in told]
    low, high = np.array(spans).T
    counts = [ParamCount(*[max(int(n), 1)] * 4) for n, _ in pairs]
    others = {}
    for name in _COMPARED if axis == "lr" or rule.batch_unit == rule.unit else ():
        chosen = (
            RECIPES[name](c, float(p[1]), runs.unit) for c, p in zip(counts, pairs, strict=True)
        )
        others[name] = np.array([getattr(hparams, axis) for hparams in chosen])
    value = np.array([getattr(t, axis) for t in told])
    points = np.column_stack([runs.flops, getattr(runs, axis)])
    powers = [
        f"{EXPONENTS[name][1].split(' at ')[0].replace('^a', '').replace('^b', '')}^{e.value:.2f}"
        for name, e in rule.exponents.items()
        if name.startswith(axis.split("_")[0]) and name != "lr_batch"
    ]
    band = compute, value, low, high
    return RuleCurve(axis, rule.batch_unit, *band, others, points, ", ".join(powers))


def draw_rule(data: RuleCurve, ax: Axes | None = None) -> Figure:
    """The best learning rate or batch over compute, beside published rules."""
    ax = style.axes_of(ax, f"{data.axis}_rule")
    ax.plot(*data.runs.T, "o", color=style.FAINT, ms=2, mew=0, alpha=0.6, label="runs")
    ax.fill_between(data.compute, data.low, data.high, color=style.BLUE, alpha=0.2, lw=0)
    ax.plot(data.compute, data.value, color=style.BLUE, lw=1.3, label=data.exponents)
    for (name, value), dash in zip(data.others.items(), style.DASHES, strict=False):
        ax.plot(data.compute, value, color=style.VERMILLION, lw=0.9, ls=dash, label=name)
    style.log_axis(ax, "x", "Training FLOPs", style.exponents)
    unit = "" if data.axis == "lr" else f" ({data.unit})"
    shown = "{:.3g}".format if data.axis == "lr" else format_count
    style.log_axis(ax, "y", f"{_WORDS[data.axis]}{unit}", shown)
    return style.finish(ax)


def rule_table(fit: Fit, predictions: Sequence[Prediction], level: float = 0.9) -> TextTable | None:
    """The best learning rate and batch of each predicted run; ``None`` where no rule was fitted."""
    rule = fit.hparams
    if rule is None:
        return None
    head = f"FLOPs|N|D ({rule.unit})|Learning rate|Batch ({rule.batch_unit})|Regret left"
    rows = [head.split("|")]
    for p in predictions:
        best = rule.optimal(p.optimal_params, p.optimal_tokens, level)
        sizes = [format_count(p.optimal_params), format_count(p.optimal_tokens)]
        settings = [said or "as in the runs" for said in best_settings(best, "{:.3g}")]
        rows.append([f"{p.target_compute:.3g}", *sizes, *settings, format_regret(best.regret)])
    share = f"{100 * level:g} % intervals"
    note = f"{rule}. In brackets {share}. Regret is the loss above that at the true best, expected."
    return TextTable("Learning rate and batch", rows, note)
