"""Hyper-parameters: tried before the sweep, fitted with the law, and training curves on one scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.fit.fit import Fit
from flops_fit.fit.hparam_rule import EXPONENTS, SAID
from flops_fit.fit.prediction import Prediction
from flops_fit.fit.valley import CURVATURES
from flops_fit.fit.varied import TUNED
from flops_fit.flops.functions import Floats
from flops_fit.recipes.published import RECIPES
from flops_fit.records import ParamCount
from flops_fit.report import style
from flops_fit.report.style import Axes, Colour, Figure, Row, rows_of
from flops_fit.report.table import WORDS, TextTable, best_settings
from flops_fit.store.read import TrainingCurve
from flops_fit.text import format_count, format_regret, shown_count
from flops_fit.tune.effects import Collapse
from flops_fit.tune.tuning import REACH, Tuning

_MAX_EXCESS = 0.12  # of the loss: what is worse is off the figure, and its marks stand at the edge
_MAX_KEYS = 6  # cells that are named
_MOST_CURVES = 60  # in a figure, and points of each
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


def trials_data(tuning: Tuning | None, axis: str) -> Trials | None:
    """What was tried along ``"lr"``, at the recipe's batch, or along ``"batch"``, with noise scales.

    Rates follow a batch by the square root. ``None`` where nothing was tried.
    """
    fits = None if tuning is None else tuning.lr if axis == "lr" else tuning.batch
    if tuning is None or fits is None:
        return None
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
    rows = tuning.rows()
    noise = "" if tuning.seed_sd is None else f"The noise between seeds is {tuning.seed_sd:.2%}. "
    note = WORDS["tuning"].format(noise=noise)
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    return TextTable("Where hyper-parameters were tried", cells, note)


@dataclass(frozen=True, eq=False)
class TrainingCurves:
    """The training loss of each run against the units it has seen, thinned, smallest budget first."""

    unit: str
    labels: tuple[str, ...]
    params: Floats
    budget: Floats
    units: tuple[Floats, ...]
    loss: tuple[Floats, ...]

    def rows(self) -> list[Row]:
        """One row a point."""
        runs = zip(self.labels, self.params, self.budget, self.units, self.loss, strict=True)
        rows = (
            rows_of(run=run, params=float(N), compute=float(C), units=D, loss=loss)
            for run, N, C, D, loss in runs
        )
        return [row for group in rows for row in group]


def training_data(curves: Sequence[TrainingCurve]) -> TrainingCurves | None:
    """The training curves of a sweep, at most 60 of 60 points; ``None`` if there are none."""
    ordered = sorted(curves, key=lambda c: (c.run.experiment.budget, c.run.experiment.params.total))
    few = np.linspace(0, len(ordered) - 1, min(len(ordered), _MOST_CURVES)).round().astype(int)
    chosen = [ordered[i] for i in few]
    if not chosen:
        return None
    made = [c.run.experiment for c in chosen]
    at = [
        np.unique(np.geomspace(1, len(c.loss), _MOST_CURVES).round().astype(int)) - 1
        for c in chosen
    ]
    return TrainingCurves(
        made[0].unit,
        tuple(e.label for e in made),
        np.array([float(e.params.total) for e in made]),
        np.array([e.budget for e in made]),
        tuple(c.share[i] * c.run.experiment.tokens for c, i in zip(chosen, at, strict=True)),
        tuple(c.loss[i] for c, i in zip(chosen, at, strict=True)),
    )


def draw_training(data: TrainingCurves, ax: Axes | None = None) -> Figure:
    """The training loss of each run over its data; a colour for each budget."""
    ax = style.axes_of(ax, "training")
    for i, (colour, name) in enumerate(style.colour_budgets(ax, data.budget)):
        line = ax.plot(data.units[i], data.loss[i], color=colour, lw=0.7)
        tip = f"{data.labels[i]}: N = {format_count(data.params[i])}"
        style.tag(line, name, tips=[tip])
    # The fall from the first steps must not flatten what follows.
    shown = [x >= 0.03 * x[-1] for x in data.units]
    late = np.concatenate([y[at] for y, at in zip(data.loss, shown, strict=True)])
    ax.set_xlim(min(x[at][0] for x, at in zip(data.units, shown, strict=True)) / 1.1)
    margin = 0.04 * float(np.ptp(late)) or 1e-3
    ax.set_ylim(float(late.min()) - margin, float(late.max()) + margin)
    style.log_axis(ax, "x", f"{data.unit.capitalize()} seen")
    ax.set_ylabel("Training loss")
    return style.finish(ax, columns=3)


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


_COMPARED = ("steplaw2025", "deepseek2024", "default")
_WORDS = {"lr": "Learning rate", "batch_units": "Batch", "weight_decay": "Weight decay"}
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
    """The valley along one of ``TUNED`` at the middle length, and what each run missed it by."""
    rule, runs = fit.hparams, fit.runs
    if rule is None or axis not in rule.names or runs.regret is None:
        return None
    off = rule.off(runs)[axis]
    ratio = np.exp(off)
    at = np.geomspace(min(ratio.min(), 1 / 3), max(ratio.max(), 3), 61)
    u, draws = np.log(at), rule.valley.draws
    rise = np.exp(draws[:, [CURVATURES[TUNED.index(axis)]]]) * u**2
    if axis == "lr":
        rise *= np.exp(draws[:, 9:10] * np.tanh(u))
    low, middle, high = np.quantile(rise, [0.5 - level / 2, 0.5, 0.5 + level / 2], axis=0)
    # Of all lengths, at the middle one, for which the curve is.
    missed = fit.residuals / (1 if fit.loss_space == "log" else runs.loss)
    excess = np.expm1(np.interp(off, u, middle) + missed)
    curve = (at, *np.expm1([middle, low, high]))
    return ValleyCurve(axis, runs.budget, ratio, excess, *curve)


def draw_valley(data: ValleyCurve, ax: Axes | None = None) -> Figure:
    """Loss above the best over the ratio of a setting to its best."""
    ax = style.axes_of(ax, f"{data.axis}_valley")
    ax.fill_between(data.at, 100 * data.low, 100 * data.high, color=style.BLUE, alpha=0.2, lw=0)
    ax.plot(data.at, 100 * data.value, color=style.BLUE, lw=1.2, label="fitted valley", zorder=4)
    shown = np.flatnonzero(data.excess <= max(1.5 * float(data.value.max()), 1e-4))
    shown = shown[style.sparse(np.log(data.ratio[shown]), data.excess[shown])]
    style.draw_runs(ax, data.ratio, 100 * data.excess, data.budget, shown)
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
    """The rule for one of ``TUNED`` from the smallest budget to ten times the largest."""
    rule, runs = fit.hparams, fit.runs
    if rule is None or axis not in rule.names:
        return None
    compute = np.geomspace(float(runs.flops.min()), 10 * fit.largest_compute, _POINTS)
    best = fit.optimal(compute)
    pairs = list(zip(np.atleast_1d(best.params), np.atleast_1d(best.tokens), strict=True))
    told = [rule.optimal(float(n), float(d), level) for n, d in pairs]
    spans = dict(zip(TUNED, ("lr_interval", "batch_interval", "decay_interval"), strict=True))
    low, high = np.array([getattr(t, spans[axis]) for t in told]).T
    counts = [ParamCount(*[max(int(n), 1)] * 4) for n, _ in pairs]
    others = {}
    for name in _COMPARED if axis != "batch_units" or rule.batch_unit == rule.unit else ():
        chosen = (
            RECIPES[name](c, float(p[1]), runs.unit) for c, p in zip(counts, pairs, strict=True)
        )
        others[name] = np.array([getattr(hparams, axis) for hparams in chosen])
    value = np.array([getattr(t, axis) for t in told])
    points = np.column_stack([runs.flops, getattr(runs, axis)])
    powers = [
        f"{EXPONENTS[name][1].split(' at ')[0].split('^')[0]}^{e.value:.2f}"
        for name, e in rule.exponents.items()
        if name.startswith(SAID[axis][1]) and name != "lr_batch"
    ]
    band = compute, value, low, high
    return RuleCurve(axis, rule.batch_unit, *band, others, points, ", ".join(powers))


def draw_rule(data: RuleCurve, ax: Axes | None = None) -> Figure:
    """The best of a setting over compute, beside published rules."""
    ax = style.axes_of(ax, f"{data.axis}_rule")
    at = style.sparse(*np.log(data.runs).T)
    points = ax.plot(*data.runs[at].T, "o", color=style.FAINT, ms=2, mew=0, alpha=0.6, label="runs")
    style.tag(points, "runs", tips=at.tolist())
    ax.fill_between(data.compute, data.low, data.high, color=style.BLUE, alpha=0.2, lw=0)
    ax.plot(data.compute, data.value, color=style.BLUE, lw=1.3, label=data.exponents)
    for (name, value), dash in zip(data.others.items(), style.DASHES, strict=False):
        ax.plot(data.compute, value, color=style.VERMILLION, lw=0.9, ls=dash, label=name)
    style.log_axis(ax, "x", "Training compute C, FLOPs", style.exponents)
    batch = data.axis == "batch_units"
    unit, shown = (f" ({data.unit})", format_count) if batch else ("", "{:.3g}".format)
    style.log_axis(ax, "y", f"{_WORDS[data.axis]}{unit}", shown)
    return style.finish(ax)


def rule_table(fit: Fit, predictions: Sequence[Prediction], level: float = 0.9) -> TextTable | None:
    """The best settings of each predicted run; ``None`` where no rule was fitted."""
    rule = fit.hparams
    if rule is None:
        return None
    own = [f"{word} ({rule.batch_unit})" if word == "Batch" else word for word in _WORDS.values()]
    own = own if "weight_decay" in rule.names else own[:2]
    rows = [["FLOPs", "N", f"D ({rule.unit})", *own, "Regret left"]]
    for p in predictions:
        best = rule.optimal(p.optimal_params, p.optimal_tokens, level)
        sizes = [shown_count(p.optimal_params), shown_count(p.optimal_tokens)]
        said = best_settings(best, "{:#.3g}")[: len(own)]
        settings = [words or "as in the runs" for words in said]
        rows.append([f"{p.target_compute:.3g}", *sizes, *settings, format_regret(best.regret)])
    share = f"{100 * level:g} % intervals"
    note = f"{rule}. In brackets {share}. Regret is the loss above that at the true best, expected."
    title = "Learning rate, batch and weight decay" if own[2:] else "Learning rate and batch"
    return TextTable(title, rows, note)
