"""How far a question lies from the runs that answer it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.intervals import Evidence, covariance, student_t
from flops_fit.fit.minima import IsoFLOP
from flops_fit.fit.solver import FitStatus, Solution
from flops_fit.fit.table_checks import flat, mixed_loss_units, table_findings
from flops_fit.flops.functions import FlopsFunction
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]

_EDGES = (0.5, 2.0)
_LEVEL = 0.01
_SPARE = 5
_REPEATS = 4
_CELL = 3
_VISIBLE = 0.01


@dataclass(frozen=True)
class ResidualMap:
    """Mean residual by compute and by distance from the optimum, in the loss space of the fit.

    Attributes
    ----------
    compute_edges
        C that separate the lower, middle and upper third of the fitted runs.
    size_edges
        N/N* that separate runs below, near and above the optimum of their own compute.
    mean, count
        Weighted mean residual and number of runs, shape (3, 3): thirds of compute × distance.
        A mean over no run is NaN.
    p_value
        Of no pattern: an F-test of three terms beside the law, (ln N/N*)², (ln C)² and their
        product of firsts, with HC3 errors; ``None`` with too few runs.
    """

    compute_edges: tuple[float, float]
    size_edges: tuple[float, float]
    mean: Floats
    count: NDArray[np.intp]
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "compute_edges": list(self.compute_edges),
            "size_edges": list(self.size_edges),
            "mean": [[None if np.isnan(v) else float(v) for v in row] for row in self.mean],
            "count": self.count.tolist(),
            "p_value": self.p_value,
        }


def residual_map(solution: Solution, runs: RunTable, flops: FlopsFunction) -> ResidualMap:
    """Where the law lies above and below its runs."""
    kept = np.flatnonzero(solution.weights)
    C, w = runs.flops[kept], solution.weights[kept]
    r = solution.residuals[kept] * solution.points.unit
    best = np.asarray(solution.law.optimal(C, flops).params)
    ratio = runs.params[kept] / best
    low, high = (float(v) for v in np.quantile(C, [1 / 3, 2 / 3]))
    row = np.searchsorted([low, high], C)
    column = np.searchsorted(_EDGES, ratio)
    total, weight = np.zeros((3, 3)), np.zeros((3, 3))
    count = np.zeros((3, 3), dtype=np.intp)
    np.add.at(total, (row, column), w * r)
    np.add.at(weight, (row, column), w)
    np.add.at(count, (row, column), 1)
    mean = np.divide(total, weight, out=np.full((3, 3), np.nan), where=weight > 0)
    extra = _extra_terms(np.log(ratio), np.log(C))
    return ResidualMap((low, high), _EDGES, mean, count, _pattern(solution, kept, extra))


def _extra_terms(distance: Floats, log_c: Floats) -> Floats:
    t = log_c - log_c.mean()
    return np.column_stack([distance**2, t**2, distance * t])


def _pattern(solution: Solution, kept: NDArray[np.intp], extra: Floats) -> float | None:
    """P value of the extra terms' coefficients all being zero, by HC3 and F."""
    from scipy.special import fdtrc

    if solution.residual_sd < 1e-9 or solution.points.groups is not None:
        return None
    J = solution.jacobian[kept]
    extra = extra[:, np.ptp(extra, axis=0) > 0]
    size = np.abs(solution.residuals[kept])
    omega = solution.weights[kept] * np.minimum(1.0, solution.delta / np.maximum(size, 1e-300))
    spare = len(kept) - J.shape[1] - extra.shape[1]
    if extra.shape[1] == 0 or spare < _SPARE:
        return None
    root = np.sqrt(omega)[:, None]
    design = root * np.column_stack([J, extra])
    length = np.linalg.norm(design, axis=0)
    if not np.all((length > 0) & np.isfinite(length)):
        return None
    design /= length
    q, upper = np.linalg.qr(design)
    diagonal = np.abs(np.diag(upper))
    leverage = np.sum(q**2, axis=1)
    if np.min(diagonal) < 1e-8 or np.max(leverage) > 0.999:
        return None
    score = root[:, 0] * solution.residuals[kept]
    left = score - q @ (q.T @ score)
    inverse = np.linalg.inv(upper)
    coefficients = (inverse @ (q.T @ score))[J.shape[1] :]
    half = inverse @ (q * (left / (1 - leverage))[:, None]).T
    variance = (half @ half.T)[J.shape[1] :, J.shape[1] :]
    wald = float(coefficients @ np.linalg.solve(variance, coefficients)) / len(coefficients)
    return float(fdtrc(len(coefficients), spare, wald))


