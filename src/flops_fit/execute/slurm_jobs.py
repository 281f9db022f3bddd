"""What came of jobs: results and progress in submitit's folder, states from Slurm."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.execute.process import PATIENCE
from flops_fit.execute.slurm_job import progress_path
from flops_fit.records import Experiment, Run
from flops_fit.train.trainer import Progress


@dataclass(frozen=True)
class Known:
    """A job that a driver has submitted, and its tasks."""

    id: str
    tasks: int


class Journal:
    """Experiment ids with their jobs, as JSON, replaced as a whole at each change.

    A file that cannot be read is taken for an empty one: at worst a run is submitted twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: dict[str, Known] = {}
        try:
            said: Any = json.loads(path.read_text(encoding="utf-8"))
            self._jobs = {str(k): Known(str(v[0]), int(v[1])) for k, v in said.items()}
        except (OSError, ValueError, AttributeError, TypeError, LookupError):
            return

    @property
    def jobs(self) -> Mapping[str, Known]:
        """The jobs that were not seen to their end, by the ids of their experiments."""
        return dict(self._jobs)

    def add(self, jobs: Mapping[str, tuple[str, int]]) -> None:
        """Remember jobs by the ids of their experiments."""
        self._jobs.update({k: Known(*v) for k, v in jobs.items()})
        self._save()

    def remove(self, experiment_id: str) -> None:
        """Forget the job of an experiment."""
        if self._jobs.pop(experiment_id, None) is not None:
            self._save()

    def _save(self) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.tmp")
        said = {k: [v.id, v.tasks] for k, v in self._jobs.items()}
        draft.write_text(json.dumps(said), encoding="utf-8")
        draft.replace(self._path)


_ASK = 30.0  # seconds between two questions to Slurm, which answers for all jobs at once
_LAG = 60.0  # that a file may take to be seen, or Slurm to queue again a job that it has ended
_UNKNOWN = 600.0  # that Slurm may not know of a job that it has accepted
_UNDER_WAY = (
    "PENDING", "RUNNING", "REQUEUED", "COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING",
    "REQUEUE_HOLD", "REQUEUE_FED", "STOPPED", "SIGNALING", "STAGE_OUT", "READY",
)  # fmt: skip
_NOT_REQUEUED = "Job not requeued because"


