"""Fresh processes that each carry out one run, themselves or by ranks that they launch."""

import inspect
import io
import logging
import multiprocessing
import os
import pickle
import pickletools
import secrets
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flops_fit.errors import InputTypeError
from flops_fit.execute.executor import PATIENCE, Report, Task, attempt
from flops_fit.lazy import import_extra
from flops_fit.records import Experiment, Run

WARN_BYTES = 256 * 2**20  # of a pickled task, from which on its size is warned about
_RESTART_SECONDS = 0.5  # in which a server to fork from that was killed is gone
_CAUSE_DEPTH = 12  # levels that are searched for what cannot be pickled
_PARTS = {
    "model": "the model", "data": "the data set", "held_out": "the held-out data",
    "objective": "the loss", "optimizer": "the optimizer", "param_groups": "param_groups",
    "trackers": "a tracker",
}  # fmt: skip
_RANK = "from flops_fit.execute.process import carry_out_as_rank; carry_out_as_rank()"
_ORDERS = "FLOPS_FIT_RANK_ORDERS"  # the environment variable that names a rank's file of orders
_ANSWER_SECONDS = 20.0  # that a worker may take to confirm the run of its first rank


@dataclass(frozen=True)
class Setting:
    """What a run's process is given."""

    threads: int = 1
    ranks: int = 1
    gpus: tuple[str, ...] | None = None  # one a rank, by CUDA_VISIBLE_DEVICES; None leaves all


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
    """A multiprocessing context for workers of a task; they are forked with the modules it names."""
    method = start_method()
    context: Any = multiprocessing.get_context(method)
    if method != "forkserver":
        return context
    modules, torch = ["flops_fit.execute.process"], sys.modules.get("torch")
    if torch is not None:
        modules += ["torch", "torch._dynamo"]  # optimizers import dynamo
    # The task's own may initialise CUDA, and a forked process could not use it afterwards.
    if torch is None or not torch.cuda.is_available():
        strings = {arg for _, arg, _ in pickletools.genops(task) if isinstance(arg, str)}
        modules += sorted((strings & sys.modules.keys()) - {"__main__"})
    context.set_forkserver_preload(modules)
    return context


def start_worker(
    context: Any, task_path: str, experiment: Experiment, setting: Setting, tries: int = 2
) -> Worker:
    """Start a process for a run, again where the server that it is forked from was killed."""
    ours, theirs = context.Pipe(duplex=False)
    args = task_path, experiment, theirs, setting
    process = context.Process(target=carry_out, args=args, daemon=True)
    # Without these names it does not run this script again; the task holds what it needs of it.
    names = vars(sys.modules["__main__"])
    kept = {name: names.pop(name) for name in ("__file__",) if name in names}
    kept["__spec__"] = names.get("__spec__")
    names["__spec__"] = None
    try:
        process.start()
        return Worker(process, ours, experiment)
    except (EOFError, ConnectionError):  # the server takes requests while it is dying
        ours.close()
        if not tries:
            raise
    finally:
        names.update(kept)
        theirs.close()
    time.sleep(_RESTART_SECONDS)
    return start_worker(context, task_path, experiment, setting, tries - 1)


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


def pack(task: Any, place: str) -> bytes:
    """The task as bytes: what ``__main__`` defines by value, what modules define by reference."""
    cloudpickle = import_extra("cloudpickle", "train", f"executor={place!r}")
    try:
        content: bytes = cloudpickle.dumps(task)
    except Exception as error:  # pickling runs the user's code
        part, reason = _find_cause(task, cloudpickle.dumps, error)
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
            stacklevel=4,
        )
    return content


def _find_cause(task: Any, dumps: Any, error: Exception) -> tuple[str, Exception]:
    """The innermost part that cannot be pickled by itself, in words, and the error."""
    path: list[str] = []
    part, parts, seen = task, list(_parts_of(task).items()), {id(task)}
    while parts and len(path) < _CAUSE_DEPTH:
        name, inner = parts.pop(0)
        if id(inner) in seen:
            continue
        try:
            dumps(inner)
        except Exception as why:  # pickling runs the user's code
            path, part, error = [*path, name], inner, why
            seen.add(id(inner))
            parts = list(_parts_of(inner).items())
    kind = f"a {type(part).__module__}.{type(part).__qualname__}".replace("a builtins.", "a ")
    whole = next((_PARTS[name] for name in path if name in _PARTS), "the task")
    return f"{whole} ({kind} at task.{'.'.join(path)})" if path else f"the task ({kind})", error


def _parts_of(value: Any) -> dict[str, Any]:
    """The parts of a value that are pickled with it, by name."""
    if isinstance(value, type | io.IOBase | pickle.PickleBuffer):
        return {}
    if isinstance(value, list | tuple | set | frozenset):
        return {str(i): v for i, v in enumerate(value)}
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    if inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        return {**used.globals, **used.nonlocals}
    names = ("__self__", "func", "args", "keywords")  # of methods, and of functools.partial
    own = {name: getattr(value, name) for name in names if hasattr(type(value), name)}
    return {**own, **getattr(value, "__dict__", {})}


