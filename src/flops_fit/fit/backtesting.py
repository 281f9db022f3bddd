"""What a fit is worth beside the largest budgets, held out, and beside the fit of another recipe."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import FitError, InputError, InputTypeError, check_whole
from flops_fit.fit.fit import Fit
from flops_fit.fit.fitting import fit_runs
from flops_fit.fit.groups import EXPONENTS, LEVEL, beliefs, share_constants
from flops_fit.fit.intervals import Evidence, Interval
from flops_fit.fit.prediction import HeldOut, check_target, judge
from flops_fit.fit.questions import log_compute_draws
from flops_fit.fit.solver import finding
from flops_fit.laws.law import log_compute
from flops_fit.records import Diagnostic, finite_json
from flops_fit.table.run_table import RunTable

_LOG_SEARCH = math.log(1e9)  # how far from C, in ln C, the compute for a loss is searched


@dataclass(frozen=True)
class Backtest:
    """A fit without the largest budgets, and how it did on them, cheapest first."""

    fit: Fit
    held_out: tuple[HeldOut, ...]
    level: float

    @property
    def passed(self) -> bool | None:
        """Whether every measured loss lies inside; ``None`` where none could be judged."""
        judged = [h.loss_inside for h in self.held_out if h.loss_inside is not None]
        return all(judged) if judged else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        record = {"law": self.fit.law.name, "runs": len(self.fit.runs), "level": self.level}
        return {**record, "passed": self.passed, "held_out": finite_json(self.held_out)}


def backtest(runs: Any, top: int = 1, *, level: float = 0.9, **options: Any) -> Backtest:
    """Fit without the ``top`` largest budgets and predict them.

    ``runs`` and ``options`` are as for :func:`~flops_fit.fit.fit_runs`, ``level`` is that of all
    intervals. Raises FitError where the remaining budgets determine no law: they have to be two or
    more, with more runs than parameters.
    """
    check_whole("top", top, expected="a number of budgets, 1 or more")
    if options.get("curves") is not None:
        raise InputError("expected no curves= in a back-test: they show the budgets held out.")
    table = RunTable.read(runs, options.pop("columns", None))
    budgets = np.unique(table.budget)
    if len(budgets) - top < 2:
        raise FitError(
            f"expected two budgets or more to remain after holding out {top}; the runs have "
            f"{len(budgets)}. Add budgets, or hold out fewer."
        )
    held = budgets[-top:]
    fit = fit_runs(table.select(table.budget < held[0], "held out to check the fit"), **options)
    if options.get("n") == "non_embedding" and table.non_embedding is not None:
        table = replace(table, params=table.non_embedding)
    judged = []
    for part in (table.select(table.budget == b) for b in held):
        part = part if fit.hparams is None else fit.hparams.freed(part)
        at = fit.predict(float(np.mean(part.flops)), level)
        spans = [at.intervals[name] for name in ("optimal_params", "expected_loss", "run_loss")]
        judged.append(judge(part, at.optimal_params, at.expected_loss, spans))
    return Backtest(fit, tuple(judged), level)


@dataclass(frozen=True)
class Comparison:
    """Two fits at the compute of a question.

    ``compute`` is C in FLOPs, ``compute_multiplier`` what the second needs, over C, to reach the
    first's best loss at C (``inf``: never; 0: with a billionth of C). ``exponents`` are a of
    N* ∝ C^a, ``exponent_difference`` second minus first. Both have ``intervals`` at ``level``, equal
    exponents a ``p_value``, each ``None`` where it is not reliable.
    """

    compute: float
    level: float
    compute_multiplier: float
    exponents: tuple[float, float]
    exponent_difference: float
    intervals: dict[str, Interval | None]
    p_value: float | None
    diagnostics: tuple[Diagnostic, ...]

    def __str__(self) -> str:
        span = self.intervals["compute_multiplier"]
        interval = f" ({span[0]:.3g}–{span[1]:.3g})" if span else " (no interval)"
        far = {0.0: "less than 1e-9", math.inf: "more than 1e9"}
        times = far.get(self.compute_multiplier, f"{self.compute_multiplier:.3g}")
        equal = "" if self.p_value is None else f", p = {self.p_value:.2g} for equal exponents"
        return (
            f"At C = {self.compute:.3g} the second needs {times}{interval} times the compute of the first "
            f"for the same loss; exponents a = {self.exponents[0]:.3g} and "
            f"{self.exponents[1]:.3g}{equal}."
        )


def compare(
    first: Fit, second: Fit, compute: float | None = None, *, level: float = 0.9
) -> Comparison:
    """Compare two fits to losses on the same held-out set, in the same unit.

    The compute multiplier m at C solves L₂*(m·C) = L₁*(C) for the best losses L*. Intervals come from
    pairs of surfaces drawn from each fit. Where a test does not reject equal exponents (5 %), the
    multiplier is that of fits which share them, and a finding says so. ``compute`` is C in FLOPs, by
    default the smaller of the two largest runs' compute.

    Raises InputTypeError where one of the two is no fit, InputError for an invalid compute or level.
    """
    for name, fit in (("first", first), ("second", second)):
        if not isinstance(fit, Fit):
            raise InputTypeError(f"{name}: expected a Fit; got {type(fit).__name__}.")
    C = min(first.largest_compute, second.largest_compute) if compute is None else compute
    check_target(C, level)
    C = float(C)
    one, other, shared = _sharing(first._evidence, second._evidence)
    goal = float(one.law.optimal(C, first.flops).loss)
    log_m = log_compute(other.law, goal, second.flops, C, _LOG_SEARCH) - math.log(C)
    a = (first.exponents[0], second.exponents[0])
    multiplier, notes = _multiplier_interval(one, other, C, log_m, level)
    difference, p_value = _difference(first, second, level)
    return Comparison(
        compute=C,
        level=level,
        compute_multiplier=math.exp(log_m),
        exponents=a,
        exponent_difference=a[1] - a[0],
        intervals={"compute_multiplier": multiplier, "exponent_difference": difference},
        p_value=p_value,
        diagnostics=(*shared, *notes, *_limits(first, second, C, math.exp(log_m))),
    )


def _sharing(one: Evidence, other: Evidence) -> tuple[Evidence, Evidence, list[Diagnostic]]:
    """What both fits say with common exponents, where these are not rejected and not known."""
    both = (one, other)
    names = [name for name in EXPONENTS if name in one.law.params]
    apart = type(one.law) is not type(other.law) or any(e.known or e.no_interval for e in both)
    noiseless = min(e.solution.residual_sd for e in both) < 1e-9
    if apart or noiseless or not names:
        return one, other, []
    sharing = share_constants([e.solution for e in both], names)
    if sharing.p_value is None or sharing.p_value < LEVEL:
        return one, other, []
    one, other = (
        replace(e, solution=replace(e.solution, law=law), known=said)
        for e, law, said in zip(both, sharing.laws, beliefs(both, names), strict=True)
    )
    return one, other, [sharing.diagnostic("both fits")]


def _multiplier_interval(
    one: Evidence, other: Evidence, C: float, log_m: float, level: float
) -> tuple[Interval | None, list[Diagnostic]]:
    """From pairs of drawn surfaces: the compute at which the second reaches the first's loss."""
    if not math.isfinite(log_m):
        return None, [finding("out_of_reach")]
    if one.no_interval or other.no_interval:
        return None, [finding("no_multiplier_interval")]
    # Both are drawn from the same random numbers: pair them at random.
    goal = np.random.default_rng(2).permutation(np.min(one.optima(C).loss, axis=1))
    draws = log_compute_draws(other, goal, C * math.exp(log_m)) - math.log(C)
    return other.span(np.exp(draws), level), []


def _difference(first: Fit, second: Fit, level: float) -> tuple[Interval | None, float | None]:
    """The interval of a difference of exponents, and the p value of equal ones."""
    from scipy.special import ndtr

    one, other = first._evidence, second._evidence
    if one.no_interval or other.no_interval:
        return None, None
    a, b = (np.array([law.exponent for law in each.drawn_laws]) for each in (one, other))
    draws = b - np.random.default_rng(2).permutation(a)
    apart = abs(float(np.mean(draws))) / max(float(np.std(draws)), 1e-300)
    held = first.exponents == second.exponents and one.solution.fixed
    return other.span(draws, level), None if held else float(2 * ndtr(-apart))


def _limits(first: Fit, second: Fit, C: float, m: float) -> list[Diagnostic]:
    out = []
    for name, fit, compute in (("first", first, C), ("second", second, C * m)):
        if fit.trust == "no":
            out.append(finding("poor_fit", name=name))
        if math.isfinite(compute) and compute > 10 * fit.largest_compute:
            out.append(finding("compared_far", name=name, factor=compute / fit.largest_compute))
    if first.runs.unit != second.runs.unit:
        out.append(finding("units_differ", first=first.runs.unit, second=second.runs.unit))
    return out