class JobMonitor:
    """Looks after the jobs in one folder; ``local`` ones are processes of this machine."""

    def __init__(self, folder: Path, local: bool) -> None:
        self._folder, self._local = folder, local
        self._asked = float("-inf")
        self._over: dict[str, float] = {}
        self._said: dict[str, int] = {}

    def look(self, live: Mapping[str, tuple[Any, Experiment]]) -> dict[str, Run]:
        """The runs that have ended, by the ids of their jobs."""
        self.ask([job for job, _ in live.values()])
        names = self._names()
        ended: dict[str, Run] = {}
        for job_id, (job, experiment) in live.items():
            if self._local and self._alive(job):
                continue
            if f"{job_id}_0_result.pkl" in names or (self._local and _result(job).exists()):
                ended[job_id] = self._read(job, experiment)
            elif self._is_lost(job):
                reason = (
                    f"its Slurm job {job_id} ended as {self._state(job)} without a result; its log is "
                    f"{job.task(0).paths.stderr}"
                )
                ended[job_id] = Run(experiment, "preempted", reason=reason)
        for job_id, run in ended.items():
            self._over.pop(job_id, None)
            self._sweep_up(live[job_id][0], run)
        return ended

    def _names(self) -> set[str]:
        """What is in the folder; touched first, as NFS would else answer from memory."""
        with suppress(OSError):
            self._folder.chmod(self._folder.stat().st_mode)
        return set(os.listdir(self._folder))

    def ask(self, jobs: Sequence[Any]) -> None:
        """Ask Slurm for the states of all jobs, where its last answer is old."""
        if jobs and not self._local and time.monotonic() - self._asked > _ASK:
            jobs[0].watcher.update()
            self._asked = time.monotonic()

    def is_live(self, job: Any) -> bool:
        """Whether a job waits or runs, as far as Slurm knows."""
        return self._alive(job) if self._local else self._state(job) in _UNDER_WAY

    def _state(self, job: Any) -> str:
        if self._local:
            return "RUNNING" if self._alive(job) else "FINISHED"
        said = job.watcher.get_info(job.job_id, mode="cache").get("State") or "UNKNOWN"
        return str(said).split()[0].upper()  # "CANCELLED by 1000"

    def _alive(self, job: Any) -> bool:
        """Whether the process of a local job lives; one of an earlier driver is told by its command."""
        if job._process is not None:
            return job._process.poll() is None
        try:
            said = Path(f"/proc/{job.job_id}/cmdline").read_bytes()
        except OSError:
            return False
        return str(self._folder).encode() in said

    def _is_lost(self, job: Any) -> bool:
        """Whether a job is over and its result will not come any more."""
        state = self._state(job)
        if state in _UNDER_WAY:
            self._over.pop(job.job_id, None)
            return False
        since = self._over.setdefault(job.job_id, time.monotonic())
        patience = 0.0 if self._local else _UNKNOWN if state == "UNKNOWN" else _LAG
        return time.monotonic() - since >= patience

    def _read(self, job: Any, experiment: Experiment) -> Run:
        """The result that submitit keeps."""
        first = job.task(0)
        try:
            error = first.exception()
            if error is None:
                run: Run = first.result()
                return run
        except Exception as unreadable:  # unpickling a file that a lost job may have torn
            reason = (
                f"the result of its job cannot be read: {type(unreadable).__name__}: {unreadable}"
            )
            return Run(experiment, "preempted", reason=reason)
        said = str(error)
        if _NOT_REQUEUED in said:
            why = said.split(_NOT_REQUEUED, 1)[1].splitlines()[0].strip(": .")
            reason = f"its Slurm job {job.job_id} was not queued again: {why}"
            return Run(experiment, "preempted", reason=reason, details=said)
        lines = [line.strip() for line in said.splitlines() if "Error" in line]
        reason = lines[-1] if lines else "its job failed"
        return Run(experiment, "failed", reason=reason, details=said)

    def _sweep_up(self, job: Any, run: Run) -> None:
        """Remove the files of a job that is done with; logs stay where they may say why it failed."""
        job.paths.submitted_pickle.unlink(missing_ok=True)
        progress_path(self._folder, run.experiment.id).unlink(missing_ok=True)
        self._said.pop(run.experiment.id, None)
        for task in range(job.num_tasks):
            paths = job.task(task).paths
            paths.result_pickle.unlink(missing_ok=True)
            if run.state not in ("failed", "preempted"):
                paths.stdout.unlink(missing_ok=True)
                paths.stderr.unlink(missing_ok=True)

    def progress(self, experiment_ids: Sequence[str]) -> list[Progress]:
        """What runs have said since this was asked last."""
        said = []
        for name in experiment_ids:
            path = progress_path(self._folder, name)
            try:
                written = path.stat().st_mtime_ns
                if self._said.get(name) == written:
                    continue
                said.append(Progress(**json.loads(path.read_text())))
            except (OSError, ValueError, TypeError):
                continue
            self._said[name] = written
        return said

    def stop(self, job: Any) -> None:
        """Ask a job to end; a run that is under way may keep a checkpoint first."""
        if not self._local:
            job.cancel(check=False)
        elif self._alive(job):
            os.kill(int(job.job_id), signal.SIGTERM)

    def see_off(self, jobs: Sequence[Any]) -> None:
        """Wait for local jobs that were stopped; Slurm sees its own off."""
        until = time.monotonic() + PATIENCE
        while self._local and time.monotonic() < until:
            left = [job for job in jobs if self._alive(job)]
            if not left:
                return
            time.sleep(0.2)
            for job in left:
                self.stop(job)


def _result(job: Any) -> Path:
    path: Path = job.task(0).paths.result_pickle
    return path
