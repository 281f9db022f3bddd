"""Columns from values in memory: dicts, data frames, and runs of a tracking service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputTypeError, TableError
from flops_fit.table.columns import Wanted, find_numbers, is_missing, wanted
from flops_fit.trackers.service import TrackedRun, TrackedRuns

MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Raw:
    """All headings, the cells of those columns that may matter, and the number of rows."""

    headings: tuple[str, ...]
    cells: dict[str, Sequence[Any] | NDArray[Any]]
    rows: int


def filled_of(raw: Raw) -> list[str]:
    """The headings under which there is any value."""
    return [heading for heading, cells in raw.cells.items() if not _is_empty(cells)]


def _is_empty(cells: Any) -> bool:
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "f":
        return bool(np.all(np.isnan(cells)))
    return all(is_missing(cell) for cell in cells)


def too_long(what: str = "the table") -> TableError:
    """The error for more rows than a table of runs, or of training curves, has."""
    return TableError(
        f"expected one row a run; {what} has more than {MOST_ROWS:,} rows and looks like a log of "
        "steps. Keep each run's last row, with its N, D and final loss; of curves, fewer points."
    )


def from_value(source: Any, wanted: Wanted) -> Raw:
    """The columns of a mapping, a data frame or an iterable of mappings.

    Raises
    ------
    InputTypeError
        It is none of these.
    TableError
        It has too many rows, or columns of unequal length.
    """
    if isinstance(source, Mapping):
        return from_columns(source, wanted)
    framed = from_frame(source, wanted)
    if framed is not None:
        return framed
    if isinstance(source, Iterable) and not isinstance(source, str | bytes):
        return from_rows(source, wanted)
    raise _no_table(source)


def from_columns(source: Mapping[Any, Any], wanted: Wanted) -> Raw:
    """A dict of columns; one of plain values is a single run."""
    listed = {str(k): _is_listed(v) for k, v in source.items()}
    if not any(listed.values()):
        return from_rows([source] if source else [], wanted)
    if not all(listed.values()):
        single = [k for k, is_list in listed.items() if not is_list]
        raise TableError(f"expected a list of values for each column; {single} hold single values.")
    columns = {str(k): v if isinstance(v, np.ndarray) else list(v) for k, v in source.items()}
    if any(isinstance(v, np.ndarray) and v.ndim != 1 for v in columns.values()):
        raise TableError("expected columns of one dimension, one value a run; one is a matrix.")
    lengths = {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(f"expected columns of equal length, one value a run; got {lengths}.")
    rows = next(iter(lengths.values()))
    if rows > MOST_ROWS:
        raise too_long()
    return Raw(tuple(columns), {k: v for k, v in columns.items() if wanted(k)}, rows)


def from_rows(rows: Iterable[Any], wanted: Wanted) -> Raw:
    """One mapping a run; mappings inside it count as columns ``outer.inner``."""
    kinds: dict[str, bool] = {}
    cells: dict[str, list[Any]] = {}
    count = 0
    for row in rows:
        if not isinstance(row, Mapping):
            raise _no_table(rows, row)
        if count == MOST_ROWS:
            raise too_long()
        for heading, value in _flat(row):
            if heading not in kinds:
                kinds[heading] = bool(wanted(heading))
                if kinds[heading]:
                    cells[heading] = []
            if kinds[heading]:
                column = cells[heading]
                column.extend([None] * (count - len(column)))
                column.append(value)
        count += 1
    for column in cells.values():
        column.extend([None] * (count - len(column)))
    return Raw(tuple(kinds), dict(cells), count)


def from_frame(source: Any, wanted: Wanted) -> Raw | None:
    """Any data frame that narwhals knows, lazy ones collected; ``None`` if it is none."""
    import narwhals as nw

    try:
        frame = nw.from_native(source)
    except TypeError:
        return None
    except nw.exceptions.DuplicateError as error:
        raise _no_frame(source, error) from None
    try:
        headings = list(frame.collect_schema().names())
        kept = [h for h in headings if wanted(str(h))]
        # Without a column that matters one is kept all the same: it tells the number of rows.
        picked = frame.select(kept or headings[:1]).head(MOST_ROWS + 1)
        eager = picked.collect() if isinstance(picked, nw.LazyFrame) else picked
        cells = {str(h): _series(eager[h]) for h in kept}
    except Exception as error:  # each library behind narwhals has errors of its own
        raise _no_frame(source, error) from error
    if len(eager) > MOST_ROWS:
        raise too_long("the frame")
    return Raw(tuple(str(h) for h in headings), cells, len(eager))


def _no_frame(source: Any, error: Exception) -> TableError:
    said = " ".join(str(error).split())
    return TableError(
        f"the {type(source).__module__.split('.')[0]} frame cannot be read "
        f"({type(error).__name__}: {said:.120}). "
        "Give each column a name of its own, and collect a lazy frame first."
    )


def _series(series: Any) -> Sequence[Any] | NDArray[Any]:
    import narwhals as nw

    if series.dtype.is_numeric():
        return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)
    empty = series.is_null().to_list()
    return [None if e else v for v, e in zip(series.to_list(), empty, strict=True)]


def _flat(row: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _is_listed(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _no_table(source: Any, row: Any = None) -> InputTypeError:
    inside = "" if row is None else f" of {type(row).__name__}"
    return InputTypeError(
        "expected a table of runs (path, list of dicts, dict of columns, DataFrame, RunTable); "
        f"got {type(source).__name__}{inside}."
    )


def final_rows(tracked: TrackedRuns, mapping: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row a run, as it was when its loss was last read.

    A run may go on after that, and D or C of its end would then not be those of the loss.
    """
    ends = [_row(run, len(run.points)) for run in tracked]
    loss = _column("loss", ends, mapping)
    return [_row(run, _last(run, loss)) for run in tracked] if loss else ends


