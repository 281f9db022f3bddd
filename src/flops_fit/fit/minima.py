"""Approaches 1 and 2: the best size at each compute, and lines N*(C) and D*(C) through them.

Approach 2 (Hoffmann et al. 2022, §3.2) takes the minimum of a parabola in ln N at each budget. The
width of the grid and α ≠ β bias it, so it is a check beside the surface.

Approach 1 (§3.1) takes the size with the lowest loss at each C along the training curves. As
neighbouring points share curves, each size enters once, at the middle of the range where it wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flops_fit.fit.power import fit_power
from flops_fit.fit.solver import finding
from flops_fit.flops.functions import Floats, FlopsFunction
from flops_fit.laws.optimum import PowerLaw
from flops_fit.records import Diagnostic, finite_json
from flops_fit.table.curves import Curves
from flops_fit.table.left_out import Excluded
from flops_fit.table.run_table import RunTable
from flops_fit.text import listed

_FEWEST_SIZES = 4  # that a parabola inside a window has
_MOST_ROUNDS, _VERTEX_TOLERANCE = 20, 1e-6
_POINTS = 1500  # of C, as Hoffmann et al. take; over five decades they lie 0.8 % apart
_COMPETING = 3


@dataclass(frozen=True)
class Parabola:
    """The quadratic in ln N through the runs of one budget.

    ``params``, ``tokens`` and ``loss`` are at its vertex, and NaN unless it has a minimum. It is
    ``interior`` where that lies inside the sampled sizes; ``edge`` otherwise names the side to
    extend and ``next_params`` the size to run there.
    """

    budget: float
    runs: int
    sizes: int
    params: float
    tokens: float
    loss: float
    curvature: float
    residual_sd: float
    interior: bool
    edge: Literal["small", "large", ""] = ""
    next_params: float = float("nan")
    reason: str = ""

    def regret(self, params: float) -> float:
        """By how much, relative to the minimum, the loss at another size exceeds it."""
        distance = float(np.log(params / self.params))
        return 0.5 * self.curvature * distance**2 / abs(self.loss)


@dataclass(frozen=True)
class IsoFLOP:
    """All parabolas, and the lines N*(C) = k·C^a and D*(C) = k·C^b through interior minima.

    The lines are ``None`` with fewer than two interior minima, and ``usable`` with three or more.
    """

    parabolas: tuple[Parabola, ...]
    n_line: PowerLaw | None
    d_line: PowerLaw | None
    n_r2: float | None
    d_r2: float | None

    @property
    def interior(self) -> tuple[Parabola, ...]:
        """The parabolas whose minimum lies inside the sampled sizes."""
        return tuple(p for p in self.parabolas if p.interior)

    @property
    def usable(self) -> bool:
        """Whether the lines go through three minima or more."""
        return self.n_line is not None and len(self.interior) >= 3

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(finite_json({"usable": self.usable, **vars(self)}))


def isoflop(runs: RunTable, factor: float | None = None) -> IsoFLOP:
    """Approach 2 on the budgets with three sizes or more; for ``factor`` see :func:`parabola`."""
    budgets = (runs.select(runs.budget == b) for b in np.unique(runs.budget))
    parabolas = tuple(p for p in (parabola(part, factor) for part in budgets) if p is not None)
    inside = [p for p in parabolas if p.interior]
    return IsoFLOP(parabolas, *_lines([p.budget for p in inside], inside))


def _lines(
    C: list[float], minima: Sequence[Parabola | Winner]
) -> tuple[PowerLaw | None, PowerLaw | None, float | None, float | None]:
    """N*(C) and D*(C) through two minima or more, and r² of both."""
    if len(C) < 2:
        return None, None, None, None
    n, d = fit_power(C, [p.params for p in minima]), fit_power(C, [p.tokens for p in minima])
    return n.law, d.law, n.r2, d.r2


def parabola(runs: RunTable, factor: float | None = None) -> Parabola | None:
    """The parabola of one budget's runs, of sizes within ``factor`` of its vertex if four remain."""
    best = _parabola(runs)
    for _ in range(_MOST_ROUNDS if factor else 0):
        if best is None or not best.interior:
            break
        near = np.abs(np.log(runs.params / best.params)) <= np.log(factor or np.inf)
        if len(np.unique(runs.params[near])) < _FEWEST_SIZES:
            break
        closer = _parabola(runs.select(near))
        if closer is None or not closer.interior:
            break
        moved, best = abs(np.log(closer.params / best.params)), closer
        if moved < _VERTEX_TOLERANCE:
            break
    return best


