"""What happened, on disk.

::

    output_dir/
      sweep.json           says that this folder is ours, and which runs the last plan asked for
      runs/<id>/run.json   one finished run, published by an atomic rename
      runs/<id>/metrics.jsonl, checkpoint/   its training curve, and what it would go on from
      trunks/<trunk>/      where branches left a trunk that a missing run would go on from
      runs.csv, fit.json, plots/, report.html   derived; rebuilt at every call

A run is looked up by its id alone, so a changed plan keeps every run that it still asks for.
Files that are torn or do not belong are renamed and named, never deleted and never fitted.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.errors import OutputError, TableError
from flops_fit.records import Diagnostic, Experiment, Run, finite_json
from flops_fit.train import prune_trunks

__all__ = ["Store", "write_atomic", "write_json"]

_FORMAT = "flops-fit sweep"
_SCHEMA = 1
_ATTEMPTS = 20  # to rename a file that is being read, where the system forbids it
_ATTEMPT_SECONDS = 0.05
_FINAL = frozenset({"completed", "diverged"})  # other states may come out otherwise next time


@dataclass
class Store:
    """The folder of a sweep."""

    path: Path
    findings: list[Diagnostic] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Path, *, resume: bool = True) -> Store:
        """Take a folder as a sweep's own, making it where it is missing.

        With ``resume=False`` the runs already there are renamed, so that none is reused.

        Raises
        ------
        OutputError
            It cannot be written, or holds something else.
        """
        store = cls(Path(path))
        store._claim()
        if not resume:
            when = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            for folder in (store.runs, store.trunks):
                if folder.is_dir():
                    aside = store.path / f"{folder.name}-set-aside-{when}"
                    folder.rename(aside)
                    store._note(f"Earlier {folder.name} were set aside in {aside.name}.")
        try:
            store.runs.mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritable(store.path, error) from error
        return store

    def _claim(self) -> None:
        marker = self.path / "sweep.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if marker.exists():
                _check_marker(marker)
            elif foreign := _foreign(self.path):
                raise OutputError(
                    f"output_dir: {self.path} holds {foreign[:4]} and no sweep of flops-fit. "
                    "Expected an empty or new folder, or that of an earlier sweep: choose another "
                    "output_dir."
                )
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
            if not marker.exists():
                write_atomic(marker, json.dumps({"format": _FORMAT, "schema": _SCHEMA}))
        except OutputError:
            raise
        except OSError as error:
            raise _unwritable(self.path, error) from error

    @property
    def runs(self) -> Path:
        """Where each run has a folder of its own."""
        return self.path / "runs"

    @property
    def trunks(self) -> Path:
        """Where runs of one trunk leave their state to longer ones."""
        return self.path / "trunks"

    def run_dir(self, experiment_id: str) -> Path:
        """The folder of one run."""
        return self.runs / experiment_id

    def write_plan(self, experiments: Iterable[Experiment]) -> None:
        """Note which runs this sweep asks for."""
        content = {
            "format": _FORMAT,
            "schema": _SCHEMA,
            "experiments": [e.to_dict() for e in experiments],
        }
        self._write("sweep.json", json.dumps(content, indent=1))

    def publish(self, run: Run) -> None:
        """Record a run that has ended; readers see all of it or nothing."""
        directory = self.run_dir(run.experiment.id)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomic(directory / "run.json", json.dumps(run.to_dict(), indent=1))
        except OSError as error:
            raise _unwritable(directory, error) from error
        if run.state in _FINAL:
            shutil.rmtree(directory / "checkpoint", ignore_errors=True)

    def prune(
        self, experiments: Iterable[Experiment], ended: Mapping[str, Run], trunk: str = ""
    ) -> None:
        """Remove what branches left of their trunks and no run without a final record needs.

        While runs go on, only that of a ``trunk`` none of whose branches does: others may be
        writing.
        """
        final = {i for i, run in ended.items() if run.state in _FINAL}
        prune_trunks(self.trunks, [e for e in experiments if e.id not in final], trunk)

    def finished(self, experiments: Iterable[Experiment]) -> dict[str, Run]:
        """The final runs among ``experiments``, by id.

        Completed and diverged runs are final. Failed ones and those out of memory are asked for
        again: what was in their way may be gone.
        """
        found = {}
        for experiment in experiments:
            run = self._read(experiment.id)
            if run is not None and run.state in _FINAL:
                found[experiment.id] = run
        return found

    def others(self, experiments: Iterable[Experiment]) -> int:
        """How many recorded runs are not among ``experiments``; they are kept and not fitted."""
        asked = {e.id for e in experiments}
        return sum(1 for p in self.runs.iterdir() if p.is_dir() and p.name not in asked)

    def _read(self, experiment_id: str) -> Run | None:
        path = self.run_dir(experiment_id) / "run.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"output_dir: {path} cannot be read: {error}.") from error
        try:
            run = Run.from_dict(json.loads(text))
            if run.experiment.id != experiment_id:
                raise TableError(f"it records run {run.experiment.id}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            aside = path.with_name(f"run.json.unreadable-{time.time_ns()}")
            path.rename(aside)
            self._note(
                f"runs/{experiment_id}/run.json is torn or foreign ({str(error)[:80]}); it was "
                f"renamed to {aside.name} and the run is made again."
            )
            return None
        return run

    def write_table(self, runs: Iterable[Run]) -> Path:
        """All runs of the plan, whatever their state, as ``runs.csv``."""
        rows = [_row(run) for run in runs]
        path = self.path / "runs.csv"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, list(rows[0]) if rows else ["id"])
                writer.writeheader()
                writer.writerows(rows)
            _rename(temporary, path)
        except OSError as error:
            raise _unwritable(path, error) from error
        return path

    def _write(self, name: str, content: str) -> Path:
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        except OSError as error:
            raise _unwritable(path, error) from error
        return path

    def _note(self, message: str) -> None:
        self.findings.append(Diagnostic("store", "note", message))


def write_atomic(path: Path, content: str) -> None:
    """Write so that a reader, or a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        _rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _rename(temporary: Path, path: Path) -> None:
    """Put a finished file in place; on Windows that fails while somebody reads the old one."""
    for _ in range(_ATTEMPTS if sys.platform == "win32" else 0):
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(_ATTEMPT_SECONDS)
        else:
            return
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as strict JSON, with null for what is not finite.

    Raises
    ------
    OutputError
        ``path`` cannot be written.
    """
    try:
        write_atomic(
            path, json.dumps(finite_json(content), indent=1, allow_nan=False, default=float)
        )
    except OSError as error:
        raise _unwritable(path, error) from error


def _foreign(folder: Path) -> list[str]:
    """What a folder holds that is neither hidden nor a sweep in a folder of its own."""
    return sorted(
        p.name
        for p in folder.iterdir()
        if not p.name.startswith(".") and not (p / "sweep.json").exists()
    )


def _check_marker(marker: Path) -> None:
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
        raise OutputError(
            f"output_dir: {marker} is not a record of flops-fit. Expected an empty or new folder, "
            "or that of an earlier sweep: choose another output_dir."
        )
    if content.get("schema") != _SCHEMA:
        raise OutputError(
            f"output_dir: {marker} has schema {content.get('schema')!r}; this version reads "
            f"{_SCHEMA}. Use the version that wrote it, or another output_dir."
        )


def _unwritable(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(
        f"output_dir: {path} cannot be written ({reason}). Choose another output_dir."
    )


def _row(run: Run) -> dict[str, Any]:
    e = run.experiment
    return {
        "id": e.id,
        "label": e.label,
        "state": run.state,
        "reason": run.reason,
        "budget": e.budget,
        "size": e.size,
        "params": e.params.total,
        "non_embedding": e.params.non_embedding,
        "tokens": run.tokens,
        "unit": e.unit,
        "unique_tokens": run.unique_tokens,
        "repeated_tokens": run.repeated_tokens,
        "epochs": run.epochs,
        "flops": run.flops,
        "flops_6nd": run.flops_6nd,
        "flops_6nd_matmul": run.flops_6nd_matmul,
        "flops_6nd_non_embedding": run.flops_6nd_non_embedding,
        "flops_shared": run.flops_shared,
        "cluster": e.trunk,
        "loss": run.loss,
        "loss_se": run.loss_se,
        "train_loss": run.train_loss,
        "gradient_norm": run.gradient_norm,
        "steps": e.steps,
        "batch_size": e.batch_size,
        "lr": e.hparams.get("lr"),
        "seed": e.seed,
        "repeat": e.repeat,
        "seconds": round(run.seconds, 3),
        "units_per_second": run.units_per_second,
        "mfu": run.mfu,
        "device": run.device,
    }
