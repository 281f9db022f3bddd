"""Check that a folder is complete and in order, changing nothing; collect what exported runs left."""

import csv
import glob
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from flops_fit.errors import InputError, OutputError, TableError
from flops_fit.execute.command import EXIT_CODE, OUTPUT, LossFrom, Reader, printed
from flops_fit.files import WORK, is_temporary, links_out, output_errors, read_json
from flops_fit.plan.export import HOW, planned_values
from flops_fit.plan.io import FINAL
from flops_fit.records import Experiment, Run, as_record
from flops_fit.store.lease import LeaseHeldError, living_holder, take_lease
from flops_fit.store.read import read_run, read_sweep, set_aside
from flops_fit.store.store import Store

_ID = re.compile(r"[0-9a-f]{16}")
_RECORDS = {"run.json", "attempt.json", "lease.json", "metrics.jsonl", "checkpoint"}
_OURS = {*_RECORDS, OUTPUT, WORK, EXIT_CODE}  # in a run's folder
_TEMPORARY_SECONDS = 60.0  # after which nobody is still writing a temporary file
Grade = Literal["wrong", "leftover", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing in a folder that differs from what a sweep leaves.

    Its grade is ``wrong``: a record or derived file does not say what happened; ``leftover``: left by a
    killed process, the next sweep ignores it; or ``note``: worth knowing.
    """

    grade: Grade
    path: str  # in the folder of the sweep
    message: str
    fix: str = ""  # what `repair` would do; empty where people have to decide
    repair: Callable[[], object] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Examination:
    """What is in the folder of a sweep: the number of runs by state, and findings, the worst first.

    A ``begun`` run has a folder and no record, a ``planned`` one has no folder.
    """

    states: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; leftovers are not."""
        return not any(f.grade == "wrong" for f in self.findings)


def examine(folder: str | Path) -> Examination:
    """Check every file of a sweep and change none; the folder may be read-only or in use.

    InputError where it is not that of a sweep, or cannot be read.

    >>> import tempfile
    >>> folder = Store.open(Path(tempfile.mkdtemp()) / "sweep").path
    >>> (folder / "runs" / "thesis.tex").touch()
    >>> print(*(f"{f.path}: {f.message}" for f in examine(folder).findings))
    runs/thesis.tex: not of flops-fit
    """
    store = Store(Path(folder))
    try:
        plan, findings = _plan(store)
        runs: dict[str, Run] = {}
        states: Counter[str] = Counter()
        for directory in _entries(store.runs):
            is_folder = directory.is_dir() and not directory.is_symlink()
            if not (is_folder and _ID.fullmatch(directory.name)):
                findings += _foreign(store, directory)
                continue
            if (run := _run(store, directory.name, findings)) is not None:
                runs[directory.name] = run
            lives = living_holder(store.run_lease(directory.name), now=time.time()) is not None
            states["running" if lives else "begun" if run is None else run.state] += 1
            findings += _beside(store, directory, run, lives)
        states["planned"] += sum(not store.run_dir(i).is_dir() for i in plan)
        findings += [*_top(store), *_table(store, plan, runs)]
        for link in map(Path, links_out(store.path)):
            findings.append(Finding("wrong", _inside(store, link), "a link out of the folder"))
    except OSError as error:
        raise InputError(f"folder: {store.path} cannot be read: {error}.") from error
    findings.sort(key=lambda f: (get_args(Grade).index(f.grade), f.path))
    return Examination({k: n for k, n in states.items() if n}, tuple(findings))


def repair(examination: Examination) -> list[Finding]:
    """Fix each finding where that is safe, as its ``fix`` says, and return those that were fixed.

    Torn and foreign records are renamed: no record of a run is removed. OutputError where the folder
    cannot be written.
    """
    fixed = []
    for finding in examination.findings:
        if finding.repair is not None:
            with output_errors(Path(finding.path)), suppress(FileNotFoundError):
                finding.repair()
                fixed.append(finding)
    return fixed


def recorded_runs(folder: str | Path, *, all_runs: bool = False) -> list[Run]:
    """The recorded runs of the last plan, in its order; or all that are recorded.

    Runs without a result come in the state of their last attempt. Nothing is changed. InputError where
    the folder is not that of a sweep.
    """
    store = Store(Path(folder))
    plan, _ = _plan(store)
    recorded = {path.name for path in _entries(store.runs)}
    ids = list(plan) if plan and not all_runs else [*plan, *sorted(recorded - plan.keys())]
    runs = (_run(store, i, []) for i in ids if i in recorded)
    return [run for run in runs if run is not None]


def planned(folder: Path) -> list[Experiment]:
    """The experiments of the last plan; InputError where the folder is not that of a sweep."""
    return list(_plan(Store(folder))[0].values())


def _plan(store: Store) -> tuple[dict[str, Experiment], list[Finding]]:
    marker = store.path / "sweep.json"
    if not os.path.exists(marker):
        below = sorted(glob.glob("*/sweep.json", root_dir=store.path))
        near = f" Did you mean {(store.path / below[0]).parent}?" if below else ""
        raise InputError(
            f"folder: {store.path} has no sweep.json. Expected the folder of a sweep: check the "
            f"path.{near}"
        )
    try:
        sweep = read_sweep(store.path)
    except OutputError as error:  # what is read is an input
        raise InputError(str(error)) from error
    plan, findings = {}, []
    for values in sweep.get("experiments", ()):
        try:
            experiment = Experiment.from_dict(values)
            plan[experiment.id] = experiment
        except TableError as error:
            why = f"an experiment does not match its id: {str(error)[:80]}"
            findings.append(Finding("wrong", "sweep.json", why))
    return plan, findings


def _run(store: Store, name: str, findings: list[Finding]) -> Run | None:
    """The record of a run: its result, or its last attempt."""
    path = store.run_dir(name) / "run.json"
    try:
        return read_run(path, name)
    except FileNotFoundError:
        attempt = store.attempt(name)
        return None if attempt is None else attempt.run
    except TableError as error:
        what = f"torn or of another run: {str(error)[:80]}"
        fix = "rename, so that the run is made again"
        findings.append(Finding("wrong", _inside(store, path), what, fix, partial(set_aside, path)))
        return None


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _beside(store: Store, directory: Path, run: Run | None, lives: bool) -> Iterator[Finding]:
    """The files beside the record of a run, which a living process may be making."""
    for path in _entries(directory):
        name = _inside(store, path)
        if path.name == "lease.json":
            yield from _lease(store, path)
        elif path.name == "attempt.json" and store.attempt(directory.name) is None:
            yield Finding("wrong", name, "torn", "rename", partial(set_aside, path))
        elif path.name == "checkpoint" and not lives:
            yield from _checkpoint(store, path, run)
        elif ".unreadable-" in path.name or ".set-aside-" in path.name:
            yield Finding("note", name, "was set aside")
        elif path.name not in _OURS:
            yield from _foreign(store, path)


def _lease(store: Store, path: Path) -> Iterator[Finding]:
    def release() -> None:  # taken first, as a sweep would
        with suppress(LeaseHeldError):
            take_lease(path).release()

    if path.exists() and living_holder(path, now=time.time()) is None:
        message = "the lease of a process that is gone"
        yield Finding("leftover", _inside(store, path), message, "remove", release)


def _checkpoint(store: Store, path: Path, run: Run | None) -> Iterator[Finding]:
    name = _inside(store, path)
    if run is not None and run.state in FINAL:
        remove = partial(shutil.rmtree, path)
        yield Finding("leftover", name, "a checkpoint of a finished run", "remove", remove)
        return
    count = sum(re.fullmatch(r"step-\d+", p.name) is not None for p in path.iterdir())
    yield Finding("note", name, f"no result yet; the next sweep goes on from {count} checkpoints")
    for broken in sorted(p for p in path.iterdir() if ".set-aside-" in p.name):
        yield Finding("note", f"{name}/{broken.name}", "was set aside")


def _foreign(store: Store, path: Path) -> Iterator[Finding]:
    """A file that is not of flops-fit, or one that a killed process was writing."""
    if not is_temporary(path.name):
        yield Finding("note", _inside(store, path), "not of flops-fit")
        return
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _TEMPORARY_SECONDS:
            message = "a file that a killed process was writing"
            yield Finding("leftover", _inside(store, path), message, "remove", path.unlink)


def _top(store: Store) -> Iterator[Finding]:
    """The folder itself, its trunks and derived files."""
    for path in _entries(store.path):
        if is_temporary(path.name):
            yield from _foreign(store, path)
        elif re.match(r"(runs|trunks)-set-aside-", path.name):
            yield Finding("note", path.name, "was set aside")
    for path in _entries(store.trunks):
        if path.suffix == ".lease":
            yield from _lease(store, path)
    fit = store.path / "fit.json"
    if fit.exists():
        try:
            read_json(fit)
        except TableError:
            yield Finding("wrong", "fit.json", "torn", "rename", partial(set_aside, fit))


def _table(store: Store, plan: dict[str, Experiment], runs: dict[str, Run]) -> Iterator[Finding]:
    """Whether ``runs.csv`` says what the records say."""
    path = store.path / "runs.csv"
    if not path.exists():
        return
    if not path.is_file():
        yield Finding("wrong", "runs.csv", "no file", "rename", partial(set_aside, path))
        return
    # What is no text or no table has other rows than the records.
    with path.open(newline="", encoding="utf-8", errors="replace") as handle:
        rows = {row.get("id", ""): row for row in csv.DictReader(handle)}
    final = {i: run for i, run in runs.items() if run.state in FINAL}
    rewrite = partial(store.write_table, [runs[i] for i in plan if i in runs])

    def finding(grade: Grade, ids: list[str], what: str) -> Iterator[Finding]:
        if ids:
            message = f"{len(ids)} {what} ({', '.join(ids[:2])}{', ...' if ids[2:] else ''})"
            yield Finding(grade, "runs.csv", message, "write it again", rewrite if plan else None)

    said = {i: (row.get("state"), row.get("loss")) for i, row in rows.items()}
    true = {i: (run.state, "" if run.loss is None else str(run.loss)) for i, run in final.items()}
    different = [i for i in said if i in true and said[i] != true[i]]
    yield from finding("wrong", different, "rows that differ from run.json")
    unknown = [i for i in rows if i not in runs]
    yield from finding("wrong", unknown, "rows without a recorded run")
    newer = [i for i in final if i in plan and i not in rows]
    yield from finding("leftover", newer, "runs that ended after it was written")


def _inside(store: Store, path: Path) -> str:
    return path.relative_to(store.path).as_posix()


def collect(folder: str | Path, loss: LossFrom = None) -> list[Run]:
    """Record the runs of :meth:`SweepPlan.export` that have ended, and write them all to ``runs.csv``.

    A run has ended once its ``exit_code`` is there, or without one a loss in a file ``.json``. ``loss`` is
    as for :class:`CommandTask`, by default that of the export. The runs come in the order of the plan; those
    that have not ended are missing. What is recorded stays as it is, so that it may be called at any time,
    and ``run_sweep`` with the same folder makes what is missing. InputError where it is no sweep's folder,
    or that of someone else names a loss outside of it.
    """
    path = Path(folder)
    plan, store = planned(path), Store.open(path)
    how = path / HOW
    if loss is None and how.exists():
        loss = as_record(read_json(how), dict[str, str | None], HOW).get("loss")
        file = Path("" if (loss or "").startswith(("re:", "tensorboard:")) else loss or "")
        if file.is_absolute() or ".." in file.parts:
            raise InputError(f"{how}: expected a loss in the folders of runs; got {loss!r}.")
    reader, runs = Reader(loss), []
    for experiment in plan:
        run = store.result(experiment.id)
        if run is None and store.holder(experiment) is None:
            run = _left(reader, experiment, store.run_dir(experiment.id))
            run = run and store.publish(run, durable=False)
        if run is not None:
            runs.append(run)
    if not plan:
        raise InputError(f"folder: {path} has no plan; expected that of an export or of a sweep.")
    store.write_table(runs)
    return runs


def _left(reader: Reader, experiment: Experiment, folder: Path) -> Run | None:
    """The run that a folder tells of; ``None`` where it has not ended."""
    work, code = folder / WORK, folder / EXIT_CODE
    known = printed(code).strip()
    ended = known.isdigit()  # or it is torn
    if not ended and not work.exists():
        return None
    values = {**planned_values(experiment), "run_dir": str(work)}
    output = printed(folder / OUTPUT) if ended else None
    run = reader.run(experiment, int(known) if ended else 0, work, output, values)
    return run if ended or run.state != "failed" else None
