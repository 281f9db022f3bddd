"""Is one recipe better than another, by how much compute, and does the gain grow with scale?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputTypeError
from flops_fit.fit.estimate import Interval
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import check_target
from flops_fit.fit.sandwich import covariance, gradient_of, student_t
from flops_fit.laws.law import Law
from flops_fit.laws.questions import log_compute
from flops_fit.records import Diagnostic

Floats = NDArray[np.float64]
_REACH = math.log(1e9)  # how far from C the compute for a loss is looked for


@dataclass(frozen=True)
class Comparison:
    """Two fits at the compute of a question.

    Attributes
    ----------
    compute, level
        C in FLOPs of the first fit, and the level of every interval.
    compute_multiplier
        What the second needs, over C, to reach the first's best loss at C: below 1 the second is
        better. ``inf`` where it never gets there, 0 where it is there with a billionth of C.
    exponents
        a of N* ∝ C^a, of the first and the second.
    exponent_difference
        Second minus first.
    intervals
        Of ``compute_multiplier`` and ``exponent_difference``; ``None`` where there is no honest one.
    p_value
        Of equal exponents, by the difference over its standard error; ``None`` likewise.
    diagnostics
        What limits the comparison.
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
        told = f" ({span[0]:.3g}–{span[1]:.3g})" if span else " (no interval)"
        equal = "" if self.p_value is None else f", p = {self.p_value:.2g} for equal exponents"
        return (
            f"At C = {self.compute:.3g} the second needs {self.compute_multiplier:.3g}{told} times "
            f"the compute of the first for the same loss; exponents a = {self.exponents[0]:.3g} and "
            f"{self.exponents[1]:.3g}{equal}."
        )


def compare(
    first: Fit, second: Fit, compute: float | None = None, *, level: float = 0.9
) -> Comparison:
    """Compare two fits to losses on the same held-out set, in the same unit.

    The compute multiplier at C solves L₂*(m·C) = L₁*(C) for the best losses L*. Its interval, on
    the log scale, and that of the difference of exponents add the sandwich variances of two
    independent fits, with Student's t at the smaller of their degrees of freedom.

    Parameters
    ----------
    first, second
        The baseline and what is compared with it.
    compute
        C in FLOPs, by default the smaller of the two largest runs' compute.
    level
        Of all intervals.

    Raises
    ------
    InputTypeError
        One of the two is no fit.
    InputError
        ``compute`` or ``level`` cannot be meant.
    """
    for name, fit in (("first", first), ("second", second)):
        if not isinstance(fit, Fit):
            raise InputTypeError(f"{name}: expected a Fit; got {type(fit).__name__}.")
    C = min(first.largest_compute, second.largest_compute) if compute is None else compute
    check_target(C, level)
    C = float(C)
    goal = float(first.law.optimal(C, first.flops).loss)
    log_m = log_compute(second.law, goal, second.flops, C, _REACH) - math.log(C)
    a = (first.exponents[0], second.exponents[0])
    multiplier, notes = _multiplier_interval(first, second, C, goal, log_m, level)
    difference, p_value = _difference(first, second, level)
    return Comparison(
        compute=C,
        level=level,
        compute_multiplier=math.exp(log_m),
        exponents=a,
        exponent_difference=a[1] - a[0],
        intervals={"compute_multiplier": multiplier, "exponent_difference": difference},
        p_value=p_value,
        diagnostics=(*notes, *_limits(first, second, C, math.exp(log_m))),
    )


def _multiplier_interval(
    first: Fit, second: Fit, C: float, goal: float, log_m: float, level: float
) -> tuple[Interval | None, list[Diagnostic]]:
    """By the implicit function: d ln m = (dL₁* − dL₂*) / (∂L₂*/∂ ln C) at m·C."""
    if not math.isfinite(log_m):
        text = "the second fit does not reach the first's loss at any compute near"
        return None, [Diagnostic("out_of_reach", "critical", text, "compare at another compute")]
    there = C * math.exp(log_m)
    h = 1e-3
    up, down = (float(second.law.optimal(there * math.exp(s), second.flops).loss) for s in (h, -h))
    slope = (up - down) / (2 * h)
    parts = [
        _variance(first, lambda law: np.array([float(law.optimal(C, first.flops).loss)])),
        _variance(second, lambda law: np.array([float(law.optimal(there, second.flops).loss)])),
    ]
    if any(p is None for p in parts) or slope >= 0:
        text = "the compute multiplier has no interval: one of the fits has none for its loss"
        return None, [Diagnostic("no_interval", "warning", text, "add runs")]
    error = math.sqrt(sum(p[0] for p in parts if p)) / abs(slope)
    half = student_t(level, min(p[1] for p in parts if p)) * error
    return (math.exp(log_m - half), math.exp(log_m + half)), []


def _difference(first: Fit, second: Fit, level: float) -> tuple[Interval | None, float | None]:
    from scipy.special import stdtr

    parts = [_variance(fit, lambda law: np.array([law.exponent])) for fit in (first, second)]
    if any(p is None for p in parts):
        return None, None
    error = math.sqrt(sum(p[0] for p in parts if p))
    dof = min(p[1] for p in parts if p)
    gap = second.exponents[0] - first.exponents[0]
    half = student_t(level, dof) * error
    p_value = float(2 * stdtr(dof, -abs(gap) / max(error, 1e-300)))
    return (gap - half, gap + half), p_value


def _variance(fit: Fit, quantity: Callable[[Law], Floats]) -> tuple[float, int] | None:
    """Sandwich variance of one quantity and its degrees of freedom."""
    found = covariance(fit._solution)
    if found.matrix is None:
        return None
    gradient = gradient_of(fit._solution, quantity)[0]
    return float(gradient @ found.matrix @ gradient), found.dof


def _limits(first: Fit, second: Fit, C: float, m: float) -> list[Diagnostic]:
    out = []
    for name, fit, there in (("first", first, C), ("second", second, C * m)):
        if fit.trust == "no":
            text = f"the {name} fit is not to be relied on"
            out.append(Diagnostic("poor_fit", "critical", text, "read its diagnostics"))
        if math.isfinite(there) and there > 10 * fit.largest_compute:
            factor = there / fit.largest_compute
            text = f"the {name} fit is asked at {factor:.3g} times its largest run's compute"
            out.append(Diagnostic("extrapolation", "warning", text, "add larger runs"))
    if first.runs.unit != second.runs.unit:
        text = f"one counts {first.runs.unit}, the other {second.runs.unit}"
        out.append(Diagnostic("units_differ", "warning", text, "compare losses in one unit"))
    return out
