"""A task that records its run itself, under leases; and the training curves of recorded runs."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flops_fit.distributed import ALONE, join_ranks, launched
from flops_fit.errors import OutputError
from flops_fit.execute.executor import Report, Task, attempt
from flops_fit.execute.process import in_worker
from flops_fit.files import unwritable
from flops_fit.records import Experiment, Run
from flops_fit.store.lease import Lease, LeaseHeldError, take_lease
from flops_fit.store.store import Store
from flops_fit.train.trainer import Progress, Trainer

OUTPUT = "output.txt"  # in a run's folder: what its worker printed


class _TakenAway(BaseException):
    """Another process has the lease: stop, before two write into one folder."""


@dataclass(frozen=True)
class Recorded:
    """Carries out a task under a lease on its run, and publishes the result itself.

    So a result is recorded even if nobody waits for it. A run that another process makes comes back
    in the state ``running`` with the holder as its reason; the caller waits for the record.

    Attributes
    ----------
    task
        What makes a Run of an Experiment. An exception in it is a failed run.
    folder
        That of the sweep, as an absolute path: workers may be elsewhere.
    call
        Names the driver's call. A run that this call lost before begins after a pause.
    pauses
        Seconds before the first, second, ... such attempt.
    """

    task: Task
    folder: Path
    call: str = ""
    pauses: tuple[float, ...] = ()

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """The run that is on record when this returns, or its state without a result."""
        ranks = join_ranks(self.task.device) if isinstance(self.task, Trainer) else ALONE
        if not ranks.is_main:
            known: Run | None = ranks.broadcast()
            return self.task(experiment, None) if known is None else known
        store = Store(self.folder)
        last = store.attempt(experiment.id) if self.pauses else None
        if last is not None and last.call == self.call and last.lost:
            time.sleep(self.pauses[min(last.lost, len(self.pauses)) - 1])
        with ExitStack() as stack:
            leases: list[Lease] = []
            try:
                known = store.result(experiment.id)
                if known is None:
                    # Nobody waits for a second lease while holding the first.
                    leases += [stack.enter_context(take_lease(p)) for p in store.leases(experiment)]
                    known = store.result(experiment.id)  # it may just have been published
            except LeaseHeldError as error:
                known = _elsewhere(experiment, str(error.holder))
            except OSError as error:
                why = error if isinstance(error, OutputError) else unwritable(store.path, error)
                known = Run(experiment, "preempted", reason=str(why))
            ranks.broadcast(known)
            if known is not None:
                return known
            alone = launched() == 1  # other ranks would wait for this one

            def checked(progress: Progress) -> None:
                if alone and any(lease.lost for lease in leases):
                    raise _TakenAway
                if report is not None:
                    report(progress)

            try:
                checked(Progress(experiment.id, 0, experiment.steps, math.nan))
                with _printed_to(store.run_dir(experiment.id) / OUTPUT):
                    run = attempt(self.task, experiment, checked)
                if not all(lease.held() for lease in leases):
                    raise _TakenAway
            except _TakenAway:
                return _elsewhere(
                    experiment, "another process: this worker did not respond for long"
                )
            try:
                return store.publish(run, call=self.call)
            except OSError:  # the driver tries to write it
                return run


def _elsewhere(experiment: Experiment, who: str) -> Run:
    return Run(experiment, "running", reason=f"it is being made by {who}")


@contextmanager
def _printed_to(path: Path) -> Iterator[None]:
    """Redirect what a worker prints to a file, if it can be opened; an empty file is removed."""
    if not in_worker():
        yield
        return
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        yield
        return
    kept = [os.dup(1), os.dup(2)]
    try:
        _redirect(file, file)
        yield
    finally:
        _redirect(*kept)
        for descriptor in (file, *kept):
            os.close(descriptor)
        with suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _redirect(out: int, err: int) -> None:
    """Point standard output and error of this process and its children to other descriptors."""
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
        Share of the run, 0 to 1, at the middle of the steps whose mean a reading is.
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
