"""A fit as plain values: on disk, for other programs to compute with, in words, and as a card."""

from __future__ import annotations

import inspect
import math
import warnings
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flops_fit._version import __version__
from flops_fit.errors import InputError, TableError
from flops_fit.files import read_json
from flops_fit.fit.checks import trust_worth
from flops_fit.fit.misfit import Posterior
from flops_fit.fit.misfit_mean import KappaMean
from flops_fit.fit.prediction import SPANS, serious
from flops_fit.fit.valley import ValleyPrior
from flops_fit.flops.functions import (
    Floats,
    FlopsFunction,
    InterpolatedFlops,
    flops_from_dict,
    flops_to_dict,
)
from flops_fit.laws.kappa import KappaFamily
from flops_fit.laws.law import Law, as_flops
from flops_fit.records import SIMULATED, as_record, finite_json
from flops_fit.table.run_table import RunTable
from flops_fit.text import card, format_count

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit


_MOST_EXTRAPOLATION = 1000.0  # times the largest run's compute
_BUDGETS = 49  # rows of a table of predictions
_NO_TERM = float(np.log(1e-300))  # ln A of a term that vanished
_MOST_FINDINGS = 4
_ONE_SD = 0.6827
_SAMPLES = 32  # an octave of N, of an F(N) that is only known as a function


def export_fit(fit: Fit, level: float = 0.9) -> dict[str, Any]:
    """What :meth:`flops_fit.fit.Fit.predict` computes with, as values for JSON.

    ``flops`` is F(N), ``smallest`` and ``largest`` are C of the runs, ``params`` and ``tokens`` the ends of
    their N and D, ``reach`` is the C up to which the values are meant to be used. ``form`` is one of

    - ``"draws"``: ``law`` is [E, ln A, ln B, α, β, κ] of L = E + (A/N^α + B/D^β)^κ, and ``surfaces``
      has all that is drawn around it: such a law for each draw, and ``parts`` with the misfit g of
      some of them each. The loss is law·e^g where ``log``, else law + g. With a kernel
      k(t; ℓ) = exp(−t²/2ℓ²), s = ln N + ln D held within its knots and v = ln N − ln D likewise,
      g = Σ w_ij·k(s − s_i; length)·k(v − v_j; length) + Σ u_i·k(s − d_i; drift_length).
      ``weights`` holds w, row by row, and then u of each draw as 32-bit floats, little-endian, in
      base64. ``run`` adds to g what one run has on top, for each draw and each of its four optima.
    - ``"lines"``: N* = k·C^a and, where it is known, L = k·C^a + E; no intervals.
    - ``"table"``: for any other law, the prediction at C evenly spaced in ln C. Logs are to be
      interpolated by ``cubic``; ``error`` is its largest relative error at some midpoints.
    """
    low, high, sizes = float(np.min(fit.runs.flops)), fit.largest_compute, fit.runs.params
    reach = _MOST_EXTRAPOLATION * high
    lines, evidence = fit._headline.lines, fit._evidence
    values: dict[str, Any]
    if lines is not None:
        loss = lines.loss_line()
        loss_line = loss.params if loss else None
        values = {"form": "lines", "line": lines.n_line.params, "loss_line": loss_line}
    elif not evidence.no_interval and isinstance(mean := evidence.posterior.mean, KappaMean):
        surfaces = _surfaces(evidence.posterior, mean)
        assert isinstance(fit.law, KappaFamily)
        constants = [max(v, _NO_TERM) for v in fit.law.log_form]
        values = {"form": "draws", "law": constants, "surfaces": surfaces}
        for C in np.geomspace(low / 10, reach, 5):  # F is counted wherever it will be asked for
            evidence.optima(float(C))
    else:
        values = {"form": "table", **_table(fit, level, low / 10, reach)}
    flops = _flops(fit.flops, float(sizes.min()) / 1e3, float(sizes.max()) * 1e4)
    about = {"level": level, "unit": fit.runs.unit, "smallest": low, "largest": high}
    about |= {
        n: [float(c.min()), float(c.max())]
        for n in ("params", "tokens")
        for c in [getattr(fit.runs, n)]
    }
    return {**about, "reach": reach, **values, "flops": flops}


