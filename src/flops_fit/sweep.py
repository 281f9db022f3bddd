"""Carry out the experiments of a sweep: finished runs are kept, missing ones are run."""

import re
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

from flops_fit.distributed import Ranks
from flops_fit.errors import SweepError
from flops_fit.execute.executor import Executor, Report, Task
from flops_fit.records import Experiment, Run, by_trunk, own_flops
from flops_fit.store.lease import Holder
from flops_fit.store.store import Recorded, Store
from flops_fit.train.trainer import Progress
from flops_fit.view.live import SweepView

PAUSES = (1.0, 4.0, 16.0)
"""Seconds before a run lost to an infrastructure failure is tried again: once, twice, three times."""

# A process that ended so ended itself; a machine, or somebody, would have killed it.
_OWN_END = re.compile(r"(worker|rank \d+ of \d+) (exited with|was killed by signal (?!9 |15 ))")
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
    after: Mapping[str, str] | None = None,
) -> list[Run]:
    """One Run for each experiment, in the order given, finished ones read from the store.

    Runs of another process are waited for, lost ones are tried again after each of ``pauses``. ``after``
    names for a run the one that has to end before it; without it runs are trained in full that were stopped
    as hopeless. SweepError where the first two failed alike, OutputError where a result cannot be recorded;
    the rest is kept.
    """
    finished = store.finished(experiments, hopeless=after is not None)
    for note in store.notes:
        view.note(note)
    missing = [e for e in experiments if e.id not in finished]
    store.prune(experiments, finished)
    with view.open(experiments, list(finished.values()), executor.capacity):
        if missing:
            sweep = _Sweep(experiments, finished, executor, store, view, tuple(pauses), after or {})
            try:
                with _signals_as_exceptions():
                    sweep.carry_out(task, missing)
            except (KeyboardInterrupt, SystemExit):
                view.note(
                    f"Stopped: {len(finished)} of {len(experiments)} runs have ended and are recorded "
                    f"in {store.path}. Call again with the same arguments to go on."
                )
                raise
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
    after: Mapping[str, str]
    held: dict[str, list[Experiment]] = field(default_factory=dict)  # until another run has ended
    call: str = field(default_factory=lambda: uuid.uuid4().hex)
    chains: dict[str, deque[Experiment]] = field(default_factory=dict)
    submitted: dict[str, Experiment] = field(default_factory=dict)
    waiting: dict[str, Experiment] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)  # tokens of attempts before this call
    losses: Counter[str] = field(default_factory=Counter)
    steps: dict[str, int] = field(default_factory=dict)  # that runs have reached
    ends: dict[str, tuple[str, int]] = field(default_factory=dict)  # how and where they were lost
    own: list[Run] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)
    checked_at: float = 0.0

    def carry_out(self, task: Task, missing: Sequence[Experiment]) -> None:
        """Until each missing run has ended, here or elsewhere; the most expensive trunk first."""
        own, groups = own_flops(missing), by_trunk(missing)
        groups.sort(key=lambda group: sum(own[e.id] for e in group), reverse=True)
        self.chains = {group[0].trunk or group[0].id: deque(group) for group in groups}
        attempts = ((e.id, self.store.attempt(e.id)) for e in missing)
        self.seen = {i: attempt.token for i, attempt in attempts if attempt is not None}
        recorded = Recorded(task, self.store.path, self.call, self.pauses)
        try:
            self.executor.start(recorded, self._hear)
            for chain in self.chains.values():
                self._begin_after(chain.popleft())
            while self.submitted or self.waiting:
                self._poll()
                self._check_waiting()
        finally:
            self.executor.close()

    def _hear(self, progress: Progress) -> None:
        self.steps[progress.experiment_id] = progress.step
        self.view.progress(progress)

    def _begin_after(self, experiment: Experiment) -> None:
        """Begin a run once the one has ended that it is compared with."""
        first = self.after.get(experiment.id)
        if first is None or first in self.finished:
            self._begin(experiment)
        else:
            self.held.setdefault(first, []).append(experiment)

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

    def _poll(self) -> None:
        """Wait for the executor, and handle the runs that it returns."""
        if not self.submitted:
            time.sleep(_LOOK_SECONDS)
            return
        runs = self.executor.poll()
        if not runs:
            raise SweepError(
                f"{len(self.submitted)} runs were submitted and never came back. What is finished is "
                "recorded: call again with the same arguments to continue."
            )
        for run in runs:
            experiment = self.submitted.pop(run.experiment.id)
            if run.state == "running":
                self._wait(experiment, self.store.holder(experiment))
            elif run.state == "preempted":
                self._lost(run)
            else:
                self.own.append(run)
                self._ended(run)
                self._stop_if_broken()

    def _lost(self, run: Run) -> None:
        """Try a lost run again, or leave it with its reason."""
        experiment = run.experiment
        self.losses[experiment.id] += 1
        lost, tries = self.losses[experiment.id], len(self.pauses)
        end = run.reason, self.steps.get(experiment.id, 0)
        if end == self.ends.get(experiment.id) and _OWN_END.search(run.reason):
            reason = f"{run.reason}, twice at step {end[1]}: so its code does, and not the machine"
            self._ended(replace(run, state="failed", reason=reason))
            return
        self.ends[experiment.id] = end
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
        """Check the runs that others make: recorded, given up, or still running."""
        if not self.waiting or time.monotonic() - self.checked_at < _LOOK_SECONDS:
            return
        for experiment in list(self.waiting.values()):
            recorded = self.store.is_recorded(experiment.id)
            if recorded or self.store.holder(experiment) is None:
                del self.waiting[experiment.id]
                attempt = None if recorded else self.store.attempt(experiment.id)
                new = attempt is not None and attempt.token != self.seen.get(experiment.id)
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
        for experiment in self.held.pop(run.experiment.id, ()):
            self._begin(experiment)
        if trunk := run.experiment.trunk:
            self.store.prune(self.experiments, self.finished, trunk)
            if self.chains[trunk]:
                self._begin(self.chains[trunk].popleft())

    def _stop_if_broken(self) -> None:
        """Stop where the first two runs failed alike: the fault is in the code, not in one size."""
        first, last = self.own[0], self.own[-1]
        alike = first.state == last.state == "failed" and first.reason == last.reason
        if len(self.own) == 2 and alike:
            raise SweepError(
                f"the first two runs failed for the same reason, so the sweep was stopped: "
                f"{first.reason}\n{first.details}Fix it and call again; what is finished is kept."
            )


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, to end workers in order, unless handled elsewhere."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _STOPS if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
