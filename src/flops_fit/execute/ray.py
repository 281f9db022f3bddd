"""Runs as tasks of a Ray cluster, or of one that is started here."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flops_fit.checks import check_whole
from flops_fit.errors import InputError, MissingExtraError, SweepError
from flops_fit.execute.attempt import Setting
from flops_fit.execute.executor import (
    GpusPerRun,
    Handle,
    Report,
    Resources,
    Task,
    cores,
)
from flops_fit.execute.process import PATIENCE
from flops_fit.execute.ray_worker import Heard, carry_out_here
from flops_fit.execute.serialize import pack
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line

_LOOK = 0.5  # seconds between looks at the progress


class RayExecutor:
    """Each run is a Ray task, in a fresh process that the task forks as the pool does.

    Ray decides where a run happens and keeps within each machine's cores and GPUs. It is told not
    to repeat a task that was lost, as a sweep does that itself. Runs that are trained by several
    ranks have them on one machine.

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
        if not callable(gpus_per_run):
            check_whole("gpus_per_run", gpus_per_run, at_least=0)
        if not callable(ranks_per_run):
            check_whole("ranks_per_run", ranks_per_run)
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._cpus, self._gpus, self._ranks = cpus_per_run, gpus_per_run, ranks_per_run
        self._shares = runs_per_gpu
        self._options = dict(options or {})
        self._ours = False
        self._refs: dict[Any, tuple[Handle, Experiment]] = {}
        self._cancelled: dict[Handle, float] = {}
        self._numbers = itertools.count()
        self._ray: Any = None
        self._task: Any = None
        self._remote: Any = None
        self._heard: Any = None
        self._report: Report = lambda progress: None

    @property
    def capacity(self) -> int:
        """How many runs fit into the cluster as it is; Ray may add machines to some."""
        ray = _import_ray()
        if self._ray is None and self._address is None and not ray.is_initialized():
            there = {"CPU": self._options.get("num_cpus") or cores()}
        else:
            self._connect()
            there = ray.cluster_resources()
        fits = [int(there.get("CPU", 0) // self._cpus)]
        if not callable(self._gpus) and self._gpus and "GPU" in there:
            fits.append(int(there["GPU"] * self._shares // self._gpus))
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

        Raises
        ------
        MissingExtraError
            Ray is not installed.
        InputTypeError
            The model, data or loss cannot be sent to another process.
        SweepError
            There is no cluster at the address.
        """
        content = pack(task, "ray")
        self._connect()
        self._task = self._ray.put(content)
        # One function for all runs: Ray schedules each by itself, and thousands would choke it.
        self._remote = self._ray.remote(max_retries=0)(carry_out_here)
        self._heard = self._ray.remote(num_cpus=0, max_restarts=-1)(Heard).remote()
        self._report = report

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Hand one experiment to Ray, which starts it where there is room.

        Raises
        ------
        InputError
            It takes more than the cluster that was started here has.
        """
        taken = resources or self._usual(experiment)
        handle = Handle(experiment.id, next(self._numbers))
        if self._task is None:
            raise SweepError(
                "executor='ray': expected start(task, report) before a run; got a run."
            )
        needs = {
            "num_cpus": taken.cpus * taken.size,
            "num_gpus": taken.gpus / self._shares if taken.gpus == 1 else taken.gpus,
        }
        self._check(experiment, needs)
        ref = self._remote.options(name=experiment.label, **needs).remote(
            self._task, experiment, Setting(taken.cpus, taken.size), bool(taken.gpus), self._heard
        )
        self._refs[ref] = handle, experiment
        return handle

    def _usual(self, experiment: Experiment) -> Resources:
        gpus = self._gpus(experiment) if callable(self._gpus) else self._gpus
        ranks = self._ranks(experiment) if callable(self._ranks) else self._ranks
        return Resources(self._cpus, gpus, ranks=None if gpus else ranks)

    def _check(self, experiment: Experiment, needs: Mapping[str, float]) -> None:
        """Of a cluster of one machine it is known that nothing larger will come."""
        if not self._ours or self._address is not None:
            return
        there = self._ray.cluster_resources()
        for name, asked in (("CPU", needs["num_cpus"]), ("GPU", needs["num_gpus"])):
            if asked > there.get(name, 0):
                raise InputError(
                    f"executor='ray': expected at most the {there.get(name, 0):g} {name}s of this "
                    f"machine for a run; {experiment.label} asks for {asked:g}. Ask for fewer, or give "
                    "the address of a larger cluster."
                )

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Pass progress on until a run has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        ended: list[Run] = []
        while self._refs and not ended:
            left = _LOOK if until is None else min(_LOOK, max(0.0, until - time.monotonic()))
            if self._ray.wait(list(self._refs), timeout=left)[0]:
                refs = list(self._refs)
                ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
                runs = [(*self._refs.pop(ref), ref) for ref in ready]
                came = [(handle, self._result(ref, experiment)) for handle, experiment, ref in runs]
                ended = [run for handle, run in came if not self._cancelled.pop(handle, 0.0)]
            self._listen()
            self._kill_the_late()
            if until is not None and time.monotonic() >= until:
                break
        return ended

    def _result(self, ref: Any, experiment: Experiment) -> Run:
        """What came of a task that has ended."""
        errors = self._ray.exceptions
        try:
            run: Run = self._ray.get(ref)
        except (
            errors.RayTaskError
        ) as error:  # our side of the task, on a machine that lacks something
            reason = error_line(getattr(error, "cause", None) or error)
            return Run(experiment, "failed", reason=reason, details=str(error))
        except errors.RayError as error:  # its worker or machine is gone, or it was cancelled
            return Run(experiment, "preempted", reason=f"Ray lost the run: {error_line(error)}")
        return run

    def _listen(self) -> None:
        """Pass on what the runs said; that nobody answers is no run's fault."""
        try:
            said = self._ray.get(self._heard.take.remote(), timeout=PATIENCE)
        except self._ray.exceptions.RayError:
            return
        for progress in said:
            self._report(progress)

    def cancel(self, handle: Handle) -> bool:
        """Stop one run: at once where it waits, after its step where it is under way."""
        ref = self._find(handle)
        if ref is None or handle in self._cancelled:
            return False
        self._cancelled[handle] = time.monotonic() + 2 * PATIENCE
        self._ray.cancel(ref, force=False)
        return True

    def _find(self, handle: Handle) -> Any:
        return next((ref for ref, (h, _) in self._refs.items() if h == handle), None)

    def _kill_the_late(self) -> None:
        for handle, at in self._cancelled.items():
            if time.monotonic() >= at and (ref := self._find(handle)) is not None:
                self._ray.cancel(ref, force=True)

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
        self._cancelled.clear()
        if self._heard is not None:
            self._ray.kill(self._heard)
        self._task = self._heard = None
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
    """Ray without its notices and without reports of its use; what was set by the user stays."""
    logger = logging.getLogger("ray")
    level = logger.level
    told = "RAY_USAGE_STATS_ENABLED" in os.environ
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not told:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