def carry_out(task_path: str, experiment: Experiment, pipe: Connection, setting: Setting) -> None:
    """Carry out one experiment and send its Run back; end at once if the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    if hasattr(signal, "SIGCHLD"):  # Ray's workers ignore it, and ranks could not be waited for
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    print_in_order()
    lock = threading.Lock()

    def send(message: Any) -> None:
        try:
            with lock:
                pipe.send(message)
        except OSError:
            os._exit(1)

    if setting.ranks == 1:
        _see_gpu(setting, 0)
        send(run_task(task_path, experiment, setting.threads, send))
    else:
        send(_launch_ranks(task_path, experiment, setting, send))
    pipe.close()
    if any(not thread.daemon for thread in threading.enumerate()[1:]):
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(0)  # Python would wait for threads that the user's code left


def run_task(
    task_path: str | Path, experiment: Experiment, threads: int, report: Report | None
) -> Run:
    """The run, by this process; without ``report`` as a rank that follows the first."""
    try:
        task: Task = pickle.loads(Path(task_path).read_bytes())
    except Exception as error:  # it may need a module that is not here
        reason = f"the task cannot be read in a worker: {type(error).__name__}: {error}"
        return Run(experiment, "failed", reason=reason, details=traceback.format_exc())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)  # for what has yet to be imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return attempt(task if report else getattr(task, "follower", task), experiment, report)


def _launch_ranks(task_path: str, experiment: Experiment, setting: Setting, report: Report) -> Run:
    """The run, by ranks that PyTorch's elastic launch starts here; all end where one is lost."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the elastic agent is all that runs in this process
    runs: list[Run] = []
    lost = ""
    key = secrets.token_bytes(32)
    with Listener(authkey=key) as listener, TemporaryDirectory(prefix="flops-fit-") as folder:
        threading.Thread(target=_accept, args=(listener, report, runs), daemon=True).start()
        path = Path(folder) / "orders"
        orders = task_path, experiment, setting, listener.address, key
        path.write_bytes(pickle.dumps(orders))
        os.environ[_ORDERS] = str(path)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        quiet = dict.fromkeys(range(1, setting.ranks), Std.OUT)  # what rank 0 prints is enough
        config = LaunchConfig(
            1, 1, setting.ranks, run_id=experiment.id, rdzv_backend="c10d", max_restarts=0,
            rdzv_endpoint="localhost:0", local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(folder, quiet),
        )  # fmt: skip
        if hasattr(config, "signals_to_handle"):  # older releases handle SIGINT as well
            config.signals_to_handle = "SIGTERM"
        try:
            elastic_launch(config, sys.executable)("-c", _RANK)
        except ChildFailedError as error:
            rank, failure = min(  # the first, as the others were ended by SIGTERM
                error.failures.items(),
                key=lambda f: (f[1].exitcode == -signal.SIGTERM, f[1].timestamp),
            )
            how = exit_words(failure.exitcode)
            lost = f"rank {rank} of {setting.ranks} {how} before the run had a result"
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from None
    if runs and (not lost or runs[0].state != "failed"):  # failed: it lost its connection
        return runs[0]
    reason = lost or f"its {setting.ranks} ranks ended without a result"
    return Run(experiment, "preempted", reason=reason, ranks=setting.ranks)


def _accept(listener: Listener, report: Report, runs: list[Run]) -> None:
    """Pass on the progress of every rank that connects and confirm its run, until it is closed."""

    def hear(connection: Connection) -> None:
        with suppress(OSError, EOFError):
            while True:
                message = connection.recv()
                if isinstance(message, Run):
                    runs.append(message)
                    connection.send(None)
                else:
                    report(message)

    with suppress(OSError, EOFError):
        while True:
            threading.Thread(target=hear, args=(listener.accept(),), daemon=True).start()


def carry_out_as_rank() -> None:
    """One rank's part of a run; it ends with the worker that launched it."""
    orders = pickle.loads(Path(os.environ[_ORDERS]).read_bytes())
    task_path, experiment, setting, address, key = orders
    rank = int(os.environ["LOCAL_RANK"])
    print_in_order()
    connection = Client(address, authkey=key)
    confirmed = threading.Event()

    def await_answer() -> None:
        try:
            connection.recv()
        except (OSError, EOFError):
            os._exit(1)  # the worker is gone
        confirmed.set()

    threading.Thread(target=await_answer, daemon=True).start()
    _see_gpu(setting, rank)
    run = run_task(task_path, experiment, setting.threads, None if rank else connection.send)
    if rank == 0:
        connection.send(run)
        confirmed.wait(_ANSWER_SECONDS)


def in_worker() -> bool:
    """Whether this process belongs to one run, and shares its standard output with others."""
    return multiprocessing.parent_process() is not None or _ORDERS in os.environ


def _see_gpu(setting: Setting, rank: int) -> None:
    if setting.gpus is not None:
        own = setting.gpus if setting.ranks == 1 else setting.gpus[rank : rank + 1]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)


def print_in_order() -> None:
    """Write out each line when it is printed, so that it keeps its place beside a subprocess's."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def exit_words(code: int | None) -> str:
    """How a process ended, by its exit code."""
    killed = code is not None and code < 0
    return f"was killed by signal {-(code or 0)}" if killed else f"exited with {code}"