def curve_rows(tracked: TrackedRuns, mapping: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each run and reading of its loss.

    A value that no run has twice is no curve, so a single held-out loss at the end does not
    replace the training loss. Points that a resumed run repeated count once: the last ones.
    """
    several: set[str] = set()
    for run in tracked:
        counts = Counter(name for p in run.points for name, v in p.items() if not is_missing(v))
        several |= {name for name, count in counts.items() if count > 1}
    rows: list[list[dict[str, Any]]] = []
    for run in tracked:
        settings = {name: v for name, v in run.settings.items() if name not in several}
        kept = ({k: v for k, v in p.items() if k in several} for p in run.points)
        rows.append([{"run": run.label, **settings, **p} for p in kept])
    every = [row for run_rows in rows for row in run_rows]
    loss, tokens = (_column(name, every, mapping) for name in ("loss", "tokens"))
    if not loss:
        return every
    return [row for run_rows in rows for row in _forward(run_rows, loss, tokens)]


def _row(run: TrackedRun, points: int) -> dict[str, Any]:
    ended = {name: v for p in run.points for name, v in p.items()}
    known = {name: v for p in run.points[:points] for name, v in p.items()}
    head = {"label": run.label, "state": run.state}
    return {**head, **run.settings, **ended, **run.summary, **known}


def _last(run: TrackedRun, loss: str) -> int:
    """How many points there are up to the last one with a loss; all where it is in none."""
    read = [i for i, p in enumerate(run.points, start=1) if not is_missing(p.get(loss))]
    return read[-1] if read else len(run.points)


def _column(name: str, rows: Sequence[Mapping[str, Any]], mapping: Mapping[str, str]) -> str:
    raw: Raw = from_rows(rows, wanted(mapping))
    known = {k: v for k, v in mapping.items() if k != name or v in raw.headings}
    matches = find_numbers(raw.headings, filled_of(raw), known, (name,))
    return matches[name].column if name in matches else ""


def _forward(rows: Sequence[dict[str, Any]], loss: str, tokens: str) -> list[dict[str, Any]]:
    """The rows with a loss, without those that a resumed run repeated."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        if is_missing(row.get(loss)):
            continue
        now = row.get(tokens)
        while kept and _behind(now, kept[-1].get(tokens)):
            kept.pop()
        kept.append(row)
    return kept


def _behind(now: Any, before: Any) -> bool:
    return isinstance(now, int | float) and isinstance(before, int | float) and now <= before
