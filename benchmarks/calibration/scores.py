"""How well values and intervals held: by family and pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.methods import LEVELS, OURS, QUANTITIES, Case, Span
from benchmarks.common.report import Table

Floats = NDArray[np.float64]

CONSTANT = "constant width"
POOLED = "pooled"


@dataclass(frozen=True)
class Score:
    """One prediction beside what was measured, in ln."""

    family: str
    error: float
    half: float
    inside: tuple[bool, ...]
    inside_with_vertex: tuple[bool, ...]
    winkler: float

    @classmethod
    def of(cls, family: str, span: Span, truth: float, se: float) -> Score:
        """``se`` is the standard error of ``truth``; no interval holds nothing and has no width."""
        (low, high), *_ = span.ends
        level = LEVELS[0]
        out = max(low - truth, truth - high, 0.0)
        return cls(
            family,
            span.value - truth,
            (high - low) / 2,
            tuple(a <= truth <= b for a, b in span.ends),
            tuple(
                a - z * se <= truth <= b + z * se
                for (a, b), z in zip(span.ends, (1.645, 0.674), strict=True)
            ),
            high - low + 2 / (1 - level) * out if np.isfinite(high - low) else float("nan"),
        )


def measured(case: Case) -> Mapping[str, tuple[float, float]]:
    """Truth and its standard error for each quantity."""
    v = case.budget.vertex
    return {
        "N*": (v.log_n, v.log_n_se),
        "D*": (case.budget.log_d, v.log_n_se),
        "loss": (v.log_loss, v.log_loss_se),
        "one run": (float(np.log(case.budget.nearest_loss)), 0.0),
    }


def score(cases: Iterable[Case], method: str, quantity: str) -> list[Score]:
    """Of every case that the method answers."""
    rows = []
    for case in cases:
        span = case.answers[method].get(quantity)
        if span is not None:
            truth, se = measured(case)[quantity]
            rows.append(Score.of(case.cut.sweep.family, span, truth, se))
    return rows


def constant_width(cases: Sequence[Case], quantity: str) -> list[Score]:
    """The library's value with the width that would have held on all other families."""
    errors = score(cases, OURS, quantity)
    rows = []
    for case, own in zip(cases, errors, strict=True):
        others = [abs(s.error) for s in errors if s.family != own.family] or [abs(own.error)]
        value = case.answers[OURS][quantity].value
        ends = tuple((value - h, value + h) for h in np.nanquantile(others, LEVELS))
        rows.append(Score.of(own.family, Span(value, ends), *measured(case)[quantity]))
    return rows


@dataclass(frozen=True)
class Summary:
    """Of many scores."""

    count: int
    rms: float
    median_error: float
    cover: tuple[float, ...]
    cover_with_vertex: tuple[float, ...]
    half: float
    winkler: float

    @classmethod
    def of(cls, rows: Sequence[Score]) -> Summary:
        """Shares over all rows; errors and widths over those that have one."""
        errors = np.array([s.error for s in rows])
        return cls(
            len(rows),
            float(np.sqrt(np.nanmean(errors**2))),
            float(np.nanmedian(np.abs(errors))),
            tuple(np.mean([s.inside for s in rows], axis=0).tolist()),
            tuple(np.mean([s.inside_with_vertex for s in rows], axis=0).tolist()),
            float(np.nanmedian([s.half for s in rows])),
            float(np.nanmean([s.winkler for s in rows])),
        )

    def cells(self, unit: float) -> tuple[str, ...]:
        """As shown, errors and widths in units of 1/``unit``."""
        digits = ".3f" if unit == 1 else ".2f"
        return (
            str(self.count),
            *(f"{unit * v:{digits}}" for v in (self.rms, self.median_error)),
            *(f"{100 * v:.0f}" for v in self.cover),
            *(f"{100 * v:.0f}" for v in self.cover_with_vertex),
            *(f"{unit * v:{digits}}" for v in (self.half, self.winkler)),
        )


COLUMNS = (
    "predictions",
    "rms",
    "median |error|",
    "90 % hold",
    "50 % hold",
    "90 % with vertex",
    "50 % with vertex",
    "half-width",
    "Winkler",
)


def by_family(rows: Sequence[Score]) -> dict[str, Summary]:
    """Each family, and all of them pooled."""
    names = sorted({s.family for s in rows})
    parts = {name: Summary.of([s for s in rows if s.family == name]) for name in names}
    return {**parts, POOLED: Summary.of(rows)}


def unit_of(quantity: str) -> float:
    """Losses are shown in per cent."""
    return 1.0 if quantity in ("N*", "D*") else 100.0


def family_table(cases: Sequence[Case], quantity: str) -> tuple[Table, dict[str, Summary]]:
    """The library's answers by family."""
    found = by_family(score(cases, OURS, quantity))
    what = "ln " + quantity if unit_of(quantity) == 1 else f"{quantity}, %"
    rows = tuple((name, *s.cells(unit_of(quantity))) for name, s in found.items())
    return Table(f"{what}: as shipped, by family", ("family", *COLUMNS), rows), found


def method_table(cases: Sequence[Case], quantity: str) -> Table:
    """All methods, pooled."""
    if quantity not in QUANTITIES:
        raise ValueError(f"expected one of {QUANTITIES}; got {quantity!r}.")
    methods = [m for m in cases[0].answers if quantity in cases[0].answers[m]]
    rows = {m: Summary.of(score(cases, m, quantity)) for m in methods}
    rows[CONSTANT] = Summary.of(constant_width(cases, quantity))
    what = "ln " + quantity if unit_of(quantity) == 1 else f"{quantity}, %"
    cells = tuple((name, *s.cells(unit_of(quantity))) for name, s in rows.items())
    return Table(f"{what}: methods, pooled", ("method", *COLUMNS), cells)
