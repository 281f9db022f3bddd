"""What a reader must know before trusting a fit; each finding says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._flops import flops_misfit
from flops_fit.fit._isoflop import IsoFLOP
from flops_fit.fit._mixed import mixed_loss_units
from flops_fit.fit._plausible import flat, implausible
from flops_fit.fit._sandwich import covariance, student_t
from flops_fit.fit._solve import Solution
from flops_fit.fit._status import FitStatus
from flops_fit.flops import FlopsFunction
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable

__all__ = ["Outlier", "diagnose", "extrapolation_diagnostic", "find_outliers", "trust_of"]

Floats = NDArray[np.float64]
Severity = Literal["ok", "note", "warning", "critical"]

_OUTLIER = 4.0
_FEW_SIZES, _FEW_BUDGETS = 5, 4


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
        *_input(runs, flops, "unique_tokens" in solution.law.covariates),
        *_grid(runs),
        *_edges(shape),
        *_solver(solution),
        *flat(solution.law, runs),
        *_noise(solution, runs),
        *_identified(solution),
        *_approaches(solution, runs, shape, flops),
    ]


def _input(runs: RunTable, flops: FlopsFunction, repeats_known: bool) -> list[Diagnostic]:
    found = [Diagnostic("assumed", "note", note) for note in runs.notes]
    if runs.excluded:
        shown = "; ".join(f"{e.label}: {e.reason}" for e in runs.excluded[:5])
        more = f"; and {len(runs.excluded) - 5} more" if len(runs.excluded) > 5 else ""
        found.append(
            Diagnostic(
                "excluded", "note", f"{len(runs.excluded)} runs are not fitted ({shown}{more})"
            )
        )
    found += implausible(runs)
    mixed = mixed_loss_units(runs)
    if mixed is not None:
        found.append(mixed)
    misfit = flops_misfit(runs, flops)
    if misfit > 0.05:
        found.append(
            Diagnostic(
                "flops_misfit",
                "warning",
                f"F(N)·D differs from the table's compute by up to {100 * misfit:.2g} %",
                "give flops_per_unit= as a function of N",
            )
        )
    per_product = runs.flops / (6 * runs.params * runs.tokens)
    if float(np.max(np.abs(np.log(per_product)))) > 0.05:
        found.append(
            Diagnostic(
                "flops_convention",
                "note",
                f"the table's compute is {np.min(per_product):.3g} to {np.max(per_product):.3g} times "
                "6·N·D; predictions speak of the table's own",
            )
        )
    if runs.non_embedding is not None:
        which = (
            "without embeddings" if np.array_equal(runs.params, runs.non_embedding) else "in all"
        )
        found.append(Diagnostic("n_convention", "note", f"N counts parameters {which}"))
    if runs.unique_tokens is not None and not repeats_known:
        epochs = float(np.nanmax(runs.tokens / runs.unique_tokens, initial=1.0))
        if epochs > 1.05:
            # Muennighoff et al. 2023 (arXiv:2305.16264): no loss up to 4 epochs, R* = 15.4.
            severity: Severity = "critical" if epochs > 16 else "warning" if epochs > 4 else "note"
            found.append(
                Diagnostic(
                    "repeated_data",
                    severity,
                    f"runs see their data up to {epochs:.3g} times; the law counts repeats as new",
                    "fit runs of at most four epochs" if epochs > 4 else "",
                )
            )
    return found


def _grid(runs: RunTable) -> list[Diagnostic]:
    found = []
    budgets, counts = np.unique(runs.budget, return_counts=True)
    sizes = [len(np.unique(runs.params[runs.budget == b])) for b in budgets]
    if len(budgets) < _FEW_BUDGETS:
        found.append(
            Diagnostic(
                "few_budgets",
                "critical" if len(budgets) < 3 else "warning",
                f"{len(budgets)} budgets cannot show a curved trend",
                f"add {_FEW_BUDGETS - len(budgets)} or more budgets",
            )
        )
    grouped = float(np.median(counts)) >= 3
    fewest = int(np.median(sizes)) if grouped else len(np.unique(runs.params))
    if fewest < _FEW_SIZES:
        found.append(
            Diagnostic(
                "few_sizes",
                "warning",
                f"{fewest} sizes {'a budget' if grouped else 'in all'} bracket no optimum reliably",
                f"run {_FEW_SIZES} or more sizes at each budget",
            )
        )
    return found


def _edges(shape: IsoFLOP) -> list[Diagnostic]:
    outside = [p for p in shape.parabolas if not p.interior]
    few = shape.usable and len(outside) <= 0.25 * len(shape.parabolas)
    found = [
        Diagnostic(
            "edge_minimum",
            "note" if few else "warning",
            f"at C = {p.budget:.3g} {p.reason}; approach 2 leaves this budget out",
            f"run N ≈ {p.next_params:.3g} at that budget",
        )
        for p in outside
    ]
    if shape.parabolas and not shape.usable:
        found.append(
            Diagnostic(
                "isoflop_unusable",
                "note",
                f"approach 2 has {len(shape.interior)} budgets with a minimum inside; it needs 3",
                "widen the sizes of the budgets named above",
            )
        )
    return found


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
