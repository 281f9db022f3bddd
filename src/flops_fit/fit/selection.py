"""Runs that are left out: by their outcome, which selects, and for a cell that no honest run has.

A residual does not show a wrong cell, because the fit follows it. So the law is fitted without the
run, and without whatever lies beyond it: what the rest predicts is compared with the run's loss.
"""

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.findings import finding
from flops_fit.fit.solver import MAD_TO_SD
from flops_fit.fit.surface import model_values, points_of, polish
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.flops.functions import Floats
from flops_fit.laws.kappa import Hoffmann
from flops_fit.records import Diagnostic, Excluded, Severity
from flops_fit.table.run_table import RunTable
from flops_fit.text import listed

_MOST_LOST = 0.1  # share of a budget's runs that may be lost without a warning
_SAME_BUDGET = np.log(1.1)
_FEWEST_RUNS = 12
_MOST_SINGLE, _MOST_IN_TAIL, _STEPS = 40, 6, 20
_ADDITIVE = np.array([True, True, True, True, True, False])
_COMPUTE_OFF = 1.0  # decades of C/(N·D) that one run may lie from the others
_LONELY = 1.2  # decades of D/N between a run and all others
_OFF, _LONELY_OFF = 0.3, 0.07  # of the losses' range, between a loss and what the rest predicts
_MOST_SDS = 8.0
_LEVERAGE = 0.15  # on a quadratic, from which one run can pull a fit to itself
_NEAR = 0.5  # decades of N and D within which a run with two others is one of a crowd


def lost_by_outcome(runs: RunTable) -> list[Diagnostic]:
    """How many runs of each budget their own outcome left out, and whether that can bend the answer.

    It can where over a tenth of a budget is lost, or its largest run, or the one that looked best.
    """
    lost = [e for e in runs.excluded if e.by_outcome]
    if not lost:
        return []
    budgets, groups = np.unique(runs.budget), dict[float | None, list[Excluded]]()
    for e in lost:
        groups.setdefault(_nearest(budgets, e.budget), []).append(e)
    texts, severe = [], False
    for budget, group in sorted(groups.items(), key=lambda item: item[0] or 0.0):
        kept = np.ones(len(runs), bool) if budget is None else runs.budget == budget
        total = int(np.sum(kept)) + len(group)
        largest_kept = float(np.max(runs.params[kept], initial=0.0))
        lowest_kept = float(np.min(runs.loss[kept], initial=np.inf))
        largest = any(e.params is not None and e.params >= largest_kept for e in group)
        best = any(e.loss is not None and e.loss < lowest_kept for e in group)
        severe |= len(group) > _MOST_LOST * total or largest or best
        which = [w for w, true in (("its largest", largest), ("its best-looking", best)) if true]
        where = "of all, their budget not known" if budget is None else f"at C = {budget:.3g}"
        with_these = f", {' and '.join(which)} among them" if which else ""
        texts.append(f"{len(group)} of {total} {where}{with_these}")
    severity: Severity = "warning" if severe else "note"
    return [finding("selected_by_outcome", severity, severe, texts=listed(texts, 8))]


def _nearest(budgets: Floats, compute: float | None) -> float | None:
    """The budget of runs that a compute belongs to, else the compute itself."""
    if compute is None or compute <= 0:
        return None
    off = np.abs(np.log(budgets / compute))
    return float(budgets[np.argmin(off)]) if np.min(off) < _SAME_BUDGET else compute


