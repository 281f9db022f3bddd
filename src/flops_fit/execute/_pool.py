"""Several runs at a time on this machine, each in a fresh process with its own threads."""

from __future__ import annotations

import multiprocessing
import os
import pickletools
import sys
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from flops_fit.errors import InputError, InputTypeError, MissingExtraError, SweepError
from flops_fit.execute._contract import Report, Task
from flops_fit.execute._worker import carry_out
from flops_fit.records import Experiment, Run

__all__ = ["PoolExecutor"]


_PATIENCE = 20.0  # seconds for a step and a checkpoint

_NO_GUARD = (
    "executor='pool' lets every worker import the script that started it, so the script has to start "
    'its sweep under  if __name__ == "__main__":  or each worker would start a sweep of its own. Add '
    "that guard, or use executor='inprocess'."
)


def _imported_by_a_worker() -> bool:
    """Whether this very code runs because a worker imports the user's script."""
    inheriting = getattr(multiprocessing.current_process(), "_inheriting", False)
    return bool(inheriting) or multiprocessing.parent_process() is not None


def _to_preload(task: bytes) -> list[str]:
    """Modules that workers are forked with, so that none imports them anew: those a task names.

    Where there is a GPU only what is known to leave it alone: a forked process cannot use CUDA
    that an import has initialised before.
    """
    known = ["torch", "torch._dynamo", "flops_fit.execute._worker"]  # optimizers import dynamo
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return known
    strings = {arg for _, arg, _ in pickletools.genops(task) if isinstance(arg, str)}
    return ["__main__", *known, *sorted(strings & sys.modules.keys())]


def _start_method() -> str:
    """``forkserver`` on Linux, else ``spawn``.

    Windows cannot fork, and on macOS a process forked after torch was imported may be killed by
    the system's libraries; there each worker imports torch anew.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    return "forkserver" if has_server and sys.platform != "darwin" else "spawn"


@dataclass
class _Worker:
    process: Any
    experiment: Experiment


class PoolExecutor:
    """A pool of fresh processes, forked from a server that has imported torch already.

    Parameters
    ----------
    workers
        Runs at the same time; by default one per core.
    threads
        Threads of each run; by default the cores divided by ``workers``. Small models gain little
        from a second thread.
    """

    def __init__(self, workers: int | None = None, threads: int | None = None) -> None:
        for name, value in (("workers", workers), ("threads", threads)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputTypeError(f"{name}: expected a whole number; got {value!r}.")
            if value is not None and value < 1:
                raise InputError(f"{name}: expected at least 1; got {value}.")
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        self._capacity = workers or cores
        self._threads = threads or max(1, cores // self._capacity)
        self._queue: deque[Experiment] = deque()
        self._running: dict[Connection, _Worker] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._context: Any = None
        self._report: Report = lambda progress: None

    @property
    def capacity(self) -> int:
        """How many runs go on at the same time."""
        return self._capacity

    def start(self, task: Task, report: Report) -> None:
        """Write the task where the workers can read it.

        Raises
        ------
        SweepError
            This is itself a worker: the script that started the sweep has no main guard.
        InputTypeError
            The model, data or loss cannot be sent to another process.
        """
        if _imported_by_a_worker():
            raise SweepError(_NO_GUARD)
        try:
            import cloudpickle
        except ImportError:
            raise MissingExtraError("cloudpickle", "train", "executor='pool'") from None
        try:
            content = cloudpickle.dumps(task)
        except Exception as error:  # pickling runs the user's code
            raise InputTypeError(
                "executor='pool' sends model, data and loss to other processes, and one of them "
                f"cannot be pickled ({type(error).__name__}: {error}). Open files and connections "
                "in the data set's first access, or use executor='inprocess'."
            ) from error
        self._folder = TemporaryDirectory(prefix="flops-fit-")
        (Path(self._folder.name) / "task").write_bytes(content)
        method = _start_method()
        self._context = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(_to_preload(content))
        self._report = report

    def submit(self, experiment: Experiment) -> None:
        """Queue one experiment and start it where there is room."""
        self._queue.append(experiment)
        self._fill()

    def _fill(self) -> None:
        while self._queue and len(self._running) < self._capacity and self._folder is not None:
            experiment = self._queue.popleft()
            ours, theirs = self._context.Pipe(duplex=False)
            process = self._context.Process(
                target=carry_out,
                args=(str(Path(self._folder.name) / "task"), experiment, theirs, self._threads),
                daemon=True,
            )
            try:
                process.start()
            except (OSError, EOFError, RuntimeError) as error:
                raise SweepError(
                    f"no worker process could be started ({type(error).__name__}: {error}). {_NO_GUARD}"
                ) from error
            finally:
                theirs.close()
            self._running[ours] = _Worker(process, experiment)

    def poll(self) -> list[Run]:
        """Pass progress on until a run has ended."""
        ended: list[Run] = []
        while self._running and not ended:
            for pipe in wait(list(self._running)):
                pipe = cast("Connection", pipe)  # on Windows a pipe of another class
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    ended.append(self._lost(pipe))
                    continue
                if isinstance(message, Run):
                    ended.append(message)
                    self._retire(pipe)
                else:
                    self._report(message)
            self._fill()
        return ended

    def _retire(self, pipe: Connection) -> _Worker:
        worker = self._running.pop(pipe)
        pipe.close()
        worker.process.join()
        return worker

    def _lost(self, pipe: Connection) -> Run:
        """What is left of a worker that ended without a result."""
        worker = self._retire(pipe)
        code = worker.process.exitcode
        how = (
            f"was killed by signal {-code}"
            if code is not None and code < 0
            else f"exited with {code}"
        )
        return Run(worker.experiment, "failed", reason=f"its worker {how} before it had a result")

    def close(self) -> None:
        """Stop what is running and remove the task."""
        self._queue.clear()
        for worker in self._running.values():
            worker.process.terminate()  # a run keeps a checkpoint and ends after its step
        for pipe, worker in list(self._running.items()):
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            pipe.close()
        self._running.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
