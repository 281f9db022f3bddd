"""The runs and the fitted law: IsoFLOP curves, contours over N and D, residuals."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from flops_fit.fit.experts import as_asked
from flops_fit.fit.fit import Fit
from flops_fit.flops.functions import Floats
from flops_fit.report import style
from flops_fit.report.style import Axes, Colour, Figure, Ints, Row, rows_of
from flops_fit.table.run_table import RunTable

_POINTS = 80  # of a curve
_MAX_CURVES = 12
_MAX_BEYOND = 10.0  # how far a curve follows the law beyond its runs to reach an optimum
_GRID = 70  # points of the surface along N and along D
_CONTOURS = 7
_MANY_OUTLIERS = 30
_LEADER = {"arrowstyle": "-", "lw": 0.5, "alpha": 0.7, "shrinkA": 1, "shrinkB": 1}
_BINS = (24, 16)  # of the map of residuals, where there are many


@dataclass(frozen=True)
class IsoflopCurve:
    """The runs of one budget, the law across their sizes, its optimum, and a parabola's minimum."""

    budget: float
    params: Floats
    loss: Floats
    places: Ints  # of these runs among those of the fit
    curve_params: Floats
    curve_loss: Floats
    best_params: float
    best_loss: float
    vertex: tuple[float, float] | None

    def rows(self) -> list[Row]:
        """Runs, points of the curve, its optimum and the parabola's minimum if it has one."""
        C = self.budget
        rows = rows_of(kind="run", compute=C, params=self.params, loss=self.loss)
        rows += rows_of(kind="curve", compute=C, params=self.curve_params, loss=self.curve_loss)
        points = {"optimum": (self.best_params, self.best_loss), "parabola's minimum": self.vertex}
        for kind, point in points.items():
            if point:
                rows += [{"kind": kind, "compute": C, "params": point[0], "loss": point[1]}]
        return rows


@dataclass(frozen=True)
class Isoflop:
    """All IsoFLOP curves, smallest budget first; ``flagged`` holds (N, loss) of outliers, (k, 2).

    ``loss`` is what the axis calls it.
    """

    curves: tuple[IsoflopCurve, ...]
    flagged: Floats
    law: str
    loss: str = "Held-out loss"

    def rows(self) -> list[Row]:
        """Runs, points of the curves, optima and minima, distinguished by ``kind``."""
        return [row for curve in self.curves for row in curve.rows()]


def isoflop_data(fit: Fit) -> Isoflop:
    """Loss against size at each budget, with the law, its optima and approach 2's minima."""
    outliers = {o.label for o in fit.outliers}
    flagged = [i for i, label in enumerate(fit.runs.labels) if label in outliers]
    runs = as_asked(fit.runs, fit.law)  # one curve has one sparsity
    curves = tuple(_curve(fit, runs, float(budget)) for budget in np.unique(runs.budget))
    points = np.column_stack([runs.params[flagged], runs.loss[flagged]])
    return Isoflop(curves, points, law_name(fit.law.name), style.loss_name(fit.runs))


def law_name(name: str) -> str:
    """A form of law as figures call it."""
    return {"kappa": "κ-law", "hoffmann": "additive law"}.get(name, f"{name} law")


def _curve(fit: Fit, runs: RunTable, budget: float) -> IsoflopCurve:
    at = runs.budget == budget
    params, loss = runs.params[at], runs.loss[at]
    least, most, order = params.min(), params.max(), np.argsort(params)
    best = fit.law.optimal(budget, fit.flops)
    end = np.clip(best.params, least / _MAX_BEYOND, most * _MAX_BEYOND)
    along = np.geomspace(min(end * (1 / 1.15), least / 1.15), max(end, most) * 1.15, _POINTS)
    curve = np.asarray(fit.law.loss(along, budget / fit.flops(along)))
    vertex = next(((p.params, p.loss) for p in fit.isoflop.interior if p.budget == budget), None)
    optimum = float(best.params), float(best.loss)
    places = np.flatnonzero(at)[order]
    return IsoflopCurve(budget, params[order], loss[order], places, along, curve, *optimum, vertex)


