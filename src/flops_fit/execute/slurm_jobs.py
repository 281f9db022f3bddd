"""Jobs of Slurm: what happens inside one, and what the driver learns of it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flops_fit.execute.executor import PATIENCE, Started
from flops_fit.execute.process import print_in_order, run_task
from flops_fit.files import write_atomic
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.train.monitor import end_by
from flops_fit.train.trainer import Progress

_REQUEUE_SECONDS = 60.0  # that rank 0 has to put the job back into the queue
_QUERY_SECONDS = 30.0  # between two queries of Slurm, each of which covers all jobs
_ANSWER_SECONDS = 60.0  # that Slurm may take to answer
_LAG_SECONDS = 60.0  # that a file may take to be seen, or Slurm to requeue a job
_UNKNOWN_SECONDS = 600.0  # that Slurm may not know of a job that it has accepted
_LIVE_STATES = (
    "PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING",
    "REQUEUE_HOLD", "REQUEUE_FED", "STOPPED", "SIGNALING", "STAGE_OUT", "READY",
)  # fmt: skip
_HELD = "launch failed requeued held"  # a job that waits until someone releases it
_SUBMITTED = "_submitted.pkl"  # how submitit's files end, after the job's id
_NOT_REQUEUED = "Job not requeued because"


@dataclass(frozen=True)
class Job:
    """One run as submitit starts it, on every rank; pickled into submitit's folder."""

    task_path: str  # all jobs of a sweep share the task
    digest: str  # its SHA-256
    sys_path: tuple[str, ...]  # the driver's
    experiment: Experiment
    threads: int
    tasks: int  # of Slurm's, one a rank

    def __call__(self) -> Run:
        """Carry out the run; when the time is up, end the step, keep a checkpoint and requeue."""
        from submitit import JobEnvironment

        print_in_order()
        job: Any = JobEnvironment()
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if job.num_tasks > 1:
            _be_rank(job)
        if hashlib.sha256(Path(self.task_path).read_bytes()).hexdigest() != self.digest:
            reason = f"the task at {self.task_path} was changed since the run was submitted"
            return Run(self.experiment, "failed", reason=reason)
        sys.path += [path for path in self.sys_path if path not in sys.path]
        time_up = _TimeUp()
        try:
            report = None if job.global_rank else self._report
            return run_task(self.task_path, self.experiment, self.threads, report)
        except SystemExit:
            time_up.requeue()
            raise

    def checkpoint(self) -> Any:
        """A requeued job does the same: its run continues from its newest checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _report(self, progress: Progress) -> None:
        path = progress_path(Path(self.task_path).parent, progress.experiment_id)
        with suppress(OSError):  # a full disk is no reason to end a run that only reports progress
            write_atomic(path, json.dumps(asdict(progress)), durable=False)


class _TimeUp:
    """Passes Slurm's warning that time is up to the run as SIGTERM, which it obeys after its step."""

    def __init__(self) -> None:
        from submitit import JobEnvironment

        self._number = JobEnvironment._usr_sig()
        self._submitit: Any = signal.getsignal(self._number)
        self._is_up = False
        signal.signal(signal.SIGTERM, lambda number, frame: end_by(number))
        signal.signal(self._number, self._warn)

    def _warn(self, number: int, frame: Any) -> None:
        self._is_up = True
        handler: Any = signal.getsignal(signal.SIGTERM)
        handler(signal.SIGTERM, frame)

    def requeue(self) -> None:
        """Let submitit put the job back into the queue, if its time was up."""
        if self._is_up:
            self._submitit(self._number, None)  # exits, except on ranks that are not the first
            time.sleep(_REQUEUE_SECONDS)


def progress_path(folder: Path, experiment_id: str) -> Path:
    """Where a run reports its progress."""
    return folder / f"{experiment_id}.progress.json"


