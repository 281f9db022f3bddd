"""Approach 1: the size that has the lowest loss at each compute along the training curves.

Hoffmann et al. 2022, §3.1. The envelope of the curves is a continuous line, and its points at
neighbouring C come from the same pair of curves: a line through all of them would have a standard
error of nothing. What the curves tell is where one size hands over to the next, so each size
enters once, at the middle of the compute range over which it wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.power import fit_power
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.optimum import PowerLaw
from flops_fit.records import Diagnostic, Excluded
from flops_fit.table.curves import Curve, Curves

Floats = NDArray[np.float64]

# As many as Hoffmann et al. take. Over five decades they lie 0.8 % of C apart, well inside the
# range over which one size wins, so that its middle is known to less than a percent.
_POINTS = 1500
_COMPETING = 3


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

    Attributes
    ----------
    points
        One entry a size that wins between two hand-overs, ascending in compute.
    n_line, d_line, r2
        Least squares in ln C through ``points`` and the R² of the first; ``None`` with fewer
        than two.
    reason
        Why it is not usable; empty where it is.
    excluded
        Sizes that have the lowest loss somewhere and are no point, each with its reason.
    notes
        How the curves were read.
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
        """Whether three sizes or more carry the lines."""
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


def envelope(curves: Curves, flops: FlopsFunction) -> Envelope:
    """Approach 1 on training curves.

    At each of 1,500 values of C, evenly spaced in ln C, every curve that reaches C gives its loss
    there, ln L linear in ln C between its points and nothing outside them. Of a size with several
    curves the lowest counts. A size is a point of the envelope where

    - three sizes or more reach the C at which it wins, and it is neither the smallest nor the
      largest of them: a winner at the edge is no minimum, the next size might be lower still;
    - its range ends on both sides where it crosses another size's curve. Where it ends because a
      curve does, the range is cut, and its middle would be wrong.

    Parameters
    ----------
    curves
        The training curves, N counted as in the runs that are fitted.
    flops
        F(N), for curves that do not tell their FLOPs.

    Notes
    -----
    For C = k·N·D, an additive or κ-law and sizes in constant ratio, the hand-overs lie at the same
    distance in ln C from each size's own optimum, so the exponents of the lines are exact and
    only their factors carry the spacing of the sizes.
    """
    lines = [_line_of(c, flops) for c in curves]
    sizes = curves.sizes
    grid = np.linspace(min(t[0] for t, _, _ in lines), max(t[-1] for t, _, _ in lines), _POINTS)
    loss = np.full((len(sizes), _POINTS), np.inf)
    tokens = np.full((len(sizes), _POINTS), np.nan)
    for curve, (t, ln_l, ln_d) in zip(curves, lines, strict=True):
        row = int(np.searchsorted(sizes, curve.params))
        here = np.interp(grid, t, ln_l, left=np.inf, right=np.inf)
        lower = here < loss[row]
        loss[row] = np.where(lower, here, loss[row])
        tokens[row] = np.where(lower, np.interp(grid, t, ln_d), tokens[row])
    points, excluded = _winners(sizes, grid, loss, tokens)
    notes = (*curves.notes, *(f"{e.label}: {e.reason}" for e in curves.excluded))
    reason = _too_little(len(points), len(sizes))
    if len(points) < 2:
        return Envelope(points, None, None, None, reason, excluded, notes)
    C = np.array([p.compute for p in points])
    n = fit_power(C, np.array([p.params for p in points]))
    d = fit_power(C, np.array([p.tokens for p in points]))
    return Envelope(points, n.law, d.law, n.r2, reason, excluded, notes)


def envelope_diagnostics(found: Envelope) -> list[Diagnostic]:
    """What a reader of the envelope must know."""
    told = [
        Diagnostic(
            "envelope_schedule",
            "note",
            "approach 1 reads losses inside the training curves: they are right where the rate is "
            "constant, and too high in the middle of a schedule that decays, the more so for "
            "the larger size, which is the less far into its schedule at the same compute",
            "trust it only for a constant rate, or as a check",
        )
    ]
    told += [Diagnostic("curves", "note", note) for note in found.notes]
    if found.excluded:
        shown = "; ".join(f"{e.label}: {e.reason}" for e in found.excluded[:5])
        more = f"; and {len(found.excluded) - 5} more" if len(found.excluded) > 5 else ""
        text = f"{len(found.excluded)} sizes are no point of the envelope ({shown}{more})"
        told.append(Diagnostic("envelope_excluded", "note", text))
    return told


def _line_of(curve: Curve, flops: FlopsFunction) -> tuple[Floats, Floats, Floats]:
    """Of a curve ln C, ln L and ln D."""
    spent = curve.flops if curve.flops is not None else flops(curve.params) * curve.tokens
    return np.log(spent), np.log(curve.loss), np.log(curve.tokens)


def _winners(
    sizes: Floats, grid: Floats, loss: Floats, tokens: Floats
) -> tuple[tuple[Winner, ...], tuple[Excluded, ...]]:
    """One point for each size that wins between two hand-overs, and why the others are none."""
    reached = np.isfinite(loss)
    count = reached.sum(axis=0)
    winner = np.where(count > 0, np.argmin(loss, axis=0), -1)
    smallest, largest = (
        np.argmax(reached, axis=0),
        len(sizes) - 1 - np.argmax(reached[::-1], axis=0),
    )
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
        elif not (
            _crosses(winner, reached, wins[0] - 1, wins[0])
            and _crosses(winner, reached, wins[-1], wins[-1] + 1)
        ):
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


def _crosses(winner: NDArray[np.intp], reached: NDArray[np.bool_], before: int, after: int) -> bool:
    """Whether the winner changes there between two sizes that both reach both sides."""
    if before < 0 or after >= len(winner) or winner[before] < 0 or winner[after] < 0:
        return False
    pair = [winner[before], winner[after]]
    return bool(np.all(reached[pair][:, [before, after]]))


def _too_little(points: int, sizes: int) -> str:
    if sizes < _COMPETING:
        return f"the curves are of {sizes} sizes; approach 1 needs three or more"
    if points < 3:
        return f"{points} sizes win between two others; approach 1 needs three or more"
    return ""
