"""Is everything in a folder whole and where it belongs? Looking changes nothing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flops_fit.errors import OutputError, TableError
from flops_fit.files import is_temporary, unwritable
from flops_fit.records import Experiment, Run
from flops_fit.store.lease import Lease, living_holder, take_lease
from flops_fit.store.read import FINAL, SCHEMA, migrated_sweep, read_run, read_sweep
from flops_fit.store.recorded import OUTPUT
from flops_fit.store.store import Store

_ID = re.compile(r"[0-9a-f]{16}")
_OURS = frozenset(
    {"run.json", "attempt.json", "lease.json", "metrics.jsonl", "checkpoint", OUTPUT}
)  # in a run's folder
_RESTING = 60.0  # seconds after which nobody is still writing a temporary file
Grade = Literal["wrong", "leftover", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as a sweep leaves it.

    Attributes
    ----------
    grade
        ``wrong``: a record or derived file does not say what happened. ``leftover``: what a killed
        process left; the next sweep passes it over. ``note``: worth knowing.
    path
        In the folder of the sweep.
    message
        What it is.
    mend
        What :func:`repair` would do; empty where that is for people to decide.
    """

    grade: Grade
    path: str
    message: str
    mend: str = ""
    act: Callable[[], None] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Examination:
    """What is in the folder of a sweep.

    Attributes
    ----------
    states
        How many runs are in each state; ``begun`` has a folder and no record, ``planned`` no
        folder.
    findings
        What is not as it should be, the worst first.
    """

    states: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; leftovers are not."""
        return not any(f.grade == "wrong" for f in self.findings)


def examine(folder: str | Path) -> Examination:
    """Look at every file of a sweep and change none; it may be read-only, or a sweep going on.

    Raises
    ------
    OutputError
        The folder is not that of a sweep, or cannot be read.

    Examples
    --------
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
        for directory in sorted(store.runs.iterdir()) if store.runs.is_dir() else []:
            if not (_ID.fullmatch(directory.name) and directory.is_dir()):
                findings += _foreign(directory, store)
                continue
            run = _run(store, directory.name, findings)
            if run is not None:
                runs[directory.name] = run
            if living_holder(store.run_lease(directory.name), now=time.time()) is not None:
                states["running"] += 1
            else:
                states["begun" if run is None else run.state] += 1
            findings += _around(store, directory, run)
        missing = [i for i in plan if not store.run_dir(i).is_dir()]
        states["planned"] += len(missing)
        findings += [*_top(store), *_table(store, plan, runs)]
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"output_dir: {store.path} cannot be read: {error}.") from error
    order = {"wrong": 0, "leftover": 1, "note": 2}
    findings.sort(key=lambda f: (order[f.grade], f.path))
    return Examination({k: n for k, n in states.items() if n}, tuple(findings))


