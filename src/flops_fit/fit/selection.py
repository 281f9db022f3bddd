"""Runs left out: those that ought to be, and how the answer changes without others.

Runs ought to be left out for their outcome, which selects, and for a cell that no honest run has. A
residual does not show a wrong cell, because the fit follows it. So the law is fitted without the run,
and without whatever lies beyond it: what the rest predicts is compared with the run's loss.

Every variant of the answer is a refit of the chosen form at its δ and window, so all of them together
cost about as much as one fit. :func:`flops_fit.fit.backtest` repeats choice of form and window too.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flops_fit.fit.experts import as_asked
from flops_fit.fit.hparam_rule import HParamRule, tuned_losses
from flops_fit.fit.prediction import HeldOut, judge
from flops_fit.fit.solver import MAD_TO_SD, Solution, finding
from flops_fit.fit.surface import model_values, points_of, polish
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.fit.table_checks import check_runs
from flops_fit.fit.varied import HParamNames
from flops_fit.fit.window import run_weights
from flops_fit.flops.functions import Bools, Floats, FlopsFunction
from flops_fit.laws.kappa import Hoffmann
from flops_fit.laws.law import Law
from flops_fit.recipes.resolve import SizeName
from flops_fit.records import Diagnostic, Severity
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count

_FEWEST_RUNS, _MOST_RUNS = 12, 5_000  # of more, no single one pulls the fit
_MOST_SINGLE, _MOST_IN_TAIL, _STEPS = 40, 6, 20
_ADDITIVE = np.array([True, True, True, True, True, False])
_COMPUTE_OFF = 1.0  # decades of C/(N·D) that one run may lie from the others
_LONELY = 1.2  # decades of D/N between a run and all others
_OFF, _LONELY_OFF = 0.3, 0.07  # of the losses' range, between a loss and what the rest predicts
_MOST_SDS = 8.0
_LEVERAGE = 0.15  # on a quadratic, from which one run can pull a fit to itself
_NEAR = 0.5  # decades of N and D within which a run with two others is one of a crowd


def stray_runs(runs: RunTable, log: bool) -> dict[int, str]:
    """The runs, by position, that lie where the others say no such loss can be, with the reason."""
    if len(runs) < _FEWEST_RUNS:
        return {}
    reasons = _inconsistent(runs)
    most = max(3, len(runs) // 8)
    if len(runs) > _MOST_RUNS:
        return reasons
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


def _deletions(s: Floats, v: Floats) -> Bools:
    """Which runs to leave out together, (sets, runs): one by one, and the ends of s and of v."""
    count = len(s)
    basis = np.column_stack([np.ones(count), s, v, s * s, s * v, v * v])
    leverage = np.sum(np.linalg.qr(basis)[0] ** 2, axis=1)
    single = np.argsort(-leverage, kind="stable")[:_MOST_SINGLE]
    single = single[leverage[single] > _LEVERAGE]
    sets = list(single[:, None] == np.arange(count))
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


VariantKind = Literal["budget", "outliers", "highest_losses", "least_squares", "least_deviations"]

_TARGET = 10.0  # times the largest run's compute
_HIGHEST_SHARE = 0.02
_OUTLIER_SDS = 4.0
_MOST_BUDGETS = 40
_SMALL_DELTA = 0.1
_SLIGHT, _MILD, _STRONG = (float(v) for v in np.log([1.05, 1.25, 1.5]))
# Relative errors of the loss, and regrets, of held-out budgets: a warning, and critical for one budget
_LOSS_ERROR, _REGRET = (0.03, 0.1), (0.01, 0.1)

_FINDINGS: dict[VariantKind, str] = {  # of the variant with the largest change of each kind
    "budget": "leave_one_budget_out",
    "outliers": "outlier_pull",
    "highest_losses": "undertrained",
}


@dataclass(frozen=True)
class Variant:
    """One refit: what was different, and N* and loss at the sensitivity's compute."""

    kind: VariantKind
    label: str
    runs: int
    law: Law
    params: float
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the law by its name and constants."""
        return {**vars(self), "law": {"name": self.law.name, **self.law.params}}


@dataclass(frozen=True)
class Sensitivity:
    """N* and loss of the fit at ``compute`` (10× the largest run's), and of every variant of it.

    ``held_out`` is of the top budget and the top two; errors are relative to ``level`` or more.
    """

    compute: float
    params: float
    loss: float
    variants: tuple[Variant, ...]
    held_out: tuple[tuple[HeldOut, ...], ...]
    level: float = 0.0

    def of(self, *kinds: VariantKind) -> tuple[Variant, ...]:
        """The variants of some kinds."""
        return tuple(v for v in self.variants if v.kind in kinds)

    def shift(self, variant: Variant) -> float:
        """How far a variant moves ln N*."""
        return abs(float(np.log(variant.params / self.params)))


def sensitivity(solution: Solution, runs: RunTable, flops: FlopsFunction) -> Sensitivity:
    """Refit without each budget, without outliers, without the highest losses, and at other δ."""
    compute, budgets = _TARGET * float(np.max(runs.flops)), np.unique(runs.budget)
    subsets, tops = _subsets(solution, runs), []
    for top in range(1, min(2, len(budgets) - 3) + 1):
        left = np.where(runs.budget >= budgets[-top], 0.0, solution.weights)
        if not _enough(left, solution, runs):
            break
        tops.append(left)
    laws = _refit(solution, [w for _, _, w in subsets] + tops, solution.delta)
    answers = list(zip(subsets, laws, strict=False))
    if solution.residual_sd >= 1e-9:
        small = "nearly least absolute deviations (δ of a tenth of the scatter)"
        other_deltas: list[tuple[VariantKind, str, float]] = [
            ("least_squares", "least squares (δ = ∞)", float("inf")),
            ("least_deviations", small, _SMALL_DELTA * solution.residual_sd),
        ]
        for kind, label, delta in other_deltas:
            (law,) = _refit(solution, [solution.weights], delta)
            answers.append(((kind, label, solution.weights), law))
    variants = []
    for (kind, label, weights), law in answers:
        best, kept = law.optimal(compute, flops), int(np.count_nonzero(weights))
        variants.append(Variant(kind, label, kept, law, float(best.params), float(best.loss)))
    best = solution.law.optimal(compute, flops)
    held = []
    for top, law in enumerate(laws[len(subsets) :], start=1):
        parts = [runs.select(runs.budget == b) for b in budgets[-top:]]
        at = (law.optimal(float(np.mean(part.flops)), flops) for part in parts)
        pairs = zip((as_asked(part, law) for part in parts), at, strict=True)
        held.append(tuple(judge(part, float(x.params), float(x.loss)) for part, x in pairs))
    level = solution.points.scale if solution.points.shift else 0.0
    answer = float(best.params), float(best.loss)
    return Sensitivity(compute, *answer, tuple(variants), tuple(held), level)


def _subsets(solution: Solution, runs: RunTable) -> list[tuple[VariantKind, str, Floats]]:
    """Parts of the runs to leave out: a name for each, and the weights that are left."""
    w = solution.weights
    subsets: list[tuple[VariantKind, str, Floats]] = []
    budgets = np.unique(runs.budget[w > 0])
    if 3 <= len(budgets) <= _MOST_BUDGETS:
        for b in budgets:
            subsets.append(("budget", f"C = {b:.3g}", np.where(runs.budget == b, 0.0, w)))
    far = np.abs(solution.residuals) > _OUTLIER_SDS * solution.residual_sd
    count = int(np.sum(far & (w > 0)))
    if solution.residual_sd > 1e-9 and count:
        word = "the outlier" if count == 1 else f"the {count} outliers"
        subsets.append(("outliers", word, np.where(far, 0.0, w)))
    kept = np.flatnonzero(w)
    count = max(round(_HIGHEST_SHARE * len(kept)), 1)
    highest = kept[np.argsort(-runs.loss[kept], kind="stable")[:count]]
    without = w.copy()
    without[highest] = 0.0
    named = ", ".join(runs.labels[i] for i in highest[:3]) + (", …" if count > 3 else "")
    subsets.append(("highest_losses", named, without))
    return [s for s in subsets if _enough(s[2], solution, runs)]


def _enough(weights: Floats, solution: Solution, runs: RunTable) -> bool:
    kept = weights > 0
    several = len(np.unique(runs.budget[kept])) >= 2 and len(np.unique(runs.params[kept])) >= 2
    return several and int(kept.sum()) > len(solution.law.params) + 1


def _refit(solution: Solution, weights: list[Floats], delta: float) -> list[Law]:
    if not weights:
        return []
    targets = np.broadcast_to(solution.points.z, (len(weights), len(solution.points.z)))
    return solution.solver.refit(solution, np.array(weights), targets, delta)


def sensitivity_diagnostics(moved: Sensitivity) -> list[Diagnostic]:
    """What the refits say, one finding a question."""
    out = []
    at = f"N* at C = {moved.compute:.3g} ({format_count(moved.params, zeros=True)})"
    for kind, code in _FINDINGS.items():
        worst = max(moved.of(kind), key=moved.shift, default=None)
        if worst is not None:
            severity = _grade(moved.shift(worst), _MILD, _STRONG)
            out.append(finding(code, severity, label=worst.label, at=at, params=worst.params))
    deltas = moved.of("least_squares", "least_deviations")
    if deltas:
        low, high = min(v.params for v in deltas), max(v.params for v in deltas)
        severity = _grade(max(moved.shift(v) for v in deltas), _SLIGHT, _MILD)
        out.append(finding("delta_sensitivity", severity, at=at, low=low, high=high))
    held = enumerate(moved.held_out, start=1)
    return out + [_held_out(top, budgets, moved.level) for top, budgets in held]


def _grade(shift: float, note: float, warning: float) -> Severity:
    return "warning" if shift > warning else "note" if shift > note else "ok"


def _held_out(top: int, held: tuple[HeldOut, ...], level: float) -> Diagnostic:
    """The budgets held out, judged by their loss and by what the predicted N would have cost."""
    texts, bad = [], np.zeros(2, dtype=bool)
    for h in held:
        seen = h.vertex_loss if h.vertex_loss is not None else h.best_loss
        whole = max(abs(seen), level)
        off = (h.predicted_loss - seen) / whole
        text = f"at C = {h.compute:.3g} a loss of {h.predicted_loss:#.4g} ({100 * off:+.1f} %)"
        bad |= abs(off) > np.array(_LOSS_ERROR)
        if h.vertex_params is not None and h.regret is not None and h.vertex_loss is not None:
            regret = h.regret * abs(h.vertex_loss) / whole
            sizes = (format_count(v, zeros=True) for v in (h.predicted_params, h.vertex_params))
            text += " and N* = {} where {} was best, ".format(*sizes)
            cost = f"{100 * regret:.2g}" if regret < 1 else "over 100"
            text += f"which would cost {cost} % in loss"
            bad |= regret > np.array(_REGRET)
        texts.append(text)
    what = "the top budget" if top == 1 else f"the top {top} budgets"
    severity: Severity = "critical" if bad[1] and top == 1 else "warning" if bad[0] else "ok"
    return finding("held_out", severity, top=top, what=what, predicted="; ".join(texts))


def sound_runs(
    table: RunTable, weights: Any, log: bool, fewest: int, hparams: HParamNames, size: SizeName
) -> tuple[RunTable, Floats, tuple[Diagnostic, ...], HParamRule | None]:
    """The runs that are fitted, from the least compute up, with their weights, findings and rule."""
    usable = check_runs(table, fewest)
    given = None if isinstance(weights, str) else run_weights(weights, usable, log)
    table, rule = tuned_losses(usable, hparams, size)
    if given is not None and rule is not None:
        given = given[rule.covers(usable)]
    # The order of the rows must not matter, not even by rounding: draws follow it.
    order = np.lexsort((table.loss, table.tokens, table.params, table.flops))
    table = table.take(order)
    base = run_weights(weights if given is None else given[order], table, log)
    table, base = table.select(base > 0, "its weight is zero"), base[base > 0]
    reasons = stray_runs(table, log)
    findings = tuple(stray_finding(reasons, table.labels))
    table, base = check_runs(table.without(reasons), fewest), np.delete(base, list(reasons))
    if rule is not None:
        base, findings = base * rule.weights(table), (*rule.diagnostics(table), *findings)
    return table, base, findings, rule
