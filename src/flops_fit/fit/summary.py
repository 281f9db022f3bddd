"""A fit in words: its constants with intervals, how well it fits, and what to think of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flops_fit.fit.checks import trust_worth
from flops_fit.fit.prediction import serious
from flops_fit.records import SIMULATED

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit

_MOST_FINDINGS = 4
_ONE_SD = 0.6827


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
        sd = f"{(near[1] - near[0]) / 2:.2g}" if near else "–"
        rows.append(
            [name, f"{value:.4g}", sd, "{:.4g} to {:.4g}".format(*wide) if wide else "none"]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"{name + ':':<7}{text}" for name, text in heads.items()]
    lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
    if problems := serious(fit.diagnostics):
        lines += ["", *(f"• {p}" for p in problems[:_MOST_FINDINGS])]
        if len(problems) > _MOST_FINDINGS:
            lines.append(f"• {len(problems) - _MOST_FINDINGS} more in fit.diagnostics")
    return "\n".join(lines)


def _r2(fit: Fit) -> float:
    """The share of the weighted variance of the fitted losses, or of their logs, that it explains."""
    w = fit.weights
    z = np.log(fit.runs.loss) if fit.loss_space == "log" else fit.runs.loss
    spread = float(np.sum(w * (z - np.average(z, weights=w)) ** 2))
    return 1 - float(np.sum(w * fit.residuals**2)) / spread
