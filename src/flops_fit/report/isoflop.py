"""The runs and the law that was fitted to them: IsoFLOP curves, and contours over N and D."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from flops_fit.fit.fit import Fit
from flops_fit.report import style
from flops_fit.report.style import Floats, Row, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAW_NAMES = {"kappa": "κ-law", "hoffmann": "additive law"}
_POINTS = 80  # of a curve
_MAX_CURVES = 12
_MAX_BEYOND = 10.0  # how far a curve follows the law beyond its runs to reach an optimum
_GRID = 70  # points of the surface along N and along D
_CONTOURS = 7


@dataclass(frozen=True)
class IsoflopCurve:
    """The runs of one budget, the fitted law across their sizes, and the optimum on it.

    ``vertex_params`` and ``vertex_loss`` are of approach 2's parabola, NaN where it has no minimum
    inside the sampled sizes.
    """

    budget: float
    params: Floats
    loss: Floats
    curve_params: Floats
    curve_loss: Floats
    best_params: float
    best_loss: float
    vertex_params: float = float("nan")
    vertex_loss: float = float("nan")

    def rows(self) -> list[Row]:
        """Runs, points of the curve, its optimum and the parabola's minimum if it has one."""
        C = self.budget
        rows = [
            *rows_of(kind="run", compute=C, params=self.params, loss=self.loss),
            *rows_of(kind="curve", compute=C, params=self.curve_params, loss=self.curve_loss),
            *rows_of(kind="optimum", compute=C, params=[self.best_params], loss=[self.best_loss]),
        ]
        vertex: Row = {"kind": "parabola's minimum", "compute": C}
        vertex |= {"params": self.vertex_params, "loss": self.vertex_loss}
        return [*rows, vertex] if np.isfinite(self.vertex_params) else rows


@dataclass(frozen=True)
class Isoflop:
    """All IsoFLOP curves, smallest budget first; ``flagged`` holds (N, loss) of outliers, (k, 2)."""

    curves: tuple[IsoflopCurve, ...]
    flagged: Floats
    law: str

    def rows(self) -> list[Row]:
        """Runs, points of the curves, optima and minima, told apart by ``kind``."""
        return [row for curve in self.curves for row in curve.rows()]


def isoflop_data(fit: Fit) -> Isoflop:
    """Loss against size at each budget, with the law, its optima and approach 2's minima."""
    outliers = {o.label for o in fit.outliers}
    flagged = [i for i, label in enumerate(fit.runs.labels) if label in outliers]
    points = np.column_stack([fit.runs.params[flagged], fit.runs.loss[flagged]])
    curves = tuple(_curve(fit, float(budget)) for budget in np.unique(fit.runs.budget))
    return Isoflop(curves, points, LAW_NAMES.get(fit.law.name, f"{fit.law.name} law"))


def _curve(fit: Fit, budget: float) -> IsoflopCurve:
    at = fit.runs.budget == budget
    params, loss = fit.runs.params[at], fit.runs.loss[at]
    least, most = params.min(), params.max()
    best = fit.law.optimal(budget, fit.flops)
    end = np.clip(best.params, least / _MAX_BEYOND, most * _MAX_BEYOND)
    along = np.geomspace(min(end * (1 / 1.15), least / 1.15), max(end, most) * 1.15, _POINTS)
    order = np.argsort(params)
    vertex = next((p for p in fit.isoflop.interior if p.budget == budget), None)
    return IsoflopCurve(
        budget,
        params[order],
        loss[order],
        along,
        np.asarray(fit.law.loss(along, budget / fit.flops(along))),
        float(best.params),
        float(best.loss),
        *((vertex.params, vertex.loss) if vertex else ()),
    )


