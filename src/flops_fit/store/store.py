"""The folder of a sweep: what is recorded in it, who makes which run, and a task that records its own."""

import json
import math
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flops_fit.distributed import ALONE, join_ranks, launched
from flops_fit.errors import OutputError, TableError
from flops_fit.execute.command import OUTPUT
from flops_fit.execute.executor import Report, Task, attempt
from flops_fit.execute.process import in_worker
from flops_fit.files import (
    output_errors,
    read_json,
    refuse_links,
    unwritable,
    write_atomic,
    write_new,
)
from flops_fit.plan.io import FINAL, SWEEP_FORMAT, SWEEP_SCHEMA, sweep_record
from flops_fit.records import Diagnostic, Experiment, Run, as_record
from flops_fit.store import read
from flops_fit.store.lease import Holder, Lease, LeaseHeldError, living_holder, take_lease
from flops_fit.train.state import left_trunks, prune_trunk
from flops_fit.train.trainer import Progress, Trainer


@dataclass(frozen=True)
class Attempt:
    """How the last attempt at a run ended without a result."""

    run: Run
    token: str  # new for each attempt
    call: str = ""  # the driver's call that made it
    lost: int = 0  # how often that call had lost the run to infrastructure failures


@dataclass
class Store:
    """The folder of a sweep."""

    path: Path
    notes: list[str] = field(default_factory=list)  # on what was found in it

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()  # workers may be elsewhere
        self.marker = self.path / "sweep.json"
        self.runs = self.path / "runs"  # the folders of runs
        self.trunks = self.path / "trunks"  # where a run of a trunk leaves its state to longer ones

    @classmethod
    def open(cls, path: str | Path, *, resume: bool = True) -> Self:
        """Open the folder of a sweep, or create it; ``resume=False`` renames the runs in it.

        OutputError if it cannot be written or holds something else, or such a run is under way.
        """
        store = cls(Path(path))
        with output_errors(store.path):
            store._claim()
            if not resume:
                store._set_runs_aside()
            store.runs.mkdir(exist_ok=True)
        return store

    def refuse_foreign(self) -> None:
        """OutputError where the folder is no sweep's and holds something; it is only looked at."""
        with output_errors(self.path):
            if self.marker.exists() or not self.path.exists():
                return
            others = (p for p in self.path.iterdir() if not (p / "sweep.json").exists())
            foreign = sorted(p.name for p in others if not p.name.startswith("."))
            if foreign and not self.marker.exists():  # which another driver may just have written
                raise OutputError(
                    f"output_dir: {self.path} holds {foreign[:4]} and no sweep of flops-fit. Expected "
                    "an empty or new folder, or that of an earlier sweep: choose another output_dir."
                )

    def _claim(self) -> None:
        marker = self.marker
        self.path.mkdir(parents=True, exist_ok=True)
        refuse_links(self.path)
        self.refuse_foreign()
        probe = self.path / f".writable.{uuid.uuid4().hex}.tmp"
        probe.touch()
        probe.unlink()
        content = json.dumps({"format": SWEEP_FORMAT, "schema": SWEEP_SCHEMA})
        if not write_new(marker, content):
            try:
                read.read_sweep(self.path)
            except read.TornError:
                aside = read.set_aside(marker).name
                self.notes.append(f"sweep.json was torn; it was renamed to {aside}.")
                write_new(marker, content)

    def _set_runs_aside(self) -> None:
        if holders := list(self.holders().items()):
            raise OutputError(
                f"output_dir: resume=False sets the runs in {self.path} aside, but {len(holders)} of "
                f"them are being made, {holders[0][0]} by {holders[0][1]}. Wait for them or stop "
                "them, or choose another output_dir."
            )
        when = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        for folder in (self.runs, self.trunks):
            if folder.is_dir():
                aside = self.path / f"{folder.name}-set-aside-{when}"
                folder.rename(aside)
                self.notes.append(f"Earlier {folder.name} were set aside in {aside.name}.")

    def run_dir(self, experiment_id: str) -> Path:
        """The folder of one run."""
        return self.runs / experiment_id

    def run_lease(self, experiment_id: str) -> Path:
        """The lease on a run."""
        return self.run_dir(experiment_id) / "lease.json"

    def trunk_lease(self, trunk: str) -> Path:
        """The lease on a trunk, beside its folder, as that comes and goes."""
        return self.trunks / f"{trunk}.lease"

    def leases(self, experiment: Experiment) -> list[Path]:
        """The leases that a process needs to make a run: on it, and on its trunk."""
        trunk = [self.trunk_lease(experiment.trunk)] if experiment.trunk else []
        return [self.run_lease(experiment.id), *trunk]

    def write_plan(
        self, experiments: Iterable[Experiment], findings: Iterable[Diagnostic] = ()
    ) -> None:
        """Note which runs this sweep asks for, and what was found about them."""
        content = sweep_record(experiments, findings)
        self._write(self.marker, json.dumps(content, indent=1))

    def publish(self, run: Run, *, call: str = "", lost: int = 0, durable: bool = True) -> Run:
        """Record how a run ended, and return the run on record: at most one result for each id.

        A result, completed or diverged, is never overwritten; other states are the last attempt.
        OutputError if it cannot be written; earlier records are intact. ``durable``: on the disk by then.
        """
        directory = self.run_dir(run.experiment.id)
        if run.state not in FINAL:
            attempt = Attempt(run, uuid.uuid4().hex, call, lost)
            record = {"schema": SWEEP_SCHEMA, **vars(attempt), "run": run.to_dict()}
            self._write(directory / "attempt.json", json.dumps(record, indent=1))
            return run
        path = directory / "run.json"
        content = json.dumps({"schema": SWEEP_SCHEMA, **run.to_dict()}, indent=1)
        with output_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            while not write_new(path, content, durable=durable):
                if (earlier := self.result(run.experiment.id)) is not None:
                    return earlier
        (directory / "attempt.json").unlink(missing_ok=True)
        shutil.rmtree(directory / "checkpoint", ignore_errors=True)
        return run

    def is_recorded(self, experiment_id: str) -> bool:
        """Whether there is a result; it is not read."""
        return (self.run_dir(experiment_id) / "run.json").exists()

    def prune(
        self, experiments: Iterable[Experiment], ended: Mapping[str, Run], trunk: str = ""
    ) -> None:
        """Remove the snapshots that no missing run needs, of one ``trunk`` or of all, if none works there."""
        final = {i for i, run in ended.items() if run.state in FINAL}
        missing = [e for e in experiments if e.id not in final]
        for name in left_trunks(self.trunks):
            if trunk in ("", name):
                with suppress(OSError, LeaseHeldError), take_lease(self.trunk_lease(name)):
                    prune_trunk(self.trunks, missing, name)
        if not trunk:
            with suppress(OSError):  # where something is left in it
                self.trunks.rmdir()

    def finished(
        self, experiments: Iterable[Experiment], *, hopeless: bool = True
    ) -> dict[str, Run]:
        """The final runs among ``experiments``, by id; failed ones are tried again.

        Without ``hopeless`` the records of runs that were stopped as such are removed, to train them in full.
        """
        results = {e.id: self.result(e.id) for e in experiments}
        for i, run in results.items():
            if run is not None and run.state == "hopeless" and not hopeless:
                (self.run_dir(i) / "run.json").unlink(missing_ok=True)
                results[i] = None
        return {i: run for i, run in results.items() if run is not None}

    def others(self, experiments: Iterable[Experiment]) -> int:
        """How many recorded runs are not among ``experiments``; they are kept and not fitted."""
        planned = {e.id for e in experiments}
        with os.scandir(self.runs) as entries:
            return sum(1 for p in entries if p.name not in planned and p.is_dir())

    def result(self, experiment_id: str) -> Run | None:
        """The run of this id, if on record and final; a torn or foreign record is renamed and noted."""
        path = self.runs / experiment_id / "run.json"
        try:
            return read.read_run(path, experiment_id)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"output_dir: {path} cannot be read: {error}.") from error
        except TableError as error:
            with suppress(FileNotFoundError):  # another driver was first
                aside = read.set_aside(path)
                self.notes.append(
                    f"runs/{experiment_id}/run.json is torn or foreign ({str(error)[:80]}); it was "
                    f"renamed to {aside.name} and the run is made again."
                )
            return None

    def attempt(self, experiment_id: str) -> Attempt | None:
        """The last attempt without a result; None where there is none, or it is torn."""
        with suppress(OSError, TableError):
            path = self.runs / experiment_id / "attempt.json"
            content = as_record(read_json(path), dict[str, Any], "an attempt's record")
            run = Run.from_dict(content.get("run", {}))
            return as_record({**content, "run": run}, Attempt, "an attempt's record")
        return None

    def holder(self, experiment: Experiment) -> Holder | None:
        """The living process that makes this run, or another of its trunk."""
        holders = (living_holder(path) for path in self.leases(experiment))
        return next((holder for holder in holders if holder is not None), None)

    def holders(self) -> dict[str, Holder]:
        """By id, the living processes that make runs of this folder."""
        if not self.runs.is_dir():
            return {}
        holders = {p.name: living_holder(self.run_lease(p.name)) for p in self.runs.iterdir()}
        return {i: holder for i, holder in holders.items() if holder is not None}

    def write_table(self, runs: Iterable[Run]) -> Path:
        """All runs of the plan, whatever their state, as ``runs.csv``."""
        return read.write_runs(runs, self.path / "runs.csv")

    def _write(self, path: Path, content: str) -> None:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)


class _TakenAway(BaseException):
    """Another process has the lease: stop, before two write into one folder."""


@dataclass(frozen=True)
class Recorded:
    """Carries out a task under a lease on its run, and publishes the result itself.

    So a result is recorded even if nobody waits for it. A run that another process makes comes back
    in the state ``running`` with the holder as its reason; the caller waits for the record.

    An exception in the ``task``, which makes a Run of an Experiment, is a failed run. ``pauses`` are
    seconds before the first, second, ... attempt after the driver's ``call`` lost a run.
    """

    task: Task
    folder: Path  # of the sweep, absolute: workers may be elsewhere
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
                who = "another process: this worker did not respond for long"
                return _elsewhere(experiment, who)
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
        # A full disk; a stream that was closed, or that the user's code set to None.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os.dup2(out, 1)
    os.dup2(err, 2)
