"""Carry out the experiments of a sweep: what is finished is kept, what is missing is run."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Literal, Protocol

from flops_fit.errors import SweepError
from flops_fit.execute.executor import Executor, Task
from flops_fit.records import Experiment, Run
from flops_fit.store.lease import Holder
from flops_fit.store.recorded import Recorded
from flops_fit.store.store import Store
from flops_fit.train.trainer import Progress
from flops_fit.trunks import by_trunk, own_flops

PAUSES = (1.0, 4.0, 16.0)
"""Seconds before a run that its surroundings lost is tried again: once, twice, three times."""

_LOOK_SECONDS = 0.5  # between looks at what others make
_STOPS = ("SIGTERM", "SIGHUP")  # Ctrl-C raises KeyboardInterrupt by itself


class SweepView(Protocol):
    """Who watches a sweep."""

    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> AbstractContextManager[None]:
        """Begin to show a sweep of which ``finished`` is there already."""

    def progress(self, progress: Progress) -> None:
        """A run has come this far."""

    def moved(self, experiment: Experiment, to: Literal["waiting", "elsewhere", "lost"]) -> None:
        """A run waits, is made by somebody else, or was lost by its surroundings and waits again."""

    def ended(self, run: Run) -> None:
        """A run has ended."""

    def note(self, message: str) -> None:
        """Something was noticed that is no run's fault."""

    def step(self, message: str) -> None:
        """Something was decided."""


