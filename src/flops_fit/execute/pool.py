"""Several runs at a time on this machine, each in a fresh process with its own threads."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flops_fit.checks import check_whole
from flops_fit.errors import InputError, SweepError
from flops_fit.execute.executor import (
    GpusPerRun,
    Handle,
    PerRun,
    Report,
    Resources,
    Slots,
    Task,
    cores,
    visible_gpus,
)
from flops_fit.execute.process import PATIENCE, Worker, fresh_processes, pack, start_worker, stop
from flops_fit.execute.worker import Setting
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line


@dataclass(eq=False)
class _Started:
    """A running run and its slots; ``kill_at`` is set once it was cancelled."""

    handle: Handle
    worker: Worker
    ranks: int
    gpus: tuple[str, ...]
    kill_at: float | None = None


class PoolExecutor:
    """A pool of fresh processes, forked from a server that has imported torch already.

    Parameters
    ----------
    workers
        Processes at the same time; by default one per core, or where there are GPUs one for each
        share of a GPU.
    threads
        Threads of each process; by default the cores divided by ``workers``. Small models gain
        little from a second thread.
    gpus
        How many GPUs to use, or which, as CUDA_VISIBLE_DEVICES names them; by default all that
        torch sees. Each run sees only its own, so the device of the plan has to be ``"cuda"``
        without a number.
    runs_per_gpu
        Runs that share a GPU; by default one, or as many as ``workers`` need.
    gpus_per_run
        GPUs of one run, or a function of the experiment; as many ranks train it together. By
        default 1 where there are GPUs.
    ranks_per_run
        Without GPUs: processes that train a run together.

    Examples
    --------
    Large models on four GPUs, the others on one each:

    >>> pool = PoolExecutor(gpus=8, gpus_per_run=lambda e: 4 if e.params.total > 1e9 else 1)
    >>> pool.capacity
    8
    >>> pool.close()
    """

    def __init__(
        self,
        workers: int | None = None,
        threads: int | None = None,
        *,
        gpus: int | Sequence[int | str] | None = None,
        runs_per_gpu: int | None = None,
        gpus_per_run: GpusPerRun | None = None,
        ranks_per_run: GpusPerRun = 1,
    ) -> None:
        for name, value in (
            ("workers", workers),
            ("threads", threads),
            ("runs_per_gpu", runs_per_gpu),
            ("gpus_per_run", None if callable(gpus_per_run) else gpus_per_run),
        ):
            if value is not None:
                check_whole(name, value)
        if isinstance(gpus, int):
            check_whole("gpus", gpus, at_least=0)
        self._workers, self._threads = workers, threads
        self._gpus, self._runs_per_gpu = gpus, runs_per_gpu
        self._per_run = PerRun(gpus_per_run or self._default_gpus, ranks_per_run)
        self._queue: deque[tuple[Handle, Experiment, Resources]] = deque()
        self._running: dict[Handle, _Started] = {}
        self._numbers = itertools.count()
        self._folder: TemporaryDirectory[str] | None = None
        self._context: Any = None
        self._report: Report = lambda progress: None

    @cached_property
    def _slots(self) -> Slots:
        """Made when they are first needed: by then the plan has imported torch."""
        if self._gpus is None:
            names = visible_gpus()
        elif isinstance(self._gpus, int):
            names = (visible_gpus() or [str(i) for i in range(self._gpus)])[: self._gpus]
        else:
            names = [str(gpu) for gpu in self._gpus]
        if not names:
            return Slots(self._workers or cores())
        shares = self._runs_per_gpu or -(-(self._workers or 1) // len(names))
        return Slots(self._workers or len(names) * shares, names, shares)

    def _default_gpus(self, experiment: Experiment) -> int:
        return min(1, self._slots.gpus)

    @property
    def capacity(self) -> int:
        """How many runs go on at the same time, where each is one process."""
        return self._slots.processes

    def start(self, task: Task, report: Report) -> None:
        """Write the task to a file that the workers read.

        Raises
        ------
        InputTypeError
            The model, data or loss cannot be sent to another process.
        """
        content = pack(task, "pool")
        self._folder = TemporaryDirectory(prefix="flops-fit-")
        (Path(self._folder.name) / "task").write_bytes(content)
        self._context = fresh_processes(content)
        self._report = report

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Queue one experiment and start it once it fits.

        Raises
        ------
        InputError
            It takes more processes or GPUs than the pool has.
        """
        needs = resources or self._usual(experiment)
        for name, number, limit in (
            ("GPUs", needs.gpus, self._slots.gpus),
            ("processes", needs.size, self._slots.processes),
        ):
            if number > limit:
                raise InputError(
                    f"executor='pool': expected at most the {limit} {name} of this pool for a run; "
                    f"{experiment.label} asks for {number}. Ask for fewer, or use executor='slurm'."
                )
        handle = Handle(experiment.id, next(self._numbers))
        self._queue.append((handle, experiment, needs))
        self._fill()
        return handle

    def _usual(self, experiment: Experiment) -> Resources:
        """What a run gets that does not ask for anything itself."""
        threads = self._threads or max(1, cores() // self._slots.processes)
        return self._per_run.resources(experiment, threads)

    def _fill(self) -> None:
        """Start what fits, in the order submitted."""
        while self._queue and self._folder is not None:
            handle, experiment, needs = self._queue[0]
            gpus = self._slots.take(needs.size, needs.gpus)
            if gpus is None:
                return
            self._queue.popleft()
            setting = Setting(needs.cpus, needs.size, gpus if self._slots.gpus else None)
            task = str(Path(self._folder.name) / "task")
            try:
                worker = start_worker(self._context, task, experiment, setting)
            except (OSError, EOFError, RuntimeError) as error:
                raise SweepError(
                    f"executor='pool': no worker process could be started ({error_line(error)}). "
                    "Where processes or memory have run out, ask for fewer workers."
                ) from error
            self._running[handle] = _Started(handle, worker, needs.size, gpus)

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Pass progress on until a run has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        ended: list[Run] = []
        while self._running and not ended:
            sources = {w: s for s in self._running.values() for w in s.worker.waits_for()}
            ready = [sources[w] for w in wait(list(sources), self._seconds_left(until))]
            for started in dict.fromkeys(ready):
                message = started.worker.read()
                if isinstance(message, Run):
                    self._retire(started)
                    if started.kill_at is None:
                        ended.append(message)
                elif message is not None:
                    self._report(message)
            self._kill_the_late()
            self._fill()
            if until is not None and time.monotonic() >= until:
                break
        return ended

    def _seconds_left(self, until: float | None) -> float | None:
        """Seconds until something has to be done even if no worker sends anything."""
        moments = [s.kill_at for s in self._running.values() if s.kill_at is not None]
        moments += [] if until is None else [until]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _kill_the_late(self) -> None:
        for started in self._running.values():
            if started.kill_at is not None and time.monotonic() >= started.kill_at:
                started.worker.process.kill()

    def _retire(self, started: _Started) -> None:
        del self._running[started.handle]
        started.worker.end()
        self._slots.give_back(started.ranks, started.gpus)

    def cancel(self, handle: Handle) -> bool:
        """Stop one run: at once where it waits, after its step where it is under way."""
        for queued in self._queue:
            if queued[0] == handle:
                self._queue.remove(queued)
                return True
        started = self._running.get(handle)
        if started is None or started.kill_at is not None:
            return False
        started.worker.process.terminate()
        started.kill_at = time.monotonic() + PATIENCE
        return True

    def close(self) -> None:
        """Stop what is running and remove the task."""
        self._queue.clear()
        stop([started.worker for started in self._running.values()])
        for started in list(self._running.values()):
            self._retire(started)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
