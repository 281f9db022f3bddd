"""Cells to numbers, and columns of numbers to budgets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import TableError

__all__ = ["budgets_of", "is_missing", "numbers", "unfinished"]

Floats = NDArray[np.float64]

_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "-", "–"})
# Commas that can only group thousands: two groups or more, or a decimal point behind one.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:,\d{3}){2,}(?:\.\d*)?|,\d{3}\.\d*)")
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_FINISHED = frozenset({"finished", "completed", "complete", "success", "succeeded", "done"})
_UNFINISHED = frozenset(
    [
        "crashed",
        "failed",
        "failure",
        "running",
        "killed",
        "preempting",
        "preempted",
        "pending",
        "scheduled",
        "queued",
        "error",
        "diverged",
        "oom",
        "aborted",
        "cancelled",
        "canceled",
        "timeout",
        "interrupted",
        "stopped",
        "planned",
    ]
)


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value: None, NaN, pandas.NA, an empty text or a word for it."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or str(value).strip().lower() in _MISSING


def numbers(values: Sequence[Any] | NDArray[Any], column: str) -> Floats:
    """A column as floats, NaN where a cell is empty; shape (rows,).

    Raises
    ------
    TableError
        A cell holds something else, or a comma that may be decimal or group thousands.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "iuf":
            return values.astype(np.float64)
        values = values.tolist()
    if set(map(type, values)) <= {float, int, str}:
        with suppress(ValueError, OverflowError):
            return np.array(list(map(float, values)), dtype=np.float64)
    grouped = any(isinstance(v, str) and _GROUPED.fullmatch(v.strip()) for v in values)
    found = (_number(value, grouped, column, i) for i, value in enumerate(values, start=1))
    return np.fromiter(found, dtype=np.float64, count=len(values))


def _number(value: Any, grouped: bool, column: str, row: int) -> float:
    if is_missing(value):
        return math.nan
    hint = ""
    if isinstance(value, str):
        text = value.strip()
        if _GROUPED.fullmatch(text) or (grouped and _ONE_GROUP.fullmatch(text)):
            return float(text.replace(",", ""))
        if "," in text:
            hint = " Write decimals with a point, and no commas between thousands."
        elif re.fullmatch(r"[\d.]+\s*[kKmMbBgGtT]", text):
            hint = " Write it out, such as 70e9."
    with suppress(TypeError, ValueError):
        if not isinstance(value, bool | np.bool_):
            try:
                return float(value)
            except OverflowError:  # an integer beyond 1e308
                return math.inf
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
    raise TableError(f"column {column!r}, row {row}: expected a number, got {shown}.{hint}")


def unfinished(states: Sequence[Any] | NDArray[Any]) -> dict[int, str]:
    """The rows whose run did not finish, each with its state.

    A column whose words are none that a tracker writes is no column of states.
    """
    words = ["" if is_missing(s) else str(s).strip() for s in states]
    if not any(w.lower() in _FINISHED | _UNFINISHED for w in words):
        return {}
    return {i: w for i, w in enumerate(words) if w and w.lower() not in _FINISHED}


def budgets_of(flops: Floats, spread: float = 0.1) -> Floats:
    """Each run's budget: runs whose C lies within ``spread`` of a group's start share its mean.

    Groups are taken from the cheapest run up; their mean is geometric. Shapes (runs,).
    """
    order = np.argsort(flops, kind="stable")
    ordered = flops[order]
    starts = []
    at = 0
    while at < len(ordered):
        starts.append(at)
        at = int(np.searchsorted(ordered, ordered[at] * (1 + spread), side="right"))
    sizes = np.diff([*starts, len(ordered)])
    means = np.exp(np.add.reduceat(np.log(ordered), starts) / sizes) if starts else ordered
    budgets = np.empty_like(flops)
    budgets[order] = np.repeat(means, sizes)
    return budgets
