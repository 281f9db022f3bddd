"""Losses in bits among losses in nats: the same table, two units, a factor ln 2 between them.

A run's ln L lies on a smooth surface q(ln N, ln D); one reported in bits lies 1/ln 2 = 1.443 times
higher, an offset of −ln ln 2 = 0.3665 in ln L. Runs scatter by per cents, so the two units show as
two parallel sheets. Each run is put on the sheet nearer to it, and the surface with the smallest
truncated residuals is taken, searched from surfaces through a few runs each. The table is
mixed where one surface without sheets does far worse, several runs lie on the second sheet,
and hardly any between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_OFFSET = float(-np.log(np.log(2)))
_FEWEST_RUNS, _FEWEST_IN_MINORITY = 12, 2
_LARGEST_SD = 0.06  # six of these fit between the sheets
_STRAY = 0.12  # this far off either sheet a run belongs to neither
_CLOSE = 0.035  # a quadratic misses a law by about this much at the ends of a sweep
_CUT = 0.25 * _OFFSET  # residuals beyond this count alike
_NEEDED = 0.4 * _CUT**2  # what a run on the second sheet must save
_SEARCHED = 1500
_DRAWS = 800


@dataclass(frozen=True)
class _Sheets:
    """A surface, each run's residual on its own sheet, and which runs are on the upper one."""

    residuals: Floats
    upper: Bools
    sd: float
    score: float


def mixed_loss_units(runs: RunTable) -> Diagnostic | None:
    """The finding that some losses are in bits and the others in nats; ``None`` where not.

    The runs named are the smaller group: which of the two units was meant, nobody but the
    author of the table can say.
    """
    if len(runs) < _FEWEST_RUNS:
        return None
    basis, z = _basis(runs), np.log(runs.loss)
    one = _search(basis, z, 0.0, runs.budget)
    if one.score <= _NEEDED * _FEWEST_IN_MINORITY:
        return None
    two = _search(basis, z, _OFFSET, runs.budget)
    if not _are_apart(one, two):
        return None
    minority = two.upper if 2 * np.sum(two.upper) <= len(runs) else ~two.upper
    found = np.flatnonzero(minority)
    unit = "bits" if minority is two.upper else "nats"
    shown = ", ".join(runs.labels[i] for i in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return Diagnostic(
        "mixed_loss_units",
        "critical",
        f"{len(found)} of {len(runs)} losses seem to be in {unit} and the others not: they lie a factor "
        f"ln 2 off the rest ({shown}{more})",
        "bring all losses to one unit: nats are bits times 0.6931",
    )


def _are_apart(one: _Sheets, two: _Sheets) -> bool:
    smaller = two.upper if 2 * np.sum(two.upper) <= len(two.upper) else ~two.upper
    minority = int(np.sum(smaller))
    if minority < _FEWEST_IN_MINORITY or two.sd > _LARGEST_SD:
        return False
    if float(np.sqrt(np.median(two.residuals[smaller] ** 2))) > max(2 * two.sd, _CLOSE):
        return False
    off = np.abs(two.residuals) > max(4 * two.sd, _STRAY)
    # Outliers fall where they like; a second unit puts its runs on the second sheet.
    if np.sum(off) >= max(1.0, 0.25 * minority):
        return False
    # A run that one surface must give up costs the whole cut; two sheets take it in.
    return one.score - two.score > _NEEDED * minority


def _basis(runs: RunTable) -> Floats:
    """Quadratic in standardised ln N and ln D, shape (runs, 6)."""
    x, y = np.log(runs.params), np.log(runs.tokens)
    x, y = x - x.mean(), y - y.mean()
    x, y = x / max(float(np.std(x)), 1e-12), y / max(float(np.std(y)), 1e-12)
    return np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])


def _search(basis: Floats, z: Floats, offset: float, budget: Floats) -> _Sheets:
    """The surface with the smallest truncated residuals from the nearer of its two sheets."""
    rng = np.random.default_rng(0)
    some = np.arange(len(z))
    if len(z) > _SEARCHED:
        some = np.sort(rng.choice(some, _SEARCHED, replace=False))
    B, t = basis[some], z[some]
    starts = _starts(B, t, budget[some], offset, rng)
    distance = _folded(t - starts @ B.T, offset)[0]
    order = np.argsort(np.sum(np.minimum(np.abs(distance), _CUT), axis=1), kind="stable")
    ends = [_refine(B, t, starts[i], offset) for i in order[:16]]
    best = min(ends, key=lambda c: float(np.sum(_loss(_folded(t - B @ c, offset)[0]))))
    residuals, upper = _folded(z - basis @ best, offset)
    sd = 1.4826 * float(np.median(np.abs(residuals)))
    sd *= float(np.sqrt(len(z) / max(len(z) - basis.shape[1], 1)))
    return _Sheets(residuals, upper, max(sd, 1e-6), float(np.sum(_loss(residuals))))


def _starts(
    B: Floats, t: Floats, budget: Floats, offset: float, rng: np.random.Generator
) -> Floats:
    """Surfaces through all runs, through a few at random, and with whole budgets moved."""
    runs, k = B.shape
    found = [np.linalg.lstsq(B, t, rcond=None)[0]]
    for value in np.unique(budget)[:50] if offset else ():
        for moved in (budget == value, budget <= value):
            found.append(np.linalg.lstsq(B, t - offset * moved, rcond=None)[0])
            found.append(np.linalg.lstsq(B, t + offset * moved, rcond=None)[0])
    size = min(k + 2, runs)
    draws = _DRAWS if offset else _DRAWS // 8
    picked = np.argpartition(rng.random((draws, runs)), size - 1, axis=1)[:, :size]
    through = np.linalg.pinv(B[picked], rcond=1e-6) @ t[picked][..., None]
    starts = np.vstack([np.array(found), through[..., 0]])
    if not offset:
        return starts
    lowered = starts.copy()  # the runs a surface goes through may be the upper sheet
    lowered[:, 0] -= offset
    return np.vstack([starts, lowered])


def _refine(B: Floats, t: Floats, start: Floats, offset: float) -> Floats:
    """Alternate sheets and a surface by Tukey's biweight, from wide to narrow."""
    c = start
    for _ in range(25):
        r, upper = _folded(t - B @ c, offset)
        scale = min(max(4.685 * 1.4826 * float(np.median(np.abs(r))), 1e-6), 0.5 * _OFFSET)
        root = np.clip(1 - (r / scale) ** 2, 0, None)
        weighted = (t - offset * upper) * root
        new = np.asarray(
            np.linalg.lstsq(B * root[:, None], weighted, rcond=None)[0], dtype=np.float64
        )
        if np.max(np.abs(new - c)) < 1e-9:
            break
        c = new
    return c


def _folded(r: Floats, offset: float) -> tuple[Floats, Bools]:
    """Residuals from the nearer sheet, and whether that is the upper one."""
    upper = r > offset / 2 if offset else np.zeros(r.shape, dtype=bool)
    return r - offset * upper, upper


def _loss(r: Floats) -> Floats:
    return np.minimum(r * r, _CUT**2)
