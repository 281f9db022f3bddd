"""Runs as tasks of a Ray cluster, or of one that is started here."""

import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flops_fit.errors import InputError, SweepError, check_whole
from flops_fit.execute.executor import GpusPerRun, Handle, RemoteExecutor, Resources, Started
from flops_fit.execute.process import Setting, fresh_processes, pack, start_worker, stop
from flops_fit.lazy import import_extra
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.train.config import cores
from flops_fit.train.trainer import Progress

_POLL_SECONDS = 0.5  # between looks at the progress; Ray does not cancel a longer wait
_PROGRESS_SECONDS = 20.0  # that fetching the progress of all runs may take
_DELIVERY_SECONDS = 5.0  # that the last progress of a run may take
_NODES_SECONDS = 5.0  # between looks at which machines are there


class RayExecutor(RemoteExecutor):
    """Each run is a Ray task, in a fresh process that the task forks as the pool does.

    Ray decides where a run happens and keeps within each machine's cores and GPUs. The sweep itself
    repeats tasks that were lost. All ranks of a run are on one machine. MissingExtraError where Ray is
    not installed.

    >>> RayExecutor(cpus_per_run=2, options={"num_cpus": 8}).capacity
    4

    ``address`` is that of a cluster, such as ``"auto"`` on one of its machines or ``"10.0.0.1:6379"``; by
    default that in RAY_ADDRESS, else a cluster of this machine alone is started and taken down again. A
    connection that the caller has made with ``ray.init`` is used and left open. ``cpus_per_run``,
    ``gpus_per_run`` and ``ranks_per_run`` are as for :class:`SlurmExecutor`; ``runs_per_gpu`` runs share a
    GPU. ``options`` are more for ``ray.init``: ``runtime_env``, ``num_cpus`` of a cluster started here, and
    so on.
    """

    cancel_seconds = 2 * RemoteExecutor.cancel_seconds

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
        self._cpus, self._shares = cpus_per_run, runs_per_gpu
        self._options = dict(options or {})
        self._ours = False
        self._ray: Any = None
        self._task: Any = None
        self._remote: Any = None
        self._progress: Any = None
        self._places: dict[int, str] = {}  # the machine of each submission that has begun
        self._nodes_due = 0.0
        super().__init__(gpus_per_run, ranks_per_run)

    @property
    def capacity(self) -> int:
        """How many runs fit into the cluster as it is; Ray may add machines to some."""
        ray = import_extra("ray", "ray", "executor='ray'")
        if self._ray is None and self._address is None and not ray.is_initialized():
            total = {"CPU": self._options.get("num_cpus") or cores()}
        else:
            self._connect()
            total = ray.cluster_resources()
        fits = [int(total.get("CPU", 0) // self._cpus)]
        gpus = self._gpus_per_run
        if not callable(gpus) and gpus and "GPU" in total:
            fits.append(int(total["GPU"] * self._shares // gpus))
        return max(1, min(fits))

    def _connect(self) -> None:
        if self._ray is not None:
            return
        ray = import_extra("ray", "ray", "executor='ray'")
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

    def _prepare(self, task: Any) -> None:
        """Connect, and put the task into the cluster's object store, once."""
        content = pack(task, "ray")
        self._connect()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._task = self._ray.put(content)
        # One function for all runs: Ray schedules each function by itself, and thousands overload it.
        self._remote = self._ray.remote(max_retries=0)(_carry_out_here)
        # Beside the driver, as another machine may go.
        here = self._ray.get_runtime_context().get_node_id()
        beside = NodeAffinitySchedulingStrategy(here, soft=True)
        actor = self._ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=beside)
        self._progress = actor(_Progress).remote()

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Hand one experiment to Ray; InputError where a cluster started here is too small for it."""
        run = resources or self._default(experiment, self._cpus)
        self._require_start("ray", self._task)
        cpus = run.cpus * run.size
        gpus = run.gpus / self._shares if run.gpus == 1 else run.gpus
        if self._ours and self._address is None:
            total = self._ray.cluster_resources()
            for name, number in (("CPU", cpus), ("GPU", gpus)):
                if number > total.get(name, 0):
                    raise InputError(
                        f"executor='ray': expected at most the {total.get(name, 0):g} {name}s of this "
                        f"machine for a run; {experiment.label} asks for {number:g}. Ask for fewer, "
                        "or give the address of a larger cluster."
                    )
        handle = Handle(experiment.id, next(self._numbers))
        ref = self._remote.options(name=experiment.label, num_cpus=cpus, num_gpus=gpus).remote(
            self._task,
            experiment,
            Setting(run.cpus, run.size),
            bool(run.gpus),
            self._progress,
            handle.number,
        )
        self._running[handle] = Started(handle, experiment, ref, run)
        return handle

    def _look(self, until: float) -> Iterable[tuple[Started, Run]]:
        by_ref = {started.job: started for started in self._running.values()}
        left = min(_POLL_SECONDS, max(0.0, until - time.monotonic()))
        ready: list[Any] = []
        if self._ray.wait(list(by_ref), timeout=left)[0]:
            ready, _ = self._ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        ended = [(by_ref[ref], self._result(ref, by_ref[ref].experiment)) for ref in ready]
        with suppress(self._ray.exceptions.RayError):  # runs continue without their progress
            newest, places = self._ray.get(self._progress.take.remote(), timeout=_PROGRESS_SECONDS)
            self._places |= places
            for progress in newest:
                self._report(progress)
        return [*ended, *self._on_lost_nodes(set(by_ref) - set(ready), by_ref)]

    def _on_lost_nodes(
        self, refs: Iterable[Any], by_ref: Mapping[Any, Started]
    ) -> Iterator[tuple[Started, Run]]:
        """Runs whose machine Ray has given up: where its cable is cut, the driver hears nothing of them."""
        if time.monotonic() < self._nodes_due:
            return
        self._nodes_due = time.monotonic() + _NODES_SECONDS
        lost = {node["NodeID"] for node in self._ray.nodes() if not node["Alive"]}
        for ref in refs:
            started = by_ref[ref]
            if self._places.get(started.handle.number) in lost:
                self._ray.cancel(ref, force=True)
                reason = "Ray lost the run: its machine is gone"
                yield started, Run(started.experiment, "preempted", reason=reason)

    def _result(self, ref: Any, experiment: Experiment) -> Run:
        errors = self._ray.exceptions
        try:
            run: Run = self._ray.get(ref)
            return run
        except errors.RayTaskError as error:  # a machine that lacks something
            reason = error_line(getattr(error, "cause", None) or error)
            return Run(experiment, "failed", reason=reason, details=str(error))
        except errors.RayError as error:  # its worker or machine is gone, or it was cancelled
            return Run(experiment, "preempted", reason=f"Ray lost the run: {error_line(error)}")

    def _stop(self, started: Started) -> None:
        self._ray.cancel(started.job, force=False)

    def _give_up(self, started: Started) -> None:
        self._ray.cancel(started.job, force=True)

    def close(self) -> None:
        """Cancel what is left, and take down what was started here."""
        if self._ray is None:
            return
        refs = [started.job for started in self._running.values()]
        for ref in refs:
            self._ray.cancel(ref, force=False)
        if refs:
            _, late = self._ray.wait(refs, num_returns=len(refs), timeout=self.cancel_seconds)
            for ref in late:
                self._ray.cancel(ref, force=True)
        self._running.clear()
        if self._progress is not None:
            self._ray.kill(self._progress)
        self._task = self._progress = None
        if self._ours:
            with _silence():
                self._ray.shutdown()
        self._ray, self._ours = None, False


@contextmanager
def _silence() -> Iterator[None]:
    """No notices by Ray and no reports of its use; what the user has set stays."""
    logger = logging.getLogger("ray")
    level, kept = logger.level, os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = kept or "0"
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if kept is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]


class _Progress:
    """The newest progress of every run, and where runs began, until the driver takes it; an actor."""

    def __init__(self) -> None:
        self._newest: dict[str, Progress] = {}
        self._places: dict[int, str] = {}

    def begin(self, number: int, node: str) -> None:
        self._places[number] = node

    def put(self, progress: Progress) -> None:
        self._newest[progress.experiment_id] = progress

    def take(self) -> tuple[list[Progress], dict[int, str]]:
        newest, places = list(self._newest.values()), self._places
        self._newest, self._places = {}, {}
        return newest, places


def _carry_out_here(
    content: bytes,
    experiment: Experiment,
    setting: Setting,
    with_gpus: bool,
    progress: Any,
    number: int,
) -> Run:
    """The run in a process that is forked for it, so that nothing of it stays for the next run."""
    import ray

    progress.begin.remote(number, ray.get_runtime_context().get_node_id())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray cancels
    if with_gpus:
        ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        setting = replace(setting, gpus=tuple(str(i) for i in ids))
    delivery = message = None
    with TemporaryDirectory(prefix="flops-fit-") as folder:
        task = Path(folder) / "task"
        task.write_bytes(content)
        worker = start_worker(fresh_processes(content), str(task), experiment, setting)
        try:
            while not isinstance(message, Run):
                if isinstance(message, Progress):
                    delivery = progress.put.remote(message)
                wait(list(worker.waits_for()), _POLL_SECONDS)
                message = worker.read()
            worker.end()
        except BaseException:
            stop([worker])
            raise
    if delivery is not None:
        ray.wait([delivery], timeout=_DELIVERY_SECONDS)
    return message
