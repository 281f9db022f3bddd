"""Questions of a fit besides its optimum; each answer with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.checks import is_number
from flops_fit.errors import InputError
from flops_fit.fit.checks import off_the_runs
from flops_fit.fit.intervals import Estimate, Evidence, Interval, check_level, estimate
from flops_fit.laws.law import FlopsLike, Law
from flops_fit.laws.optimum import InferenceOptimum, TradeOff
from flops_fit.records import Diagnostic

Floats = NDArray[np.float64]

_INFERENCE = ("params", "tokens", "training_compute", "inference_compute", "total_compute")
_TRADE = ("params", "tokens", "loss", "excess", "tokens_needed", "compute_ratio")


@dataclass(frozen=True, eq=False)
class TradeOffEstimate(TradeOff):
    """A :class:`~flops_fit.laws.TradeOff` of a fitted law.

    ``intervals`` has for ``params``, ``tokens``, ``loss``, ``excess``, ``tokens_needed`` and
    ``compute_ratio`` an interval or ``None`` for each factor. At k = 1 excess and ratio are 0 and 1
    by definition. The other fields are as of an :class:`Estimate`.
    """

    intervals: dict[str, tuple[Interval | None, ...]]
    level: float
    method: str
    reason: str
    diagnostics: tuple[Diagnostic, ...]


@dataclass(frozen=True)
class InferenceEstimate(InferenceOptimum):
    """An :class:`~flops_fit.laws.InferenceOptimum` of a fitted law.

    ``intervals`` has (low, high) or ``None`` for ``params``, ``tokens``, ``training_compute``,
    ``inference_compute`` and ``total_compute``. The other fields are as of an :class:`Estimate`.
    """

    intervals: dict[str, Interval | None]
    level: float
    method: str
    reason: str
    diagnostics: tuple[Diagnostic, ...]


def loss_at(evidence: Evidence, N: float, D: float, level: float) -> Estimate:
    """See :meth:`flops_fit.fit.Fit.loss_at`."""
    size, units = _one(N, "N, parameters"), _one(D, "D, units")
    return _located(evidence, lambda law: float(law.loss(size, units)), level, size, units)


def compute_for(evidence: Evidence, loss: float, level: float) -> Estimate:
    """See :meth:`flops_fit.fit.Fit.compute_for`."""
    goal, flops = _goal(evidence.law, loss), evidence.flops
    best = evidence.law.optimal(evidence.law.compute_for(goal, flops), flops)
    answer = estimate(evidence, lambda law: law.compute_for(goal, flops), level)
    notes = off_the_runs(evidence, best.params, best.tokens, shape=False)
    return replace(answer, diagnostics=notes)


def tokens_for(evidence: Evidence, N: float, loss: float, level: float) -> Estimate:
    """See :meth:`flops_fit.fit.Fit.tokens_for`."""
    size, goal = _one(N, "N, parameters"), _goal(evidence.law, loss)
    units = float(evidence.law.tokens_for(size, goal))
    return _located(evidence, lambda law: float(law.tokens_for(size, goal)), level, size, units)


def params_for(evidence: Evidence, D: float, loss: float, level: float) -> Estimate:
    """See :meth:`flops_fit.fit.Fit.params_for`."""
    units, goal = _one(D, "D, units"), _goal(evidence.law, loss)
    size = float(evidence.law.params_for(units, goal))
    return _located(evidence, lambda law: float(law.params_for(units, goal)), level, size, units)


def trade_off(evidence: Evidence, C: float, factors: ArrayLike, level: float) -> TradeOffEstimate:
    """See :meth:`flops_fit.fit.Fit.trade_off`."""
    check_level(level)
    compute = _one(C, "C, FLOPs")
    table = evidence.law.trade_off(compute, factors, evidence.flops)

    def logs(law: Law) -> Floats:
        at = law.trade_off(compute, factors, evidence.flops)
        above = np.log1p(at.excess / 100)
        with np.errstate(divide="ignore"):
            rest = np.log([at.tokens_needed, at.compute_ratio])
        return np.concatenate([np.log([at.params, at.tokens, at.loss]), above[None], rest]).ravel()

    k = len(table.factors)
    names = [f"{name} at k = {f:.3g}" for name in _TRADE for f in table.factors]
    answer = evidence.intervals(logs, names, level)
    spans = {name: answer.spans[i * k : (i + 1) * k] for i, name in enumerate(_TRADE)}
    # The loss of N* is the least that C reaches, and C the least compute for it.
    for name in ("excess", "compute_ratio"):
        spans[name] = tuple((max(s[0], 1.0), max(s[1], 1.0)) if s else None for s in spans[name])
    spans["excess"] = tuple(
        (100 * (s[0] - 1), 100 * (s[1] - 1)) if s else None for s in spans["excess"]
    )
    notes = tuple(
        replace(d, message=f"k = {f:.3g}: {d.message}")
        for f, n, units in zip(table.factors, table.params, table.tokens, strict=True)
        for d in off_the_runs(evidence, float(n), float(units))
    )
    how: dict[str, Any] = {"method": answer.method, "reason": answer.reason, "diagnostics": notes}
    return TradeOffEstimate(**vars(table), intervals=spans, level=level, **how)


def optimal_for_inference(
    evidence: Evidence,
    loss: float,
    inference_tokens: float,
    level: float,
    inference_flops_per_unit: FlopsLike | None,
) -> InferenceEstimate:
    """See :meth:`flops_fit.fit.Fit.optimal_for_inference`."""
    check_level(level)
    goal = _goal(evidence.law, loss)
    ask = (goal, inference_tokens, evidence.flops, inference_flops_per_unit)
    best = evidence.law.optimal_for_inference(*ask)

    def logs(law: Law) -> Floats:
        if not law.reaches(goal):
            return np.full(len(_INFERENCE), np.nan)
        at = law.optimal_for_inference(*ask)
        values = np.array([getattr(at, name) for name in _INFERENCE])
        return np.asarray(np.log(np.maximum(values, 1e-300)))

    answer = evidence.intervals(logs, _INFERENCE, level)
    spans = dict(zip(_INFERENCE, answer.spans, strict=True))
    if best.inference_compute == 0:
        spans["inference_compute"] = (0.0, 0.0)
    notes = off_the_runs(evidence, best.params, best.tokens)
    how: dict[str, Any] = {"method": answer.method, "reason": answer.reason, "diagnostics": notes}
    return InferenceEstimate(**vars(best), intervals=spans, level=level, **how)


def _located(
    evidence: Evidence, ask: Callable[[Law], float], level: float, N: float, D: float
) -> Estimate:
    """An estimate at (N, D), with how far that lies from the runs."""
    answer = estimate(evidence, ask, level)
    return replace(answer, diagnostics=off_the_runs(evidence, N, D))


def _one(value: float, what: str) -> float:
    if not is_number(value) or value <= 0:
        raise InputError(f"expected {what}, as one positive finite number; got {value!r}.")
    return float(value)


def _goal(law: Law, loss: float) -> float:
    goal = _one(loss, "a loss")
    if not law.reaches(goal):
        floor = law.params.get("E")
        bound = "its lowest" if floor is None else f"its irreducible loss E = {floor:.4g}"
        raise InputError(
            f"expected a loss that the fitted law reaches, above {bound}; got {goal:.6g}."
        )
    return goal
