"""Any positive quantity derived from a fitted law, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flops_fit.checks import check_number
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit.bootstrap import drawn_laws
from flops_fit.fit.sandwich import covariance, gradient_of, student_t
from flops_fit.fit.solver import Solution
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]
Interval = tuple[float, float]
LogQuantities = Callable[[Law], Floats]

_DRAWS = 400
_WIDEST = np.log(1e6)


@dataclass(frozen=True)
class Estimate:
    """A quantity of the fitted law and how sure it is.

    Attributes
    ----------
    value
        At the fitted law; ``inf`` where it is out of reach.
    interval
        (low, high) at ``level``, or ``None`` where there is no honest one.
    level, method
        The level, and ``"HC3 sandwich"``, ``"case bootstrap"`` or ``"none"``.
    reason
        Why there is no interval, or what limits the one there is; empty where nothing does.
    diagnostics
        How far the question lies from the runs.
    """

    value: float
    interval: Interval | None
    level: float
    method: str
    reason: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4g} (no interval: {self.reason})"
        low, high = self.interval
        return f"{self.value:.4g} ({low:.4g}–{high:.4g}, {100 * self.level:g} %)"


@dataclass(frozen=True)
class Intervals:
    """An interval or ``None`` for each of several quantities, and what to say about them."""

    spans: tuple[Interval | None, ...]
    method: str
    notes: tuple[Diagnostic, ...]

    @property
    def reason(self) -> str:
        """The notes as one sentence."""
        return "; ".join(note.message.removeprefix("no interval: ") for note in self.notes)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a fit knows beyond its law: enough to give any quantity of it an interval.

    ``rival`` is a solution of another form that the runs do not rule out: every interval spans its
    own as well.
    """

    solution: Solution
    rival: Solution | None
    runs: RunTable
    flops: FlopsFunction

    @property
    def law(self) -> Law:
        """The fitted law."""
        return self.solution.law

    @property
    def resamples(self) -> bool:
        """Whether intervals come from resampled runs instead of the sandwich."""
        # A MAD δ is 1.345 sd; below half of that Huber is nearly L1 and its sandwich too narrow.
        s = self.solution
        return s.delta < 0.67 * s.residual_sd

    @property
    def no_interval(self) -> str:
        """Why nothing of this law has an interval; empty where it may have one."""
        if self.solution.optimum_lost:
            return ", ".join(map(str, self.solution.optimum_lost))
        return "" if self.solution.converged else "the solver did not converge"

    @cached_property
    def drawn_laws(self) -> list[Law]:
        """The law refitted to resampled runs."""
        return drawn_laws(self.solution, _DRAWS, "case", 0)

    def intervals(self, quantities: LogQuantities, names: Sequence[str], level: float) -> Intervals:
        """Intervals of quantities given by their logs.

        The HC3 sandwich with Student's t by the delta method; percentiles over refits where δ lies
        far below the noise; none where a bound binds that the quantity depends on.
        """
        solution = self.solution
        none: tuple[Interval | None, ...] = (None,) * len(names)
        if self.no_interval:
            why = f"no interval: {self.no_interval}"
            return Intervals(
                none, "none", (Diagnostic("no_interval", "critical", why, "add runs"),)
            )
        notes = []
        for bound in solution.bounds:
            how = (
                "carry the error it would have off it"
                if bound.parameter == "E"
                else "hold it there"
            )
            text = f"{bound}: intervals {how}"
            notes.append(Diagnostic("interval_at_bound", "warning", text, "add larger budgets"))
        if self.resamples:
            spans, reason = _percentiles(self, quantities, names, level)
            method = "case bootstrap"
        else:
            spans, reason = _sandwich(solution, quantities, names, level)
            method = "HC3 sandwich"
            if self.rival is not None:
                other, _ = _sandwich(self.rival, quantities, names, level)
                spans = tuple(_hull(a, b) for a, b in zip(spans, other, strict=True))
        if reason:
            text = f"no interval: {reason}"
            notes.append(Diagnostic("no_interval", "warning", text, "add runs"))
        return Intervals(spans, method if any(spans) else "none", tuple(notes))


