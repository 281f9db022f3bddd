"""What speaks for and against a fit: outliers, residual patterns, bounds, and distance from runs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flops_fit.fit.intervals import Evidence, covariance, student_t
from flops_fit.fit.minima import IsoFLOP
from flops_fit.fit.solver import FitStatus, Solution, finding, huber_weight
from flops_fit.fit.table_checks import flat, mixed_loss_units, table_findings
from flops_fit.flops.functions import Floats, FlopsFunction, Indices
from flops_fit.records import Diagnostic, Severity
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_percent, listed

_SIZE_EDGES = (0.5, 2.0)
_PATTERN_LEVEL = 0.01
_SPARE_RUNS = 5
_FEWEST_REPEATS = 4
_FEWEST_IN_CELL = 3
_OUTLIER_SDS = 4.0
_OTHER_UNIT_OFF = 0.1  # in ln L; one unit for another moves it by 0.37
_BRACKETED = (0.05, 0.95)  # shares of the runs between which some lie on either side
_DISAGREEMENT, _GROSS_DISAGREEMENT = np.log(1.5), np.log(5.0)
_UNCLEAR_LOG_HALF = np.log(2)
_WIDTH_TARGET = 10.0  # times the largest run's compute
_NEAR, _LN2 = 0.001, math.log(2)
# In ln C beyond the runs, with room for rounding: worth a warning, not to be relied on, most to be asked for.
_WARN_FAR, _REFUSE_FAR, _LN_MOST_ASKED = math.log(10) + 1e-6, math.log(100) + 1e-6, math.log(1e4)
WIDTH_LIMITS = ((0.6, 1.0), (0.07, 0.2))  # of ln N* and ln L there: half-widths for "caution", "no"


@dataclass(frozen=True)
class ResidualMap:
    """Mean residual by thirds of compute and by distance from the optimum: arrays are (3, 3).

    ``size_edges`` are the N/N* that separate runs below, near and above the optimum of their own
    compute. ``mean`` is weighted, in the loss space of the fit, NaN over no run. ``p_value`` is
    that of no pattern: an F-test with HC3 errors of three terms beside the law, (ln N/N*)²,
    (ln C)² and their product of firsts; ``None`` with too few runs.
    """

    compute_edges: tuple[float, float]
    size_edges: tuple[float, float]
    mean: Floats
    count: Indices
    p_value: float | None


def residual_map(solution: Solution, runs: RunTable, flops: FlopsFunction) -> ResidualMap:
    """Where the law lies above and below its runs."""
    kept = np.flatnonzero(solution.weights)
    C, w = runs.flops[kept], solution.weights[kept]
    r = solution.residuals[kept] * solution.points.unit
    ratio = runs.params[kept] / np.asarray(solution.law.optimal(C, flops).params)
    low, high = (float(v) for v in np.quantile(C, [1 / 3, 2 / 3]))
    cells = np.searchsorted([low, high], C), np.searchsorted(_SIZE_EDGES, ratio)
    cell = np.ravel_multi_index(cells, (3, 3))
    total, weight, count = (np.bincount(cell, v, 9).reshape(3, 3) for v in (w * r, w, None))
    mean = np.divide(total, weight, out=np.full((3, 3), np.nan), where=weight > 0)
    t = np.log(C) - np.log(C).mean()
    extra = np.column_stack([np.log(ratio) ** 2, t**2, np.log(ratio) * t])
    return ResidualMap((low, high), _SIZE_EDGES, mean, count, _pattern(solution, kept, extra))


def _pattern(solution: Solution, kept: Indices, extra: Floats) -> float | None:
    """P value of the extra terms' coefficients all being zero, by HC3 and F."""
    from scipy.special import fdtrc

    J, residuals = solution.jacobian[kept], solution.residuals[kept]
    extra = extra[:, np.ptp(extra, axis=0) > 0]
    fitted, spare = J.shape[1], len(kept) - J.shape[1] - extra.shape[1]
    noiseless, grouped = solution.residual_sd < 1e-9, solution.points.groups is not None
    if noiseless or grouped or extra.shape[1] == 0 or spare < _SPARE_RUNS:
        return None
    root = np.sqrt(solution.weights[kept] * huber_weight(residuals, solution.delta))
    design = root[:, None] * np.column_stack([J, extra])
    q, upper = np.linalg.qr(design / np.maximum(np.linalg.norm(design, axis=0), 1e-300))
    leverage = np.sum(q**2, axis=1)
    if not np.min(np.abs(np.diag(upper))) >= 1e-8 or np.max(leverage) > 0.999:
        return None
    score = root * residuals
    left = score - q @ (q.T @ score)
    inverse = np.linalg.inv(upper)
    coefficients = (inverse @ (q.T @ score))[fitted:]
    half = inverse @ (q * (left / (1 - leverage))[:, None]).T
    variance = (half @ half.T)[fitted:, fitted:]
    wald = float(coefficients @ np.linalg.solve(variance, coefficients)) / len(coefficients)
    return float(fdtrc(len(coefficients), spare, wald))