def draw_isoflop(data: Isoflop, ax: Axes | None = None) -> Figure:
    """Loss against size, a colour for each budget, with the law's optimum on each curve."""
    ax = style.axes_of(ax, "isoflop")
    curves = data.curves
    drawn = _curves_to_draw(data)
    for i, (curve, colour) in enumerate(
        zip(curves, style.compute_colours(len(curves)), strict=True)
    ):
        ax.plot(curve.params, curve.loss, "o", color=colour, ms=2.8, mec="white", mew=0.3)
        if i in drawn:
            _draw_curve(ax, data, curve, colour)
    ax.plot(*data.flagged.T, "o", ms=6.5, mfc="none", mec=style.VERMILLION, mew=0.8)
    ax.set_ylim(*_loss_range(data))
    sizes = np.concatenate(
        [*(c.params for c in curves), *(curves[i].curve_params[[0, -1]] for i in drawn)]
        + [[curves[i].vertex_params] for i in drawn if curves[i].vertex_params > 0]
    )
    width = sizes.max() / sizes.min()
    ax.set_xlim(sizes.min() / width**0.04, sizes.max() * width**0.2)  # room for labels
    style.log_axis(ax, "x", "Parameters N")
    ax.set_ylabel("Held-out loss")
    _label_curves(ax, data, drawn)
    for mark, face, edge, size, label in (
        ("*", style.FAINT, style.INK, 6, f"optimum of the {data.law}"),
        ("D", "none", style.INK, 4, "minimum of a parabola"),
        *((("o", "none", style.VERMILLION, 4, "outlier"),) if len(data.flagged) else ()),
    ):
        ax.plot([], [], mark, color=face, mec=edge, mew=0.6, ms=size, label=label)
    return style.finish(ax)


def _loss_range(data: Isoflop) -> tuple[float, float]:
    losses = np.concatenate([c.loss for c in data.curves])
    lowest = min(losses.min(), *(data.curves[i].curve_loss.min() for i in _curves_to_draw(data)))
    margin = 0.07 * (losses.max() - lowest)
    return float(lowest - margin), float(losses.max() + margin)


def _draw_curve(ax: Axes, data: Isoflop, curve: IsoflopCurve, colour: object) -> None:
    inside = curve.curve_loss <= _loss_range(data)[1]
    ax.plot(curve.curve_params[inside], curve.curve_loss[inside], "-", color=colour, lw=1.0)
    vertex = (curve.vertex_params, curve.vertex_loss)
    ax.plot(*vertex, "D", ms=3.2, mfc="none", mec=style.INK, mew=0.6, zorder=5)
    if curve.curve_params[0] <= curve.best_params <= curve.curve_params[-1]:
        best = (curve.best_params, curve.best_loss)
        ax.plot(*best, "*", color=colour, ms=7, mec=style.INK, mew=0.5, zorder=4)


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
        text = ("" if taken else "C = ") + style.exponents(curve.budget)
        taken.append((x, y))
        style.annotate(ax, text, end, 3)


def _curves_to_draw(data: Isoflop) -> list[int]:
    """Which budgets get a curve: all, or of very many those with most runs, spaced over compute."""
    curves = data.curves
    if len(curves) <= _MAX_CURVES:
        return list(range(len(curves)))
    log_c = np.log([c.budget for c in curves])
    edges = np.linspace(log_c[0], log_c[-1] * (1 + 1e-12), _MAX_CURVES + 1)
    chosen = []
    for low, high in pairwise(edges):
        tier = [i for i, c in enumerate(log_c) if low <= c <= high and len(curves[i].params) >= 3]
        if tier:
            chosen.append(max(tier, key=lambda i: len(curves[i].params)))
    return chosen or [0]


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
        N, D = (axis.ravel() for axis in np.meshgrid(self.params, self.tokens))
        return [
            *rows_of(
                kind="run", params=self.run_params, tokens=self.run_tokens, loss=self.run_loss
            ),
            *rows_of(kind="optimum", params=self.best_params, tokens=self.best_tokens, loss=np.nan),
            *rows_of(kind="law", params=N, tokens=D, loss=self.loss.ravel()),
        ]


