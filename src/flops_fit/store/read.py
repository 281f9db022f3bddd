"""The files of a sweep as values, after their schema, ids and wholeness were checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import OutputError, TableError
from flops_fit.records import Run

FORMAT = "flops-fit sweep"
SCHEMA = 2

Content = dict[str, Any]
Step = Callable[[Content], Content]


def _sweep_2(content: Content) -> Content:
    return {**content, "schema": 2}


def _run_2(content: Content) -> Content:
    return {"schema": 2, **content}


_SWEEP: dict[int, Step] = {1: _sweep_2}
_RUN: dict[int, Step] = {1: _run_2}


def migrated_sweep(content: Mapping[str, Any], path: object) -> Content:
    """``sweep.json`` in the present schema.

    Raises
    ------
    OutputError
        It is of a schema that this version does not know.
    """
    return _migrated(content, content.get("schema"), _SWEEP, path)


def migrated_run(content: Mapping[str, Any], path: object) -> Content:
    """``run.json`` in the present schema; raises as :func:`migrated_sweep` does."""
    return _migrated(content, content.get("schema", 1), _RUN, path)


def _migrated(
    content: Mapping[str, Any], schema: Any, steps: Mapping[int, Step], path: object
) -> Content:
    known = [*steps, SCHEMA]
    if isinstance(schema, bool) or schema not in known:
        raise OutputError(
            f"output_dir: {path} has schema {schema!r}; this version reads {known}. Use the version "
            "that wrote it, or another output_dir."
        )
    new = dict(content)
    for step in range(schema, SCHEMA):
        new = steps[step](new)
    return new


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