def _parabola(runs: RunTable) -> Parabola | None:
    sizes = np.unique(runs.params)
    if len(sizes) < 3:
        return None
    ln_n, ln_d, ends = np.log(runs.params), np.log(runs.tokens), np.log(sizes[[0, -1]])
    curvature, vertex, loss, spread = _quadratic(ln_n, runs.loss)
    tokens, reason = float("nan"), ""
    edge: Literal["small", "large", ""] = ""
    if curvature <= 0:
        first, last = (float(np.mean(runs.loss[runs.params == s])) for s in sizes[[0, -1]])
        edge = "small" if first < last else "large"
        reason = "the loss does not curve upward over its sizes"
    else:
        # D at the vertex from a parabola of its own in ln D, which does not need C/F(N).
        d_curvature, d_vertex, _, _ = _quadratic(ln_d, runs.loss)
        if d_curvature <= 0:
            order = np.argsort(ln_n)
            d_vertex = float(np.interp(vertex, ln_n[order], ln_d[order]))
        tokens = float(np.exp(d_vertex))
        if vertex <= ends[0]:
            edge, reason = "small", "its minimum lies below the smallest size"
        elif vertex >= ends[1]:
            edge, reason = "large", "its minimum lies above the largest size"
    step = float(np.median(np.diff(np.log(sizes))))
    beyond = {"small": ends[0] - step, "large": ends[1] + step, "": float("nan")}[edge]
    return Parabola(
        budget=float(runs.budget[0]),
        runs=len(runs),
        sizes=len(sizes),
        params=float(np.exp(np.clip(vertex, -700, 700))),
        tokens=tokens,
        loss=loss,
        curvature=curvature,
        residual_sd=spread,
        interior=not edge,
        edge=edge,
        next_params=float(np.exp(beyond)),
        reason=reason,
    )


def _quadratic(t: Floats, loss: Floats) -> tuple[float, float, float, float]:
    """Second derivative, vertex, value there and residual sd of a quadratic in t."""
    centre = float(np.mean(t))
    basis = np.vander(t - centre, 3)
    coefficients = np.linalg.lstsq(basis, loss, rcond=None)[0]
    a, b, c = (float(v) for v in coefficients)
    residuals = loss - basis @ coefficients
    spread = float(np.sqrt(np.sum(residuals**2) / max(len(t) - 3, 1)))
    if a <= 1e-12 * float(np.max(np.abs(loss))):
        return min(2 * a, 0.0), float("nan"), float("nan"), spread
    return 2 * a, centre - b / (2 * a), c - b * b / (4 * a), spread


