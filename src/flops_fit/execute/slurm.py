"""Runs as jobs of a Slurm cluster, submitted through submitit."""

import hashlib
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from flops_fit.errors import InputError, OutputError, SweepError, check_choice, check_whole
from flops_fit.execute.executor import GpusPerRun, Handle, RemoteExecutor, Resources, Started
from flops_fit.execute.process import pack
from flops_fit.execute.slurm_jobs import Job, JobMonitor
from flops_fit.files import write_atomic
from flops_fit.lazy import import_extra
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.train.config import cores

_ARRAY_JOBS = 1000  # in one array: Slurm's MaxArraySize is 1001 unless a site changes it
_MAX_JOBS = 256  # by default
_OF_SITE = ("SLURM_CONF", "SLURM_CONF_SERVER")  # by which Slurm's commands find their cluster


class SlurmExecutor(RemoteExecutor):
    """Each run is a Slurm job of its own; jobs that can start together are submitted as one array.

    A job whose time is up ends its step, keeps a checkpoint and is queued again; it continues
    from there. Start the same command again after the driver has died, and the jobs that are still
    queued or running are found and not submitted twice. MissingExtraError where submitit is not
    installed.

    >>> slurm = SlurmExecutor("/tmp/flops-fit-jobs", partition="gpu", time=240, gpus_per_run=1)
    >>> slurm.capacity
    256

    submitit keeps its files in ``folder``, which all machines have to see. By default it is
    ``~/.flops-fit/slurm/<hash of the folder and command that started this script>``, which only you can
    open: it holds pickles, and anyone who can write them can run code as you. So a folder that others own
    or can write, or that holds a file of others, is refused. Two sweeps that run at once need a folder each.

    ``partition`` is Slurm's, ``time`` the minutes after which a job is queued again, at most ``requeues``
    times. Each process of a run has ``cpus_per_run`` cores, and threads. ``gpus_per_run`` GPUs, or without
    GPUs ``ranks_per_run`` tasks, train a run together; both may be a function of the experiment. One
    machine has ``gpus_per_node`` GPUs. ``options`` are more for sbatch, by submitit's names:
    ``{"account": "x", "mem": "32GB", "setup": [...]}``; of these ``setup`` holds shell commands, and
    the others are one line each.

    At most ``max_jobs`` are queued or running at the same time. Closing cancels them; ``keep_running``
    leaves them alone when the driver ends, and the same command finds them again. Results are looked at
    every ``poll_seconds``, Slurm itself is asked twice a minute at most. The ``cluster`` ``"local"`` starts
    jobs on this machine without Slurm, to try the script.
    """

    cancel_seconds = 60.0  # Slurm kills a cancelled job after 30, by default

    def __init__(
        self,
        folder: str | Path | None = None,
        partition: str | None = None,
        time: int = 60,
        cpus_per_run: int = 1,
        gpus_per_run: GpusPerRun = 0,
        *,
        ranks_per_run: GpusPerRun = 1,
        gpus_per_node: int = 8,
        max_jobs: int | None = None,
        requeues: int = 100,
        keep_running: bool = False,
        poll_seconds: float | None = None,
        cluster: Literal["slurm", "local"] = "slurm",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("cluster", cluster, ("slurm", "local"))
        counts = {"time": time, "cpus_per_run": cpus_per_run, "gpus_per_node": gpus_per_node}
        for name, value in {**counts, "max_jobs": 1 if max_jobs is None else max_jobs}.items():
            check_whole(name, value)
        check_whole("requeues", requeues, at_least=0)
        local = cluster == "local"
        self.folder = Path(folder).expanduser().absolute() if folder else _folder_of_command()
        self.capacity = max_jobs or (max(1, cores() // cpus_per_run) if local else _MAX_JOBS)
        self._local, self._keep_running = local, keep_running
        self._time, self._partition, self._requeues = time, partition, requeues
        self._cpus, self._gpus_per_node = cpus_per_run, gpus_per_node
        self._poll_seconds = poll_seconds or (0.05 if local else 2.0)
        self._options = dict(options or {})
        lines = {"folder": str(self.folder), "partition": partition, **self._options}
        for name, value in lines.items():  # a new line of a batch script would be a command
            if isinstance(value, str) and not value.isprintable():
                raise InputError(f"{name}: expected one line of text for sbatch; got {value!r}.")
        self._task: tuple[str, str] | None = None
        super().__init__(gpus_per_run, ranks_per_run)

    def _prepare(self, task: Any) -> None:
        """Write the task where jobs can read it, and look up the jobs of an earlier driver."""
        submitit = import_extra("submitit", "slurm", "executor='slurm'")
        content = pack(task, "slurm")
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{digest[:16]}.task"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(self.folder)
            write_atomic(path, content, private=True)
        except OSError as error:
            raise OutputError(
                f"folder: expected one that can be written, and that all machines see; {self.folder} "
                f"cannot ({error_line(error)}). Give another as SlurmExecutor(folder=...)."
            ) from error
        kind = submitit.LocalExecutor if self._local else submitit.SlurmExecutor
        try:
            self._submitit = kind(self.folder, max_num_timeout=self._requeues)
        except RuntimeError as error:
            raise SweepError(
                f"executor='slurm': expected Slurm's commands on this machine ({error}). Start the "
                "script on a login node, or try it with SlurmExecutor(cluster='local')."
            ) from error
        self._submitit._throttling = 0.0 if self._local else 0.2
        self._task = str(path), digest
        self._monitor = JobMonitor(self.folder, self._local)
        make = self._submitit.job_class
        self._earlier = {
            name: make(self.folder, job_id, list(range(tasks)))
            for name, (job_id, tasks) in self._monitor.earlier().items()
        }
        self._monitor.query(list(self._earlier.values()))

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Queue one experiment for the next ``poll``, or find the job that already makes it."""
        self._require_start("slurm", self._task)
        needs = resources or self._default(experiment, self._cpus)
        if needs.gpus > self._gpus_per_node and needs.gpus % self._gpus_per_node:
            raise InputError(
                f"gpus_per_run: expected at most the {self._gpus_per_node} GPUs of a machine, or a multiple "
                f"of them; {experiment.label} asks for {needs.gpus}. Set gpus_per_node=."
            )
        handle = Handle(experiment.id, next(self._numbers))
        job = self._earlier.pop(experiment.id, None)
        if job is not None and self._monitor.is_live(job):
            self._running[handle] = Started(handle, experiment, job, needs)
        else:
            self._queue.append((handle, experiment, needs))
        return handle

    def _fill(self) -> None:
        """Submit what fits, in order; neighbours with the same resources become one array."""
        while self._queue and len(self._running) < self.capacity:
            from submitit.helpers import clean_env

            assert self._task is not None
            slots = min(self.capacity - len(self._running), _ARRAY_JOBS)
            needs = self._queue[0][2]
            batch: list[tuple[Handle, Experiment, Resources]] = []
            while self._queue and len(batch) < slots and self._queue[0][2] == needs:
                batch.append(self._queue.popleft())
            path = tuple(sys.path)
            try:
                # Of a job that this driver may run in; where Slurm's configuration is stays.
                where = {n: os.environ[n] for n in _OF_SITE if n in os.environ}
                with clean_env():
                    os.environ.update(where)
                    self._submitit.update_parameters(**self._parameters(needs))
                    jobs = self._submitit.submit_array(
                        [Job(*self._task, path, e, needs.cpus, needs.size) for _, e, _ in batch]
                    )
            except Exception as error:  # of sbatch, of submitit, of what the options say
                self._queue.extendleft(reversed(batch))
                raise SweepError(
                    f"executor='slurm': the jobs were not accepted ({error_line(error)}). Jobs that are "
                    "under way go on; correct partition, time or options and call again."
                ) from error
            for (handle, experiment, _), job in zip(batch, jobs, strict=True):
                self._running[handle] = Started(handle, experiment, job, needs)
                job.paths.submitted_pickle.chmod(0o600)

    def _parameters(self, needs: Resources) -> dict[str, Any]:
        """By submitit's names."""
        minutes = math.ceil((needs.seconds or self._time * 60.0) / 60)
        nodes = math.ceil(needs.gpus / self._gpus_per_node) or 1
        tasks, gpus = max(1, needs.size // nodes), needs.gpus // nodes
        if self._local:
            local = {"timeout_min": minutes, "tasks_per_node": tasks, "gpus_per_node": gpus}
            return {**local, **self._options}
        parameters = {
            "time": minutes, "nodes": nodes, "ntasks_per_node": tasks, "gpus_per_node": gpus or None,
            "cpus_per_task": needs.cpus, "job_name": "flops-fit",
            "array_parallelism": self.capacity, "partition": self._partition,
        }  # fmt: skip
        given = {name: value for name, value in parameters.items() if value is not None}
        return {**given, **self._options}

    def _look(self, until: float) -> Iterable[tuple[Started, Run]]:
        finished = self._monitor.finished(list(self._running.values()))
        ended = {started.handle for started, _ in finished}
        names = [s.experiment.id for h, s in self._running.items() if h not in ended]
        for progress in self._monitor.progress(names):
            self._report(progress)
        if not finished and time.monotonic() < until:
            time.sleep(self._poll_seconds)
        return finished

    def _stop(self, started: Started) -> None:
        self._monitor.stop(started.job)

    def close(self) -> None:
        """Cancel what is left, unless ``keep_running``; the logs of runs that failed are kept."""
        self._queue.clear()
        if self._task is not None and not self._keep_running:
            earlier = filter(self._monitor.is_live, self._earlier.values())
            self._monitor.stop_all([*(started.job for started in self._running.values()), *earlier])
            Path(self._task[0]).unlink(missing_ok=True)
        self._running.clear()
        self._task = None


def _check_private(folder: Path) -> None:
    """OutputError where others could have put a pickle into the folder, or could change one."""
    if sys.platform == "win32":
        return
    # Where others cannot enter, the modes of its files say nothing.
    entered = folder.stat().st_mode & 0o011
    for path in (folder, *folder.iterdir()):
        status = path.stat() if path == folder else path.lstat()
        reached = path == folder or (entered and not path.is_symlink())
        writable = status.st_mode & 0o022 and reached
        own = status.st_uid == os.geteuid()
        if not own or writable:
            what = f"can be written by others (mode {status.st_mode & 0o7777:o})"
            what = what if own else f"belongs to user {status.st_uid}"
            raise OutputError(
                "folder: expected one that only you can write, with files of your own, as its pickles are "
                f"run as code; {path} {what}. Take the others' rights away (chmod go-w), or give a new "
                "folder as SlurmExecutor(folder=...)."
            )


def _folder_of_command() -> Path:
    """One folder for one command and working directory, so that a new driver finds the old jobs."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    command = [os.getcwd(), *([str(script), *sys.argv[1:]] if script else [])]
    name = hashlib.sha256("\0".join(command).encode()).hexdigest()[:16]
    return Path.home() / ".flops-fit" / "slurm" / name
