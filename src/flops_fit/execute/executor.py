"""The contract of every place where runs happen, this process as one, and what places share."""

import itertools
import math
import signal
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from flops_fit.errors import InputError, InputTypeError, SweepError, check_number, check_whole
from flops_fit.fingerprint import fingerprint_any
from flops_fit.laws.law import Law
from flops_fit.records import Experiment, Run
from flops_fit.reference import law as published_law
from flops_fit.text import error_line
from flops_fit.train.trainer import Progress

Report = Callable[[Progress], None]
Task = Callable[[Experiment, Report | None], Run]
"""Carries out one experiment; its failures are states of the Run it returns.

Where several ranks train a run together, rank 0 calls the task, and the others its attribute
``follower`` where it has one: what only one process may do (a lease, a record) belongs in the task.
One with ``starts_ranks`` gets all GPUs of its run in one process.
"""
GpusPerRun = int | Callable[[Experiment], int]

PATIENCE = 20.0  # seconds for a step and a checkpoint
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Resources:
    """What one run uses.

    ``cpus`` are the threads of each of its processes, ``gpus`` the GPUs of all of them, ``ranks`` the
    processes that train it together, by default one for each GPU. ``seconds`` is a limit for schedulers
    that need one; others ignore it.

    >>> Resources(gpus=4).size, Resources(cpus=8).size, Resources(ranks=2).size
    (4, 1, 2)
    """

    cpus: int = 1
    gpus: int = 0
    seconds: float | None = None
    ranks: int | None = None

    def __post_init__(self) -> None:
        check_whole("cpus", self.cpus)
        check_whole("gpus", self.gpus, at_least=0)
        if self.ranks is not None:
            check_whole("ranks", self.ranks)
            if self.gpus and self.ranks not in (1, self.gpus):
                raise InputError(
                    f"ranks: expected one for each of {self.gpus} GPUs, or one for all; got {self.ranks}."
                )
        if self.seconds is not None:
            check_number("seconds", self.seconds, above=0)

    @property
    def size(self) -> int:
        """How many processes train the run together."""
        return self.ranks or max(1, self.gpus)


@dataclass(frozen=True)
class Handle:
    """One submission: an experiment may be submitted again after it was lost."""

    experiment_id: str
    number: int


class Executor(Protocol):
    """A place where runs happen.

    Runs start in the order submitted. An exception of the task is a ``failed`` run with its
    traceback. A process that is lost with its run (killed, out of memory, its machine gone) is a
    ``preempted`` run with the reason: an infrastructure failure, so it may be submitted again.
    """

    @property
    def capacity(self) -> int:
        """How many runs are carried out at the same time, at most; known before ``start``."""

    def start(self, task: Task, report: Report) -> None:
        """Prepare to carry out ``task``; ``report`` is called with the progress of every run."""

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Queue one experiment, with ``resources`` or those that this place gives a run."""

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Wait for a run to end, ``timeout`` seconds at most; those that have, none if none is left."""

    def cancel(self, handle: Handle) -> bool:
        """Stop one run, after its step and a checkpoint; ``False`` where it has ended already."""

    def close(self) -> None:
        """Cancel what is queued or running; safe to call twice."""


class InProcessExecutor:
    """Runs in this process, during :meth:`poll`, in the order submitted.

    Nothing is pickled and a debugger works. A run that kills its process ends the sweep.
    """

    capacity = 1

    def __init__(self) -> None:
        self._queue: dict[Handle, Experiment] = {}
        self._numbers = itertools.count()
        self._task: Task | None = None
        self._report: Report | None = None

    def start(self, task: Task, report: Report) -> None:
        """Keep the task."""
        self._task, self._report = task, report

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Queue one experiment; ``resources`` can ask for no more processes than this one."""
        if resources is not None and resources.size > 1:
            raise InputError(
                f"resources: expected a run of this one process; got {resources}. Use "
                "executor='pool', or start this script with torchrun."
            )
        handle = Handle(experiment.id, next(self._numbers))
        self._queue[handle] = experiment
        return handle

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Carry out the next experiment, however long it takes."""
        if not self._queue or self._task is None:
            return []
        experiment = self._queue.pop(next(iter(self._queue)))
        return [attempt(self._task, experiment, self._report)]

    def cancel(self, handle: Handle) -> bool:
        """Forget a queued experiment."""
        return self._queue.pop(handle, None) is not None

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()


def attempt(task: Task, experiment: Experiment, report: Report | None) -> Run:
    """The run that the task returns, failed where it raises; a signal to stop passes through."""
    try:
        return task(experiment, report)
    except Exception as error:  # a task may raise anything
        reason, details = error_line(error), traceback.format_exc()
        if "daemonic processes" in reason:
            reason += '. A worker of the pool starts no processes: give executor="inprocess"'
    except SystemExit as error:
        if error.code in _STOPPED:
            raise
        reason = f"the run ended its process by sys.exit({error.code!r})"
        details = traceback.format_exc()
    return Run(experiment, "failed", reason=reason, details=details)


