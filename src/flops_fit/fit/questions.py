"""What a fit answers besides its optimum."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import InputError, check_number, is_number
from flops_fit.fit.checks import off_the_runs
from flops_fit.fit.intervals import METHOD, Estimate, Evidence, Interval, answer, check_level
from flops_fit.flops.functions import Floats
from flops_fit.laws.kappa import Repeating
from flops_fit.laws.law import FlopsLike, Law, as_flops
from flops_fit.laws.optimum import InferenceOptimum, TradeOff
from flops_fit.records import Diagnostic

_INFERENCE = ("params", "tokens", "training_compute", "inference_compute", "total_compute")
_INFERENCE_REACH = 6.0  # in ln N and ln D, around the fitted law's answer
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


class Questions:
    """Questions of a fit besides its optimum; each answer has its interval."""

    _evidence: Evidence

    def loss_at(self, N: float, D: float, level: float = 0.9) -> Estimate:
        """The loss of N parameters on D units: the mean of runs, and ``run_interval`` of one run."""
        evidence = self._evidence
        check_level(level)
        size, units = (
            check_number("N, parameters", N, above=0),
            check_number("D, units", D, above=0),
        )
        if evidence.no_interval:
            value = float(evidence.law.loss(size, units))
            return _without_interval(evidence, value, level, size, units)
        draws = evidence.posterior.losses(np.array([size]), np.array([units]))
        run = evidence.span(evidence.posterior.one_run(draws), level)
        notes = off_the_runs(evidence, size, units)
        return replace(answer(evidence, draws, level), run_interval=run, diagnostics=notes)

    def compute_for(self, loss: float, level: float = 0.9) -> Estimate:
        """The least training FLOPs whose optimum reaches ``loss``."""
        evidence = self._evidence
        check_level(level)
        goal, flops = _goal(evidence.law, loss), evidence.flops
        start = evidence.law.compute_for(goal, flops)
        best = evidence.law.optimal(start, flops)
        notes = off_the_runs(evidence, best.params, best.tokens, shape=False)
        if evidence.no_interval:
            return Estimate(start, None, level, "none", evidence.no_interval, notes)
        draws = np.exp(log_compute_draws(evidence, np.array(goal), start))
        return replace(answer(evidence, draws, level), diagnostics=notes)

    def tokens_for(self, N: float, loss: float, level: float = 0.9) -> Estimate:
        """The least D at which N parameters reach ``loss``; ``inf`` where they never do."""
        evidence = self._evidence
        check_level(level)
        size, goal = check_number("N, parameters", N, above=0), _goal(evidence.law, loss)
        units = float(evidence.law.tokens_for(size, goal))
        return _reaching(evidence, size, units, goal, level, least="D")

    def params_for(self, D: float, loss: float, level: float = 0.9) -> Estimate:
        """The least N that reaches ``loss`` on D units; ``inf`` where none does."""
        evidence = self._evidence
        check_level(level)
        units, goal = check_number("D, units", D, above=0), _goal(evidence.law, loss)
        size = float(evidence.law.params_for(units, goal))
        return _reaching(evidence, size, units, goal, level, least="N")

    def trade_off(self, C: float, factors: ArrayLike, level: float = 0.9) -> TradeOffEstimate:
        """What sizes k·N*(C) cost in loss and compute: :meth:`flops_fit.laws.Law.trade_off`."""
        evidence = self._evidence
        check_level(level)
        compute, flops = check_number("C, FLOPs", C, above=0), evidence.flops
        table = evidence.law.trade_off(compute, factors, flops)
        k = len(table.factors)
        notes = tuple(
            replace(d, message=f"k = {f:.3g}: {d.message}")
            for f, n, units in zip(table.factors, table.params, table.tokens, strict=True)
            for d in off_the_runs(evidence, float(n), float(units))
        )
        how: dict[str, Any] = {"level": level, "diagnostics": notes}
        if reason := evidence.no_interval:
            how["intervals"] = dict.fromkeys(_TRADE, (None,) * k)
            return TradeOffEstimate(**vars(table), method="none", reason=reason, **how)
        best = evidence.optima(compute)
        # A skewed bowl has two optima, as in predict: each counts half.
        half = np.where(np.arange(len(best.params)) % 2, 3, 0)[:, None]
        N = table.factors * np.take_along_axis(best.params, half, axis=1)
        per_unit = np.asarray(flops(N))
        D, least = compute / per_unit, best.loss[:, :1]
        loss = evidence.posterior.losses(N, D)
        wider = np.linspace(-3.0, 9.0, 97)
        needed = np.empty_like(N)
        for i in range(k):
            longer = D[:, i : i + 1] * np.exp(wider)
            curves = evidence.posterior.losses(
                np.broadcast_to(N[:, i : i + 1], longer.shape), longer
            )
            needed[:, i] = D[:, i] * np.exp(_first_crossing(wider, curves, least[:, 0]))
        draws = {
            "params": N,
            "tokens": D,
            "loss": loss,
            # The loss of N* is the least that C reaches, and C the least compute for it.
            "excess": 100 * np.maximum((loss - least) / np.abs(least), 0.0),
            "tokens_needed": needed,
            "compute_ratio": np.maximum(per_unit * needed / compute, 1.0),
        }
        at_best = table.factors == 1.0
        draws["excess"][:, at_best], draws["compute_ratio"][:, at_best] = 0.0, 1.0
        spans = {
            name: tuple(evidence.span(values[:, i], level) for i in range(k))
            for name, values in draws.items()
        }
        middle = {name: np.median(values, axis=0) for name, values in draws.items()}
        lost = [
            f"{name} at k = {f:.3g}"
            for name, found in spans.items()
            for f, span in zip(table.factors, found, strict=True)
            if span is None
        ]
        reason = f"some drawn surfaces do not reach {', '.join(lost)}" if lost else ""
        how |= {"intervals": spans, "method": METHOD, "reason": reason}
        return TradeOffEstimate(compute, table.factors, **middle, **how)

    def optimal_for_inference(
        self,
        loss: float,
        inference_tokens: float,
        level: float = 0.9,
        inference_flops_per_unit: FlopsLike | None = None,
    ) -> InferenceEstimate:
        """The N and D that reach ``loss`` with the least compute for training and inference.

        See :meth:`flops_fit.laws.Law.optimal_for_inference` for the condition and its source.
        """
        evidence = self._evidence
        check_level(level)
        goal, flops, own = _goal(evidence.law, loss), evidence.flops, inference_flops_per_unit
        best = evidence.law.optimal_for_inference(goal, inference_tokens, flops, own)
        notes = off_the_runs(evidence, best.params, best.tokens)
        how: dict[str, Any] = {"level": level, "diagnostics": notes}
        if reason := evidence.no_interval:
            how["intervals"] = dict.fromkeys(_INFERENCE)
            return InferenceEstimate(**vars(best), method="none", reason=reason, **how)
        inference = None if own is None else as_flops(own)
        log_n = np.log(best.params) + np.linspace(-_INFERENCE_REACH, _INFERENCE_REACH, 81)
        log_d = np.log(best.tokens) + np.linspace(-_INFERENCE_REACH, _INFERENCE_REACH, 49)
        N, D = np.meshgrid(np.exp(log_n), np.exp(log_d), indexing="ij")
        surface = evidence.posterior.losses(N.ravel(), D.ravel()).reshape(-1, *N.shape)
        reaching = _first_size(log_n, surface, goal)

        def computes(log_size: Floats, log_units: Floats) -> tuple[Floats, Floats]:
            N = np.exp(log_size)
            per_unit = np.asarray(flops(N))
            served = per_unit / 3 if inference is None else np.asarray(inference(N))
            return per_unit * np.exp(log_units), served * inference_tokens

        usable = np.isfinite(reaching)
        training, served = computes(np.where(usable, reaching, log_n[0]), log_d)
        size, units = _cheapest(np.where(usable, training + served, np.inf), reaching, log_d)
        training_compute, inference_compute = computes(size, units)
        total = training_compute + inference_compute
        alone = computes(*_cheapest(np.where(usable, training, np.inf), reaching, log_d))
        columns = [np.exp(size), np.exp(units), training_compute, inference_compute, total]
        spans = {n: evidence.span(v, level) for n, v in zip(_INFERENCE, columns, strict=True)}
        columns.append(np.maximum(1 - total / (alone[0] + alone[1]), 0.0))
        middle = np.median(np.where(np.isnan(columns), np.inf, columns), axis=1)
        if np.all(np.isfinite(middle)):
            best = replace(best, **dict(zip((*_INFERENCE, "saving"), middle.tolist(), strict=True)))
        how |= {"intervals": spans, "method": METHOD, "reason": ""}
        return InferenceEstimate(**vars(best), **how)


def log_compute_draws(evidence: Evidence, goal: Floats, near: float) -> Floats:
    """Ln of the least C that reaches a loss, one or one a draw; inf beyond e^±12 of ``near``."""
    log_c = np.log(near) + np.linspace(-12.0, 12.0, 49)
    lowest = []
    for C in np.exp(log_c):
        centre = np.log(evidence.law.optimal(C, evidence.flops).params)
        N = np.exp(centre + np.linspace(-4.0, 4.0, 33))
        losses = evidence.posterior.losses(N, C / np.asarray(evidence.flops(N)))
        lowest.append(np.min(losses, axis=1))
    return _first_crossing(log_c, np.array(lowest).T, np.broadcast_to(goal, len(lowest[0])))


def _first_crossing(x: Floats, curves: Floats, goal: Floats) -> Floats:
    """Where each falling curve, shape (draws, points), first reaches its goal; ±inf off the ends."""
    falling = np.minimum.accumulate(curves, axis=1)
    after = np.sum(falling > goal[:, None], axis=1)
    j = np.clip(after, 1, len(x) - 1)
    rows = np.arange(len(curves))
    high, low = falling[rows, j - 1], falling[rows, j]
    share = np.clip((high - goal) / np.maximum(high - low, 1e-300), 0.0, 1.0)
    at = x[j - 1] + share * (x[j] - x[j - 1])
    return np.where(after == 0, -np.inf, np.where(after == len(x), np.inf, at))


def _first_size(log_n: Floats, surface: Floats, goal: float) -> Floats:
    """Ln N that first reaches a loss at each D, shape (draws, D); ±inf off the ends.

    ``surface`` is (draws, N, D). Every fifth N is looked at, then those before, as a report's page does.
    """
    reached = surface <= goal
    coarse = np.argmax(reached[:, ::5], axis=1)
    block = (np.arange(len(log_n)) + 4) // 5
    k = np.argmax(reached & (block[:, None] == coarse[:, None, :]), axis=1)
    before, at = np.maximum(k - 1, 0), k[:, None, :]
    low = np.take_along_axis(surface, at, 1)[:, 0]
    high = np.take_along_axis(surface, before[:, None, :], 1)[:, 0]
    share = (high - goal) / np.where(k > before, high - low, 1.0)
    size = log_n[before] + share * (log_n[1] - log_n[0])
    size = np.where(k == 0, -np.inf, size)
    return np.where(reached[:, ::5].any(axis=1), size, np.inf)


def _cheapest(cost: Floats, log_n: Floats, log_d: Floats) -> tuple[Floats, Floats]:
    """Ln N and ln D of the least cost of each draw, around the best of every fourth D; NaN at ends."""
    about = 4 * np.argmin(cost[:, ::4], axis=1)
    cost = np.where(np.abs(np.arange(len(log_d)) - about[:, None]) <= 4, cost, np.inf)
    rows, last = np.arange(len(cost)), len(log_d) - 1
    j = np.clip(np.argmin(cost, axis=1), 1, last - 1)
    with np.errstate(invalid="ignore"):
        near = np.log([cost[rows, j + k] for k in (-1, 0, 1)])
        sizes = np.array([log_n[rows, j + k] for k in (-1, 0, 1)])
        bend = near[0] - 2 * near[1] + near[2]
        t = np.clip(0.5 * (near[0] - near[2]) / bend, -1.0, 1.0)
        inside = (near[1] <= near[0]) & (near[1] <= near[2]) & (bend > 0) & np.isfinite(bend)
        curve = 0.5 * (sizes[0] - 2 * sizes[1] + sizes[2])
        size = sizes[1] + t * (0.5 * (sizes[2] - sizes[0]) + t * curve)
    units = log_d[j] + t * (log_d[1] - log_d[0])
    return np.where(inside, size, np.nan), np.where(inside, units, np.nan)


def _reaching(
    evidence: Evidence, N: float, D: float, goal: float, level: float, least: Literal["N", "D"]
) -> Estimate:
    """The least N, or the least D, that reaches a loss, around where the fitted law reaches it."""
    value = N if least == "N" else D
    if evidence.no_interval or not np.isfinite(value):
        return _without_interval(evidence, value, level, N, D)
    along = value * np.exp(np.linspace(-12.0, 12.0, 241))
    sizes = along if least == "N" else np.full_like(along, N)
    units = along if least == "D" else np.full_like(along, D)
    curves = evidence.posterior.losses(sizes, units)
    draws = np.exp(_first_crossing(np.log(along), curves, np.full(len(curves), goal)))
    return replace(answer(evidence, draws, level), diagnostics=off_the_runs(evidence, N, D))


def _without_interval(
    evidence: Evidence, value: float, level: float, N: float, D: float
) -> Estimate:
    reason = evidence.no_interval or "the fitted law does not reach it"
    return Estimate(value, None, level, "none", reason, off_the_runs(evidence, N, D))


def _goal(law: Law, loss: float) -> float:
    if not is_number(loss):
        raise InputError(f"expected a loss, as one finite number; got {loss!r}.")
    goal = float(loss)
    if law.reaches(goal):
        return goal
    floor = law.params.get("E")
    bound = "its lowest" if floor is None else f"its irreducible loss E = {floor:.4g}"
    if isinstance(law, Repeating) and math.isfinite(law.unique):
        bound = f"what {law.unique:.3g} unique units allow"
    raise InputError(f"expected a loss that the fitted law reaches, above {bound}; got {goal:.6g}.")
