"""From raw columns to the fields of a table: names, numbers, what is derived, what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import TableError
from flops_fit.records import Excluded
from flops_fit.table._files import from_file
from flops_fit.table._names import Wanted, check_mapping, find_numbers, find_text, wanted
from flops_fit.table._schedule import Horizon, find_horizon, unfinished_schedules
from flops_fit.table._sources import Raw, filled_of, from_value
from flops_fit.table._tracked import final_rows
from flops_fit.table._values import budgets_of, is_missing, numbers, unfinished
from flops_fit.tracked import TrackedRuns

__all__ = ["clusters", "fields_of", "read_raw"]

Floats = NDArray[np.float64]

_REQUIRED = ("params", "tokens", "loss")
_POSITIVE = ("params", "tokens", "flops", "loss", "budget", "unique_tokens")


def fields_of(source: Any, columns: Mapping[str, str]) -> dict[str, Any]:
    """Every field of a RunTable, from a path or from anything in memory that holds a table."""
    mapping = check_mapping(columns)
    tracked = source if isinstance(source, TrackedRuns) else None
    if tracked is not None:
        source = final_rows(tracked, mapping)
    raw = read_raw(source, wanted(mapping))
    if raw.rows == 0:
        head = f" below its headings {list(raw.headings)}" if raw.headings else ""
        raise TableError(
            f"expected at least one run; the table is empty{head}. Add rows of N, D and loss."
        )
    data, notes = _quantities(raw, mapping)
    labels = _labels(raw)
    horizon = find_horizon(raw, mapping, tracked)
    reasons = _left_out(raw, data, horizon)
    keep = np.ones(raw.rows, dtype=bool)
    keep[list(reasons)] = False
    kept = np.flatnonzero(keep).tolist()
    fields: dict[str, Any] = {name: values[kept] for name, values in data.items()}
    if "budget" not in fields:
        fields["budget"] = budgets_of(fields["flops"])
    cluster = find_text("cluster", list(raw.cells))
    trunks = [raw.cells[cluster][i] for i in kept] if cluster else []
    return {
        **fields,
        "labels": tuple(labels[i] for i in kept),
        "cluster": clusters(trunks),
        "excluded": tuple(Excluded(labels[i], reasons[i]) for i in sorted(reasons)),
        "notes": (*notes, *(tracked.notes if tracked else ()), *horizon.notes),
        "unit": tracked.unit if tracked else "tokens",
    }


def clusters(values: Sequence[Any]) -> tuple[str, ...] | None:
    """What runs share their noise by, one value a run; ``None`` where none is given.

    A run without a value shares its noise with none, and is a cluster of its own.
    """
    if all(is_missing(value) for value in values):
        return None
    return tuple(
        f"run {i} alone" if is_missing(value) else str(value)
        for i, value in enumerate(values, start=1)
    )


def read_raw(source: Any, kind: Wanted) -> Raw:
    """The columns that ``kind`` wants, from a path or from anything in memory that holds a table."""
    if isinstance(source, str | Path):
        return from_file(Path(source), kind)
    return from_value(source, kind)


def _quantities(raw: Raw, mapping: Mapping[str, str]) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """The numeric columns under our names, N, D and C complete, and what was assumed."""
    filled = filled_of(raw)
    found = find_numbers(raw.headings, filled, mapping)
    # An optional column without a single value is as good as none.
    found = {n: f for n, f in found.items() if n in _REQUIRED or f.column in filled or n in mapping}
    has_compute = "flops" in found
    if "tokens" in found and found["tokens"].column not in filled and has_compute:
        del found["tokens"]
    missing = [name for name in _REQUIRED if name not in found]
    if missing and not (missing == ["tokens"] and has_compute):
        raise TableError(_lacks(missing, raw.headings))
    data = {name: numbers(raw.cells[f.column], f.column) for name, f in found.items()}
    notes = [f.note for f in found.values() if f.note]
    with np.errstate(all="ignore"):
        if "tokens" not in data:
            data["tokens"] = data["flops"] / (6 * data["params"])
            notes.append("The table has no tokens: D = C/(6N) was assumed.")
        if "flops" not in data:
            data["flops"] = 6 * data["params"] * data["tokens"]
            notes.append("The table has no FLOPs: C = 6·N·D was assumed.")
    return data, tuple(notes)


def _lacks(missing: list[str], headings: tuple[str, ...]) -> str:
    text = f"the table lacks {missing}; it has the columns {list(headings)}. "
    if headings and all(_is_number(h) for h in headings):
        return f"{text}Its first line holds numbers: put the headings params,tokens,loss above."
    return f"{text}Say which is which: columns={{{missing[0]!r}: 'your_column'}}."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _labels(raw: Raw) -> list[str]:
    column = find_text("label", list(raw.cells))
    cells = raw.cells[column] if column else [None] * raw.rows
    return [f"run {i}" if is_missing(c) else str(c) for i, c in enumerate(cells, start=1)]


def _left_out(raw: Raw, data: Mapping[str, Floats], horizon: Horizon) -> dict[int, str]:
    """The rows that are no finished run with positive numbers, each with its reason."""
    state = find_text("state", list(raw.cells))
    states = unfinished(raw.cells[state]) if state else {}
    reasons = {i: f"its {state} is {word!r}, not finished" for i, word in states.items()}
    reasons = {**unfinished_schedules(raw, horizon), **reasons}
    for name in (n for n in _POSITIVE if n in data):
        values = data[name]
        known = ~np.isnan(values) if name == "unique_tokens" else np.ones(raw.rows, dtype=bool)
        for i in np.flatnonzero(known & ~(np.isfinite(values) & (values > 0))):
            text = f"{name} is {values[i]:g}, expected a positive number"
            reasons.setdefault(int(i), text)
    return reasons
