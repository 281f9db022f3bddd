"""The answer at one compute budget, with its intervals and what limits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError
from flops_fit.fit._sandwich import covariance, gradient_of, student_t
from flops_fit.fit._solve import Solution
from flops_fit.flops import FlopsFunction
from flops_fit.laws import Law
from flops_fit.records import Diagnostic

__all__ = ["QUANTITIES", "Interval", "Prediction", "log_quantities", "sandwich_intervals"]

Floats = NDArray[np.float64]
Interval = tuple[float, float]

QUANTITIES = ("optimal_params", "optimal_tokens", "expected_loss", "tokens_per_param")


@dataclass(frozen=True)
class Prediction(Mapping[str, Any]):
    """The compute-optimal run at one budget; also a mapping of its own attributes.

    Attributes
    ----------
    target_compute
        C in FLOPs; F(N*)·D* equals it.
    optimal_params, optimal_tokens, expected_loss, tokens_per_param
        N*, D* in ``unit``, L(N*, D*) and D*/N*.
    intervals
        For each of these four (low, high) at ``level``, or ``None`` where no honest interval
        exists; a diagnostic then says why. They hold if the law's form does.
    interval_method
        ``"HC3 sandwich"``, ``"case bootstrap"`` or ``"none"``.
    form_spread
        For each of the four the range over the law forms that could be fitted: it comes on top
        of the interval.
    extrapolation
        C over the largest run's compute.
    """

    target_compute: float
    optimal_params: float
    optimal_tokens: float
    expected_loss: float
    tokens_per_param: float
    intervals: dict[str, Interval | None]
    level: float
    unit: str
    extrapolation: float
    form_spread: dict[str, Interval]
    interval_method: str
    diagnostics: tuple[Diagnostic, ...]

    def __getitem__(self, key: str) -> Any:
        if key not in {f.name for f in fields(self)}:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return (f.name for f in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self, "diagnostics": [vars(d) for d in self.diagnostics]}


def log_quantities(law: Law, C: float, flops: FlopsFunction) -> Floats:
    """Logs of N*, D*, L and D/N at C, in the order of :data:`QUANTITIES`."""
    best = law.optimal(C, flops)
    values = [best.params, best.tokens, best.loss, best.tokens / best.params]
    return np.asarray(np.log(np.maximum(values, 1e-300)))


def sandwich_intervals(
    solution: Solution, C: float, flops: FlopsFunction, level: float
) -> tuple[dict[str, Interval | None], str]:
    """Intervals exp(ln q ± t·se) by the delta method; with the reason where there are none."""
    cov = covariance(solution)
    if cov.matrix is None:
        return dict.fromkeys(QUANTITIES), cov.reason
    centre = log_quantities(solution.law, C, flops)
    gradient = gradient_of(solution, lambda law: log_quantities(law, C, flops))
    error = np.sqrt(np.maximum(np.einsum("qi,ij,qj->q", gradient, cov.matrix, gradient), 0.0))
    half = student_t(level, cov.dof) * error
    out: dict[str, Interval | None] = {}
    for name, middle, width in zip(QUANTITIES, centre, half, strict=True):
        sound = np.isfinite(width) and width < np.log(1e6)
        out[name] = (
            (float(np.exp(middle - width)), float(np.exp(middle + width))) if sound else None
        )
    lost = [name for name, value in out.items() if value is None]
    return out, f"the runs do not determine {', '.join(lost)}" if lost else ""


def bootstrap_intervals(
    laws: list[Law], C: float, flops: FlopsFunction, level: float
) -> dict[str, Interval | None]:
    """Percentile intervals over refitted laws."""
    draws = np.array([log_quantities(law, C, flops) for law in laws])
    draws = draws[np.all(np.isfinite(draws), axis=1)]
    low, high = np.exp(np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0))
    pairs = zip(QUANTITIES, low, high, strict=True)
    return {name: (float(a), float(b)) for name, a, b in pairs}


def check_target(C: float, level: float) -> None:
    """Refuse a target or a level that cannot be meant."""
    if isinstance(C, bool) or not isinstance(C, int | float | np.number):
        raise InputError(f"expected a compute budget in FLOPs, one number; got {C!r}.")
    if not (np.isfinite(C) and C > 0):
        raise InputError(f"expected a positive finite compute budget in FLOPs; got {C!r}.")
    if not 0 < level < 1:
        raise InputError(f"expected a level between 0 and 1, such as 0.9; got {level!r}.")
