"""How the answer changes when part of the evidence is taken away.

Every variant is a refit of the chosen form from the chosen fit, at its δ and window, so that all of
them together cost about as much as one fit. :func:`flops_fit.fit.backtest` repeats the whole of a
fit, choice of form and window included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.prediction import HeldOut, predict_held_out
from flops_fit.fit.solver import Solution
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]
VariantKind = Literal["budget", "outliers", "highest_losses", "least_squares", "least_deviations"]

_REACH = 10.0
_HIGHEST = 0.02
_OUTLIER = 4.0
_MOST_BUDGETS = 40
_SMALL_DELTA = 0.1
_SLIGHT, _MILD, _STRONG = (float(v) for v in np.log([1.05, 1.25, 1.5]))


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

    ``held_out`` has a tuple for the top budget held out and one for the top two, with what the rest
    foretells for each.
    """

    compute: float
    params: float
    loss: float
    variants: tuple[Variant, ...]
    held_out: tuple[tuple[HeldOut, ...], ...]

    def of(self, kind: VariantKind) -> tuple[Variant, ...]:
        """The variants of one kind."""
        return tuple(v for v in self.variants if v.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "compute": self.compute,
            "params": self.params,
            "loss": self.loss,
            "variants": [
                {**vars(v), "law": {"name": v.law.name, **v.law.params}} for v in self.variants
            ],
            "held_out": [[h.to_dict() for h in held] for held in self.held_out],
        }


def sensitivity(solution: Solution, runs: RunTable, flops: FlopsFunction) -> Sensitivity:
    """Refit without each budget, without outliers, without the highest losses, and at other δ."""
    compute = _REACH * float(np.max(runs.flops))
    plans = _plans(solution, runs)
    tops = _tops(runs, solution)
    weights = [w for _, _, w in plans] + tops
    laws = _refits(solution, weights, solution.delta)
    variants = [
        _variant(kind, label, w, law, compute, flops)
        for (kind, label, w), law in zip(plans, laws, strict=False)
    ]
    for kind, label, delta in _other_deltas(solution):
        (law,) = _refits(solution, [solution.weights], delta)
        variants.append(_variant(kind, label, solution.weights, law, compute, flops))
    best = solution.law.optimal(compute, flops)
    budgets = np.unique(runs.budget)
    held = tuple(
        tuple(predict_held_out(law, flops, runs.select(runs.budget == b)) for b in budgets[-top:])
        for top, law in enumerate(laws[len(plans) :], start=1)
    )
    return Sensitivity(compute, float(best.params), float(best.loss), tuple(variants), held)


def _plans(solution: Solution, runs: RunTable) -> list[tuple[VariantKind, str, Floats]]:
    """What to leave out: a name for it and the weights that are left."""
    w = solution.weights
    plans: list[tuple[VariantKind, str, Floats]] = []
    budgets = np.unique(runs.budget[w > 0])
    if 3 <= len(budgets) <= _MOST_BUDGETS:
        for b in budgets:
            plans.append(("budget", f"C = {b:.3g}", np.where(runs.budget == b, 0.0, w)))
    far = np.abs(solution.residuals) > _OUTLIER * solution.residual_sd
    if solution.residual_sd > 1e-9 and np.any(far & (w > 0)):
        count = int(np.sum(far & (w > 0)))
        word = "the outlier" if count == 1 else f"the {count} outliers"
        plans.append(("outliers", word, np.where(far, 0.0, w)))
    kept = np.flatnonzero(w)
    count = max(round(_HIGHEST * len(kept)), 1)
    highest = kept[np.argsort(-runs.loss[kept], kind="stable")[:count]]
    without = w.copy()
    without[highest] = 0.0
    named = ", ".join(runs.labels[i] for i in highest[:3])
    plans.append(("highest_losses", named + (", …" if count > 3 else ""), without))
    return [plan for plan in plans if _enough(plan[2], solution, runs)]


def _tops(runs: RunTable, solution: Solution) -> list[Floats]:
    """Weights without the top budget and without the top two, as far as enough is left."""
    budgets = np.unique(runs.budget)
    out = []
    for top in (1, 2):
        if len(budgets) - top < 3:
            break
        left = np.where(runs.budget >= budgets[-top], 0.0, solution.weights)
        if not _enough(left, solution, runs):
            break
        out.append(left)
    return out


def _enough(weights: Floats, solution: Solution, runs: RunTable) -> bool:
    kept = weights > 0
    several = len(np.unique(runs.budget[kept])) >= 2 and len(np.unique(runs.params[kept])) >= 2
    return several and int(kept.sum()) > len(solution.law.params) + 1


