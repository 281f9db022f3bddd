"""Runs as tasks of a Ray cluster, or of one that is started here."""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flops_fit.checks import check_whole
from flops_fit.errors import InputError, MissingExtraError, SweepError
from flops_fit.execute.executor import (
    GpusPerRun,
    Handle,
    PerRun,
    Report,
    Resources,
    Task,
    cores,
)
from flops_fit.execute.process import PATIENCE, fresh_processes, pack, start_worker, stop
from flops_fit.execute.worker import Setting
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.train.trainer import Progress

_POLL_SECONDS = 0.5  # between looks at the progress; Ray does not cancel a longer wait
_DELIVERY_SECONDS = 5.0  # that the last progress of a run may take


class RayExecutor:
    """Each run is a Ray task, in a fresh process that the task forks as the pool does.

    Ray decides where a run happens and keeps within each machine's cores and GPUs. It does not
    repeat a task that was lost, as the sweep does that itself. All ranks of a run are on one
    machine.

    Parameters
    ----------
    address
        Of a cluster, such as ``"auto"`` on one of its machines or ``"10.0.0.1:6379"``; by default
        that in RAY_ADDRESS, else a cluster of this machine alone is started and taken down again.
        A connection that the caller has made with ``ray.init`` is used and left open.
    cpus_per_run
        Cores, and threads, of each process of a run.
    gpus_per_run
        GPUs of one run, or a function of the experiment; with more than one, as many ranks train
        it together.
    runs_per_gpu
        Runs that share a GPU.
    ranks_per_run
        Processes that train a run together where it has no GPUs.
    options
        More for ``ray.init``: ``runtime_env``, ``num_cpus`` of a cluster started here, and so on.

    Raises
    ------
    MissingExtraError
        Ray is not installed.

    Examples
    --------
    >>> RayExecutor(cpus_per_run=2, options={"num_cpus": 8}).capacity
    4
    """

    def __init__(
        self,
        address: str | None = None,
        cpus_per_run: int = 1,
        gpus_per_run: GpusPerRun = 0,
        *,
        runs_per_gpu: int = 1,
        ranks_per_run: GpusPerRun = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_whole("cpus_per_run", cpus_per_run)
        check_whole("runs_per_gpu", runs_per_gpu)
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._per_run = PerRun(gpus_per_run, ranks_per_run)
        self._cpus, self._shares = cpus_per_run, runs_per_gpu
        self._options = dict(options or {})
        self._ours = False
        self._refs: dict[Any, tuple[Handle, Experiment]] = {}
        self._kill_at: dict[Any, float] = {}  # of cancelled runs
        self._numbers = itertools.count()
        self._ray: Any = None
        self._task: Any = None
        self._remote: Any = None
        self._progress: Any = None
        self._report: Report = lambda progress: None

    @property
    def capacity(self) -> int:
        """How many runs fit into the cluster as it is; Ray may add machines to some."""
        ray = _import_ray()
        if self._ray is None and self._address is None and not ray.is_initialized():
            total = {"CPU": self._options.get("num_cpus") or cores()}
        else:
            self._connect()
            total = ray.cluster_resources()
        fits = [int(total.get("CPU", 0) // self._cpus)]
        gpus = self._per_run.gpus
        if not callable(gpus) and gpus and "GPU" in total:
            fits.append(int(total["GPU"] * self._shares // gpus))
        return max(1, min(fits))

    def _connect(self) -> None:
        if self._ray is not None:
            return
        ray = _import_ray()
        if not ray.is_initialized():
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if self._address is None:
                quiet |= {"num_cpus": cores(), "include_dashboard": False}
            with _silence():
                try:
                    ray.init(address=self._address, **{**quiet, **self._options})
                except Exception as error:  # Ray raises plain ones where a node does not start
                    where = self._address or "this machine"
                    raise SweepError(
                        f"executor='ray': no cluster at {where} ({error_line(error)}). Start one with "
                        "'ray start --head' and give its address, or leave address out for one of "
                        "this machine alone."
                    ) from error
            self._ours = True
        self._ray = ray

    def start(self, task: Task, report: Report) -> None:
        """Connect, and put the task into the cluster's object store, once.

        MissingExtraError without Ray, InputTypeError where the task cannot be pickled, SweepError
        without a cluster at the address.
        """
        content = pack(task, "ray")
        self._connect()
        self._task = self._ray.put(content)
        # One function for all runs: Ray schedules each function by itself, and thousands overload it.
        self._remote = self._ray.remote(max_retries=0)(_carry_out_here)
        self._progress = self._ray.remote(num_cpus=0, max_restarts=-1)(_Progress).remote()
        self._report = report

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Hand one experiment to Ray, which starts it where it fits.

        Raises
        ------
        InputError
            It takes more than the cluster that was started here has.
        """
        run = resources or self._per_run.resources(experiment, self._cpus)
        handle = Handle(experiment.id, next(self._numbers))
        if self._task is None:
            raise SweepError(
                "executor='ray': expected start(task, report) before a run; got a run."
            )
        needs = {
            "num_cpus": run.cpus * run.size,
            "num_gpus": run.gpus / self._shares if run.gpus == 1 else run.gpus,
        }
        self._check(experiment, needs)
        ref = self._remote.options(name=experiment.label, **needs).remote(
            self._task, experiment, Setting(run.cpus, run.size), bool(run.gpus), self._progress
        )
        self._refs[ref] = handle, experiment
        return handle

    def _check(self, experiment: Experiment, needs: Mapping[str, float]) -> None:
        """A cluster that was started here does not grow."""
        if not self._ours or self._address is not None:
            return
        total = self._ray.cluster_resources()
        for name, number in (("CPU", needs["num_cpus"]), ("GPU", needs["num_gpus"])):
            if number > total.get(name, 0):
                raise InputError(
                    f"executor='ray': expected at most the {total.get(name, 0):g} {name}s of this "
                    f"machine for a run; {experiment.label} asks for {number:g}. Ask for fewer, or give "
                    "the address of a larger cluster."
                )

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Pass progress on until a run has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        ended: list[Run] = []
        while self._refs and not ended:
            left = math.inf if until is None else max(0.0, until - time.monotonic())
            refs = list(self._refs)
            if self._ray.wait(refs, timeout=min(_POLL_SECONDS, left))[0]:
                ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
                for ref in ready:
                    run = self._result(ref, self._refs.pop(ref)[1])
                    if self._kill_at.pop(ref, None) is None:
                        ended.append(run)
            self._pass_on_progress()
            for ref, moment in self._kill_at.items():
                if time.monotonic() >= moment:
                    self._ray.cancel(ref, force=True)
            if until is not None and time.monotonic() >= until:
                break
        return ended

    def _result(self, ref: Any, experiment: Experiment) -> Run:
        """The run of a task that has ended."""
        errors = self._ray.exceptions
        try:
            run: Run = self._ray.get(ref)
        except errors.RayTaskError as error:  # a machine that lacks something
            reason = error_line(getattr(error, "cause", None) or error)
            return Run(experiment, "failed", reason=reason, details=str(error))
        except errors.RayError as error:  # its worker or machine is gone, or it was cancelled
            return Run(experiment, "preempted", reason=f"Ray lost the run: {error_line(error)}")
        return run

    def _pass_on_progress(self) -> None:
        """Pass the progress of the runs on; where it cannot be had, they go on without."""
        with suppress(self._ray.exceptions.RayError):
            for progress in self._ray.get(self._progress.take.remote(), timeout=PATIENCE):
                self._report(progress)

    def cancel(self, handle: Handle) -> bool:
        """Stop one run: at once where it waits, after its step where it is under way."""
        for ref, (known, _) in self._refs.items():
            if known == handle and ref not in self._kill_at:
                self._kill_at[ref] = time.monotonic() + 2 * PATIENCE
                self._ray.cancel(ref, force=False)
                return True
        return False

    def close(self) -> None:
        """Cancel what is left, and take down what was started here."""
        if self._ray is None:
            return
        refs = list(self._refs)
        for ref in refs:
            self._ray.cancel(ref, force=False)
        if refs:
            _, late = self._ray.wait(refs, num_returns=len(refs), timeout=2 * PATIENCE)
            for ref in late:
                self._ray.cancel(ref, force=True)
        self._refs.clear()
        self._kill_at.clear()
        if self._progress is not None:
            self._ray.kill(self._progress)
        self._task = self._progress = None
        if self._ours:
            with _silence():
                self._ray.shutdown()
        self._ray, self._ours = None, False


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "executor='ray'") from None
    return ray


@contextmanager
def _silence() -> Iterator[None]:
    """No notices by Ray and no reports of its use; what the user has set stays."""
    logger = logging.getLogger("ray")
    level = logger.level
    is_set = "RAY_USAGE_STATS_ENABLED" in os.environ
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not is_set:
            del os.environ["RAY_USAGE_STATS_ENABLED"]


class _Progress:
    """The newest progress of every run, until the driver takes it; an actor."""

    def __init__(self) -> None:
        self._newest: dict[str, Progress] = {}

    def put(self, progress: Progress) -> None:
        """A run has come this far."""
        self._newest[progress.experiment_id] = progress

    def take(self) -> list[Progress]:
        """The progress since the last call."""
        newest, self._newest = list(self._newest.values()), {}
        return newest


def _carry_out_here(
    content: bytes, experiment: Experiment, setting: Setting, with_gpus: bool, progress: Any
) -> Run:
    """The run in a process that is forked for it, so that nothing of it stays for the next run.

    Ray could end its worker after each task instead, and would start Python and import itself for
    every run. The server to fork from is started once per worker.
    """
    import ray

    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray cancels
    if with_gpus:
        ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        setting = replace(setting, gpus=tuple(str(i) for i in ids))
    delivery = None
    with TemporaryDirectory(prefix="flops-fit-") as folder:
        task = Path(folder) / "task"
        task.write_bytes(content)
        worker = start_worker(fresh_processes(content), str(task), experiment, setting)
        try:
            while True:
                if not wait(list(worker.waits_for()), _POLL_SECONDS):
                    continue
                message = worker.read()
                if isinstance(message, Run):
                    worker.end()
                    break
                if message is not None:
                    delivery = progress.put.remote(message)
        except BaseException:
            stop([worker])
            raise
    if delivery is not None:
        ray.wait([delivery], timeout=_DELIVERY_SECONDS)
    return message