@dataclass(frozen=True)
class Winner:
    """A size on the envelope: it has the lowest loss from ``low`` to ``high`` FLOPs.

    ``tokens`` and ``loss`` are its own at ``compute``, the middle of that range in ln C.
    """

    params: float
    compute: float
    tokens: float
    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Envelope:
    """The winning sizes, and the lines N*(C) = k·C^a and D*(C) = k·C^b through them.

    ``points`` has one entry for each size that wins between two hand-overs, ascending in compute.
    The lines, ``None`` with fewer than two, are least squares in ln C; ``r2`` is that of the first
    and ``reason`` says why they are not usable. ``excluded`` sizes win somewhere and are no point.
    """

    points: tuple[Winner, ...]
    n_line: PowerLaw | None
    d_line: PowerLaw | None
    r2: float | None
    reason: str
    excluded: tuple[Excluded, ...]
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the lines go through three sizes or more."""
        return self.n_line is not None and not self.reason

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(finite_json({"usable": self.usable, **vars(self)}))

    def diagnostics(self) -> list[Diagnostic]:
        """What a reader of the envelope must know."""
        out = [finding("envelope_schedule"), *(finding("curves", note=n) for n in self.notes)]
        if self.excluded:
            shown = listed([f"{e.label}: {e.reason}" for e in self.excluded])
            out.append(finding("envelope_excluded", count=len(self.excluded), shown=shown))
        return out


def envelope(curves: Curves, flops: FlopsFunction) -> Envelope:
    """Approach 1 on training curves, N counted as in the runs; F(N) where they have no FLOPs.

    For C = k·N·D, an additive or κ-law and sizes in constant ratio, hand-overs lie equally far in
    ln C from each size's optimum: the lines' exponents are exact, and their factors are not.
    """
    spent = [np.log(c.flops if c.flops is not None else flops(c.params) * c.tokens) for c in curves]
    sizes, logs = curves.sizes, all(np.min(c.loss) > 0 for c in curves)
    grid = np.linspace(min(t[0] for t in spent), max(t[-1] for t in spent), _POINTS)
    loss = np.full((len(sizes), _POINTS), np.inf)
    tokens = np.full((len(sizes), _POINTS), np.nan)
    for curve, t in zip(curves, spent, strict=True):
        row = int(np.searchsorted(sizes, curve.params))
        level = np.log(curve.loss) if logs else curve.loss
        level = np.interp(grid, t, level, left=np.inf, right=np.inf)
        lower = level < loss[row]  # of a size with several curves the lowest counts
        loss[row] = np.where(lower, level, loss[row])
        tokens[row] = np.where(lower, np.interp(grid, t, np.log(curve.tokens)), tokens[row])
    loss = np.exp(loss) if logs else loss
    points, excluded = _winners(sizes, grid, loss, tokens)
    notes = (*curves.notes, *(f"{e.label}: {e.reason}" for e in curves.excluded))
    reason = ""
    if len(sizes) < _COMPETING:
        reason = f"the curves are of {len(sizes)} sizes; approach 1 needs three or more"
    elif len(points) < 3:
        reason = f"{len(points)} sizes win between two others; approach 1 needs three or more"
    n_line, d_line, r2, _ = _lines([p.compute for p in points], points)
    return Envelope(points, n_line, d_line, r2, reason, excluded, notes)


def _winners(
    sizes: Floats, grid: Floats, loss: Floats, tokens: Floats
) -> tuple[tuple[Winner, ...], tuple[Excluded, ...]]:
    """One point for each size that wins between two hand-overs, and why the others are none."""
    reached = np.isfinite(loss)
    count = reached.sum(axis=0)
    winner = np.where(count > 0, np.argmin(loss, axis=0), -1)
    smallest = np.argmax(reached, axis=0)
    largest = len(sizes) - 1 - np.argmax(reached[::-1], axis=0)

    def crossed(before: int, after: int) -> bool:
        """Whether the winner changes there between two sizes that both reach both sides."""
        if before < 0 or after >= len(winner) or winner[before] < 0 or winner[after] < 0:
            return False
        pair = [before, after]
        return bool(np.all(reached[winner[pair]][:, pair]))

    points, excluded = [], []
    for i in np.unique(winner[winner >= 0]):
        wins = np.flatnonzero(winner == i)
        reason = ""
        if np.all(count[wins] < _COMPETING):
            reason = "fewer than three sizes reach the compute where it wins"
        elif np.any(smallest[wins] == i):
            reason = "it wins as the smallest size there: a smaller one might be lower"
        elif np.any(largest[wins] == i):
            reason = "it wins as the largest size there: a larger one might be lower"
        elif not (crossed(wins[0] - 1, wins[0]) and crossed(wins[-1], wins[-1] + 1)):
            reason = "it wins until a curve begins or ends, not until another size is lower"
        if reason:
            excluded.append(Excluded(f"N = {sizes[i]:.4g}", reason))
            continue
        # The median of the wins: a stray win of a noisy curve far off does not move it.
        middle = float(np.median(grid[wins]))
        at = int(wins[np.argmin(np.abs(grid[wins] - middle))])
        C, D = (float(v) for v in np.exp([middle, tokens[i, at] + middle - grid[at]]))
        ends, L = np.exp(grid[wins[[0, -1]]]), float(loss[i, at])
        points.append(Winner(float(sizes[i]), C, D, L, float(ends[0]), float(ends[1])))
    points.sort(key=lambda p: p.compute)
    return tuple(points), tuple(excluded)
