"""A page that compares two fits: who needs less compute for the same loss, and how sure that is."""

import html
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.files import output_errors, write_output
from flops_fit.fit.comparison import Comparison, compare
from flops_fit.fit.fit import Fit
from flops_fit.report import figures, style
from flops_fit.report.figures import Drawn
from flops_fit.report.optima import OptimumCurve, optimal_path, optimum_data
from flops_fit.report.page import document, figure_list, findings_list
from flops_fit.report.style import Axes, Figure, Row
from flops_fit.report.table import WORDS, TextTable, optima, paragraph

_NAMES = ("the first", "the second")
_LONGEST = 36  # of a name: figures have no room for a whole path
_POINTS = 3  # budgets of the table of multipliers: each takes a second


@dataclass(frozen=True)
class TwoCurves:
    """N* or the loss over compute of two fits, by their names."""

    curves: dict[str, OptimumCurve]

    def rows(self) -> list[Row]:
        """The rows of both, distinguished by ``fit``."""
        return [{"fit": name, **row} for name, curve in self.curves.items() for row in curve.rows()]


def draw_two(data: TwoCurves, ax: Axes | None = None) -> Figure:
    """Both curves with their intervals and what was observed."""
    ax = style.axes_of(ax, "compared")
    looks = zip(data.curves.items(), (style.BLUE, style.VERMILLION), "os", strict=True)
    for (name, curve), colour, mark in looks:
        path, beyond = curve.path, curve.path.compute > curve.largest
        x, y = path.compute[~beyond], path.value[~beyond]
        band = ax.fill_between(
            x, path.low[~beyond], path.high[~beyond], color=colour, alpha=0.2, lw=0
        )
        style.tag(band, name)
        ax.plot(x, y, color=colour, lw=1.2, label=name)
        for points in list(curve.observed.values())[:1]:
            seen = ax.plot(*points.T, mark, color=colour, ms=3, mec="white", mew=0.3)
            style.tag(seen, name)
    style.log_axis(ax, "x", "Training compute C, FLOPs", style.exponents)
    if next(iter(data.curves.values())).quantity == "loss":
        ax.set_ylabel("Held-out loss at the optimum")
    else:
        style.log_axis(ax, "y", "Optimal parameters N*")
    return style.finish(ax, columns=1)


def write_comparison(
    first: Fit,
    second: Fit,
    path: str | Path,
    compute: float | None = None,
    *,
    level: float = 0.9,
    names: tuple[str, str] = _NAMES,
    **asked: Any,
) -> Path:
    """Write what :func:`flops_fit.compare` finds as one page: verdict, multipliers, curves, findings.

    ``names`` are what the page calls the two; ``asked`` are further arguments of ``compare``. Raises as it
    does; OutputError if ``path`` cannot be written.
    """
    default = names == _NAMES
    one, other = (name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}" for name in names)
    names = (one, other)
    if one == other:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    path, fits = Path(path), dict(zip(names, (first, second), strict=True))
    at = compare(first, second, compute, level=level, **asked)
    lowest = max(float(fit.runs.budget.min()) for fit in fits.values())
    budgets = np.geomspace(min(lowest, at.compute), at.compute, _POINTS)
    asked.pop("gate", None)
    along = [
        compare(first, second, float(C), level=level, **asked) for C in np.unique(budgets)[:-1]
    ]
    drawn = (_draw(fits, quantity, level) for quantity in ("loss", "params"))
    sections = (
        ("answer", "Answer", _answer(at, fits)),
        ("table", "Compute multiplier", _multipliers([*along, at], names).html()),
        ("figures", "Figures", figure_list(drawn)),
        ("optima", "Optima", "".join(_optima(fit, n, at, level) for n, fit in fits.items())),
        ("findings", "Findings", findings_list(at.diagnostics)),
    )
    title = "Two fits compared" if default else f"{names[0]} and {names[1]} compared"
    with output_errors(path, "report"):
        write_output(path, document(title, sections))
    return path


def _answer(at: Comparison, fits: dict[str, Fit]) -> str:
    one, other = fits
    span, m = at.intervals["compute_multiplier"], at.compute_multiplier
    sure = span is not None and (span[0] > 1 or span[1] < 1)
    key = "undecided" if not sure else "less" if m < 1 else "more"
    key = key if 0 < m < math.inf else "never"
    ends = "no interval" if span is None else "{:.3g}–{:.3g}".format(*span)
    least = "less than a billionth of" if m == 0 else "more than a billion times"
    words = WORDS[f"compared_{key}"]
    said = words.format(first=one, second=other, at=at, span=ends, least=least)
    said = said[0].upper() + said[1:] if other == _NAMES[1] else said
    trust = ", ".join(f"{name}: {fit.trust}" for name, fit in fits.items())
    more = " ".join(str(at).split("\n")[1:])
    lines = [more] * bool(more) + [f"Trust in each fit: {trust}."]
    return paragraph(said, "answer lead") + "".join(paragraph(line, "answer") for line in lines)


def _multipliers(comparisons: list[Comparison], names: tuple[str, str]) -> TextTable:
    also = {"time_multiplier": "Time", "dollar_multiplier": "Price"}
    also = {name: head for name, head in also.items() if name in comparisons[0].intervals}
    rows = [
        ["C, FLOPs", "Multiplier", *also.values(), "Exponent of N*, first", "second", "Difference"]
    ]
    for c in comparisons:
        span = c.intervals["exponent_difference"]
        ends = "none" if span is None else "{:+.3f} to {:+.3f}".format(*span)
        gap = f"{c.exponent_difference:+.3f} ({ends})".replace("-", "−")
        times = [c.shown(name) for name in ("compute_multiplier", *also)]
        rows.append([f"{c.compute:.3g}", *times, *(f"{a:.3f}" for a in c.exponents), gap])
    level = f"{100 * comparisons[0].level:g} %"
    note = f"Compute of {names[1]} over C for the loss of {names[0]} at C. In brackets {level} intervals."
    return TextTable("Compute multiplier", rows, note)


def _optima(fit: Fit, name: str, at: Comparison, level: float) -> str:
    table = optima([fit.predict(at.compute, level)], fit.trust)
    return f"<h3>{html.escape(name)}</h3>{table.html()}"


def _draw(fits: dict[str, Fit], quantity: str, level: float) -> Drawn:
    paths = {name: optimal_path(fit, level) for name, fit in fits.items()}
    curves = {name: optimum_data(fit, quantity, level, paths[name]) for name, fit in fits.items()}
    words = figures.WORDS["compared"][quantity]
    kind = figures.FigureKind(quantity, **words, data=lambda _: None, draw=draw_two)
    return figures.draw(kind, TwoCurves(curves))
