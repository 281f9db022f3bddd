"""A sweep whose every run is trained by several ranks: rank 0 decides, the others follow."""

from __future__ import annotations

from collections.abc import Callable

from flops_fit.errors import SweepError
from flops_fit.execute._contract import Report, Task
from flops_fit.ranks import Ranks
from flops_fit.records import Experiment, Run

__all__ = ["follow", "lead"]


def lead(ranks: Ranks, task: Task, sweep: Callable[[Task], list[Run]]) -> list[Run]:
    """Rank 0's part: ``sweep`` with a task that every rank carries out; its runs, sent to all."""

    def together(experiment: Experiment, report: Report | None = None) -> Run:
        ranks.lead(experiment)
        return task(experiment, report)

    try:
        runs = sweep(together)
    except Exception as error:  # whatever it was, the other ranks have to hear of it
        ranks.lead(SweepError(f"rank 0 stopped the sweep: {error}"))
        raise
    ranks.lead(runs)
    return runs


def follow(ranks: Ranks, task: Task) -> list[Run]:
    """What the other ranks do: each run that rank 0 names, until it sends all that came of them."""
    while True:
        told = ranks.lead()
        if isinstance(told, Experiment):
            task(told, None)
        elif isinstance(told, SweepError):
            raise told
        else:
            return list(told)
