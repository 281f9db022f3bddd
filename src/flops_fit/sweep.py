"""Carry out the experiments of a sweep: finished runs are kept, missing ones are run."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

from flops_fit.distributed import Ranks
from flops_fit.errors import SweepError
from flops_fit.execute.executor import Executor, Report, Task
from flops_fit.records import Experiment, Run
from flops_fit.store.lease import Holder
from flops_fit.store.recorded import Recorded
from flops_fit.store.store import Store
from flops_fit.trunks import by_trunk, own_flops
from flops_fit.view.live import SweepView

PAUSES = (1.0, 4.0, 16.0)
"""Seconds before a run lost to an infrastructure failure is tried again: once, twice, three times."""

_LOOK_SECONDS = 0.5  # between checks of runs that others make
_STOPS = ("SIGTERM", "SIGHUP")  # Ctrl-C raises KeyboardInterrupt by itself


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

    The most expensive runs start first, so that none of them is left for the end. Runs of one trunk
    go one after another, the shortest first, each from where the one before left the trunk. A run
    that fails or diverges is recorded and the sweep goes on.

    Workers record their runs. A run that another sweep makes, or a worker that outlived its own
    sweep, is waited for; once no living process makes it, it is made here. A run lost to an
    infrastructure failure (``preempted``) is tried again after each of ``pauses``, from its newest
    checkpoint, and then left with its reason.

    Raises
    ------
    SweepError
        The first two runs failed for the same reason: the fault is in the code, not in one size.
    OutputError
        A result cannot be recorded; what was recorded before is kept.
    KeyboardInterrupt, SystemExit
        SIGINT, SIGTERM or SIGHUP arrived. Workers were asked to keep a checkpoint and to end.
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
            with _note_when_stopped(sweep), _signals_as_exceptions():
                sweep.carry_out(task, missing)
            store.prune(experiments, finished)
    return [finished[e.id] for e in experiments]


@dataclass
class _Sweep:
    """Which runs the executor has, which other processes make, and which have ended."""

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
    seen: dict[str, str] = field(default_factory=dict)  # tokens of attempts before this call
    losses: Counter[str] = field(default_factory=Counter)
    own: list[Run] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)
    checked_at: float = 0.0

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
                    self._receive(run)
                self._check_waiting()
        finally:
            self.executor.close()

    def _begin(self, experiment: Experiment) -> None:
        """Give a run to the executor, unless it is recorded or another process makes it."""
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

    def _receive(self, run: Run) -> None:
        """Handle a run that the executor returns."""
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
        """Try a lost run again, or leave it with its reason."""
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
        if holder is not None and str(holder) not in self.reported:
            self.reported.add(str(holder))
            self.view.note(
                f"{experiment.label} is being made by {holder}: another sweep, or a worker of an "
                "earlier one. Waiting for it."
            )

    def _check_waiting(self) -> None:
        """Check the runs that others make: recorded, given up, or still under way."""
        if not self.waiting or time.monotonic() - self.checked_at < _LOOK_SECONDS:
            return
        for experiment in list(self.waiting.values()):
            recorded = self.store.is_recorded(experiment.id)
            if recorded or self.store.holder(experiment) is None:
                del self.waiting[experiment.id]
                attempt = None if recorded else self.store.attempt(experiment.id)
                new = attempt is not None and attempt.token != self.seen[experiment.id]
                if attempt is not None and new and attempt.run.state != "preempted":
                    self._ended(attempt.run)  # it failed elsewhere, and would here
                else:
                    self._begin(experiment)
        self.checked_at = time.monotonic()

    def _ended(self, run: Run) -> None:
        """Make sure that a run is recorded, and begin the next one of its trunk."""
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
def _note_when_stopped(sweep: _Sweep) -> Iterator[None]:
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
def _signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that workers are ended in order.

    Only where a signal would end the process at once; one that is ignored, or handled by the user's
    code, is left as it is.
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
    """The runs that wait for each other, by trunk, the shortest first; the most expensive chain first."""
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
            f"{first.reason}\n{first.details}Fix it and call again; what is finished is kept."
        )


def lead_sweep(ranks: Ranks, task: Task, sweep: Callable[[Task], list[Run]]) -> list[Run]:
    """Rank 0's part: ``sweep`` with a task that every rank carries out; all get its runs."""

    def together(experiment: Experiment, report: Report | None = None) -> Run:
        ranks.broadcast(experiment)
        return task(experiment, report)

    try:
        runs = sweep(together)
    except Exception as error:  # whatever it was, the other ranks have to end too
        ranks.broadcast(SweepError(f"rank 0 stopped the sweep: {error}"))
        raise
    ranks.broadcast(runs)
    return runs


def follow_sweep(ranks: Ranks, task: Task) -> list[Run]:
    """The other ranks' part: carry out each run that rank 0 names, until it sends all runs."""
    while True:
        message = ranks.broadcast()
        if isinstance(message, Experiment):
            task(message, None)
        elif isinstance(message, SweepError):
            raise message
        else:
            return list(message)
