"""How the answer changes when part of the evidence is taken away.

Every variant is a refit of the chosen form at its δ and window, so all of them together cost about
as much as one fit. :func:`flops_fit.fit.backtest` repeats choice of form and window too.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flops_fit.fit.findings import finding
from flops_fit.fit.prediction import HeldOut, predict_held_out
from flops_fit.fit.solver import Solution
from flops_fit.flops.functions import Floats, FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic, Severity
from flops_fit.table.run_table import RunTable

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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {
            "variants": [
                {**vars(v), "law": {"name": v.law.name, **v.law.params}} for v in self.variants
            ],
            "held_out": [[h.to_dict() for h in held] for held in self.held_out],
        }


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
    held = tuple(
        tuple(predict_held_out(law, flops, runs.select(runs.budget == b)) for b in budgets[-top:])
        for top, law in enumerate(laws[len(subsets) :], start=1)
    )
    level = solution.points.scale if solution.points.shift else 0.0
    answer = float(best.params), float(best.loss)
    return Sensitivity(compute, *answer, tuple(variants), held, level)


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
    at = f"N* at C = {moved.compute:.3g} ({moved.params:.3g})"
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
        text = f"at C = {h.compute:.3g} a loss of {h.predicted_loss:.4g} ({100 * off:+.1f} %)"
        bad |= abs(off) > np.array(_LOSS_ERROR)
        if h.vertex_params is not None and h.regret is not None and h.vertex_loss is not None:
            regret = h.regret * abs(h.vertex_loss) / whole
            text += f" and N* = {h.predicted_params:.3g} where {h.vertex_params:.3g} was best, "
            text += f"which would cost {100 * regret:.2g} % in loss"
            bad |= regret > np.array(_REGRET)
        texts.append(text)
    what = "the top budget" if top == 1 else f"the top {top} budgets"
    severity: Severity = "critical" if bad[1] and top == 1 else "warning" if bad[0] else "ok"
    return finding("held_out", severity, top=top, what=what, predicted="; ".join(texts))