def estimate(evidence: Evidence, quantity: Callable[[Law], float], level: float) -> Estimate:
    """See :meth:`flops_fit.fit.Fit.estimate`."""
    check_level(level)
    if not callable(quantity):
        raise InputTypeError(
            f"expected a function of the law, such as lambda law: law.loss(1e9, 2e10); "
            f"got {quantity!r}."
        )
    value = _number(quantity(evidence.law))
    if not value > 0:
        raise InputError(
            f"expected a positive quantity, as intervals are made on its log; it is {value:.4g} at "
            "the fitted law. Ask for one that stays positive."
        )
    if not np.isfinite(value):
        return Estimate(value, None, level, "none", "the fitted law does not reach it")

    def log_value(law: Law) -> Floats:
        found = _number(quantity(law))
        return np.array([np.log(found) if found > 0 else np.nan])

    found = evidence.intervals(log_value, ("the quantity",), level)
    return Estimate(value, found.spans[0], level, found.method, found.reason)


def check_level(level: float) -> None:
    """Refuse a level that cannot be meant."""
    check_number("level", level, above=0, below=1, expected="a number between 0 and 1, such as 0.9")


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"expected one number from the quantity; got {type(value).__name__}."
        ) from error


def _sandwich(
    solution: Solution, quantities: LogQuantities, names: Sequence[str], level: float
) -> tuple[tuple[Interval | None, ...], str]:
    """Intervals exp(ln q ± t·se) by the delta method; with the reason where there are none."""
    cov = covariance(solution)
    if cov.matrix is None:
        return (None,) * len(names), cov.reason
    with np.errstate(invalid="ignore"):
        centre = quantities(solution.law)
        gradient = gradient_of(solution, quantities)
        variance = np.einsum("qi,ij,qj->q", gradient, cov.matrix, gradient)
    half = student_t(level, cov.dof) * np.sqrt(np.maximum(variance, 0.0))
    # A NaN compares as false: a law near the fitted one that has no such quantity.
    sound = np.isfinite(centre) & (half < _WIDEST)
    return _spans(centre - half, centre + half, sound), _lost(names, centre, sound)


def _percentiles(
    evidence: Evidence, quantities: LogQuantities, names: Sequence[str], level: float
) -> tuple[tuple[Interval | None, ...], str]:
    """Percentiles over refitted laws; none where a tail's share of them lacks the quantity."""
    centre = quantities(evidence.law)
    draws = np.array([quantities(law) for law in evidence.drawn_laws])
    finite = np.isfinite(draws)
    sound = np.isfinite(centre) & (np.mean(~finite, axis=0) < 0.5 - level / 2)
    tails = [0.5 - level / 2, 0.5 + level / 2]
    low, high = np.full(len(names), np.nan), np.full(len(names), np.nan)
    for i in np.flatnonzero(sound):
        low[i], high[i] = np.quantile(draws[finite[:, i], i], tails)
    return _spans(low, high, sound), _lost(names, centre, sound)


def _spans(low: Floats, high: Floats, sound: NDArray[np.bool_]) -> tuple[Interval | None, ...]:
    return tuple(
        (float(np.exp(a)), float(np.exp(b))) if ok else None
        for a, b, ok in zip(low, high, sound, strict=True)
    )


def _lost(names: Sequence[str], centre: Floats, sound: NDArray[np.bool_]) -> str:
    """What has no interval, in words: the law does not reach it, or the runs do not tell."""
    beyond = [n for n, c in zip(names, centre, strict=True) if not np.isfinite(c)]
    unsure = [n for n, ok in zip(names, sound, strict=True) if not ok and n not in beyond]
    told = [
        f"{text} {', '.join(found)}"
        for text, found in (
            ("the runs do not determine", unsure),
            ("the fitted law does not reach", beyond),
        )
        if found
    ]
    return "; ".join(told)


def _hull(first: Interval | None, second: Interval | None) -> Interval | None:
    """Spans both; where the rival does not determine the quantity, the first alone."""
    if first is None or second is None:
        return first
    return min(first[0], second[0]), max(first[1], second[1])
