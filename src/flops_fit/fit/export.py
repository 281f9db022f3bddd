"""A fit as plain values that predictions can be computed from, and as a card for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.prediction import QUANTITIES, serious
from flops_fit.flops.functions import FlopsFunction, InterpolatedFlops, LinearFlops, SmoothFlops
from flops_fit.laws.kappa import Hoffmann, Kaplan, Kappa, KappaFamily
from flops_fit.laws.law import Law
from flops_fit.laws.muennighoff import Muennighoff
from flops_fit.records import finite_json
from flops_fit.text import card, format_count

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit

Floats = NDArray[np.float64]

_MOST_EXTRAPOLATION = 1000.0  # times the largest run's compute
_BUDGETS = 49  # rows of a table of predictions
_NO_TERM = float(np.log(1e-300))  # ln A of a term that vanished
_STEP = 1e-4  # relative, of a coordinate; as in gradient_of
_SAMPLES = 32  # an octave of N, of an F(N) that is only known as a function


def export_fit(fit: Fit, level: float = 0.9) -> dict[str, Any]:
    """What :meth:`flops_fit.fit.Fit.predict` computes with, as values for JSON.

    ``flops`` is F(N), ``smallest`` and ``largest`` are C of the runs, ``reach`` is the C up to which
    the values are meant to be used. ``form`` is one of

    - ``"kappa"``: ``law`` is [E, ln A, ln B, α, β, κ] of L = E + (A/N^α + B/D^β)^κ, and ``evidence``
      what intervals are made of. Of kind ``"sandwich"`` it has parts, the fitted law's and that of
      a rival whose interval is spanned too: for each free coordinate the law one ``step`` up and
      down it, so that a gradient is (q(up) − q(down))/2·step, their covariance, and Student's t. Of
      kind ``"draws"`` it has refitted laws, whose percentiles are the interval. Of kind ``"none"``
      it has the ``reason``.
    - ``"lines"``: N* = k·C^a and, where it is known, L = k·C^a + E; no intervals.
    - ``"table"``: for any other law, the prediction at C evenly spaced in ln C. Logs are to be
      interpolated by ``cubic``; ``error`` is its largest relative error at midpoints.
    """
    low, high, sizes = float(np.min(fit.runs.flops)), fit.largest_compute, fit.runs.params
    reach = _MOST_EXTRAPOLATION * high
    lines = fit._headline.lines
    values: dict[str, Any]
    if lines is not None:
        loss = lines.loss_line()
        loss_line = loss.params if loss else None
        values = {"form": "lines", "line": lines.n_line.params, "loss_line": loss_line}
    else:
        values = {"form": "table", **_table(fit, level, low / 10, reach)}
    flops = _flops(fit.flops, float(sizes.min()) / 1e3, float(sizes.max()) * 1e4)
    about = {"level": level, "unit": fit.runs.unit, "smallest": low, "largest": high}
    return {**about, "reach": reach, **values, "flops": flops}


def kappa_form(law: Law) -> list[float] | None:
    """[E, ln A, ln B, α, β, κ] of L = E + (A/N^α + B/D^β)^κ; ``None`` for a law of another form."""
    # The exact types: a law derived from one of these may change its loss.
    if isinstance(law, Muennighoff) and type(law) is Muennighoff and np.isinf(law.unique):
        law = law.fresh
    if isinstance(law, KappaFamily) and type(law) in (Hoffmann, Kappa, Kaplan):
        return [max(v, _NO_TERM) for v in law.log_form]
    return None


def _flops(flops: FlopsFunction, low: float, high: float) -> dict[str, Any]:
    """F(N): its constants, its counts, or samples of it."""
    if isinstance(flops, LinearFlops):
        return {"kind": "linear", "k": flops.k}
    if isinstance(flops, SmoothFlops):
        names = ("k", "c", "p", "n0", "n_min")
        return {"kind": "smooth", **{name: getattr(flops, name) for name in names}}
    if isinstance(flops, InterpolatedFlops):
        sizes = np.array(sorted(flops.counts))
        per_unit = np.array([flops.counts[n] for n in sizes])
    else:
        sizes = np.geomspace(low, high, int(_SAMPLES * np.log2(high / low)))
        per_unit = np.asarray(flops(sizes))
        usable = np.isfinite(per_unit) & (per_unit > 0)
        sizes, per_unit = sizes[usable], per_unit[usable]
    return {
        "kind": "counts",
        "log_size": np.log(sizes).tolist(),
        "log_ratio": np.log(per_unit / sizes).tolist(),
    }


def _table(fit: Fit, level: float, low: float, high: float) -> dict[str, Any]:
    log_c = np.linspace(np.log(low), np.log(high), _BUDGETS)
    values = _logs_of(fit, level, log_c)
    middles = 0.5 * (log_c[:-1] + log_c[1:])[:: _BUDGETS // 8]
    exact = _logs_of(fit, level, middles)
    near = np.array([cubic(middles, log_c, column) for column in values.T]).T
    error = np.abs(near - exact)
    names = [f"{name}{end}" for name in QUANTITIES for end in ("", "_low", "_high")]
    columns = dict(zip(names, finite_json(values.T.tolist()), strict=True))
    worst = float(np.nanmax(error)) if np.any(np.isfinite(error)) else 0.0
    return {"log_compute": log_c.tolist(), "columns": columns, "error": worst}


def cubic(x: Floats, grid: Floats, values: Floats) -> Floats:
    """Between evenly spaced points, the cubic through the four around each x (Lagrange)."""
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    first = np.clip(np.floor((x - grid[0]) / step).astype(int) - 1, 0, len(grid) - 4)
    t = (x - grid[first]) / step
    weights = (
        -(t - 1) * (t - 2) * (t - 3) / 6,
        t * (t - 2) * (t - 3) / 2,
        -t * (t - 1) * (t - 3) / 2,
        t * (t - 1) * (t - 2) / 6,
    )
    return np.asarray(sum(w * values[first + i] for i, w in enumerate(weights)))


def _logs_of(fit: Fit, level: float, log_c: Floats) -> Floats:
    """Logs of each quantity and of its interval's ends, shape (C, columns)."""
    rows = []
    for C in np.exp(log_c):
        at = fit.predict(float(C), level)
        spans = ((at[name], *(at.intervals[name] or (np.nan, np.nan))) for name in QUANTITIES)
        rows.append([value for span in spans for value in span])
    return np.asarray(np.log(np.array(rows, dtype=np.float64)))


def fit_card(fit: Fit) -> str:
    """The law with its constants, the optimum at the largest run's compute, and the warnings."""
    best = fit.optimal(fit.largest_compute)
    rows = [["constant", "value"], *([k, f"{v:.4g}"] for k, v in fit.law.params.items())]
    notes = [
        f"{len(fit.runs)} runs fitted, {len(fit.excluded)} left out; scatter {100 * fit.residual_sd:.2g} %.",
        f"At C = {fit.largest_compute:.3g}, the largest run's: N* = {format_count(best.params)}, "
        f"D* = {format_count(best.tokens)} {fit.runs.unit}.",
        *serious(fit.diagnostics),
    ]
    return card(f"{fit.law.formula} · trust: {fit.trust}", rows, notes)
