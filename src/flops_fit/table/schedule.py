"""Whether a loss was read at the end of its run's schedule.

Under a decaying learning rate a loss is too high until the end, so one from the middle would pull a
fit. Where runs come from is no matter: what says how long a schedule was is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import TableError
from flops_fit.table.columns import HORIZON, find_numbers, numbers
from flops_fit.table.sources import Raw, filled_of
from flops_fit.trackers.service import TrackedRuns

Floats = NDArray[np.float64]

_WHOLE = 0.99  # whole steps may miss a planned end by a little


@dataclass(frozen=True)
class Horizon:
    """How far runs were meant to go, and how far they came.

    Attributes
    ----------
    known
        The column that says how far each was meant to go, with that and what it came to; shapes
        (runs,). The most telling first.
    needed
        Whether a run that does not say so is left out.
    notes
        What was taken on trust.
    """

    known: tuple[tuple[str, Floats, Floats], ...]
    needed: bool = False
    notes: tuple[str, ...] = ()


def find_horizon(raw: Raw, mapping: Mapping[str, str], tracked: TrackedRuns | None) -> Horizon:
    """The columns that tell how long schedules were.

    Raises
    ------
    TableError
        One column is to say both how long a schedule was and how far it came; or runs of a service
        do not say how long their schedules were, and the user does not vouch that they ended.
    """
    known = []
    # A setting is the same wherever a run ended, so it does not tell how far the run came.
    settled = {name for run in tracked or () for name in run.settings}
    filled = filled_of(raw)
    for planned, reached in HORIZON.items():
        found = find_numbers(raw.headings, filled, mapping, [planned])
        if planned not in found or found[planned].column not in filled:
            continue
        came = find_numbers(raw.headings, filled, mapping, [reached])
        if reached not in came:
            continue
        ends, at = found[planned].column, came[reached].column
        if ends == at:
            raise TableError(
                f"{ends!r} is to be both {planned} and {reached}; expected two columns, how far each "
                "run was meant to go and how far it came. Name another one, or vouch that each "
                "finished run went to its end: complete=True."
            )
        if at in settled:
            continue
        known.append((ends, numbers(raw.cells[ends], ends), numbers(raw.cells[at], at)))
    if tracked is None:
        return Horizon(tuple(known))
    if tracked.complete:
        told = "complete=True: each finished run is taken to have gone to the end of its schedule."
        return Horizon(tuple(known), notes=(told,))
    if not known:
        raise TableError(
            f"{tracked.where}: nothing says how long the schedules of these runs were, so a loss from "
            f"the middle of one could enter the fit. They have {list(raw.headings)}. Say which "
            "column does: columns={'planned_tokens': 'your_column'}, or 'planned_steps' or "
            "'planned_flops', beside tokens, a step or flops that were logged along the way. Where each "
            "finished run went to the end of its own schedule, read them with complete=True."
        )
    return Horizon(tuple(known), needed=True)


def unfinished_schedules(raw: Raw, horizon: Horizon) -> dict[int, str]:
    """The runs whose loss is not that of a whole schedule, each with the reason."""
    reasons = {}
    for i in range(raw.rows if horizon.known else 0):
        says = [(c, ends[i], at[i]) for c, ends, at in horizon.known if ends[i] > 0 and at[i] > 0]
        if not says:
            if horizon.needed:
                reasons[i] = "it does not say how long its schedule was, or how far it came"
            continue
        column, ends_at, came = says[0]
        if came < _WHOLE * ends_at:
            reasons[i] = (
                f"its loss was read at {came:.4g}, before its schedule ended at {column} = "
                f"{ends_at:.4g}"
            )
    return reasons
