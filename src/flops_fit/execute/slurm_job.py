"""What happens inside a Slurm job."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from flops_fit.execute.attempt import attempt, pin_threads, print_in_order, read_task
from flops_fit.execute.multirank import rank_environment
from flops_fit.records import Experiment, Run
from flops_fit.train.trainer import Progress

_REQUEUE_SECONDS = 60.0  # that rank 0 has to put the job back into the queue


@dataclass(frozen=True)
class Job:
    """One run as submitit starts it, on every rank; pickled into submitit's folder.

    Attributes
    ----------
    task_path, digest
        The task, which all jobs of a sweep share, and the SHA-256 that it has to have.
    sys_path
        Where the driver imports from.
    experiment, threads
        What is run, and with how many threads.
    """

    task_path: str
    digest: str
    sys_path: tuple[str, ...]
    experiment: Experiment
    threads: int

    def __call__(self) -> Run:
        """Carry out the run; when the time is up, end the step, keep a checkpoint and requeue."""
        from submitit import JobEnvironment

        print_in_order()
        place: Any = JobEnvironment()
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if place.num_tasks > 1:
            _be_rank(place)
        found = hashlib.sha256(Path(self.task_path).read_bytes()).hexdigest()
        if found != self.digest:
            reason = f"the task at {self.task_path} was changed since the run was submitted"
            return Run(self.experiment, "failed", reason=reason)
        sys.path += [path for path in self.sys_path if path not in sys.path]
        task = read_task(self.task_path, self.experiment)
        pin_threads(self.threads)
        if isinstance(task, Run):
            return task
        asked = _TimeUp()
        try:
            if place.global_rank:
                return attempt(getattr(task, "follower", task), self.experiment, None)
            return attempt(task, self.experiment, self._report)
        except SystemExit:
            asked.requeue()
            raise

    def checkpoint(self) -> Any:
        """What a requeued job does: the same, as a run goes on from its newest checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _report(self, progress: Progress) -> None:
        path = progress_path(Path(self.task_path).parent, progress.experiment_id)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            draft.write_text(json.dumps(asdict(progress)))
            draft.replace(path)
        except OSError:  # a full disk is no reason to end a run that only tells how far it is
            return


class _TimeUp:
    """Slurm's warning that time is up, passed to the run as SIGTERM, which it obeys after its step.

    submitit would end the process at once, in the middle of a step, and with it what was trained
    since the last checkpoint.
    """

    def __init__(self) -> None:
        from submitit import JobEnvironment

        self._number = JobEnvironment._usr_sig()
        self._submitit: Any = signal.getsignal(self._number)
        self._asked = False
        signal.signal(signal.SIGTERM, _end)
        signal.signal(self._number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        handler: Any = signal.getsignal(signal.SIGTERM)
        handler(signal.SIGTERM, frame)

    def requeue(self) -> None:
        """Let submitit put the job back into the queue, if its time was up."""
        if self._asked:
            self._submitit(self._number, None)  # exits, except on ranks that are not the first
            time.sleep(_REQUEUE_SECONDS)


def _end(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def progress_path(folder: Path, experiment_id: str) -> Path:
    """Where a run says how far it is."""
    return folder / f"{experiment_id}.progress.json"


def _be_rank(place: Any) -> None:
    """Tell this process what a launcher would; of the GPUs of its machine it sees its own alone."""
    local_size = place.num_tasks // place.num_nodes
    port = 20000 + zlib.crc32(place.job_id.encode()) % 20000  # the same on every rank of a job
    told = rank_environment(
        place.global_rank,
        place.local_rank,
        place.num_tasks,
        local_size,
        place.hostnames[0] if place.num_nodes > 1 else "127.0.0.1",
        port,
    )
    os.environ.update(told)
    gpus = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
    if len(gpus) >= local_size:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place.local_rank]