def residual_diagnostics(
    found: ResidualMap, solution: Solution, runs: RunTable
) -> list[Diagnostic]:
    """Whether a pattern is left, and how the law's misses compare with repeated runs."""
    out = []
    if found.p_value is not None and np.any(found.count >= _CELL):
        cells = np.where(found.count >= _CELL, np.abs(found.mean), -1.0)
        worst = np.unravel_index(int(np.argmax(cells)), cells.shape)
        off = float(found.mean[worst]) / solution.points.unit
        place = ("below half the optimal size", "near the optimum", "above twice the optimal size")
        third = ("lower", "middle", "upper")[worst[0]]
        where = f"{place[worst[1]]} in the {third} third of compute: {100 * off:+.2g} % on average"
        if found.p_value < _LEVEL:
            text = f"the residuals follow a pattern (p = {found.p_value:.1g}), most {where}"
            action = "the law's form misses something: trust it near the runs, not far from them"
            bad = abs(off) > _VISIBLE
            out.append(Diagnostic("residual_pattern", "warning" if bad else "note", text, action))
        else:
            text = f"the residuals show no pattern (p = {found.p_value:.2g})"
            out.append(Diagnostic("residual_pattern", "ok", text))
    repeats = _seed_noise(runs)
    if repeats is not None:
        seeds, spare = repeats
        law = solution.residual_sd
        text = (
            f"repeated runs scatter by {100 * seeds:.2g} % ({spare} repeats), runs around the law by "
            f"{100 * law:.2g} %"
        )
        far = spare >= _REPEATS and law > 3 * seeds
        action = (
            "more is missing than seeds explain: hyper-parameters, data order or the law's form"
        )
        out.append(
            Diagnostic("seed_noise", "warning" if far else "ok", text, action if far else "")
        )
    return out


def _seed_noise(runs: RunTable) -> tuple[float, int] | None:
    """Pooled sd of ln L over runs of equal N and D, and its degrees of freedom."""
    _, group = np.unique(np.column_stack([runs.params, runs.tokens]), axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    spare = int(np.sum(count - 1))
    if spare < 1:
        return None
    z = np.log(runs.loss)
    mean = np.bincount(group, z) / count
    return float(np.sqrt(np.sum((z - mean[group]) ** 2) / spare)), spare


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
        gone = solution.optimum_lost
        action = "add runs over a wider range of N and D"
        text = f"on a bound: {', '.join(map(str, solution.bounds))}"
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
    if any(b.parameter == "E" for b in solution.bounds):
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
        if name in solution.log_names:
            unclear = half > np.log(2)
            low, high = np.exp(np.clip([value - half, value + half], -700, 700))
        else:
            unclear = half > 0.5 * value
            low, high = (max(v, 0.0) * solution.points.scale for v in (value - half, value + half))
        if unclear:
            found.append(_unidentified(name, f"90 % interval {low:.3g} to {high:.3g}"))
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


def off_the_runs(
    evidence: Evidence, N: float, D: float, *, shape: bool = True
) -> tuple[Diagnostic, ...]:
    """What to know about asking the law at N and D: more compute, or another D/N, than any run.

    ``shape=False`` looks at compute alone: the ratio of an optimum follows from the law.
    """
    runs = evidence.runs
    if not (np.isfinite(N) and np.isfinite(D)):
        return ()
    compute = float(np.asarray(evidence.flops(np.asarray(N, dtype=np.float64)))) * D
    far = extrapolation_diagnostic(compute / float(np.max(runs.flops)))
    found = [far] if far else []
    ratios = runs.tokens / runs.params
    low, high = float(np.min(ratios)), float(np.max(ratios))
    if shape and not low / 1.001 <= D / N <= high * 1.001:
        text = (
            f"D/N = {D / N:.3g} lies outside the fitted runs' {low:.3g} to {high:.3g}: "
            "the law has not been seen there"
        )
        found.append(Diagnostic("shape", "warning", text, "add runs of that D/N"))
    return tuple(found)
