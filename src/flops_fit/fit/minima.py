"""Approaches 1 and 2: the best size at each compute, and lines N*(C) and D*(C) through them.

Approach 2 (Hoffmann et al. 2022, §3.2) takes the minimum of a parabola in ln N at each budget. It
is biased by the width of the grid and by α ≠ β (the loss is no parabola in ln N), so it is a check
beside the surface.

Approach 1 (§3.1) takes the size with the lowest loss at each C along the training curves. The
envelope of the curves is a continuous line, and its points at neighbouring C come from the same two
curves: a line through all of them would have a standard error of zero. The curves determine where
one size hands over to the next, so each size enters once, at the middle of the range of compute over
which it wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.power import PowerFit, fit_power
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.optimum import PowerLaw
from flops_fit.records import Diagnostic, Excluded, finite_json
from flops_fit.table.curves import Curve, Curves
from flops_fit.table.run_table import RunTable
from flops_fit.text import listed

Floats = NDArray[np.float64]

_FEWEST_SIZES = 4  # that a parabola inside a window has
_MOST_ROUNDS, _VERTEX_TOLERANCE = 20, 1e-6
# As many as Hoffmann et al. take. Over five decades they lie 0.8 % of C apart, well inside the
# range over which one size wins, so that its middle is known to less than a percent.
_POINTS = 1500
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
        return 0.5 * self.curvature * distance**2 / self.loss


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
        return {
            "usable": self.usable,
            "n_line": self.n_line.params if self.n_line else None,
            "d_line": self.d_line.params if self.d_line else None,
            "n_r2": self.n_r2,
            "d_r2": self.d_r2,
            "parabolas": [finite_json(vars(p)) for p in self.parabolas],
        }


def isoflop(runs: RunTable, factor: float | None = None) -> IsoFLOP:
    """Approach 2 on the budgets of a table with three sizes or more.

    With ``factor`` each parabola takes the sizes within that factor of its own vertex, where they
    are enough.
    """
    budgets = (runs.select(runs.budget == b) for b in np.unique(runs.budget))
    parabolas = tuple(p for p in (parabola(part, factor) for part in budgets) if p is not None)
    inside = [p for p in parabolas if p.interior]
    if len(inside) < 2:
        return IsoFLOP(parabolas, None, None, None, None)
    n, d = _lines([p.budget for p in inside], inside)
    return IsoFLOP(parabolas, n.law, d.law, n.r2, d.r2)


def _lines(C: list[float], minima: list[Any] | tuple[Any, ...]) -> tuple[PowerFit, PowerFit]:
    """N*(C) and D*(C) through minima with ``params`` and ``tokens``."""
    n, d = ([getattr(p, name) for p in minima] for name in ("params", "tokens"))
    return fit_power(C, n), fit_power(C, d)


def parabola(runs: RunTable, factor: float | None = None) -> Parabola | None:
    """The parabola of one budget's runs; ``None`` with fewer than three sizes.

    The loss is no parabola in ln N, so far arms shift its vertex. With ``factor`` sizes farther
    than that from the vertex are left out, as long as four remain, until the vertex stays.
    """
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
        settled = abs(np.log(closer.params / best.params)) < _VERTEX_TOLERANCE
        best = closer
        if settled:
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
    The lines are least squares in ln C through them, ``r2`` the R² of the first; ``None`` with
    fewer than two. ``reason`` says why they are not usable; it is empty where they are.
    ``excluded`` are sizes that have the lowest loss somewhere and are no point, ``notes`` say how
    the curves were read.
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
        return {
            "usable": self.usable,
            "reason": self.reason,
            "n_line": self.n_line.params if self.n_line else None,
            "d_line": self.d_line.params if self.d_line else None,
            "r2": self.r2,
            "points": [dict(vars(p)) for p in self.points],
            "excluded": [vars(e) for e in self.excluded],
            "notes": list(self.notes),
        }

    def diagnostics(self) -> list[Diagnostic]:
        """What a reader of the envelope must know."""
        schedule = (
            "approach 1 reads losses inside the training curves: they are right where the rate is "
            "constant, and too high in the middle of a schedule that decays, the more so for "
            "the larger size, which has less of its schedule done at the same compute"
        )
        action = "use it only for a constant rate, or as a check"
        out = [Diagnostic("envelope_schedule", "note", schedule, action)]
        out += [Diagnostic("curves", "note", note) for note in self.notes]
        if self.excluded:
            shown = listed([f"{e.label}: {e.reason}" for e in self.excluded])
            text = f"{len(self.excluded)} sizes are no point of the envelope ({shown})"
            out.append(Diagnostic("envelope_excluded", "note", text))
        return out


def envelope(curves: Curves, flops: FlopsFunction) -> Envelope:
    """Approach 1 on training curves, N counted as in the runs that are fitted.

    At each of 1,500 values of C, evenly spaced in ln C, every curve that reaches C gives its loss
    there, ln L linear in ln C between its points and nothing outside them. Of a size with several
    curves the lowest counts. A size is a point of the envelope where

    - three sizes or more reach the C at which it wins, and it is neither the smallest nor the
      largest of them: a winner at the edge is no minimum, the next size might be lower still;
    - its range ends on both sides where it crosses another size's curve. Where it ends because a
      curve does, the range is cut, and its middle would be wrong.

    F(N) is for curves without their own FLOPs.

    Notes
    -----
    For C = k·N·D, an additive or κ-law and sizes in constant ratio, the hand-overs lie at the same
    distance in ln C from each size's own optimum, so the exponents of the lines are exact and
    only their factors depend on the spacing of the sizes.
    """
    logs = [_logs(c, flops) for c in curves]
    sizes = curves.sizes
    grid = np.linspace(min(t[0] for t, _, _ in logs), max(t[-1] for t, _, _ in logs), _POINTS)
    loss = np.full((len(sizes), _POINTS), np.inf)
    tokens = np.full((len(sizes), _POINTS), np.nan)
    for curve, (t, ln_l, ln_d) in zip(curves, logs, strict=True):
        row = int(np.searchsorted(sizes, curve.params))
        ln_loss = np.interp(grid, t, ln_l, left=np.inf, right=np.inf)
        lower = ln_loss < loss[row]
        loss[row] = np.where(lower, ln_loss, loss[row])
        tokens[row] = np.where(lower, np.interp(grid, t, ln_d), tokens[row])
    points, excluded = _winners(sizes, grid, loss, tokens)
    notes = (*curves.notes, *(f"{e.label}: {e.reason}" for e in curves.excluded))
    reason = ""
    if len(sizes) < _COMPETING:
        reason = f"the curves are of {len(sizes)} sizes; approach 1 needs three or more"
    elif len(points) < 3:
        reason = f"{len(points)} sizes win between two others; approach 1 needs three or more"
    if len(points) < 2:
        return Envelope(points, None, None, None, reason, excluded, notes)
    n, d = _lines([p.compute for p in points], points)
    return Envelope(points, n.law, d.law, n.r2, reason, excluded, notes)


def _logs(curve: Curve, flops: FlopsFunction) -> tuple[Floats, Floats, Floats]:
    """Ln C, ln L and ln D of a curve."""
    spent = curve.flops if curve.flops is not None else flops(curve.params) * curve.tokens
    return np.log(spent), np.log(curve.loss), np.log(curve.tokens)


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
        values = np.exp([middle, tokens[i, at] + middle - grid[at], loss[i, at]])
        ends = np.exp(grid[wins[[0, -1]]])
        C, D, L = (float(v) for v in values)
        points.append(Winner(float(sizes[i]), C, D, L, float(ends[0]), float(ends[1])))
    points.sort(key=lambda p: p.compute)
    return tuple(points), tuple(excluded)