def stray_runs(runs: RunTable, log: bool) -> dict[int, str]:
    """The runs, by position, that lie where the others say no such loss can be, with the reason."""
    if len(runs) < _FEWEST_RUNS:
        return {}
    reasons = _inconsistent(runs)
    most = max(3, len(runs) // 8)
    while len(reasons) <= most:
        left = np.array([i for i in range(len(runs)) if i not in reasons])
        worst = _worst(runs.take(left), log)
        if worst is None:
            return reasons
        reasons[int(left[worst[0]])] = worst[1]
    return {}  # so many are no typing errors: other findings say what is wrong


def _inconsistent(runs: RunTable) -> dict[int, str]:
    """Runs whose C is not that of their N and D."""
    ratio = np.log10(runs.flops / runs.params / runs.tokens)
    off = ratio - np.median(ratio)
    spread = MAD_TO_SD * float(np.median(np.abs(off)))
    wrong = np.flatnonzero(np.abs(off) > max(_COMPUTE_OFF, 6 * spread))
    if len(wrong) > max(2, len(runs) // 10):
        return {}
    usual = 10 ** float(np.median(ratio))
    text = "C/(N·D) is {:.3g}, of the other runs {:.3g}: a cell is wrong"
    return {int(i): text.format(10 ** ratio[i], usual) for i in wrong}


def _worst(runs: RunTable, log: bool) -> tuple[int, str] | None:
    """The run that is farthest from what the others predict, where that is too far."""
    points = points_of(runs, log)
    z = points.z
    s, v = points.x + points.y, points.x - points.y
    sets = _deletions(s, v)
    solution = SurfaceSolver(Hoffmann, points).fit(np.ones(len(z)), "mad")
    start = np.repeat(solution.coordinates[None], len(sets), axis=0)
    delta = max(solution.delta, 1e-6)
    weights = np.where(sets, 0.0, 1.0)
    theta = polish(start, points, weights, delta, _ADDITIVE, iterations=_STEPS).theta
    off = z - model_values(theta, points)
    noise = MAD_TO_SD * np.median(np.abs(off), axis=1)
    spread = float(np.subtract(*np.quantile(z, [0.95, 0.05])))
    lonely = _gaps(v) > _LONELY * np.log(10)
    least = np.where(lonely, _LONELY_OFF, _OFF) * spread
    limit = np.maximum(least, _MOST_SDS * noise[:, None])
    score = np.where(sets & (_second_nearest(runs) > _NEAR), np.abs(off) / limit, 0.0)
    row, i = (int(at) for at in np.unravel_index(int(np.argmax(score)), score.shape))
    if score[row, i] <= 1:
        return None
    # At the ends of a sweep the additive law may be wrong where the κ-law is not.
    every, one = np.ones(6, dtype=bool), theta[row : row + 1]
    joined = polish(one, points, weights[row], delta, every, iterations=_STEPS).theta
    if not lonely[i] and abs(float(z[i] - model_values(joined, points)[0, i])) < limit[row, i]:
        return None
    shown = z[i] - off[row, i]
    loss = (float(np.exp(shown)) if points.log else shown) * points.scale - points.shift
    return i, (
        f"N = {runs.params[i]:.3g} with D = {runs.tokens[i]:.3g} lies far from the other runs, which "
        f"predict a loss of {loss:.4g} there, not {runs.loss[i]:.4g}: a cell may be wrong"
    )


def _deletions(s: Floats, v: Floats) -> NDArray[np.bool_]:
    """Which runs to leave out together, (sets, runs): one by one, and the ends of s and of v."""
    count = len(s)
    basis = np.column_stack([np.ones(count), s, v, s * s, s * v, v * v])
    leverage = np.sum(np.linalg.qr(basis)[0] ** 2, axis=1)
    single = np.argsort(-leverage, kind="stable")[:_MOST_SINGLE]
    single = single[leverage[single] > _LEVERAGE]
    sets = list(np.eye(count, dtype=bool)[single])
    longest = int(np.clip(count // 10, 2, _MOST_IN_TAIL))
    for order in (np.argsort(o, kind="stable") for o in (s, -s, v, -v)):
        for length in {2, 3, longest}:
            out = np.zeros(count, dtype=bool)
            out[order[:length]] = True
            sets.append(out)
    both = np.zeros(count, dtype=bool)
    both[[int(np.argmin(o)) for o in (s, -s, v, -v)]] = True
    return np.array([*sets, both])


def _second_nearest(runs: RunTable) -> Floats:
    """How many decades of N or D, whichever is more, each run lies from its second neighbour."""
    at = np.log10(np.column_stack([runs.params, runs.tokens]))
    return np.array([np.partition(np.max(np.abs(at - one), axis=1), 2)[2] for one in at])


def _gaps(v: Floats) -> Floats:
    """How far each run lies beyond the range of all others; of a pair, beyond that of the rest."""
    order = np.argsort(v, kind="stable")
    gaps = np.zeros(len(v))
    for ends in (order, order[::-1]):
        away = np.abs(v[ends] - v[ends[2]])
        gaps[ends[0]] = max(gaps[ends[0]], abs(v[ends[0]] - v[ends[1]]), away[0] * (away[1] > 0))
        gaps[ends[1]] = max(gaps[ends[1]], away[1])
    return gaps


def stray_finding(reasons: dict[int, str], labels: tuple[str, ...]) -> list[Diagnostic]:
    """What is said of the runs that were left out."""
    if not reasons:
        return []
    shown = "; ".join(f"{labels[i]}: {reason}" for i, reason in sorted(reasons.items()))
    return [finding("stray_runs", count=len(reasons), shown=shown)]