def draw_isoflop(data: Isoflop, ax: Axes | None = None) -> Figure:
    """Loss against size, a colour for each budget, with the law's optimum on each curve."""
    ax = style.axes_of(ax, "isoflop")
    colours, drawn = style.compute_colours(len(data.curves)), _curves_to_draw(data.curves)
    losses = np.concatenate([c.loss for c in data.curves])
    lowest = min(losses.min(), *(data.curves[i].curve_loss.min() for i in drawn))
    # Many outliers must not squeeze the curves: the highest of them leave the figure.
    crowd = len(data.flagged) > _MANY_OUTLIERS
    kept = losses[~np.isin(losses, data.flagged[:, 1])] if crowd else losses
    margin = 0.07 * (kept.max() - lowest)
    top = kept.max() + margin
    sizes = [c.params for c in data.curves]
    names = [f"C = {style.exponents(c.budget)}" for c in data.curves]
    off = int(np.sum(data.flagged[:, 1] > top))
    outlier = f"outlier, {off} off the figure" if off else "outlier"
    optimum, minimum = f"optimum of the {data.law}", "minimum of a parabola"
    sparse = style.sparse(np.log(np.concatenate(sizes)), losses)
    starts = np.cumsum([0, *(len(c.params) for c in data.curves)])
    for i, (curve, colour, name) in enumerate(zip(data.curves, colours, names, strict=True)):
        at = sparse[(sparse >= starts[i]) & (sparse < starts[i + 1])] - starts[i]
        points = ax.plot(
            curve.params[at], curve.loss[at], "o", color=colour, ms=2.8, mec="white", mew=0.3
        )
        style.tag(points, name, "runs", tips=curve.places[at].tolist())
        if i not in drawn:
            continue
        inside = curve.curve_loss <= top
        x, y = curve.curve_params[inside], curve.curve_loss[inside]
        style.tag(ax.plot(x, y, "-", color=colour, lw=1.0), name)
        sizes.append(curve.curve_params[[0, -1]])
        if curve.vertex:
            mark = ax.plot(*curve.vertex, "D", ms=3.2, mfc="none", mec=style.INK, mew=0.6, zorder=5)
            style.tag(mark, minimum, name)
            sizes.append(np.array(curve.vertex[:1]))
        if curve.curve_params[0] <= curve.best_params <= curve.curve_params[-1]:
            best = (curve.best_params, curve.best_loss)
            mark = ax.plot(*best, "*", color=colour, ms=7, mec=style.INK, mew=0.5, zorder=4)
            style.tag(mark, optimum, name)
    x, y = data.flagged[style.sparse(np.log(data.flagged[:, 0]), data.flagged[:, 1])].T
    size, width = (3.6, 0.35) if crowd else (6.5, 0.6)
    rings = ax.plot(x, y, "o", ms=size, mfc="none", mec=style.VERMILLION, mew=width)
    style.tag(rings, outlier)
    ax.set_ylim(float(lowest - margin), float(top))
    least, most = np.min(np.concatenate(sizes)), np.max(np.concatenate(sizes))
    room = (most / least) ** 0.04
    ax.set_xlim(least / room, most * room)
    style.log_axis(ax, "x", "Parameters N")
    ax.set_ylabel(data.loss)
    _label_curves(ax, {names[i]: (data.curves[i], colours[i]) for i in drawn})
    for mark, face, edge, size, label in (
        ("*", style.FAINT, style.INK, 6, optimum),
        ("D", "none", style.INK, 4, minimum),
        *((("o", "none", style.VERMILLION, 4, outlier),) if len(data.flagged) else ()),
    ):
        ax.plot([], [], mark, color=face, mec=edge, mew=0.6, ms=size, label=label)
    return style.finish(ax)


def _label_curves(ax: Axes, curves: dict[str, tuple[IsoflopCurve, Colour]]) -> None:
    """C of each curve in a column on the right, none on another, with a line to the curve's end."""
    y0, y1 = ax.get_ylim()
    ends = []
    for name, (curve, colour) in curves.items():
        shown = np.flatnonzero(curve.curve_loss <= y1)
        if len(shown):
            at = shown[-1]
            ends.append((curve.curve_loss[at], curve.curve_params[at], name, colour))
    ends.sort(key=lambda end: float(end[0]))
    figure = ax.get_figure(root=True)
    assert figure is not None
    gap = 1.3 * style.SMALL * figure.dpi / 72 / ax.bbox.height
    places = [float(loss - y0) / (y1 - y0) for loss, *_ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else 1.0)
    for i, (place, (loss, params, name, colour)) in enumerate(zip(places, ends, strict=True)):
        text = ax.annotate(
            name if i == len(ends) - 1 else name.removeprefix("C = "), (params, loss), xytext=(1.03, place),
            textcoords="axes fraction", va="center", fontsize=style.SMALL, color=style.INK,
            arrowprops={**_LEADER, "color": colour}, annotation_clip=False,
        )  # fmt: skip
        style.tag(text, name)


