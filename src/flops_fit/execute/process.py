"""Fresh processes that each carry out one run: the task they are sent, their start, their end."""

from __future__ import annotations

import inspect
import io
import multiprocessing
import pickle
import pickletools
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from flops_fit.errors import InputTypeError, MissingExtraError
from flops_fit.execute.executor import PATIENCE
from flops_fit.execute.worker import Setting, carry_out, exit_words
from flops_fit.records import Experiment, Run

WARN_BYTES = 256 * 2**20  # of a pickled task, from which on its size is warned about
_RESTART_PAUSES = (0.1, 1.0)  # seconds in which a server to fork from that was killed is gone
_CAUSE_DEPTH = 12  # levels that are searched for what cannot be pickled
_PARTS = {
    "model": "the model",
    "data": "the data set",
    "held_out": "the held-out data",
    "objective": "the loss",
    "optimizer": "the optimizer",
    "param_groups": "param_groups",
    "trackers": "a tracker",
}


@dataclass(eq=False)
class Worker:
    """A process with its run."""

    process: Any
    pipe: Connection
    experiment: Experiment

    def waits_for(self) -> tuple[Any, Any]:
        """What is ready for a message, or an end: a child of the run may keep the pipe open."""
        return self.pipe, self.process.sentinel

    def read(self) -> Any:
        """The next message if there is one; the last is a Run, also of a lost worker."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
        except (EOFError, OSError):
            return self._lost()
        return None if self.process.is_alive() or self.pipe.poll() else self._lost()

    def _lost(self) -> Run:
        """A worker that ended without a result: an infrastructure failure, not one of the code."""
        self.end()
        how = exit_words(self.process.exitcode)
        return Run(self.experiment, "preempted", reason=f"its worker {how} before it had a result")

    def end(self, patience: float = PATIENCE) -> None:
        """Wait for the process to end, and kill it after ``patience`` seconds."""
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
    """Start a process for a run, again where the server that it is forked from was killed."""
    for pause in _RESTART_PAUSES:
        try:
            return _start(context, task_path, experiment, setting)
        except (EOFError, ConnectionError):  # it takes requests while it is dying
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
    """Keep a new process from running this script again; the task holds what it needs of it."""
    script = sys.modules["__main__"]
    hidden = {name: vars(script).pop(name) for name in ("__file__",) if name in vars(script)}
    spec, script.__spec__ = getattr(script, "__spec__", None), None
    try:
        yield
    finally:
        vars(script).update(hidden)
        script.__spec__ = spec


def stop(workers: list[Worker]) -> None:
    """End all workers; each may finish its step and keep a checkpoint first."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + PATIENCE
    for worker in workers:
        with suppress(EOFError, OSError):  # a worker does not end while its pipe is full
            while worker.process.is_alive() and time.monotonic() < until:
                if wait(worker.waits_for(), 0.5) and worker.pipe.poll():
                    worker.pipe.recv()
        worker.end(max(0.0, until - time.monotonic()))


def start_method() -> str:
    """``forkserver`` on Linux, else ``spawn``: on macOS a process forked with torch may be killed."""
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    return "forkserver" if has_server and sys.platform != "darwin" else "spawn"


def _to_preload(task: bytes) -> list[str]:
    """The modules that a task names, for workers to be forked with.

    With a GPU only those that do not initialise CUDA: a forked process could not use it afterwards.
    """
    known = ["flops_fit.execute.worker"]
    torch = sys.modules.get("torch")
    if torch is not None:
        known += ["torch", "torch._dynamo"]  # optimizers import dynamo
        if torch.cuda.is_available():
            return known
    strings = {arg for _, arg, _ in pickletools.genops(task) if isinstance(arg, str)}
    return [*known, *sorted((strings & sys.modules.keys()) - {"__main__"})]


def pack(task: Any, place: str) -> bytes:
    """The task as bytes: what ``__main__`` defines by value, what modules define by reference.

    InputTypeError says which part cannot be pickled, and why.
    """
    try:
        import cloudpickle
    except ImportError:
        raise MissingExtraError("cloudpickle", "train", f"executor={place!r}") from None
    try:
        content: bytes = cloudpickle.dumps(task)
    except Exception as error:  # pickling runs the user's code
        part, reason = _culprit(task, cloudpickle.dumps, error)
        raise InputTypeError(
            f"executor={place!r} sends model, data and loss to other processes, and {part} cannot be "
            f"pickled ({type(reason).__name__}: {reason}). Open files at the data set's first access, "
            "leave locks and generators out by __getstate__, or use executor='inprocess'."
        ) from error
    if len(content) > WARN_BYTES:
        warnings.warn(
            f"model, data and loss have {len(content) / 2**20:.0f} MB when pickled, and every run reads "
            "them. Let a large data set keep the path of a file that all machines see, and open it at "
            "its first access, as np.load(path, mmap_mode='r') does.",
            stacklevel=3,
        )
    return content


def _culprit(task: Any, dumps: Any, error: Exception) -> tuple[str, Exception]:
    """The innermost part that cannot be pickled by itself, in words, and the error."""
    path: list[str] = []
    part, seen = task, {id(task)}
    while len(path) < _CAUSE_DEPTH:
        for name, inner in _parts_of(part):
            if id(inner) not in seen:
                try:
                    dumps(inner)
                except Exception as why:  # pickling runs the user's code
                    path, part, error = [*path, name], inner, why
                    seen.add(id(inner))
                    break
        else:
            break
    kind = f"a {type(part).__module__}.{type(part).__qualname__}".replace("a builtins.", "a ")
    whole = next((_PARTS[name] for name in path if name in _PARTS), "the task")
    return f"{whole} ({kind} at task.{'.'.join(path)})" if path else f"the task ({kind})", error


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value that are pickled with it."""
    if isinstance(value, type | io.IOBase | pickle.PickleBuffer):
        return
    if isinstance(value, Mapping):
        yield from ((str(k), v) for k, v in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(i), v) for i, v in enumerate(value))
    elif inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        yield from {**used.globals, **used.nonlocals}.items()
    elif inspect.ismethod(value):
        yield "__self__", value.__self__
    else:
        for name in ("func", "args", "keywords"):  # of functools.partial
            if hasattr(type(value), name):
                yield name, getattr(value, name)
        yield from getattr(value, "__dict__", {}).items()
