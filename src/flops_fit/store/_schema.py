"""Older forms of the files, brought up to the present one step at a time.

Schema 1 kept failed attempts in ``run.json`` too, where the next attempt overwrote them, and wrote
no schema into that file. Since schema 2 ``run.json`` holds a result and is published once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flops_fit.errors import OutputError

__all__ = ["FORMAT", "SCHEMA", "migrated_run", "migrated_sweep"]

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
