"""What a service has of runs, whichever service it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flops_fit.errors import TableError

Add = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class TrackedRun:
    """One run of a service.

    Attributes
    ----------
    label, state
        Its name, and its state in the words of the service; empty where it has none.
    settings
        What it was made with, under headings such as ``config.lr``.
    summary
        Values it ended with, apart from those in ``points``.
    points
        What was logged together, one mapping each, in the order of training.
    """

    label: str
    state: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    points: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TrackedRuns:
    """Runs of a service, for ``fit_runs``, ``RunTable.read`` and ``Curves.read``.

    Attributes
    ----------
    runs
        One entry a run, names made different.
    where
        What was read, as errors name it.
    complete
        Whether the user vouches that each finished run went to the end of its schedule.
    notes
        What to know of the way they were read.
    """

    runs: tuple[TrackedRun, ...]
    where: str
    complete: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[TrackedRun]:
        return iter(self.runs)

    @property
    def unit(self) -> str:
        """What D counts, where all runs were tracked by this library and say the same."""
        units = {_own_unit(run) for run in self.runs}
        return (units.pop() if len(units) == 1 else "") or "tokens"


def tracked_runs(
    runs: Sequence[tuple[str, TrackedRun]],
    where: str,
    complete: bool,
    add: Add | None,
    notes: tuple[str, ...] = (),
) -> TrackedRuns:
    """Runs with their ids, told apart, with what ``add`` makes of them."""
    labels = [run.label for _, run in runs]
    named = [
        replace(run, label=f"{run.label} {id}") if labels.count(run.label) > 1 else run
        for id, run in runs
    ]
    if add is not None:
        named = _added(named, add, where)
    return TrackedRuns(tuple(named), where, complete, notes)


def flat(values: Mapping[str, Any], before: str) -> dict[str, Any]:
    """Nested settings under one heading each, ``before`` in front."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _added(runs: Sequence[TrackedRun], add: Add, where: str) -> list[TrackedRun]:
    """Each run with what ``add`` makes of its settings, and of them and each point.

    A value that a point does not have is no error there, as not everything is logged at every
    step; one that no run has anywhere is.
    """
    missing: KeyError | None = None
    made = 0

    def more(values: Mapping[str, Any], label: str) -> dict[str, Any]:
        nonlocal missing, made
        try:
            new = add({**values, "label": label})
        except KeyError as error:
            missing = error
            return {}
        made += 1
        return dict(new)

    found = []
    for run in runs:
        known = {**run.settings, **run.summary}
        points = tuple({**p, **more({**known, **p}, run.label)} for p in run.points)
        found.append(replace(run, points=points, summary={**run.summary, **more(known, run.label)}))
    if missing is not None and not made:
        names = sorted({name for run in runs for p in (run.settings, *run.points) for name in p})
        raise TableError(
            f"add= asks for {missing}, which no run of {where} has; they have {names}."
        )
    return found


def _own_unit(run: TrackedRun) -> str:
    for heading, value in run.settings.items():
        scope, _, name = heading.rpartition(".")
        if name == "unit" and f"{scope}.planned_flops" in run.settings:
            return str(value)
    return ""
