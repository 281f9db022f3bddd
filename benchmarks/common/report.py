"""What every part of the benchmark hands over: tables to read, and goals that are met or missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows under named columns; cells are text as shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        cells = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [self.title, "-" * len(self.title)]
        for row in cells:
            lines.append("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}


@dataclass(frozen=True)
class Goal:
    """A number that has to lie in [low, high].

    ``expected`` is the number as its source gives it, and stands in tables; a NaN is never inside.
    """

    what: str
    measured: float
    low: float
    high: float
    expected: str

    @property
    def met(self) -> bool:
        return self.low <= self.measured <= self.high

    @property
    def outcome(self) -> str:
        """``met`` or ``missed``."""
        return "met" if self.met else "missed"

    @property
    def missed_by(self) -> str:
        """How far outside, absolute and relative to the bound that is broken."""
        if self.met:
            return ""
        bound = self.low if self.measured < self.low else self.high
        gap = self.measured - bound
        return f"{gap:+.4g}" + (f" ({gap / abs(bound):+.2%} of {bound:.6g})" if bound else "")

    @property
    def tolerance(self) -> str:
        if math.isinf(self.low):
            return f"<= {self.high:.4g}"
        if math.isinf(self.high):
            return f">= {self.low:.4g}"
        return f"{self.low:.7g} to {self.high:.7g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "what": self.what,
            "expected": self.expected,
            "tolerance": self.tolerance,
            "measured": self.measured,
            "met": self.met,
            "missed_by": self.missed_by,
        }


@dataclass(frozen=True)
class IntervalGoal:
    """A number measured with noise, that has to be no larger than ``limit``.

    It is met where the whole interval ``low`` to ``high`` is, missed where none of it is, and
    inconclusive where the limit lies inside: that needs a quieter machine or more repeats. A NaN is
    missed.
    """

    what: str
    measured: float
    low: float
    high: float
    limit: float

    @property
    def outcome(self) -> str:
        """``met``, ``missed`` or ``inconclusive``."""
        if self.high <= self.limit:
            return "met"
        return "inconclusive" if self.low <= self.limit else "missed"

    @property
    def met(self) -> bool:
        return self.outcome == "met"

    @property
    def tolerance(self) -> str:
        return f"<= {self.limit:.4g}"

    @property
    def missed_by(self) -> str:
        """How far the upper bound lies above the limit."""
        return "" if self.met else f"{self.high - self.limit:+.4g} at the upper bound"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "what": self.what,
            "measured": self.measured,
            "low": self.low,
            "high": self.high,
            "limit": self.limit,
            "outcome": self.outcome,
        }


Result = tuple[list[Table], Sequence[Goal | IntervalGoal]]
Part = Callable[[bool], Result]
"""A part of the benchmark: ``part(quick)`` measures and returns its tables and goals."""


def near(
    what: str, measured: float, expected: float, *, rel: float = 0.0, tol: float = 0.0
) -> Goal:
    """``measured`` within ``rel`` of ``expected``, or within ``tol`` in its own unit."""
    reach = tol or rel * abs(expected)
    return Goal(what, float(measured), expected - reach, expected + reach, f"{expected:.11g}")


def at_most(what: str, measured: float, limit: float) -> Goal:
    """``measured`` no larger than ``limit``."""
    return Goal(what, float(measured), -math.inf, limit, f"<= {limit:g}")


def at_least(what: str, measured: float, limit: float) -> Goal:
    """``measured`` no smaller than ``limit``."""
    return Goal(what, float(measured), limit, math.inf, f">= {limit:g}")


def goal_table(title: str, goals: Sequence[Goal], notes: Sequence[str] = ()) -> Table:
    """Goals as rows: what, expected, tolerance, measured, verdict."""
    rows = tuple(
        (g.what, g.expected, g.tolerance, f"{g.measured:.8g}", "pass" if g.met else "MISS")
        for g in goals
    )
    return Table(title, ("what", "expected", "tolerance", "measured", ""), rows, tuple(notes))