def repair(examination: Examination) -> list[Finding]:
    """Do what is safe about each finding, and return those that were mended.

    What is torn or foreign is renamed; leases of the dead, temporary files and checkpoints of
    finished runs are removed; ``runs.csv`` is written again. No record of a run is removed.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    mended = []
    for finding in examination.findings:
        if finding.act is not None:
            try:
                finding.act()
            except OutputError:
                raise
            except FileNotFoundError:  # a sweep was first
                continue
            except OSError as error:
                raise unwritable(Path(finding.path), error) from error
            mended.append(finding)
    return mended


def recorded_runs(folder: str | Path, *, all_runs: bool = False) -> list[Run]:
    """The runs on record that the last plan asks for, in its order; or all that there are.

    Runs that gave no result come in the state of their last attempt. Nothing is changed.

    Raises
    ------
    OutputError
        The folder is not that of a sweep.
    """
    store = Store(Path(folder))
    plan, _ = _plan(store)
    there = {p.name for p in store.runs.iterdir()} if store.runs.is_dir() else set()
    asked = list(plan) if plan and not all_runs else [*plan, *sorted(there - plan.keys())]
    found = (_run(store, i, []) for i in asked if i in there)
    return [run for run in found if run is not None]


def _plan(store: Store) -> tuple[dict[str, Experiment], list[Finding]]:
    """The experiments of the last plan, by id."""
    if not (store.path / "sweep.json").exists():
        raise OutputError(
            f"output_dir: {store.path} has no sweep.json. Expected the folder of a sweep: check the path."
        )
    raw = read_sweep(store.path)
    content = migrated_sweep(raw, store.path / "sweep.json")
    findings = []
    if raw["schema"] != SCHEMA:
        old = f"schema {raw['schema']}; the next sweep here makes it {SCHEMA}"
        findings.append(Finding("note", "sweep.json", old))
    plan = {}
    for values in content.get("experiments", ()):
        try:
            experiment = Experiment.from_dict(values)
            plan[experiment.id] = experiment
        except (TableError, KeyError, TypeError) as error:
            why = f"an experiment does not match its id: {str(error)[:80]}"
            findings.append(Finding("wrong", "sweep.json", why))
    return plan, findings


def _run(store: Store, name: str, findings: list[Finding]) -> Run | None:
    """What is on record of a run, as a result or as an attempt."""
    path = store.run_dir(name) / "run.json"
    try:
        return read_run(path, name)
    except FileNotFoundError:
        attempt = store.attempt(name)
        return None if attempt is None else attempt.run
    except TableError as error:
        findings.append(
            Finding(
                "wrong",
                _inside(store, path),
                f"torn or of another run: {str(error)[:80]}",
                "rename, so that the run is made again",
                _aside(path),
            )
        )
        return None


def _around(store: Store, directory: Path, run: Run | None) -> Iterator[Finding]:
    """What lies beside the record of a run."""
    final = run is not None and run.state in FINAL
    for path in sorted(directory.iterdir()):
        here = _inside(store, path)
        if path.name == "lease.json":
            yield from _lease(path, here)
        elif path.name == "attempt.json" and store.attempt(directory.name) is None:
            yield Finding("wrong", here, "torn", "rename", _aside(path))
        elif path.name == "checkpoint":
            yield from _checkpoint(path, here, final, store.run_lease(directory.name))
        elif is_temporary(path.name):
            yield from _temporary(path, here)
        elif ".unreadable-" in path.name or ".set-aside-" in path.name:
            yield Finding("note", here, "was set aside")
        elif path.name not in _OURS:
            yield Finding("note", here, "not of flops-fit")


def _lease(path: Path, here: str) -> Iterator[Finding]:
    if path.exists() and living_holder(path, now=time.time()) is None:
        yield Finding(
            "leftover", here, "the lease of a process that is gone", "remove", _free(path)
        )


def _checkpoint(path: Path, here: str, final: bool, lease: Path) -> Iterator[Finding]:
    if living_holder(lease, now=time.time()) is not None:
        return
    if final:
        yield Finding(
            "leftover",
            here,
            "a checkpoint of a finished run",
            "remove",
            lambda: shutil.rmtree(path),
        )
        return
    steps = [p for p in path.iterdir() if re.fullmatch(r"step-\d+", p.name)]
    text = f"no result yet; the next sweep goes on from its checkpoints, {len(steps)} of them"
    yield Finding("note", here, text)
    for broken in sorted(p for p in path.iterdir() if ".set-aside-" in p.name):
        yield Finding("note", f"{here}/{broken.name}", "was set aside")


def _temporary(path: Path, here: str) -> Iterator[Finding]:
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _RESTING:
            yield Finding(
                "leftover", here, "a file that a killed process was writing", "remove", path.unlink
            )


def _foreign(path: Path, store: Store) -> Iterator[Finding]:
    if is_temporary(path.name):
        yield from _temporary(path, _inside(store, path))
    else:
        yield Finding("note", _inside(store, path), "not of flops-fit")


def _top(store: Store) -> Iterator[Finding]:
    """The folder itself, its trunks and derived files."""
    for path in sorted(store.path.iterdir()):
        if is_temporary(path.name):
            yield from _temporary(path, path.name)
        elif re.match(r"(runs|trunks)-set-aside-", path.name):
            yield Finding("note", path.name, "was set aside")
    for path in sorted(store.trunks.iterdir()) if store.trunks.is_dir() else []:
        if path.suffix == ".lease":
            yield from _lease(path, _inside(store, path))
    fit = store.path / "fit.json"
    if fit.exists():
        try:
            json.loads(fit.read_bytes())
        except ValueError:
            yield Finding("wrong", "fit.json", "torn", "rename", _aside(fit))


def _table(store: Store, plan: dict[str, Experiment], runs: dict[str, Run]) -> Iterator[Finding]:
    """Whether ``runs.csv`` says what the records say."""
    path = store.path / "runs.csv"
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as handle:
        rows = {row.get("id", ""): row for row in csv.DictReader(handle)}
    final = {i: run for i, run in runs.items() if run.state in FINAL}
    other = [i for i, row in rows.items() if i in final and not _agrees(row, final[i])]
    unknown = [i for i in rows if i not in runs]
    newer = [i for i in final if i in plan and i not in rows]

    def rewrite() -> None:
        store.write_table([runs[i] for i in plan if i in runs])

    for ids, grade, what in (
        (other, "wrong", "rows that differ from run.json"),
        (unknown, "wrong", "rows without a run on record"),
        (newer, "leftover", "runs that ended after it was written"),
    ):
        if ids:
            text = f"{len(ids)} {what} ({', '.join(ids[:2])}{', ...' if ids[2:] else ''})"
            kind: Grade = "wrong" if grade == "wrong" else "leftover"
            yield Finding(kind, "runs.csv", text, "write it again", rewrite if plan else None)


def _agrees(row: dict[str, Any], run: Run) -> bool:
    loss = "" if run.loss is None else str(run.loss)
    return row.get("state") == run.state and row.get("loss") == loss


def _aside(path: Path) -> Callable[[], None]:
    def act() -> None:
        path.rename(path.with_name(f"{path.name}.unreadable-{time.time_ns()}"))

    return act


def _free(path: Path) -> Callable[[], None]:
    """Take the lease as a sweep would, and let it go."""

    def act() -> None:
        lease = take_lease(path)
        if isinstance(lease, Lease):
            lease.release()

    return act


def _inside(store: Store, path: Path) -> str:
    return path.relative_to(store.path).as_posix()