def run_experiments(
    experiments: Sequence[Experiment],
    task: Task,
    executor: Executor,
    store: Store,
    view: SweepView,
    *,
    pauses: Sequence[float] = PAUSES,
) -> list[Run]:
    """One Run for each experiment, in the order given, finished ones read from the store.

    The dearest runs start first, so that none is left over at the end. Of a trunk one run goes on
    at a time, the shortest first, and each from where the one before left the trunk. A run that
    fails or diverges is recorded and the sweep goes on.

    Workers record what they make. A run that another sweep makes, or a worker that outlived its
    own, is waited for; it is made here once nobody living makes it. A run that its surroundings
    lost (``preempted``) is tried again after each of ``pauses``, from its newest checkpoint, and
    then left with its reason.

    Raises
    ------
    SweepError
        The first two runs failed for the same reason: the code is broken, not one size.
    OutputError
        A result cannot be recorded; what was recorded before is kept.
    KeyboardInterrupt, SystemExit
        SIGINT, SIGTERM or SIGHUP came. Workers were asked to keep a checkpoint and to end.
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
            sweep = _Sweep(experiments, finished, executor, store, view, tuple(pauses))
            with _told_how_to_resume(sweep), _stopping_by_exceptions():
                sweep.carry_out(task, missing)
            store.prune(experiments, finished)
    return [finished[e.id] for e in experiments]


@dataclass
class _Sweep:
    """Which runs are in the executor's hands, which in others', and which have ended."""

    experiments: Sequence[Experiment]
    finished: dict[str, Run]
    executor: Executor
    store: Store
    view: SweepView
    pauses: tuple[float, ...]
    call: str = field(default_factory=lambda: uuid.uuid4().hex)
    chains: dict[str, deque[Experiment]] = field(default_factory=dict)
    submitted: dict[str, Experiment] = field(default_factory=dict)
    waiting: dict[str, Experiment] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)  # attempts that are none of this call's
    losses: Counter[str] = field(default_factory=Counter)
    own: list[Run] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    looked: float = 0.0

    def carry_out(self, task: Task, missing: Sequence[Experiment]) -> None:
        """Until each missing run has ended, here or elsewhere."""
        self.chains = _chains(missing)
        self.seen = {e.id: self._attempt(e) for e in missing}
        try:
            self.executor.start(
                Recorded(task, self.store.path, self.call, self.pauses), self.view.progress
            )
            for chain in self.chains.values():
                self._begin(chain.popleft())
            while self.submitted or self.waiting:
                for run in self._poll():
                    self._came(run)
                self._look()
        finally:
            self.executor.close()

    def _begin(self, experiment: Experiment) -> None:
        """Give a run to the executor, unless it is on record or somebody makes it."""
        if (run := self.store.result(experiment.id)) is not None:
            self._ended(run)
        elif (holder := self.store.holder(experiment)) is not None:
            self._wait(experiment, holder)
        else:
            self.submitted[experiment.id] = experiment
            self.view.moved(experiment, "waiting")
            self.executor.submit(experiment)

    def _poll(self) -> list[Run]:
        if not self.submitted:
            time.sleep(_LOOK_SECONDS)
            return []
        runs = self.executor.poll()
        if not runs:
            raise SweepError(
                f"{len(self.submitted)} runs were submitted and never came back. What is finished is "
                "recorded: call again with the same arguments to continue."
            )
        return runs

    def _came(self, run: Run) -> None:
        """What a worker or the executor says of a run."""
        experiment = self.submitted.pop(run.experiment.id)
        if run.state == "running":
            self._wait(experiment, self.store.holder(experiment))
        elif run.state == "preempted":
            self._lost(run)
        else:
            self.own.append(run)
            self._ended(run)
            _stop_if_broken(self.own)

    def _lost(self, run: Run) -> None:
        """Try again what its surroundings lost, or leave it with the reason."""
        experiment = run.experiment
        self.losses[experiment.id] += 1
        lost, tries = self.losses[experiment.id], len(self.pauses)
        if lost > tries:
            self._ended(replace(run, reason=f"{run.reason}; given up after {lost} attempts"))
            return
        self.store.publish(run, call=self.call, lost=lost)
        self.view.moved(experiment, "lost")
        self.view.note(f"{experiment.label}: {run.reason}. Trying again ({lost} of {tries}).")
        self._begin(experiment)

    def _wait(self, experiment: Experiment, holder: Holder | None) -> None:
        self.waiting[experiment.id] = experiment
        self.view.moved(experiment, "elsewhere")
        if holder is not None and str(holder) not in self.told:
            self.told.add(str(holder))
            self.view.note(
                f"{experiment.label} is being made by {holder}: another sweep, or a worker of an "
                "earlier one. It is waited for."
            )

    def _look(self) -> None:
        """At the runs that others make: on record, given up, or still with somebody living."""
        if not self.waiting or time.monotonic() - self.looked < _LOOK_SECONDS:
            return
        for experiment in list(self.waiting.values()):
            recorded = self.store.is_recorded(experiment.id)
            if recorded or self.store.holder(experiment) is None:
                del self.waiting[experiment.id]
                attempt = None if recorded else self.store.attempt(experiment.id)
                new = attempt is not None and attempt.token != self.seen[experiment.id]
                if attempt is not None and new and attempt.run.state != "preempted":
                    self._ended(attempt.run)  # it failed in other hands, and would here
                else:
                    self._begin(experiment)
        self.looked = time.monotonic()

    def _ended(self, run: Run) -> None:
        """Make sure that it is on record, and begin what waited for it."""
        if not self.store.is_recorded(run.experiment.id):
            run = self.store.publish(run, call=self.call)
        self.finished[run.experiment.id] = run
        self.view.ended(run)
        if trunk := run.experiment.trunk:
            self.store.prune(self.experiments, self.finished, trunk)
            if self.chains[trunk]:
                self._begin(self.chains[trunk].popleft())

    def _attempt(self, experiment: Experiment) -> str:
        attempt = self.store.attempt(experiment.id)
        return "" if attempt is None else attempt.token


@contextmanager
def _told_how_to_resume(sweep: _Sweep) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        done, planned = len(sweep.finished), len(sweep.experiments)
        sweep.view.note(
            f"Stopped: {done} of {planned} runs have ended and are recorded in {sweep.store.path}. "
            "Call again with the same arguments to go on."
        )
        raise


@contextmanager
def _stopping_by_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that workers are ended and nothing is half done.

    Only where a signal would end the process at once: one that is ignored, or handled by the
    user's own code, is left as it is.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _STOPS if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


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
