"""From the runs of a service to the rows of a table, of runs or of curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flops_fit.table._names import find_numbers, wanted
from flops_fit.table._sources import Raw, filled_of, from_rows
from flops_fit.table._values import is_missing
from flops_fit.tracked import TrackedRun, TrackedRuns

__all__ = ["curve_rows", "final_rows"]


def final_rows(tracked: TrackedRuns, mapping: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row a run, as it was when its loss was last read.

    A run may go on after that, and D or C of its end would then not be those of the loss.
    """
    ends = [_row(run, len(run.points)) for run in tracked]
    loss = _column("loss", ends, mapping)
    return [_row(run, _last(run, loss)) for run in tracked] if loss else ends


def curve_rows(tracked: TrackedRuns, mapping: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each run and reading of its loss.

    A value that no run has twice is no curve, so a held-out loss at the end does not stand in the
    way of the training loss. Points of a resumed run that were made again count once, as they came
    last.
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
    every = [row for of_run in rows for row in of_run]
    loss, tokens = (_column(name, every, mapping) for name in ("loss", "tokens"))
    if not loss:
        return every
    return [row for of_run in rows for row in _forward(of_run, loss, tokens)]


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
    found = find_numbers(raw.headings, filled_of(raw), known, (name,))
    return found[name].column if name in found else ""


def _forward(rows: Sequence[dict[str, Any]], loss: str, tokens: str) -> list[dict[str, Any]]:
    """The rows with a loss, without those that a run went back behind and made again."""
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