def _be_rank(job: Any) -> None:
    """Set this process's environment as ``torchrun`` would; it sees its own GPU alone."""
    local_size = job.num_tasks // job.num_nodes
    os.environ |= {
        "RANK": str(job.global_rank),
        "LOCAL_RANK": str(job.local_rank),
        "WORLD_SIZE": str(job.num_tasks),
        "LOCAL_WORLD_SIZE": str(local_size),
        "MASTER_ADDR": job.hostnames[0] if job.num_nodes > 1 else "127.0.0.1",
        # The same on every rank of a job.
        "MASTER_PORT": str(20000 + zlib.crc32(job.job_id.encode()) % 20000),
    }
    gpus = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
    if len(gpus) >= local_size:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[job.local_rank]


class JobMonitor:
    """Looks after the jobs in one folder; ``local`` ones are processes of this machine."""

    def __init__(self, folder: Path, local: bool) -> None:
        self._folder, self._local = folder, local
        self._queried = float("-inf")
        self._states: dict[str, str] | None = None  # of jobs by their ids; None before an answer
        self._ended_since: dict[str, float] = {}
        self._reported: dict[str, int] = {}

    def earlier(self) -> dict[str, tuple[str, int]]:
        """The job and its number of tasks of each experiment whose end no driver has seen.

        submitit keeps what a job is to do in a file from before it starts, so no driver dies between
        a submission and its record.
        """
        from submitit.helpers import DelayedSubmission

        found = {}
        for path in sorted(self._folder.glob(f"*{_SUBMITTED}"), key=lambda p: p.stat().st_mtime):
            with suppress(Exception):  # of unpickling: at worst a run is submitted twice
                job: Any = DelayedSubmission.load(path).function
                found[job.experiment.id] = path.name.removesuffix(_SUBMITTED), job.tasks
        return found

    def finished(self, running: Sequence[Started]) -> list[tuple[Started, Run]]:
        """The runs that have ended; a new driver does not find their jobs."""
        self.query([started.job for started in running])
        with suppress(OSError):  # touched first, as NFS would else answer from memory
            self._folder.chmod(self._folder.stat().st_mode)
        ended: list[tuple[Started, Run]] = []
        for started in running:
            job, experiment = started.job, started.experiment
            state, paths = self._state(job), job.task(0).paths
            if self._local and state in _LIVE_STATES:
                continue
            if paths.result_pickle.exists():
                ended.append((started, self._read(job, experiment)))
            elif self._is_lost(job.job_id, state):
                if state == _HELD:
                    job.cancel(check=False)
                how = f"its Slurm job {job.job_id} ended as {state} without a result"
                reason = f"{how}; its log is {paths.stderr}"
                ended.append((started, Run(experiment, "preempted", reason=reason)))
        for started, run in ended:
            self._ended_since.pop(started.job.job_id, None)
            self._clean_up(started.job, run)
        return ended

    def query(self, jobs: Sequence[Any]) -> None:
        """Ask Slurm for the states of all jobs, unless it was asked recently."""
        if not jobs or self._local or time.monotonic() - self._queried <= _QUERY_SECONDS:
            return
        self._queried = time.monotonic()
        user = f"--user={os.getuid()}"
        shown = "--states=all", "--format=%i|%T|%r"
        listed = _states("squeue", "--noheader", "--array", user, *shown)
        if listed is None:
            return  # what was known of the jobs stays
        # The controller forgets jobs that have ended; accounting has them, where a site keeps it.
        gone = {job.job_id.split("_")[0] for job in jobs if job.job_id not in listed}
        fields = "--noheader", "--parsable2", "--format=JobID,State"
        those = "--jobs=" + ",".join(sorted(gone))
        ended = (_states("sacct", *fields, those) if gone else None) or {}
        self._states = {i: s for i, s in ended.items() if s not in _LIVE_STATES} | listed

    def is_live(self, job: Any) -> bool:
        """Whether a job waits or runs, as far as Slurm knows."""
        return self._state(job) in _LIVE_STATES

    def _state(self, job: Any) -> str:
        if self._local:
            return "RUNNING" if self._alive(job) else "FINISHED"
        if self._states is None:
            return "PENDING"  # it may still be: nobody has answered
        return self._states.get(job.job_id, "UNKNOWN")

    def _alive(self, job: Any) -> bool:
        """Whether the process of a local job lives; that of an earlier driver is found by its command."""
        if job._process is not None:
            return job._process.poll() is None
        with suppress(OSError):
            return str(self._folder).encode() in Path(f"/proc/{job.job_id}/cmdline").read_bytes()
        return False

    def _is_lost(self, job_id: str, state: str) -> bool:
        """Whether a job has ended and its result will not appear any more."""
        if state in _LIVE_STATES:
            self._ended_since.pop(job_id, None)
            return False
        since = self._ended_since.setdefault(job_id, time.monotonic())
        patience = 0.0 if self._local else _UNKNOWN_SECONDS if state == "UNKNOWN" else _LAG_SECONDS
        return time.monotonic() - since >= patience

    def _read(self, job: Any, experiment: Experiment) -> Run:
        first = job.task(0)
        try:
            error = first.exception()
            if error is None:
                run: Run = first.result()
                return run
        except Exception as unreadable:  # unpickling a file that a lost job may have torn
            reason = f"the result of its job cannot be read: {error_line(unreadable)}"
            return Run(experiment, "preempted", reason=reason)
        text = str(error)
        if _NOT_REQUEUED in text:
            why = text.split(_NOT_REQUEUED, 1)[1].splitlines()[0].strip(": .")
            reason = f"its Slurm job {job.job_id} was not queued again: {why}"
            return Run(experiment, "preempted", reason=reason, details=text)
        lines = [line.strip() for line in text.splitlines() if "Error" in line]
        reason = lines[-1] if lines else "its job failed"
        return Run(experiment, "failed", reason=reason, details=text)

    def _clean_up(self, job: Any, run: Run) -> None:
        """Remove the files of a job that has ended; the logs of a failed one stay."""
        job.paths.submitted_pickle.unlink(missing_ok=True)
        progress_path(self._folder, run.experiment.id).unlink(missing_ok=True)
        self._reported.pop(run.experiment.id, None)
        for task in range(job.num_tasks):
            paths = job.task(task).paths
            paths.result_pickle.unlink(missing_ok=True)
            if run.state not in ("failed", "preempted"):
                paths.stdout.unlink(missing_ok=True)
                paths.stderr.unlink(missing_ok=True)

    def progress(self, experiment_ids: Sequence[str]) -> list[Progress]:
        """The progress of runs since the last call."""
        new = []
        for name in experiment_ids:
            path = progress_path(self._folder, name)
            with suppress(OSError, ValueError, TypeError, RecursionError):
                written = path.stat().st_mtime_ns
                if self._reported.get(name) != written:
                    new.append(Progress(**json.loads(path.read_text())))
                    self._reported[name] = written
        return new

    def stop(self, job: Any) -> None:
        """Ask a job to end, so that no driver finds it; a running one may keep a checkpoint first."""
        if not self._local:
            job.cancel(check=False)
        elif self._alive(job):
            os.kill(int(job.job_id), signal.SIGTERM)
        job.paths.submitted_pickle.unlink(missing_ok=True)

    def stop_all(self, jobs: Sequence[Any]) -> None:
        """Stop jobs; wait for local ones, as Slurm waits for its own."""
        until, left = time.monotonic() + PATIENCE, list(jobs)
        while left and time.monotonic() < until:
            for job in left:
                self.stop(job)
            if left := [job for job in left if self._local and self._alive(job)]:
                time.sleep(0.2)


def _states(*command: str) -> dict[str, str] | None:
    """The state of each job by its id, as a command of Slurm's tells; None where it does not."""
    try:
        told = subprocess.run(  # noqa: S603 - Slurm's own, with ids of jobs
            command, capture_output=True, text=True, check=True, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = {}
    for line in told.stdout.splitlines():
        job_id, _, rest = line.partition("|")
        state, _, reason = rest.partition("|")
        if state.strip():
            # Such as CANCELLED by 1000.
            found[job_id.strip()] = _HELD if reason == _HELD else state.split()[0]
    return found