def surface_data(fit: Fit) -> Surface:
    """The fitted law over the range of the runs."""
    runs = fit.runs
    N = np.geomspace(runs.params.min() / 1.6, runs.params.max() * 1.6, _GRID)
    D = np.geomspace(runs.tokens.min() / 1.6, runs.tokens.max() * 1.6, _GRID)
    loss = np.asarray(fit.law.loss(N[None, :], D[:, None]))
    compute = np.geomspace(runs.flops.min() / 8, runs.flops.max() * 8, 60)
    best = fit.law.optimal(compute, fit.flops)
    n, d = np.asarray(best.params), np.asarray(best.tokens)
    inside = (n > N[0]) & (n < N[-1]) & (d > D[0]) & (d < D[-1])
    at = np.geomspace(runs.flops.min() / 2, runs.flops.max() * 1.5, _CONTOURS)
    levels = np.unique(np.asarray(fit.law.optimal(at, fit.flops).loss))
    if np.sum((levels > loss.min()) & (levels < loss.max())) < 3:  # an optimum far from all runs
        levels = np.unique(np.linspace(loss.min(), loss.max(), _CONTOURS + 2)[1:-1])
    return Surface(
        runs.unit, N, D, loss, levels, runs.params, runs.tokens, runs.loss, n[inside], d[inside]
    )


def draw_surface(data: Surface, ax: Axes | None = None) -> Figure:
    """Contours of the fitted loss over N and D, the runs and the path of the optima."""
    ax = style.axes_of(ax, "surface")
    ax.plot(data.run_params, data.run_tokens, "o", color=style.FAINT, ms=2, mew=0, label="runs")
    ax.set_xlim(data.params[0], data.params[-1])
    ax.set_ylim(data.tokens[0], data.tokens[-1])
    style.log_axis(
        ax, "x", "Parameters N"
    )  # before the contours: labels interrupt them as they stand
    style.log_axis(ax, "y", f"{data.unit.capitalize()} D")
    if len(data.levels):
        lines = ax.contour(
            data.params, data.tokens, data.loss, levels=data.levels, linewidths=0.9,
            colors=style.compute_colours(len(data.levels))[::-1],  # large budgets reach low losses
        )  # fmt: skip
        gaps = np.diff(data.levels)
        digits = 2 if len(gaps) == 0 else int(np.clip(np.ceil(-np.log10(gaps.min())), 2, 5))
        places = _label_places(data) or False
        ax.clabel(lines, fmt=f"%.{digits}f", fontsize=style.SMALL, colors=style.INK, manual=places)
    ax.plot(
        data.best_params, data.best_tokens, color=style.BLUE, lw=1.4, label="compute-optimal path"
    )
    ax.plot([], [], color=style.FAINT, lw=0.9, label="equal loss")
    return style.finish(ax, columns=3)


def _label_places(data: Surface) -> list[tuple[float, float]]:
    """A place for the label of each contour: beside the path, on the side of smaller sizes."""
    places = []
    columns = np.arange(len(data.params))
    log_n, log_d = np.log(data.params), np.log(data.tokens)
    path = np.zeros_like(log_n)
    if len(data.best_params):
        path = np.interp(log_n, np.log(data.best_params), np.log(data.best_tokens))
    for level in data.levels:
        rows = np.argmin(np.abs(data.loss - level), axis=0)  # of the contour in each column
        usable = np.flatnonzero((rows > 4) & (rows < 0.92 * len(log_d)))
        if len(usable):
            crossing = usable[np.argmin(np.abs(log_d[rows] - path)[usable])]
            free = [c for c in (crossing - 10, crossing + 10) if c in usable]
            farthest = usable[np.argmax(np.abs(columns[usable] - crossing))]
            column = free[0] if free else farthest
            places.append((float(data.params[column]), float(data.tokens[rows[column]])))
    return places
