"""Inside a worker process: one run, trained by this process or by ranks that it launches."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import pickle
import secrets
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flops_fit.execute.executor import Report, Task, attempt
from flops_fit.records import Experiment, Run

_RANK = "from flops_fit.execute.worker import carry_out_as_rank; carry_out_as_rank()"
_ORDERS = "FLOPS_FIT_RANK_ORDERS"  # the environment variable that names a rank's file of orders
_ANSWER_SECONDS = 20.0  # that a worker may take to confirm the run of its first rank


@dataclass(frozen=True)
class Setting:
    """What a run's process is given: threads, and ranks that share its batches.

    ``gpus`` are the devices of its ranks, one each, as CUDA_VISIBLE_DEVICES names them; ``None``
    leaves the devices as they are.
    """

    threads: int = 1
    ranks: int = 1
    gpus: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Orders:
    """What a worker tells its ranks, in a file: the run, and where rank 0 reports."""

    task_path: str
    experiment: Experiment
    setting: Setting
    address: Any
    key: bytes


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


def run_task(
    task_path: str | Path, experiment: Experiment, threads: int, report: Report | None
) -> Run:
    """The run, by this process; without ``report`` as a rank that follows the first."""
    try:
        task: Task = pickle.loads(Path(task_path).read_bytes())
    except Exception as error:  # it may need a module that is not here
        reason = f"the task cannot be read in a worker: {type(error).__name__}: {error}"
        return Run(experiment, "failed", reason=reason, details=traceback.format_exc())
    pin_threads(threads)
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
        path.write_bytes(
            pickle.dumps(_Orders(task_path, experiment, setting, listener.address, key))
        )
        os.environ[_ORDERS] = str(path)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        quiet = dict.fromkeys(range(1, setting.ranks), Std.OUT)  # what rank 0 prints is enough
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=setting.ranks,
            run_id=experiment.id,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder, quiet),
        )
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
    orders: _Orders = pickle.loads(Path(os.environ[_ORDERS]).read_bytes())
    rank = int(os.environ["LOCAL_RANK"])
    print_in_order()
    connection = Client(orders.address, authkey=orders.key)
    confirmed = threading.Event()

    def await_answer() -> None:
        try:
            connection.recv()
        except (OSError, EOFError):
            os._exit(1)  # the worker is gone
        confirmed.set()

    threading.Thread(target=await_answer, daemon=True).start()
    _see_gpu(orders.setting, rank)
    report = None if rank else connection.send
    run = run_task(orders.task_path, orders.experiment, orders.setting.threads, report)
    if rank == 0:
        connection.send(run)
        confirmed.wait(_ANSWER_SECONDS)


def in_worker() -> bool:
    """Whether this process belongs to one run, and shares its standard output with others."""
    return multiprocessing.parent_process() is not None or _ORDERS in os.environ


def _see_gpu(setting: Setting, rank: int) -> None:
    if setting.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(setting.gpus[rank : rank + 1])


def print_in_order() -> None:
    """Write out each line when it is printed, so that it keeps its place beside a subprocess's."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def pin_threads(threads: int) -> None:
    """Set the number of threads of this process, in torch and in what has yet to be imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def exit_words(code: int | None) -> str:
    """How a process ended, by its exit code."""
    return (
        f"was killed by signal {-code}" if code is not None and code < 0 else f"exited with {code}"
    )