def residual_diagnostics(
    residuals: ResidualMap, solution: Solution, runs: RunTable
) -> list[Diagnostic]:
    """Whether a pattern is left, and how the law's misses compare with repeated runs."""
    p, enough = residuals.p_value, residuals.count >= _FEWEST_IN_CELL
    if p is None or not np.any(enough):
        return _seed_noise(solution, runs)
    if p >= _PATTERN_LEVEL:
        return [finding("residual_pattern_none", p=p), *_seed_noise(solution, runs)]
    cells = np.where(enough, np.abs(residuals.mean), -1.0)
    row, column = np.unravel_index(int(np.argmax(cells)), cells.shape)
    percent = 100 * float(residuals.mean[row, column]) / solution.points.unit
    size = ("below half the optimal size", "near the optimum", "above twice the optimal size")
    third = ("lower", "middle", "upper")[row]
    pattern = finding("residual_pattern", p=p, size=size[column], third=third, percent=percent)
    return [pattern, *_seed_noise(solution, runs)]


def _seed_noise(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    """The scatter around the law beside that of runs of equal N and D."""
    _, group = np.unique(np.column_stack(runs.setting()), axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    spare = int(np.sum(count - 1))
    if spare < 1:
        return []
    z = solution.points.z
    mean = np.bincount(group, z) / count
    seeds, law = float(np.sqrt(np.sum((z - mean[group]) ** 2) / spare)), solution.residual_sd
    severity: Severity = "ok" if spare < _FEWEST_REPEATS or law <= 3 * seeds else "warning"
    return [finding("seed_noise", severity, seeds=100 * seeds, spare=spare, law=100 * law)]


@dataclass(frozen=True)
class Outlier:
    """A run far off the law, in robust standard deviations of the residuals."""

    label: str
    standardized: float
    params: float
    tokens: float
    loss: float


# Fits of each level among public sweeps, cut and thinned, and the factor of N* and the share of the
# loss that one in ten of their predictions up to 30 times ahead missed by: benchmarks/calibration.
TRUST_WORTH = {"ok": (104, 1.26, 0.017), "caution": (189, 1.43, 0.062), "no": (32, 4.57, 0.076)}


def trust_worth(level: str) -> str:
    """What a level of trust has been worth on public sweeps, in one sentence."""
    fits, factor, share = TRUST_WORTH[level]
    return (
        f"Of the answers of {fits} fits to public sweeps so labelled, up to 30 times beyond the runs, "
        f"nine in ten were within a factor of {factor:.3g} of N* and {100 * share:.2g} % of the loss."
    )


def trust_of(diagnostics: Iterable[Diagnostic]) -> Literal["ok", "caution", "no"]:
    """The verdict that the worst severity stands for; :func:`trust_worth` says what it is worth."""
    severities = {d.severity for d in diagnostics}
    if "critical" in severities:
        return "no"
    return "caution" if "warning" in severities else "ok"


def find_outliers(solution: Solution, runs: RunTable) -> tuple[Outlier, ...]:
    """Runs more than four robust standard deviations off, worst first."""
    sd = solution.residual_sd
    if sd < 1e-9:
        return ()
    standardized = np.where(solution.weights > 0, solution.residuals / sd, 0.0)
    order = np.argsort(-np.abs(standardized), kind="stable")
    columns = (standardized, runs.params, runs.tokens, runs.loss)
    return tuple(
        Outlier(runs.labels[i], *(float(column[i]) for column in columns))
        for i in order
        if abs(standardized[i]) > _OUTLIER_SDS
    )


def diagnose(
    solution: Solution, runs: RunTable, shape: IsoFLOP, flops: FlopsFunction
) -> list[Diagnostic]:
    """Every finding about the runs and the fit made from them."""
    off = float(np.max(np.abs(solution.residuals)))
    # Two units of loss put runs far off the law: look for them only then.
    mixed = mixed_loss_units(runs) if off > _OTHER_UNIT_OFF else None
    return [
        *table_findings(runs, shape, flops, "unique_tokens" in solution.law.covariates),
        *([mixed] if mixed else []),
        *_status(solution),
        *flat(solution.law, runs),
        *_outliers(solution, runs),
        *_weak_curvature(solution, runs),
        *_one_sided(solution, runs, shape, flops),
        *_unidentified(solution),
        *_approaches(solution, shape, flops),
    ]


def _status(solution: Solution) -> list[Diagnostic]:
    status = solution.status
    if status is FitStatus.BOUND_HIT:
        key = "bound_hit_lost" if solution.optimum_lost else "bound_hit"
        return [finding(key, bounds=", ".join(map(str, solution.bounds)))]
    if status is FitStatus.STARTS_DISAGREE:
        return [finding("starts_disagree", agree=solution.agree, starts=solution.starts)]
    return [finding("not_converged", status=status)] if not solution.converged else []


def _outliers(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    outliers = find_outliers(solution, runs)
    if not outliers:
        return []
    shown = listed([f"{o.label} ({o.standardized:+.1f} sd)" for o in outliers], separator=", ")
    return [finding("outliers", count=len(outliers), sds=_OUTLIER_SDS, shown=shown)]


def _weak_curvature(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    sd, model = solution.residual_sd, solution.points.z - solution.residuals
    groups = [runs.budget == b for b in np.unique(runs.budget)]
    if runs.regret is not None:  # rates that vary at one size show no curvature
        groups = [g for g in groups if len(np.unique(runs.params[g])) >= 3]
    spans = [float(np.ptp(model[g])) for g in groups if np.sum(g) >= 3]
    if not spans or float(np.median(spans)) >= 3 * sd:
        return []
    return [finding("weak_curvature", span=100 * np.median(spans), scatter=100 * sd)]


def _one_sided(
    solution: Solution, runs: RunTable, shape: IsoFLOP, flops: FlopsFunction
) -> list[Diagnostic]:
    """Whether all runs lie on one side of the optimum; parabolas say it of each budget."""
    if shape.parabolas or solution.optimum_lost:
        return []
    sizes = runs.params / np.asarray(solution.law.optimal(runs.flops, flops).params)
    low, high = (float(v) for v in np.quantile(sizes, _BRACKETED))
    side = "larger" if low > 1 else "smaller" if high < 1 else ""
    return [finding("one_sided", side=side, low=low, high=high)] if side else []


def _unidentified(solution: Solution) -> list[Diagnostic]:
    """Whether the runs determine E and κ."""
    at_floor = any(b.parameter == "E" for b in solution.bounds)
    why = {"E": "it ended at zero, its floor"} if at_floor else {}
    cov, points = covariance(solution), solution.points
    for name in ("E", "kappa"):
        if cov.matrix is None or name not in solution.names or name in why:
            continue
        i = solution.names.index(name)
        value = float(solution.theta[i])
        half = student_t(0.9, cov.dof) * float(np.sqrt(cov.matrix[i, i]))
        if name in solution.log_names:
            unclear = half > _UNCLEAR_LOG_HALF
            low, high = np.exp(np.clip([value - half, value + half], -700, 700))
        else:
            unclear = half > 0.5 * value
            ends = (max(v, 0.0) * points.scale for v in (value - half, value + half))
            low, high = (end - points.shift if name == "E" else end for end in ends)
        if unclear:
            why[name] = f"90 % interval {low:.3g} to {high:.3g}"
    meaning = {"E": "the irreducible loss E", "kappa": "the exponent κ"}
    return [
        finding("unidentified", name=name, meaning=meaning[name], reason=reason)
        for name, reason in why.items()
    ]


def _approaches(solution: Solution, shape: IsoFLOP, flops: FlopsFunction) -> list[Diagnostic]:
    """Whether the surface and the parabolas agree at the largest budget with a minimum."""
    if not shape.usable or shape.n_line is None:
        return []
    C = max(p.budget for p in shape.interior)
    surface, line = float(solution.law.optimal(C, flops).params), float(shape.n_line(C))
    optima: dict[str, Any] = {"C": C, "surface": surface, "line": line}
    apart = abs(float(np.log(surface / line)))
    if apart <= _DISAGREEMENT:
        return [finding("approaches_agree", **optima)]
    severity: Severity = "critical" if apart > _GROSS_DISAGREEMENT else "warning"
    return [finding("approaches_disagree", severity, **optima)]


def width_ahead(evidence: Evidence) -> list[Diagnostic]:
    """How well N* and the loss are known at ten times the largest run's compute."""
    if evidence.no_interval:
        return []
    C = _WIDTH_TARGET * float(np.max(evidence.runs.flops))
    drawn = evidence.optima(C)
    spans = [evidence.span(draws, 0.9) for draws in (drawn.params, drawn.loss)]
    halves = [float(np.log(s[1] / s[0])) / 2 if s and s[0] > 0 else np.inf for s in spans]
    points, loss = evidence.solution.points, spans[1]
    if points.shift and loss:  # which may be negative: relative to the size of losses
        halves[1] = (loss[1] - loss[0]) / 2 / points.scale
    words = f"within a factor of {np.exp(halves[0]):.3g}", f"to {format_percent(halves[1])}"
    shown = [w if h < np.inf else "not at all" for w, h in zip(words, halves, strict=True)]
    over = [
        [half > limit for half, limit in zip(halves, limits, strict=True)]
        for limits in zip(*WIDTH_LIMITS, strict=True)
    ]
    severity: Severity = "critical" if any(over[1]) else "warning" if any(over[0]) else "ok"
    return [finding("width_ahead", severity, C=C, size=shown[0], loss=shown[1])]


def _beyond(name: str, value: float, runs: Floats) -> tuple[float, str]:
    """How far, in logs, a value lies above the largest run's or below the smallest, and in words."""
    above, below = value / float(np.max(runs)), float(np.min(runs)) / value
    if above >= below:
        return math.log(above), f"{name} is {above:.3g}× the largest run's"
    return math.log(below), f"{name} is {below:.3g}× below the smallest run's"


def _far(compute: tuple[float, str], sizes: list[tuple[float, str]]) -> Diagnostic | None:
    """How far a target lies beyond the runs: from 10× a warning, from 100× critical."""
    # N and D grow like √C: their logs count twice, and are named where they say more than C.
    doubled = [(2 * log, text) for log, text in sizes]
    worse = [each for each in doubled if each[0] > max(compute[0], _NEAR) + _LN2]
    found = [compute] * (compute[0] > _NEAR) + worse
    if not found:
        return None
    worst = max(compute[0], *(log for log, _ in doubled)) if worse else compute[0]
    far = worst > _WARN_FAR
    severity: Severity = "critical" if worst > _REFUSE_FAR else "warning" if far else "note"
    factor = math.exp(max(min(worst, _LN_MOST_ASKED) / 2, math.log(10)))
    return finding(
        "extrapolation", severity, far, text="; ".join(text for _, text in found), factor=factor
    )


def off_the_runs(
    evidence: Evidence, N: float, D: float, *, shape: bool = True
) -> tuple[Diagnostic, ...]:
    """How far N and D lie from the runs, above and below: in compute, N, D and, with ``shape``, D/N.

    Every question of a fit is graded here, so that one target is as far for all of them.
    """
    runs = evidence.runs
    if not (np.isfinite(N) and np.isfinite(D)):
        return ()
    compute = float(np.asarray(evidence.flops(np.asarray(N, dtype=np.float64)))) * D
    sizes = [_beyond("N", N, runs.params), _beyond(f"D, {runs.unit},", D, runs.tokens)]
    far = _far(_beyond("the target's compute", compute, runs.flops), sizes)
    findings = [far] if far else []
    ratios = runs.tokens / runs.params
    low, high = float(np.min(ratios)), float(np.max(ratios))
    if shape and not low / 1.001 <= D / N <= high * 1.001:
        findings.append(finding("shape", ratio=D / N, low=low, high=high))
    return tuple(findings)
