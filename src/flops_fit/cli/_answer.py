"""What a command answers, and the option that asks for it as JSON."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

__all__ = ["Answer", "Json", "Settings"]


@dataclass(frozen=True)
class Answer:
    """What a command answers, to be printed in one place.

    Attributes
    ----------
    shown
        Texts and rich renderables, one below the other.
    document
        The same as plain values, for ``--json``.
    good
        Whether it may be relied on; where not, the exit code says so.
    whole
        Whether lines are for other programs, and never broken.
    """

    shown: tuple[Any, ...]
    document: Any
    good: bool = True
    whole: bool = False


@dataclass
class Settings:
    """What was asked of every command alike."""

    json: bool = False
    debug: bool = False


@contextlib.contextmanager
def _only_stderr() -> Iterator[None]:
    """Let all that is printed go to standard error, by this process and by those it starts."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _ask_for_json(ctx: typer.Context, wanted: bool) -> bool:
    if wanted and isinstance(ctx.obj, Settings):
        ctx.obj.json = True
        ctx.with_resource(_only_stderr())  # until the command has returned its answer
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        callback=_ask_for_json,
        help="Print one JSON document on standard output, and nothing else there.",
    ),
]
