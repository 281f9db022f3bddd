"""The contract of every place where runs can happen, and the simplest such place."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flops_fit.checks import check_whole
from flops_fit.errors import InputError
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.train.trainer import Progress

Report = Callable[[Progress], None]
Task = Callable[[Experiment, Report | None], Run]
"""Carries out one experiment; its failures are states of the Run it returns.

Where several ranks train a run together, rank 0 calls the task. The others call its attribute
``follower`` where it has one, else the task too: what only one process may do (a lease, a record)
belongs in the task, what all do together in its ``follower``.
"""
GpusPerRun = int | Callable[[Experiment], int]

_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Resources:
    """What one run uses.

    Attributes
    ----------
    cpus
        Threads of each process of the run.
    gpus
        GPUs of the whole run; with more than one, as many ranks train it together.
    seconds
        A limit for schedulers that need one; others ignore it.
    ranks
        Processes that train the run together; by default one for each GPU.

    Examples
    --------
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
            if self.gpus and self.gpus != self.ranks:
                raise InputError(
                    f"ranks: expected one for each of {self.gpus} GPUs; got {self.ranks}. Leave it out."
                )
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"seconds: expected a positive time; got {self.seconds!r}.")

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

    ``start`` hands over the task once, ``submit`` queues an experiment, ``poll`` waits until
    something ends, ``close`` cancels what still runs and frees everything.

    Runs start in the order submitted. An exception of the task is a ``failed`` run with its
    traceback. A process that is lost with its run (killed, out of memory, its machine gone) is a
    ``preempted`` run with the reason: an infrastructure failure, so it may be submitted again.
    """

    @property
    def capacity(self) -> int:
        """How many runs go on at the same time, at most; it is known before ``start``."""

    def start(self, task: Task, report: Report) -> None:
        """Prepare to carry out ``task``; ``report`` is called with the progress of every run."""

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Queue one experiment, with ``resources`` or those that this place gives a run."""

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Wait until at least one submitted run has ended and return those that have.

        Empty where no run is left, or none ends within ``timeout`` seconds.
        """

    def cancel(self, handle: Handle) -> bool:
        """Stop one run, which then does not come back; ``False`` where it has ended already.

        A run that is under way may finish its step and keep a checkpoint.
        """

    def close(self) -> None:
        """Cancel what is queued or running; safe to call twice."""


class InProcessExecutor:
    """Runs in this process, during :meth:`poll`, in the order submitted.

    Nothing is pickled and a debugger works. A run uses the threads and devices of this process, and
    one that kills its process ends the sweep.
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
    """The run that the task returns; an exception in it makes a failed run.

    A signal that stops this process passes through.
    """
    try:
        return task(experiment, report)
    except Exception as error:  # a task may raise anything
        reason, details = error_line(error), traceback.format_exc()
    except SystemExit as error:
        if error.code in _STOPPED:
            raise
        reason = f"the run ended its process by sys.exit({error.code!r})"
        details = traceback.format_exc()
    return Run(experiment, "failed", reason=reason, details=details)


@dataclass(frozen=True)
class PerRun:
    """GPUs, or ranks without GPUs, of runs that do not ask for resources themselves."""

    gpus: GpusPerRun
    ranks: GpusPerRun

    def __post_init__(self) -> None:
        if not callable(self.gpus):
            check_whole("gpus_per_run", self.gpus, at_least=0)
        if not callable(self.ranks):
            check_whole("ranks_per_run", self.ranks)

    def resources(
        self, experiment: Experiment, cpus: int, seconds: float | None = None
    ) -> Resources:
        """The resources of one run, with ``cpus`` for each of its processes."""
        gpus = self.gpus(experiment) if callable(self.gpus) else self.gpus
        ranks = self.ranks(experiment) if callable(self.ranks) else self.ranks
        return Resources(cpus, gpus, seconds, None if gpus else ranks)


class Slots:
    """Slots for processes, and on each named GPU for as many runs as it has shares.

    >>> slots = Slots(4, ["0", "1"], shares=2)
    >>> slots.take(1, 1), slots.take(2, 2), slots.take(1, 1), slots.take(1, 1)
    (('0',), ('1', '0'), ('1',), None)
    """

    def __init__(self, processes: int, gpus: Sequence[str] = (), shares: int = 1) -> None:
        self.processes = processes
        self._free = processes
        self._shares = dict.fromkeys(gpus, shares)

    @property
    def gpus(self) -> int:
        """How many GPUs there are."""
        return len(self._shares)

    def take(self, processes: int, gpus: int) -> tuple[str, ...] | None:
        """The GPUs for a run, those with most shares left; ``None`` where it does not fit."""
        free = [name for name, shares in self._shares.items() if shares]
        if processes > self._free or gpus > len(free):
            return None
        taken = tuple(sorted(free, key=lambda name: -self._shares[name])[:gpus])
        for name in taken:
            self._shares[name] -= 1
        self._free -= processes
        return taken

    def give_back(self, processes: int, gpus: Sequence[str]) -> None:
        """What :meth:`take` gave."""
        self._free += processes
        for name in gpus:
            self._shares[name] += 1


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Torch is asked, and only where something has imported it already.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    named = [n.strip() for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    return named[:count] if named else [str(i) for i in range(count)]