def _nine(rows: Floats) -> list[list[float]]:
    return [[float(f"{v:.9g}") for v in row] for row in rows]


def _surfaces(drawn: Posterior, mean: KappaMean) -> dict[str, Any]:
    """The drawn surfaces; the weights are those of plain kernels at the knots."""
    points = mean.points
    unit = 1.0 if points.log else points.scale
    x, y = points.x_mean, points.y_mean
    laws, parts = [], []
    for part in drawn.parts:
        E, u, v, p, q, ln_kappa = mean.theta(part.eta).T
        kappa, log_unit = np.exp(ln_kappa), np.log(points.scale)
        log_a, log_b = (u + p * x + log_unit) / kappa, (v + q * y + log_unit) / kappa
        columns = (E * points.scale - points.shift, log_a, log_b, p / kappa, q / kappa, kappa)
        laws += _nine(np.column_stack(columns))
        along, across, drift = part.basis.axes
        both, slow = part.basis.knot_weights(part.weights)
        weights = unit * np.hstack([both.reshape(len(both), -1), slow])
        parts.append(
            {
                "draws": len(weights),
                "s": (along.knots + x + y).tolist(),
                "v": (across.knots + x - y).tolist(),
                "length": along.length,
                "drift": (drift.knots + x + y).tolist(),
                "drift_length": drift.length,
                "weights": b64encode(weights.astype("<f4").tobytes()).decode(),
            }
        )
    run = _nine(unit * drawn.run_noise((len(laws), 4)))
    return {"log": points.log, "laws": laws, "parts": parts, "run": run}


def _flops(flops: FlopsFunction, low: float, high: float) -> dict[str, Any]:
    """F(N): its constants, its counts, or samples of it."""
    samples = np.geomspace(low, high, int(_SAMPLES * np.log2(high / low)))
    values = flops_to_dict(flops, samples)
    if values["kind"] != "counted":
        return values
    sizes, per_unit = np.array(values["counts"]).T
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
    middles = 0.5 * (log_c[:-1] + log_c[1:])[::3]
    exact = _logs_of(fit, level, middles)
    near = np.array([cubic(middles, log_c, column) for column in values.T]).T
    error = np.abs(near - exact)
    names = [f"{name}{end}" for name in SPANS for end in ("", "_low", "_high")]
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
    rows = [fit.predict_path(np.array([C]), level).ravel() for C in np.exp(log_c)]
    with np.errstate(invalid="ignore", divide="ignore"):  # a loss may have no logarithm
        logs = np.log(rows)
    return np.where(np.isfinite(logs), logs, np.nan)


def summary(fit: Fit, level: float) -> str:
    """See :meth:`flops_fit.fit.Fit.summary`."""
    runs, low, high = fit.runs, float(np.min(fit.runs.flops)), fit.largest_compute
    budgets, left = len(np.unique(runs.budget)), len(fit.excluded)
    left_out = f", {left} left out" if left else ""
    heads = {
        "Law": f"{fit.law.formula}; N* ∝ C^a",
        "Runs": f"{len(runs)} at {budgets} budgets, C = {low:.3g} to {high:.3g} FLOPs{left_out}",
        "Fit": f"runs scatter by {100 * fit.residual_sd:.2g} % around the law, R² = {_r2(fit):.4f}",
        "Trust": f"{fit.trust}. {trust_worth(fit.trust)}",
    }
    if SIMULATED in fit.diagnostics:
        heads["Trust"] = f"none: {SIMULATED.message}"
    rows = [["", "value", "sd", f"{100 * level:g} % interval"]]
    evidence, values = fit._evidence, {**fit.params, "a": fit.exponents[0]}
    laws = [] if evidence.no_interval else evidence.drawn_laws
    for name, value in values.items():
        draws = np.array([law.exponent if name == "a" else law.params[name] for law in laws])
        wide, near = (evidence.span(draws, p) if laws else None for p in (level, _ONE_SD))
        sd = _digits((near[1] - near[0]) / 2, 2) if near else "–"
        span = " to ".join(_digits(v, 4) for v in wide) if wide else "none"
        rows.append([name, _digits(value, 4), sd, span])
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"{name + ':':<7}{text}" for name, text in heads.items()]
    lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
    if problems := serious(fit.diagnostics):
        lines += ["", *(f"• {p}" for p in problems[:_MOST_FINDINGS])]
        if len(problems) > _MOST_FINDINGS:
            lines.append(f"• {len(problems) - _MOST_FINDINGS} more in fit.diagnostics")
    return "\n".join(lines)


