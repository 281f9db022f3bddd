"""Several runs at a time on this machine, each in a fresh process with its own threads."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flops_fit.errors import InputError, SweepError, check_whole
from flops_fit.execute.executor import GpusPerRun, Handle, RemoteExecutor, Resources, Started
from flops_fit.execute.process import Setting, fresh_processes, pack, start_worker, stop
from flops_fit.files import output_errors
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.train.config import cores


class PoolExecutor(RemoteExecutor):
    """A pool of fresh processes, forked from a server that has imported torch already.

    Large models on four GPUs, the others on one each:

    >>> pool = PoolExecutor(gpus=8, gpus_per_run=lambda e: 4 if e.params.total > 1e9 else 1)
    >>> pool.capacity
    8
    >>> pool.close()

    ``workers`` processes run at the same time: by default one per core, or where there are GPUs one for
    each share of a GPU. Each has ``threads`` threads, by default the cores divided by ``workers``. ``gpus``
    says how many GPUs to use, or which, as CUDA_VISIBLE_DEVICES names them; by default all. Each run sees
    only its own, so the plan's device has to be ``"cuda"`` without a number. ``runs_per_gpu`` runs share a
    GPU; by default one, or as many as ``workers`` need. ``gpus_per_run`` GPUs, or without GPUs
    ``ranks_per_run`` processes, train a run together; both may be a function of the experiment, and are one
    by default.
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
        per_run = None if callable(gpus_per_run) else gpus_per_run
        counts = {"workers": workers, "threads": threads, "runs_per_gpu": runs_per_gpu}
        for name, value in {**counts, "gpus_per_run": per_run}.items():
            if value is not None:
                check_whole(name, value)
        if isinstance(gpus, int):
            check_whole("gpus", gpus, at_least=0)
        self._workers, self._threads = workers, threads
        self._gpus, self._runs_per_gpu = gpus, runs_per_gpu
        self._folder: TemporaryDirectory[str] | None = None
        self._context: Any = None
        super().__init__(gpus_per_run or (lambda e: min(1, len(self._slots.shares))), ranks_per_run)

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

    @property
    def capacity(self) -> int:
        """How many runs are carried out at the same time, where each is one process."""
        return self._slots.processes

    def _prepare(self, task: Any) -> None:
        content = pack(task, "pool")
        self._folder = TemporaryDirectory(prefix="flops-fit-")
        with output_errors(Path(self._folder.name), "executor='pool'"):
            (Path(self._folder.name) / "task").write_bytes(content)
        self._context = fresh_processes(content)

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Queue one experiment, to start once it fits; InputError where the pool is too small."""
        threads = self._threads or max(1, cores() // self._slots.processes)
        needs = resources or self._default(experiment, threads)
        for name, number, limit in (
            ("GPUs", needs.gpus, len(self._slots.shares)),
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

    def _fill(self) -> None:
        while self._queue and self._folder is not None:
            handle, experiment, needs = self._queue[0]
            gpus = self._slots.take(needs.size, needs.gpus)
            if gpus is None:
                return
            self._queue.popleft()
            setting = Setting(needs.cpus, needs.size, gpus if self._slots.shares else None)
            task = str(Path(self._folder.name) / "task")
            try:
                worker = start_worker(self._context, task, experiment, setting)
            except (OSError, EOFError, RuntimeError) as error:
                raise SweepError(
                    f"executor='pool': no worker process could be started ({error_line(error)}). "
                    "Where processes or memory have run out, ask for fewer workers; where a path is too "
                    "long, let TMPDIR name a shorter one."
                ) from error
            self._running[handle] = Started(handle, experiment, worker, needs, gpus)

    def _look(self, until: float) -> Iterator[tuple[Started, Run]]:
        sources = {w: s for s in self._running.values() for w in s.job.waits_for()}
        until = min(until, *(s.deadline for s in self._running.values()))
        left = None if until == math.inf else max(0.0, until - time.monotonic())
        for started in dict.fromkeys(sources[w] for w in wait(list(sources), left)):
            message = started.job.read()
            if isinstance(message, Run):
                yield started, message
            elif message is not None:
                self._report(message)

    def _stop(self, started: Started) -> None:
        started.job.process.terminate()

    def _give_up(self, started: Started) -> None:
        started.job.process.kill()

    def _retire(self, started: Started) -> None:
        super()._retire(started)
        started.job.end()
        self._slots.give_back(started.needs.size, started.gpus)

    def close(self) -> None:
        """Stop what is running and remove the task."""
        self._queue.clear()
        stop([started.job for started in self._running.values()])
        for started in list(self._running.values()):
            self._retire(started)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class Slots:
    """Slots for processes, and on each named GPU for as many runs as it has shares.

    >>> slots = Slots(4, ["0", "1"], shares=2)
    >>> slots.take(1, 1), slots.take(2, 2), slots.take(1, 1), slots.take(1, 1)
    (('0',), ('1', '0'), ('1',), None)
    """

    def __init__(self, processes: int, gpus: Sequence[str] = (), shares: int = 1) -> None:
        self.processes = self._free = processes
        self.shares = dict.fromkeys(gpus, shares)  # that are free, by GPU

    def take(self, processes: int, gpus: int) -> tuple[str, ...] | None:
        """The GPUs for a run, those with most shares left; ``None`` where it does not fit."""
        free = [name for name, shares in self.shares.items() if shares]
        if processes > self._free or gpus > len(free):
            return None
        taken = tuple(sorted(free, key=lambda name: -self.shares[name])[:gpus])
        for name in taken:
            self.shares[name] -= 1
        self._free -= processes
        return taken

    def give_back(self, processes: int, gpus: Sequence[str]) -> None:
        """What :meth:`take` gave."""
        self._free += processes
        for name in gpus:
            self.shares[name] += 1


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them; none before torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    named = [n.strip() for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    return named[:count] if named else [str(i) for i in range(count)]