def _curves_to_draw(curves: tuple[IsoflopCurve, ...]) -> list[int]:
    """Which budgets get a curve: all, or of very many those with most runs, spaced over compute.

    The largest is among them. A budget of one or two runs gets one only where no budget has more.
    """
    if len(curves) <= _MAX_CURVES:
        return list(range(len(curves)))
    log_c = np.log([c.budget for c in curves])
    edges = np.linspace(log_c[0], log_c[-1] * (1 + 1e-12), _MAX_CURVES + 1)
    counts = np.array([len(c.params) for c in curves])
    enough = counts >= (3 if counts.max() >= 3 else 1)
    tiers = [
        [i for i, c in enumerate(log_c) if low <= c <= high and enough[i]]
        for low, high in pairwise(edges)
    ]
    last = len(curves) - 1
    return sorted({max(tier, key=lambda i: (i == last, counts[i])) for tier in tiers if tier})


@dataclass(frozen=True)
class Surface:
    """The loss over N and D, shape (D, N), and the optima; ``levels`` are losses of even budgets."""

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
        """Runs, optima and the grid, distinguished by ``kind``."""
        N, D = (axis.ravel() for axis in np.meshgrid(self.params, self.tokens))
        runs = {"params": self.run_params, "tokens": self.run_tokens, "loss": self.run_loss}
        return [
            *rows_of(kind="run", **runs),
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
    levels = _rounded(levels)
    levels = levels[(levels > loss.min()) & (levels < loss.max())]
    observed = runs.params, runs.tokens, runs.loss
    return Surface(runs.unit, N, D, loss, levels, *observed, n[inside], d[inside])


def _rounded(levels: Floats) -> Floats:
    """Each level with as few digits as keep it within a fifth of its distance to the next."""
    if len(levels) < 2:
        return levels
    gaps = np.diff(levels)
    nearest = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    digits = np.ceil(-np.log10(0.4 * nearest)).astype(int)
    return np.unique([round(float(v), int(d)) for v, d in zip(levels, digits, strict=True)])


def draw_surface(data: Surface, ax: Axes | None = None) -> Figure:
    """Contours of the fitted loss over N and D, the runs and the path of the optima."""
    ax = style.axes_of(ax, "surface")
    sparse = style.sparse(np.log(data.run_params), np.log(data.run_tokens))
    runs = np.column_stack([data.run_params, data.run_tokens])[sparse]
    points = ax.plot(*runs.T, "o", color=style.FAINT, ms=2, mew=0, label="runs")
    style.tag(points, "runs", tips=sparse.tolist())
    ax.set_xlim(data.params[0], data.params[-1])
    ax.set_ylim(data.tokens[0], data.tokens[-1])
    # The axes come before the contours: labels interrupt contours as the axes are at that time.
    style.log_axis(ax, "x", "Parameters N")
    style.log_axis(ax, "y", f"{data.unit.capitalize()} D")
    path = np.column_stack([data.best_params, data.best_tokens])
    if len(data.levels):
        lines = ax.contour(
            data.params, data.tokens, data.loss, levels=data.levels, linewidths=0.9,
            colors=style.compute_colours(len(data.levels))[::-1],  # large budgets reach low losses
        )  # fmt: skip
        contours = [np.asarray(p.vertices, np.float64) for p in lines.get_paths()]
        places = _label_places(ax, contours, [*runs, *path]) or False
        digits = max(len(f"{v:.9g}".partition(".")[2]) for v in data.levels)
        signed = lambda v: f"{v:.{digits}f}".replace("-", "−")  # noqa: E731  # the sign of the axes
        ax.clabel(lines, fmt=signed, fontsize=style.SMALL, colors=style.INK, manual=places)
        style.tag(lines, "equal loss", tips=[f"loss {v:.{digits}f}" for v in data.levels])
    ax.plot(*path.T, color=style.BLUE, lw=1.4, label="compute-optimal path")
    ax.plot([], [], color=style.FAINT, lw=0.9, label="equal loss")
    return style.finish(ax, columns=3)


def _label_places(
    ax: Axes, contours: list[Floats], others: list[Floats]
) -> list[tuple[float, float]]:
    """Where to label each contour: far from the runs, the path, the edges and other labels."""
    to_axes = (ax.transData + ax.transAxes.inverted()).transform
    taken = to_axes(np.array(others))
    places = []
    for vertices in contours:
        if not len(vertices):
            continue
        at = to_axes(vertices)
        from_edge = np.min(np.minimum(at, 1 - at), axis=1)
        away = np.min(np.linalg.norm(at[:, None] - taken[None], axis=2), axis=1)
        best = int(np.argmax(np.minimum(np.minimum(away, 0.09), from_edge)))
        if from_edge[best] < 0.05:
            continue  # its label would not be whole
        places.append((float(vertices[best, 0]), float(vertices[best, 1])))
        taken = np.vstack([taken, at[best], at[best] + (0.03, 0.03), at[best] - (0.03, 0.03)])
    return places


@dataclass(frozen=True)
class Residuals:
    """How far each run lies from the law, in % or in units of the loss; ``distance`` is N/N*."""

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
    """Residuals of all fitted runs, with the size of each over the optimum at its compute."""
    runs, in_percent = fit.runs, fit.loss_space == "log"
    distance = runs.params / np.asarray(fit.law.optimal(runs.flops, fit.flops).params)
    residual = 100 * fit.residuals if in_percent else fit.residuals
    where = runs.flops, runs.budget, runs.params, distance
    return Residuals(runs.labels, *where, residual, in_percent)


def draw_residuals(data: Residuals, ax: Axes | None = None) -> Figure:
    """How far each run lies from the law, over its size; a colour for each budget."""
    ax = style.axes_of(ax, "residuals")
    sparse = style.sparse(np.log(data.params), data.residual)
    style.draw_runs(ax, data.params, data.residual, data.budget, sparse)
    ax.axhline(0, color=style.FAINT, lw=0.6)
    style.log_axis(ax, "x", "Parameters N")
    ax.set_ylabel("Loss above the law, %" if data.in_percent else "Loss − law")
    return style.finish(ax, columns=3)


def draw_residual_map(data: Residuals, ax: Axes | None = None) -> Figure:
    """Where the law lies above and below its runs: area by size of the residual, colour by sign.

    Of many runs the mean in each cell of a grid.
    """
    ax = style.axes_of(ax, "residual_map")
    x, y, residual = data.compute, data.distance, data.residual
    tips: list[int | str] = list(range(len(residual)))
    word_of_loss = "loss"
    if len(tips) > style.DENSE:
        cells = [
            np.floor(n * _share(np.log(v)) * 0.999) for n, v in zip(_BINS, (x, y), strict=True)
        ]
        _, cell, count = np.unique(
            cells[0] * 100 + cells[1], return_inverse=True, return_counts=True
        )
        logs = np.log(x), np.log(y), residual
        x, y, residual = (np.bincount(cell, v) / count for v in logs)
        x, y, word_of_loss = np.exp(x), np.exp(y), "mean"
        tips = [f"mean of {n} runs: {r:+.2g}" for n, r in zip(count, residual, strict=True)]
    unit = " %" if data.in_percent else ""
    typical = float(np.quantile(np.abs(residual), 0.95)) or 1.0
    area = 45 * np.minimum(np.abs(residual) / typical, 2.0)
    for above, colour, word in ((True, style.VERMILLION, "above"), (False, style.BLUE, "below")):
        at = np.flatnonzero((residual > 0) == above)
        face = colour if above else "none"
        label = f"{word_of_loss} {typical:.2g}{unit} {word} the law"
        points = ax.scatter(
            x[at], y[at], area[at], facecolor=face, edgecolor=colour, linewidth=0.7, alpha=0.8
        )
        style.tag(points, label, tips=[tips[i] for i in at])
        ax.scatter([], [], 45, facecolor=face, edgecolor=colour, linewidth=0.7, label=label)
    ax.axhline(1.0, color=style.FAINT, lw=0.6)
    ax.margins(0.06)
    style.log_axis(ax, "x", "Compute of the run C, FLOPs", style.exponents)
    label = "Size over the optimum, N/N*"
    style.log_axis(ax, "y", label, lambda v: f"{v:g}" if 1e-3 <= v < 1e4 else style.exponents(v))
    return style.finish(ax, columns=1 if word_of_loss == "mean" else 2)


def _share(values: Floats) -> Floats:
    return np.asarray((values - values.min()) / (np.ptp(values) or 1.0))
