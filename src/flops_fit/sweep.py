"""Carry out the experiments of a sweep: what is finished is kept, what is missing is run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from flops_fit.errors import SweepError
from flops_fit.execute import Executor, Task
from flops_fit.records import Experiment, Run
from flops_fit.store import Store
from flops_fit.train import Progress
from flops_fit.trunks import by_trunk, own_flops

__all__ = ["SweepView", "run_experiments"]


class SweepView(Protocol):
    """Who watches a sweep."""

    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> AbstractContextManager[None]:
        """Begin to show a sweep of which ``finished`` is there already."""

    def progress(self, progress: Progress) -> None:
        """A run has come this far."""

    def ended(self, run: Run) -> None:
        """A run has ended."""

    def note(self, message: str) -> None:
        """Something was noticed that is no run's fault."""


def run_experiments(
    experiments: Sequence[Experiment],
    task: Task,
    executor: Executor,
    store: Store,
    view: SweepView,
) -> list[Run]:
    """One Run for each experiment, in the order given, finished ones read from the store.

    The dearest runs start first, so that none is left over at the end. Of a trunk one run goes on
    at a time, the shortest first, and each from where the one before left the trunk. A run that
    fails or diverges is recorded and the sweep goes on.

    Raises
    ------
    SweepError
        The first two runs failed for the same reason: the code is broken, not one size.
    """
    finished = store.finished(experiments)
    for finding in store.findings:
        view.note(finding.message)
    if others := store.others(experiments):
        view.note(
            f"{others} earlier runs of this folder are not in this plan: kept, and not fitted."
        )
    missing = [e for e in experiments if e.id not in finished]
    store.prune(experiments, finished)
    with view.open(experiments, list(finished.values()), executor.capacity):
        if missing:
            _run_missing(missing, experiments, finished, task, executor, store, view)
            store.prune(experiments, finished)
    return [finished[e.id] for e in experiments]


def _run_missing(
    missing: Sequence[Experiment],
    experiments: Sequence[Experiment],
    finished: dict[str, Run],
    task: Task,
    executor: Executor,
    store: Store,
    view: SweepView,
) -> None:
    ended: list[Run] = []
    chains = _chains(missing)
    try:
        executor.start(task, view.progress)
        for chain in chains.values():
            executor.submit(chain.popleft())
        while len(ended) < len(missing):
            runs = executor.poll()
            if not runs:
                raise SweepError(
                    f"{len(missing) - len(ended)} runs were submitted and never came back. What is "
                    "finished is recorded: call again with the same arguments to continue."
                )
            for run in runs:
                ended.append(run)
                finished[run.experiment.id] = run
                store.publish(run)
                view.ended(run)
                _stop_if_broken(ended)
                if trunk := run.experiment.trunk:
                    store.prune(experiments, finished, trunk)
                    if chains[trunk]:
                        executor.submit(chains[trunk].popleft())
    finally:
        executor.close()


def _chains(missing: Sequence[Experiment]) -> dict[str, deque[Experiment]]:
    """The runs that wait for each other, by trunk, the shortest first; the dearest chain first."""
    own = own_flops(missing)
    groups = by_trunk(missing)
    groups.sort(key=lambda group: sum(own[e.id] for e in group), reverse=True)
    return {group[0].trunk or group[0].id: deque(group) for group in groups}


def _stop_if_broken(ended: Sequence[Run]) -> None:
    if len(ended) != 2:
        return
    first, second = ended
    if first.state == second.state == "failed" and first.reason == second.reason:
        raise SweepError(
            f"the first two runs failed for the same reason, so the sweep was stopped: "
            f"{first.reason}\n{first.details}Mend it and call again; what is finished is kept."
        )
