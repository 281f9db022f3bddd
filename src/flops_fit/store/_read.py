"""The files of a sweep as values, after their schema, ids and wholeness were checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import OutputError, TableError
from flops_fit.records import Run
from flops_fit.store._schema import FORMAT, migrated_run

__all__ = ["FINAL", "Attempt", "read_attempt", "read_run", "read_sweep"]

FINAL = frozenset({"completed", "diverged"})  # other states may come out otherwise next time


@dataclass(frozen=True)
class Attempt:
    """How the last attempt at a run ended that gave no result.

    Attributes
    ----------
    run
        With its state and reason.
    token
        New for each attempt, so that two alike are told apart.
    call
        The driver's call that made it.
    lost
        How often that call had lost the run to its surroundings by then.
    """

    run: Run
    token: str
    call: str = ""
    lost: int = 0


def read_run(path: Path, experiment_id: str) -> Run:
    """The record at ``path``, whatever its state and schema.

    Raises
    ------
    TableError
        It is torn, or the record of another run.
    OSError
        It is not there, or cannot be read.
    """
    with open(path, "rb") as handle:
        text = handle.read()
    try:
        run = Run.from_dict(migrated_run(json.loads(text), path))
    except OutputError as error:
        raise TableError(str(error)) from error
    except TableError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(str(error)) from error
    if run.experiment.id != experiment_id:
        raise TableError(f"it records run {run.experiment.id}")
    return run


def read_sweep(folder: Path) -> dict[str, Any]:
    """``sweep.json`` as it is.

    Raises
    ------
    OutputError
        It is not ours.
    """
    marker = folder / "sweep.json"
    try:
        content = json.loads(marker.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise OutputError(
            f"output_dir: {marker} is not a record of flops-fit. Expected an empty or new folder, "
            "or that of an earlier sweep: choose another output_dir."
        )
    return content


def read_attempt(path: Path) -> Attempt | None:
    """The attempt at ``path``; None where there is none, or it is torn."""
    try:
        content = json.loads(path.read_bytes())
        return Attempt(
            Run.from_dict(content["run"]), content["token"], content["call"], content["lost"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
