"""What a reader must know before trusting a fit; each finding says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._isoflop import IsoFLOP
from flops_fit.fit._mixed import mixed_loss_units
from flops_fit.fit._plausible import flat
from flops_fit.fit._sandwich import covariance, student_t
from flops_fit.fit._solve import Solution
from flops_fit.fit._status import FitStatus
from flops_fit.fit._table_findings import table_findings
from flops_fit.flops import FlopsFunction
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable

__all__ = ["Outlier", "diagnose", "extrapolation_diagnostic", "find_outliers", "trust_of"]

Floats = NDArray[np.float64]
Severity = Literal["ok", "note", "warning", "critical"]

_OUTLIER = 4.0
_FAR_OFF = 0.1  # in ln L; one unit for another moves it by 0.37


@dataclass(frozen=True)
class Outlier:
    """A run far off the law, in robust standard deviations of the residuals."""

    label: str
    standardized: float
    params: float
    tokens: float
    loss: float


def trust_of(diagnostics: Iterable[Diagnostic]) -> Literal["ok", "caution", "no"]:
    """The verdict that the worst severity stands for."""
    found = {d.severity for d in diagnostics}
    if "critical" in found:
        return "no"
    return "caution" if "warning" in found else "ok"


def find_outliers(solution: Solution, runs: RunTable) -> tuple[Outlier, ...]:
    """Runs more than four robust standard deviations off, worst first."""
    sd = solution.residual_sd
    if sd < 1e-9:
        return ()
    standardized = np.where(solution.weights > 0, solution.residuals / sd, 0.0)
    order = np.argsort(-np.abs(standardized), kind="stable")
    return tuple(
        Outlier(
            runs.labels[i],
            float(standardized[i]),
            float(runs.params[i]),
            float(runs.tokens[i]),
            float(runs.loss[i]),
        )
        for i in order
        if abs(standardized[i]) > _OUTLIER
    )


def extrapolation_diagnostic(factor: float) -> Diagnostic | None:
    """How far a target lies beyond the largest run, from 10× a warning, from 100× critical."""
    if factor <= 1.001:
        return None
    severity: Severity = "critical" if factor > 100 else "warning" if factor > 10 else "note"
    return Diagnostic(
        "extrapolation",
        severity,
        f"the target is {factor:.3g}× the largest run's compute",
        ""
        if severity == "note"
        else f"add runs near {1 / min(factor, 1e4):.2g} of the target or more",
    )


def diagnose(
    solution: Solution, runs: RunTable, shape: IsoFLOP, flops: FlopsFunction
) -> list[Diagnostic]:
    """Every finding about the runs and the fit made from them."""
    return [
        *table_findings(runs, shape, flops, "unique_tokens" in solution.law.covariates),
        *_mixed(solution, runs),
        *_solver(solution),
        *flat(solution.law, runs),
        *_noise(solution, runs),
        *_identified(solution),
        *_approaches(solution, runs, shape, flops),
    ]


def _mixed(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    """Losses in two units, looked for where a run lies as far off the law as that would put it."""
    points = solution.points
    model = points.z - solution.residuals
    if not points.log:
        model = np.log(np.maximum(model, 1e-300))
    off = np.log(runs.loss / points.scale) - model
    found = mixed_loss_units(runs) if float(np.max(np.abs(off))) > _FAR_OFF else None
    return [found] if found is not None else []


def _solver(solution: Solution) -> list[Diagnostic]:
    status = solution.status
    if status is FitStatus.OK:
        return []
    if status is FitStatus.BOUND_HIT:
        gone = [b for b in solution.bounds if not b.startswith(("E ", "kappa"))]
        action = "add runs over a wider range of N and D"
        text = f"on a bound: {', '.join(solution.bounds)}"
        if gone:
            text += "; the loss does not fall with both N and D"
        return [Diagnostic("bound_hit", "critical" if gone else "warning", text, action)]
    if status is FitStatus.STARTS_DISAGREE:
        text = f"{solution.agree} of {solution.starts} starts reach this objective"
        return [Diagnostic("starts_disagree", "warning", text, "add runs, or fix the law's form")]
    return [Diagnostic("not_converged", "critical", str(status), "check the losses")]


def _noise(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    found = []
    outliers = find_outliers(solution, runs)
    if outliers:
        shown = ", ".join(f"{o.label} ({o.standardized:+.1f} sd)" for o in outliers[:5])
        more = f" and {len(outliers) - 5} more" if len(outliers) > 5 else ""
        found.append(
            Diagnostic(
                "outliers",
                "note" if len(outliers) <= 0.05 * len(runs) else "warning",
                f"{len(outliers)} runs lie over {_OUTLIER:g} sd off the law: {shown}{more}",
                "look at these runs; their pull on the fit is bounded",
            )
        )
    sd = solution.residual_sd
    model = solution.points.z - solution.residuals
    spans = [
        float(np.ptp(model[runs.budget == b]))
        for b in np.unique(runs.budget)
        if np.sum(runs.budget == b) >= 3
    ]
    if spans and float(np.median(spans)) < 3 * sd:
        found.append(
            Diagnostic(
                "weak_curvature",
                "warning",
                f"within a budget the law varies by {100 * np.median(spans):.2g} %, and runs "
                f"scatter by {100 * sd:.2g} %: the optimum is hard to see",
                "widen the range of sizes, or repeat runs with other seeds",
            )
        )
    return found


def _identified(solution: Solution) -> list[Diagnostic]:
    found = []
    if any(b.startswith("E ") for b in solution.bounds):
        found.append(_unidentified("E", "it ended at zero, its floor"))
    cov = covariance(solution)
    if cov.matrix is None:
        return found
    factor = student_t(0.9, cov.dof)
    for name in ("E", "kappa"):
        if name not in solution.names or (found and name == "E"):
            continue
        i = solution.names.index(name)
        half = factor * float(np.sqrt(cov.matrix[i, i]))
        value = float(solution.theta[i])
        if name == "E" and solution.full is None and half > np.log(2):
            low, high = np.exp(np.clip([value - half, value + half], -700, 700))
            found.append(_unidentified("E", f"90 % interval {low:.3g} to {high:.3g}"))
        if name == "E" and solution.full is not None and half > 0.5 * value:
            scale = solution.points.scale
            low, high = max(value - half, 0) * scale, (value + half) * scale
            found.append(_unidentified("E", f"90 % interval {low:.3g} to {high:.3g}"))
        if name == "kappa" and half > np.log(2):
            low, high = np.exp(np.clip([value - half, value + half], -700, 700))
            found.append(_unidentified("kappa", f"90 % interval {low:.3g} to {high:.3g}"))
    return found


def _unidentified(name: str, why: str) -> Diagnostic:
    meaning = "the irreducible loss E" if name == "E" else "the exponent κ"
    return Diagnostic(
        f"{name}_unidentified",
        "note",
        f"{meaning} is not identified by these runs ({why}): read nothing into it",
        "runs over a wider range of compute would pin it down",
    )


def _approaches(
    solution: Solution, runs: RunTable, shape: IsoFLOP, flops: FlopsFunction
) -> list[Diagnostic]:
    if not shape.usable or shape.n_line is None:
        return []
    C = max(p.budget for p in shape.interior)
    surface, line = float(solution.law.optimal(C, flops).params), float(shape.n_line(C))
    apart = abs(float(np.log(surface / line)))
    text = (
        f"at C = {C:.3g} the surface puts the optimum at N = {surface:.3g}, "
        f"the parabolas at {line:.3g}"
    )
    if apart > np.log(1.5):
        action = "add sizes around both, and look at the residuals"
        return [Diagnostic("approaches_disagree", "warning", text, action)]
    return [Diagnostic("approaches_agree", "ok", text)]
