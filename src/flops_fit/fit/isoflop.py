"""Approach 2: one parabola in ln N per budget, then a line through the minima.

Hoffmann et al. 2022, §3.2. It is biased by the width of the grid and by α ≠ β (the loss is no
parabola in ln N), so it stands beside the surface as a check and is no headline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.power import fit_power
from flops_fit.laws.optimum import PowerLaw
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]

_FEWEST = 4
_ROUNDS, _STILL = 20, 1e-6


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
        """Whether three minima or more carry the lines."""
        return self.n_line is not None and len(self.interior) >= 3

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "usable": self.usable,
            "n_line": self.n_line.params if self.n_line else None,
            "d_line": self.d_line.params if self.d_line else None,
            "n_r2": self.n_r2,
            "d_r2": self.d_r2,
            "parabolas": [
                {k: None if v != v else v for k, v in vars(p).items()} for p in self.parabolas
            ],
        }


def isoflop(runs: RunTable, factor: float | None = None) -> IsoFLOP:
    """Approach 2 on the budgets of a table with three sizes or more.

    With ``factor`` each parabola takes the sizes within that factor of its own vertex, where they
    are enough.
    """
    parabolas = []
    for budget in np.unique(runs.budget):
        found = parabola(runs.select(runs.budget == budget), factor)
        if found is not None:
            parabolas.append(found)
    inside = [p for p in parabolas if p.interior]
    if len(inside) < 2:
        return IsoFLOP(tuple(parabolas), None, None, None, None)
    C = np.array([p.budget for p in inside])
    n, d = (
        fit_power(C, np.array(y)) for y in zip(*((p.params, p.tokens) for p in inside), strict=True)
    )
    return IsoFLOP(tuple(parabolas), n.law, d.law, n.r2, d.r2)


def parabola(runs: RunTable, factor: float | None = None) -> Parabola | None:
    """The parabola of one budget's runs; ``None`` with fewer than three sizes.

    The loss is no parabola in ln N, so far arms shift its vertex. With ``factor`` sizes farther
    than that from the vertex are left out, as long as four remain, until the vertex stays.
    """
    found = _parabola(runs)
    for _ in range(_ROUNDS if factor else 0):
        if found is None or not found.interior:
            break
        near = np.abs(np.log(runs.params / found.params)) <= np.log(factor or np.inf)
        if len(np.unique(runs.params[near])) < _FEWEST:
            break
        closer = _parabola(runs.select(near))
        if closer is None or not closer.interior:
            break
        still = abs(np.log(closer.params / found.params)) < _STILL
        found = closer
        if still:
            break
    return found


def _parabola(runs: RunTable) -> Parabola | None:
    sizes = np.unique(runs.params)
    if len(sizes) < 3:
        return None
    ln_n, ln_d = np.log(runs.params), np.log(runs.tokens)
    curvature, vertex, loss, spread = _quadratic(ln_n, runs.loss)
    budget = float(runs.budget[0])
    step = float(np.median(np.diff(np.log(sizes))))
    if curvature <= 0:
        mean = {s: float(np.mean(runs.loss[runs.params == s])) for s in (sizes[0], sizes[-1])}
        side: Literal["small", "large"] = "small" if mean[sizes[0]] < mean[sizes[-1]] else "large"
        nan = float("nan")
        return _outside(
            Parabola(budget, len(runs), len(sizes), nan, nan, nan, curvature, spread, False),
            side,
            sizes,
            step,
            "the loss does not curve upward over its sizes",
        )
    # D at the vertex from a parabola of its own in ln D: C/F(N) is then not needed.
    d_curvature, d_vertex, _, _ = _quadratic(ln_d, runs.loss)
    tokens = (
        np.exp(d_vertex) if d_curvature > 0 else np.exp(np.interp(vertex, *_sorted(ln_n, ln_d)))
    )
    result = Parabola(
        budget,
        len(runs),
        len(sizes),
        float(np.exp(np.clip(vertex, -700, 700))),
        float(tokens),
        loss,
        curvature,
        spread,
        True,
    )
    if vertex <= np.log(sizes[0]):
        return _outside(result, "small", sizes, step, "its minimum lies below the smallest size")
    if vertex >= np.log(sizes[-1]):
        return _outside(result, "large", sizes, step, "its minimum lies above the largest size")
    return result


def _outside(
    found: Parabola, side: Literal["small", "large"], sizes: Floats, step: float, reason: str
) -> Parabola:
    end = np.log(sizes[0]) - step if side == "small" else np.log(sizes[-1]) + step
    values = {**vars(found), "interior": False, "edge": side, "reason": reason}
    return Parabola(**{**values, "next_params": float(np.exp(end))})


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


def _sorted(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(x)
    return x[order], y[order]
