"""Whether the loss of a run was read at the end of its schedule."""

from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from flops_fit.errors import TableError
from flops_fit.table import columns as cols
from flops_fit.table.columns import Raw, find_numbers
from flops_fit.trackers.tracker import TrackedRuns

_COMPLETE_SHARE = 0.99  # of a schedule: whole steps may miss its end by a little


def unfinished_schedules(
    raw: Raw, mapping: Mapping[str, str], tracked: TrackedRuns | None
) -> tuple[dict[int, str], list[str]]:
    """The runs whose loss was read before the end of their schedule, and what was taken on trust."""
    known = []
    # A setting is the same wherever a run ended, so it does not tell how far the run came.
    settled = {name for run in tracked or () for name in run.settings}
    for planned, reached in cols.HORIZON.items():
        matches = find_numbers(raw, mapping, [planned, reached])
        if len(matches) < 2 or matches[planned].column not in raw.filled():
            continue
        end, at = matches[planned].column, matches[reached].column
        limit = planned not in mapping and "plan" not in end.lower()  # that most may not reach
        if end == at and not limit:
            raise TableError(
                f"{end!r} is to be both {planned} and {reached}; expected two columns, how far each "
                "run was meant to go and how far it came. Name another one, or vouch that each "
                "finished run went to its end: complete=True."
            )
        with suppress(*([TableError] if limit else [])):
            ends, came = (raw.numbers(n, matches[n]) for n in (planned, reached))
            whole = (ends > 0) & (came >= _COMPLETE_SHARE * ends)
            if not limit or (tracked is None and 2 * np.sum(whole) > raw.rows):
                known += [(end, ends, came)] if at not in settled | {end} else []
    needed = tracked is not None and not tracked.complete
    if tracked is not None and needed and not known:
        raise TableError(
            f"{tracked.where}: nothing says how long the schedules of these runs were, so a loss from "
            f"the middle of one could enter the fit. They have {list(raw.headings)}. Say which "
            "column does: columns={'planned_tokens': 'your_column'}, or 'planned_steps' or "
            "'planned_flops', beside tokens, a step or flops that were logged along the way. Where each "
            "finished run went to the end of its own schedule, read them with complete=True."
        )
    reasons = {}
    for i in range(raw.rows if known else 0):
        values = [(c, ends[i], at[i]) for c, ends, at in known if ends[i] > 0 and at[i] > 0]
        if not values and needed:
            reasons[i] = "it does not say how long its schedule was, or how far it came"
        elif values and values[0][2] < _COMPLETE_SHARE * values[0][1]:
            name, end, at = values[0]
            reasons[i] = (
                f"its loss was read at {at:.4g}, before its schedule ended at {name} = {end:.4g}"
            )
    note = "complete=True: each finished run is taken to have gone to the end of its schedule."
    return reasons, [note] if tracked is not None and tracked.complete else []