def _digits(value: float, number: int) -> str:
    """So many digits, zeros included; below 100,000 without a power of ten."""
    shown = f"{value:#.{number}g}".rstrip(".")
    return f"{float(shown):.0f}" if "e+" in shown and abs(value) < 1e5 else shown


def _r2(fit: Fit) -> float:
    """The share of the weighted variance of the fitted losses, or of their logs, that it explains."""
    w = fit.weights
    z = np.log(fit.runs.loss) if fit.loss_space == "log" else fit.runs.loss
    spread = float(np.sum(w * (z - np.average(z, weights=w)) ** 2))
    return 1 - float(np.sum(w * fit.residuals**2)) / spread


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


_SAME_WITHIN = 1e-6  # relative, of the constants of a fit that is made again


@dataclass(frozen=True, eq=False)
class Question:
    """What :func:`flops_fit.fit.fit_runs` was asked: the law by name, a table as read, options."""

    law: str
    table: RunTable
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; InputError where an option has none."""
        options = dict(self.options)
        if options["flops_per_unit"] is not None:
            flops = as_flops(options["flops_per_unit"])
            options["flops_per_unit"] = flops_to_dict(flops, self.table.params)
        if isinstance(options["hparams"], ValleyPrior):
            options["hparams"] = vars(options["hparams"])
        for name, value in options.items():
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            options[name] = "inf" if plain is not None and plain == math.inf else plain
            if not isinstance(plain, str | int | float | list | tuple | dict | None):
                raise InputError(f"expected a fit without {name}= to save: that is not saved.")
        table = finite_json(vars(self.table))
        return {"version": __version__, "law": self.law, "table": table, "options": options}


def load_fit(path: str | Path, law: type[Law] | None = None) -> Fit:
    """The fit that :meth:`flops_fit.fit.Fit.save` or a sweep wrote, fitted again to its own runs.

    ``path`` is such as ``outputs/fit.json``, ``law`` the class of a law of your own, which a file does not
    hold. Raises TableError where it is no such file, or one of several groups, which are fitted together.
    """
    from flops_fit.fit.fitting import fit_runs, known_law

    try:
        content = read_json(Path(path))
        made_of = content["made_of"]
        if made_of is None:
            raise TableError(f"{path}: it has no runs of its own. Fit all groups again: fit_runs.")
        name, version, options = made_of["law"], made_of["version"], dict(made_of["options"])
        inspect.signature(fit_runs).bind(None, name, **options)
        for key, value in options.items():
            options[key] = float("inf") if value == "inf" else value
        if options["flops_per_unit"] is not None:
            options["flops_per_unit"] = flops_from_dict(options["flops_per_unit"])
        if isinstance(prior := options["hparams"], dict):
            options["hparams"] = as_record(prior, ValleyPrior, "its prior")
        columns = {**made_of["table"]}
        # Arrays hold NaN for null; these are tuples of numbers.
        lost = columns.get("censored", ())
        columns["censored"] = [[math.nan if v is None else v for v in run] for run in lost]
        table = as_record(columns, RunTable, "its table")
        said = as_record(content["params"], dict[str, float | None], "its constants")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"{path}: expected a fit that Fit.save() or a sweep wrote; it cannot be read "
            f"({type(error).__name__}: {error})."
        ) from error
    try:
        known_law(law or name)
    except InputError as error:
        text = f"expected law= with the class {name!r}, which the file does not hold."
        raise InputError(text) from error
    fit = fit_runs(table, law or name, **options)
    now, counted = fit.params, isinstance(options["flops_per_unit"], InterpolatedFlops)
    if said.keys() != now.keys() or not all(
        np.isclose(
            now[k], v if v is not None else np.inf, rtol=_SAME_WITHIN * (1e3 if counted else 1)
        )
        for k, v in said.items()
    ):
        warnings.warn(
            f"{path}: this version, {__version__}, fits other constants to these runs than "
            f"{version} did, {said}.",
            stacklevel=2,
        )
    return fit
