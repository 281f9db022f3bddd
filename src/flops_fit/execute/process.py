"""Fresh processes that each carry out one run: how they start, report, and are lost."""

from __future__ import annotations

import multiprocessing
import pickletools
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from flops_fit.execute.attempt import Setting
from flops_fit.execute.worker import carry_out
from flops_fit.records import Experiment, Run

PATIENCE = 20.0  # seconds for a step and a checkpoint
_DYING = (0.1, 1.0)  # seconds in which a server to fork from that was killed is gone for good


@dataclass(eq=False)
class Worker:
    """A process with its run."""

    process: Any
    pipe: Connection
    experiment: Experiment

    def waits_for(self) -> tuple[Any, Any]:
        """What is ready when there is something to read, or when the process is gone.

        A process that the run has started may hold the pipe open longer than the run lives.
        """
        return self.pipe, self.process.sentinel

    def read(self) -> Any:
        """The next message, a Run last; that of a lost worker where it ended without; else ``None``."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
        except (EOFError, OSError):
            return self._lost()
        return None if self.process.is_alive() or self.pipe.poll() else self._lost()

    def _lost(self) -> Run:
        """What is left of a worker that ended without a result: the place failed, not the code."""
        self.end()
        code = self.process.exitcode
        how = (
            f"was killed by signal {-code}"
            if code is not None and code < 0
            else f"exited with {code}"
        )
        return Run(self.experiment, "preempted", reason=f"its worker {how} before it had a result")

    def end(self, patience: float = PATIENCE) -> None:
        """See the process off."""
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def fresh_processes(task: bytes) -> Any:
    """A multiprocessing context for workers of a task."""
    method = start_method()
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(_to_preload(task))
    return context


def start_worker(context: Any, task_path: str, experiment: Experiment, setting: Setting) -> Worker:
    """A process that begins with a run.

    The server that it is forked from may have been killed. While that is dying it still takes the
    request, and answers nothing; once it is gone, a new one is started.
    """
    for pause in _DYING:
        try:
            return _start(context, task_path, experiment, setting)
        except (EOFError, ConnectionError):
            time.sleep(pause)
    return _start(context, task_path, experiment, setting)


def _start(context: Any, task_path: str, experiment: Experiment, setting: Setting) -> Worker:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=carry_out, args=(task_path, experiment, theirs, setting), daemon=True
    )
    try:
        with _without_script():
            process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Worker(process, ours, experiment)


@contextmanager
def _without_script() -> Iterator[None]:
    """Let a new process leave the script of this one alone.

    It would run the script again, for every run: what the task needs of it travels by value.
    """
    script = sys.modules["__main__"]
    hidden = {name: vars(script).pop(name) for name in ("__file__",) if name in vars(script)}
    spec, script.__spec__ = getattr(script, "__spec__", None), None
    try:
        yield
    finally:
        vars(script).update(hidden)
        script.__spec__ = spec


def stop(workers: list[Worker]) -> None:
    """End workers, all at once; each may finish its step and keep a checkpoint first."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + PATIENCE
    for worker in workers:
        _drain(worker, until)
        worker.end(max(0.0, until - time.monotonic()))


def _drain(worker: Worker, until: float) -> None:
    """Read what a worker still says: one that waits for a full pipe would not end."""
    while worker.process.is_alive() and time.monotonic() < until:
        try:
            if wait([worker.pipe, worker.process.sentinel], 0.5) and worker.pipe.poll():
                worker.pipe.recv()
        except (EOFError, OSError):
            return


def start_method() -> str:
    """``forkserver`` on Linux, else ``spawn``.

    Windows cannot fork, and on macOS a process forked after torch was imported may be killed by
    the system's libraries; there each worker imports torch anew.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    return "forkserver" if has_server and sys.platform != "darwin" else "spawn"


def _to_preload(task: bytes) -> list[str]:
    """Modules that workers are forked with, so that none imports them anew: those a task names.

    Torch only where this process has it, as a task without it should not wait for it. Where there
    is a GPU only what is known to leave it alone: a forked process cannot use CUDA that an import
    has initialised before.
    """
    known = ["flops_fit.execute.worker"]
    torch = sys.modules.get("torch")
    if torch is not None:
        known += ["torch", "torch._dynamo"]  # optimizers import dynamo
        if torch.cuda.is_available():
            return known
    strings = {arg for _, arg, _ in pickletools.genops(task) if isinstance(arg, str)}
    return [*known, *sorted((strings & sys.modules.keys()) - {"__main__"})]
