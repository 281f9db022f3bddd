"""The training curves that runs left in their folders."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flops_fit.distributed import ALONE, join_ranks, launched
from flops_fit.errors import OutputError
from flops_fit.execute.executor import Task
from flops_fit.files import unwritable
from flops_fit.records import Experiment, Run
from flops_fit.store.lease import Holder, Lease, take_lease
from flops_fit.store.store import Store
from flops_fit.text import error_line
from flops_fit.train.trainer import Progress, Trainer

Report = Callable[[Progress], None]


class _TakenAway(BaseException):
    """The lease is somebody else's: stop, before two write into one folder."""


@dataclass(frozen=True)
class Recorded:
    """Carries a task out under a lease on its run, and publishes the result itself.

    So a result is on record once it is there, whether or not anybody still waits for it. A run
    that is on record already is returned and nothing is done. One that somebody living makes comes
    back in the state ``running``, with who it is; the caller waits for the record.

    Attributes
    ----------
    task
        What makes a Run of an Experiment. What it raises is a run that failed.
    folder
        That of the sweep, as an absolute path: workers may be elsewhere.
    call
        Names the driver's call. A run that this very call lost begins again after a pause, in the
        worker, where it keeps nothing else waiting.
    pauses
        Seconds before the first, second, ... such attempt.
    """

    task: Task
    folder: Path
    call: str = ""
    pauses: tuple[float, ...] = ()

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """The run that is on record when this returns; or in what other state it is."""
        ranks = join_ranks(self.task.device) if isinstance(self.task, Trainer) else ALONE
        if not ranks.leads:
            known: Run | None = ranks.lead()
            return self.task(experiment, None) if known is None else known
        store = Store(self.folder)
        self._pause(store, experiment)
        with ExitStack() as stack:
            try:
                claimed = _claim(store, experiment, stack)
            except OSError as error:
                why = error if isinstance(error, OutputError) else unwritable(store.path, error)
                claimed = Run(experiment, "preempted", reason=str(why))
            if isinstance(claimed, Run):
                ranks.lead(claimed)
                return claimed
            ranks.lead(None)
            try:
                heard = _watching(claimed, report)
                heard(Progress(experiment.id, 0, experiment.steps, math.nan))
                with printed_to(store.run_dir(experiment.id)):
                    run = _carry_out(self.task, experiment, heard)
            except _TakenAway:
                return _elsewhere(experiment, "somebody else, as this worker was silent for long")
            return self._publish(store, run, claimed)

    def _pause(self, store: Store, experiment: Experiment) -> None:
        attempt = store.attempt(experiment.id) if self.pauses else None
        if attempt is not None and attempt.call == self.call and attempt.lost:
            time.sleep(self.pauses[min(attempt.lost, len(self.pauses)) - 1])

    def _publish(self, store: Store, run: Run, leases: list[Lease]) -> Run:
        """What is on record; or the run itself, where the driver has to hear of a full disk."""
        try:
            if not all(lease.held() for lease in leases):
                return _elsewhere(run.experiment, "somebody else, who took it over")
            return store.publish(run, call=self.call)
        except OSError:
            return run


def _claim(store: Store, experiment: Experiment, stack: ExitStack) -> list[Lease] | Run:
    """The leases on a run and its trunk; or the run, if it is on record or others make it.

    Nobody waits for a second lease while holding the first, so no two wait for each other.
    """
    paths = [store.run_lease(experiment.id)]
    if experiment.trunk:
        paths.append(store.trunk_lease(experiment.trunk))
    if (run := store.result(experiment.id)) is not None:
        return run
    leases = []
    for path in paths:
        taken = take_lease(path)
        if isinstance(taken, Holder):
            return _elsewhere(experiment, str(taken))
        leases.append(stack.enter_context(taken))
    return store.result(experiment.id) or leases  # it may have been published just before


def _carry_out(task: Task, experiment: Experiment, report: Report) -> Run:
    try:
        return task(experiment, report)
    except Exception as error:  # the user's code may raise anything
        details = "".join(traceback.format_exception(error)[-3:])
        return Run(experiment, "failed", reason=error_line(error), details=details)


def _watching(leases: list[Lease], report: Report | None) -> Report:
    """Passes progress on, and ends a run alone in its process whose lease is lost."""
    alone = launched() == 1  # others would wait for this rank

    def heard(progress: Progress) -> None:
        if alone and any(lease.lost for lease in leases):
            raise _TakenAway
        if report is not None:
            report(progress)

    return heard


def _elsewhere(experiment: Experiment, who: str) -> Run:
    return Run(experiment, "running", reason=f"it is being made by {who}")


OUTPUT = "output.txt"


@contextmanager
def printed_to(folder: Path) -> Iterator[None]:
    """Let a worker process write what it prints to ``output.txt`` of a run's folder.

    The driver's own process, and one whose file cannot be opened, print where they always do. A run
    that prints nothing leaves no file.
    """
    if multiprocessing.parent_process() is None:
        yield
        return
    path = folder / OUTPUT
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        yield
        return
    kept = [os.dup(1), os.dup(2)]
    try:
        _point(file, file)
        yield
    finally:
        _point(*kept)
        for descriptor in (file, *kept):
            os.close(descriptor)
        with suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _point(out: int, err: int) -> None:
    """Standard output and error, whoever writes to them, from here on."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a full disk; a stream that was closed
            stream.flush()
    os.dup2(out, 1)
    os.dup2(err, 2)


Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TrainingCurve:
    """The training loss along a run; arrays of shape (readings,).

    Attributes
    ----------
    run
        Whose it is.
    share
        How much of the run was seen, 0 to 1, at the middle of the steps that a reading is the mean of.
    loss
        Mean training loss over these steps.
    """

    run: Run
    share: Floats
    loss: Floats


def training_curves(folder: str | Path, runs: Iterable[Run]) -> list[TrainingCurve]:
    """The curves of those runs of a sweep's folder that have one, torn lines left out."""
    out = []
    for run in runs:
        path = Path(folder) / "runs" / run.experiment.id / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        steps, losses = [0.0], []
        for line in lines:
            try:
                values = json.loads(line)
                step, loss = float(values["step"]), values["loss"]
            except (ValueError, KeyError, TypeError):
                continue
            if loss is not None and step > steps[-1]:
                steps.append(step)
                losses.append(float(loss))
        if losses:
            ends = np.array(steps) / run.experiment.steps
            out.append(TrainingCurve(run, (ends[1:] + ends[:-1]) / 2, np.array(losses)))
    return out