@dataclass(eq=False)
class Started:
    """A run that was given to its place; ``deadline`` is set once it was cancelled."""

    handle: Handle
    experiment: Experiment
    job: Any  # a process, a reference of Ray's or a job of Slurm's
    needs: Resources
    gpus: tuple[str, ...] = ()
    deadline: float = math.inf


class RemoteExecutor(ABC):
    """What all places outside this process share: a queue, the running runs, and waiting for them."""

    cancel_seconds = PATIENCE  # that a cancelled run may take to end

    def __init__(self, gpus_per_run: GpusPerRun, ranks_per_run: GpusPerRun) -> None:
        for name, count, least in (("gpus", gpus_per_run, 0), ("ranks", ranks_per_run, 1)):
            if not callable(count):
                check_whole(f"{name}_per_run", count, at_least=least)
        self._gpus_per_run, self._ranks_per_run = gpus_per_run, ranks_per_run
        self._queue: deque[tuple[Handle, Experiment, Resources]] = deque()
        self._running: dict[Handle, Started] = {}
        self._numbers = itertools.count()
        self._report: Report = lambda progress: None
        self._one_process = False  # the task starts its ranks itself

    @staticmethod
    def _require_start(name: str, task: Any) -> None:
        if task is None:
            raise SweepError(
                f"executor={name!r}: expected start(task, report) before a run; got a run."
            )

    def start(self, task: Task, report: Report) -> None:
        """Send ``task`` to where runs happen; InputTypeError where it cannot be pickled."""
        self._report = report
        self._one_process = getattr(getattr(task, "task", task), "starts_ranks", False)
        self._prepare(task)

    def _default(self, e: Experiment, cpus: int) -> Resources:
        """The resources of a run that asks for none; ``cpus`` are for each of its processes."""
        counts = self._gpus_per_run, self._ranks_per_run
        gpus, ranks = (count(e) if callable(count) else count for count in counts)
        one = 1 if self._one_process else None if gpus else ranks
        return Resources(cpus, gpus, ranks=one)

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Start what fits and pass progress on, until a run has ended."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        ended: list[Run] = []
        self._fill()
        while self._running and not ended:
            for started, run in self._look(until):
                self._retire(started)
                if started.deadline == math.inf:
                    ended.append(run)
            for started in list(self._running.values()):
                if time.monotonic() >= started.deadline:
                    self._give_up(started)
            self._fill()
            if time.monotonic() >= until:
                break
        return ended

    def cancel(self, handle: Handle) -> bool:
        """Stop one run: at once where it waits, after its step where it runs."""
        for queued in self._queue:
            if queued[0] == handle:
                self._queue.remove(queued)
                return True
        started = self._running.get(handle)
        if started is None or started.deadline < math.inf:
            return False
        started.deadline = time.monotonic() + self.cancel_seconds
        self._stop(started)
        return True

    @abstractmethod
    def _prepare(self, task: Any) -> None:
        """Put the task where runs find it."""

    def _fill(self) -> None:  # noqa: B027 - most executors leave it empty
        """Start what fits, in the order submitted; by default nothing waits here."""

    @abstractmethod
    def _look(self, until: float) -> Iterable[tuple[Started, Run]]:
        """Wait for a while, at most ``until``; pass progress on and return the runs that ended."""

    @abstractmethod
    def _stop(self, started: Started) -> None:
        """Ask a run to end after its step."""

    def _give_up(self, started: Started) -> None:
        """End a cancelled run whose time is over; by default it is forgotten."""
        self._retire(started)

    def _retire(self, started: Started) -> None:
        """Free what a run had that has ended."""
        del self._running[started.handle]


@dataclass(frozen=True)
class Mock:
    """Simulates each run: ``law.loss(N, D)·exp(noise·z)``, z normal and seeded by the run.

    It takes the place of the trainer, builds no model and reads no data. The ``law`` is by default that of
    Besiroglu et al. 2024; ``noise`` is the standard deviation of ln(loss).
    """

    law: Law = field(default_factory=lambda: published_law("besiroglu2024"))
    noise: float = 0.005

    def __post_init__(self) -> None:
        if not isinstance(self.law, Law):
            raise InputTypeError(
                f"law: expected a law of the loss, such as flops_fit.reference.law('hoffmann2022'); got "
                f"{self.law!r}."
            )
        check_number("noise", self.noise, at_least=0)

    def fingerprint(self) -> str:
        """A hash of the law and the noise."""
        return fingerprint_any({"law": self.law, "noise": self.noise})

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """The law's loss at the experiment's N and D."""
        clean = float(self.law.loss(experiment.params.total, experiment.tokens))
        z = float(np.random.default_rng(experiment.seed).standard_normal())
        loss = clean * math.exp(self.noise * z)
        if report is not None:
            report(Progress(experiment.id, experiment.steps, experiment.steps, loss))
        return Run(
            experiment, "completed", loss=loss, loss_se=clean * self.noise,
            tokens=experiment.tokens, flops=experiment.flops, device="mock",
        )  # fmt: skip