def _other_deltas(solution: Solution) -> list[tuple[VariantKind, str, float]]:
    if solution.residual_sd < 1e-9:
        return []
    return [
        ("least_squares", "least squares (δ = ∞)", float("inf")),
        (
            "least_deviations",
            "nearly least absolute deviations (δ of a tenth of the scatter)",
            _SMALL_DELTA * solution.residual_sd,
        ),
    ]


def _refits(solution: Solution, weights: list[Floats], delta: float) -> list[Law]:
    if not weights:
        return []
    targets = np.broadcast_to(solution.points.z, (len(weights), len(solution.points.z)))
    return solution.solver.refit(solution, np.array(weights), targets, delta)


def _variant(
    kind: VariantKind, label: str, weights: Floats, law: Law, compute: float, flops: FlopsFunction
) -> Variant:
    best = law.optimal(compute, flops)
    kept = int(np.count_nonzero(weights))
    return Variant(kind, label, kept, law, float(best.params), float(best.loss))


def sensitivity_diagnostics(found: Sensitivity) -> list[Diagnostic]:
    """What the refits say, one finding a question."""
    out = []
    at = f"N* at C = {found.compute:.3g} ({found.params:.3g})"
    budgets = found.of("budget")
    if budgets:
        worst = max(budgets, key=lambda v: _shift(v, found))
        text = (
            f"without {worst.label} {at} becomes {worst.params:.3g}, the most any one budget does"
        )
        action = "check the runs of that budget; add budgets beside it"
        out.append(_graded("leave_one_budget_out", _shift(worst, found), text, action))
    for code, kind, action in (
        ("outlier_pull", "outliers", "look at these runs before the fit is used"),
        (
            "undertrained",
            "highest_losses",
            "the runs of highest loss may be undertrained: leave them out, or train them longer",
        ),
    ):
        for v in found.variants:
            if v.kind == kind:
                text = f"without {v.label} {at} becomes {v.params:.3g}"
                if kind == "highest_losses":
                    text = (
                        f"without the runs of highest loss ({v.label}) {at} becomes {v.params:.3g}"
                    )
                out.append(_graded(code, _shift(v, found), text, action))
    deltas = found.of("least_squares") + found.of("least_deviations")
    if deltas:
        low, high = min(v.params for v in deltas), max(v.params for v in deltas)
        shift = max(_shift(v, found) for v in deltas)
        text = f"from least deviations to least squares {at} ranges over {low:.3g}–{high:.3g}"
        action = "the answer hangs on how outliers are treated: look at the residuals"
        # Less is allowed: no run is added or lost, only another loss function is taken.
        out.append(_graded("delta_sensitivity", shift, text, action, (_SLIGHT, _MILD)))
    for top, held in enumerate(found.held_out, start=1):
        out.append(_held_out(top, held))
    return out


def _shift(variant: Variant, found: Sensitivity) -> float:
    return abs(float(np.log(variant.params / found.params)))


def _graded(
    code: str, shift: float, text: str, action: str, levels: tuple[float, float] = (_MILD, _STRONG)
) -> Diagnostic:
    mild, strong = levels
    if shift <= mild:
        return Diagnostic(code, "ok", text)
    return Diagnostic(code, "warning" if shift > strong else "note", text, action)


def _held_out(top: int, held: tuple[HeldOut, ...]) -> Diagnostic:
    """The worst of the budgets held out, by what its N would have cost in loss."""
    told, bad = [], False
    for h in held:
        seen = h.vertex_loss if h.vertex_loss is not None else h.best_loss
        off = h.predicted_loss / seen - 1
        text = f"at C = {h.compute:.3g} a loss of {h.predicted_loss:.4g} ({100 * off:+.1f} %)"
        bad |= abs(off) > 0.03
        if h.vertex_params is not None and h.regret is not None:
            text += (
                f" and N* = {h.predicted_params:.3g} where {h.vertex_params:.3g} was best, which would "
                f"cost {100 * h.regret:.2g} % in loss"
            )
            bad |= h.regret > 0.01
        told.append(text)
    what = "the top budget" if top == 1 else f"the top {top} budgets"
    message = f"without {what} the rest foretells {'; '.join(told)}"
    code = f"held_out_top_{top}"
    if bad:
        action = "trust no extrapolation of this fit; look for what changes with scale"
        return Diagnostic(code, "warning", message, action)
    return Diagnostic(code, "ok", message)
