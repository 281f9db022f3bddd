"""Answers as text: as wide as a terminal is, and whole where they are piped."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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


_WIDEST = 1000
_SPARE = ("C/6ND", "lr", "epochs", "batch", "D/N")
"""Columns of a plan that a narrow terminal does without, the first ones first."""


def as_text(parts: Iterable[Any], width: int | None = None, colour: bool = False) -> str:
    """Texts and rich renderables, one below the other.

    Parameters
    ----------
    width
        Of the terminal: lines are broken between words, tables within cells. ``None`` breaks
        nothing, so that other programs find whole lines.
    colour
        Whether rich may use it; NO_COLOR is heard.
    """
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width or _WIDEST,
        force_terminal=colour,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        if isinstance(part, str):
            for block in _fitted(part, width):
                _print(console, block, soft_wrap=isinstance(block, str))
        else:
            _print(console, _narrowed(part, width, console) if width else part, soft_wrap=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table, the first row its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _print(console: Console, part: Any, soft_wrap: bool) -> None:
    console.print(part, soft_wrap=soft_wrap, end="\n" if isinstance(part, str) else "")


def _fitted(text: str, width: int | None) -> Iterator[Any]:
    """The text in lines that fit, its Markdown tables redrawn where they are too wide."""
    for is_table, group in groupby(text.split("\n"), lambda line: line.startswith("|")):
        lines = list(group)
        if width is None or all(len(line) <= width for line in lines):
            yield "\n".join(lines)
        elif is_table:
            yield _redrawn(lines)
        else:
            yield "\n".join(_broken(line, width) for line in lines)


def _broken(line: str, width: int) -> str:
    """One line as several, what hangs from a bullet or a name below its text."""
    mark = re.match(r" *(?:[•-] |\S+ {2,})?", line)
    indent = " " * len(mark.group()) if mark else ""
    return "\n".join(
        textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    )


def _redrawn(lines: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows[2:]:
        table.add_row(*row)
    return table


def _narrowed(part: Any, width: int, console: Console) -> Any:
    """A table that fits, by leaving out what tells least."""
    from rich.measure import Measurement

    table = part.__rich__() if hasattr(part, "__rich__") else part
    left_out = []
    for name in _SPARE:
        columns = getattr(table, "columns", ())
        unbounded = console.options.update(max_width=_WIDEST)
        if not columns or Measurement.get(console, unbounded, table).maximum <= width:
            break
        if any(c.header == name for c in columns):
            table.columns = [c for c in columns if c.header != name]
            left_out.append(name)
    if left_out:
        table.caption = f"Left out for want of room: {', '.join(left_out)}."
        table.caption_justify = "left"
    return table
