"""The program: its commands, output as wide as the terminal, errors in one line, exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import flops_fit
from flops_fit._version import __version__
from flops_fit.cli.answer import (
    WORDS,
    Answer,
    Settings,
    broken,
    complain,
    examples,
    in_options,
    number,
    option,
)
from flops_fit.cli.fit import compare, fit, forecast, next_, report
from flops_fit.cli.predict import metric, predict, reference
from flops_fit.cli.sweep_commands import collect, demo, doctor, export, init, plan, run
from flops_fit.errors import FlopsFitError, InputError, InputTypeError
from flops_fit.text import error_line, spell_out, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NOT_GOOD, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141

EXIT_CODES: str = WORDS["exit_codes"]
_WIDEST = 1000
# Columns of a plan that are left out on a narrow terminal, in this order.
_OPTIONAL_COLUMNS = ("C/6ND", "lr", "epochs", "batch", "D/N")

app = typer.Typer(
    name="flops-fit", pretty_exceptions_enable=False, epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flops-fit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _common(
    ctx: typer.Context,
    version: Annotated[
        bool, option("version", "--version", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, option("debug", "--debug")] = False,
) -> None:
    """Given a compute budget: how big a model, on how much data, what loss, and how sure?"""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit


_PANELS: dict[str, tuple[Any, ...]] = {
    "Sweeps": (demo, init, plan, run),
    "Answers from runs: no torch needed": (fit, predict, metric, compare, next_, forecast, report),
    "The folder of a sweep": (doctor, collect, export),
}
for _panel, _functions in _PANELS.items():
    for _function in _functions:
        _name = _function.__name__.rstrip("_")
        _epilog = "\n\n".join(["Examples:", *examples(_name), EXIT_CODES])
        app.command(_name, rich_help_panel=_panel, epilog=_epilog)(_function)
app.add_typer(reference, name="reference", rich_help_panel="Answers from runs: no torch needed")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, by default with the arguments of this process, and exit."""
    spell_out()
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    settings = Settings(debug="--debug" in arguments)
    words = [a for a in arguments if a != "--debug"]
    if words[:1] == ["chinchilla"]:  # as a fit, or the law of its paper, is looked for
        published = len(words) > 1 and number(words[1]) is not None
        words[:1] = ["predict", "--law", "hoffmann2022"] if published else ["fit"]
    try:
        command: Any = _plain(typer.main.get_command(app))
        if words and words[0] not in command.commands and os.path.isfile(words[0]):
            words.insert(0, "fit")
        answer = command.main(words, prog_name="flops-fit", standalone_mode=False, obj=settings)
        if isinstance(answer, Answer):
            _print_answer(answer, settings)
            if answer.unwritten is not None:
                sys.stdout.flush()
                return _print_error(answer.unwritten, settings.debug)
            answer = 0 if answer.good else NOT_GOOD
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes the rest of the buffer when it exits: send that to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        answer = INTERRUPTED
    except Exception as error:  # one line for any of them; --debug shows where it comes from
        return _print_error(error, settings.debug)
    if answer == INTERRUPTED:
        complain("flops-fit: interrupted.")
    return int(answer or 0)


def _plain(command: Any) -> Any:
    """A command whose help shows no Python type beside flags and arguments, which have their own words."""
    all_params = command.get_params

    def get_params(ctx: Any) -> Any:
        params = all_params(ctx)
        for one in params:
            if getattr(one, "is_flag", False) or one.param_type_name == "argument":
                one.display_type_rich = lambda ctx: None
        return params

    command.get_params = get_params
    for inner in getattr(command, "commands", {}).values():
        _plain(inner)
    return command


def _print_answer(answer: Answer, settings: Settings) -> None:
    if settings.json:
        document = flops_fit.records.finite_json(answer.document)
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal and not answer.whole else None
        shown = answer.shown
        if not answer.whole:
            shown = tuple(in_options(p) if isinstance(p, str) else p for p in shown)
        text = as_text(shown, width, colour=terminal and os.environ.get("TERM") != "dumb")
    sys.stdout.write(text)


def _print_error(error: Exception, debug: bool) -> int:
    """Say what went wrong in one line; returns the exit code."""
    usage = getattr(error, "format_message", None)  # of typer's own errors
    if usage is not None:
        ctx = getattr(error, "ctx", None)
        hint = f" See {ctx.command_path} --help." if ctx is not None else ""
        message = " ".join(usage().split())
        stop = "" if message.endswith((".", "?", "!")) else "."
        complain(f"flops-fit: {message}{stop}{hint}")
        return BAD_INPUT
    if debug:
        traceback.print_exception(error)
    elif isinstance(error, FlopsFitError):
        first, _, more = visible(in_options(str(error)).strip()).partition("\n")
        complain(f"flops-fit: {first}{' (--debug shows more)' if more else ''}")
    else:
        complain(f"flops-fit: {visible(error_line(error))} (--debug shows where)")
    return BAD_INPUT if isinstance(error, InputError | InputTypeError) else NOT_GOOD


def as_text(parts: Iterable[Any], width: int | None = None, colour: bool = False) -> str:
    """Texts and rich renderables, one below the other, broken to fit a terminal's ``width`` if given."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream, width=width or _WIDEST, force_terminal=colour, highlight=False, markup=False,
        emoji=False,
    )  # fmt: skip
    for part in parts:
        if not isinstance(part, str):
            console.print(_narrowed(part, width, console) if width else part, end="")
            continue
        for is_table, group in groupby(part.split("\n"), lambda line: line.startswith("|")):
            lines = list(group)
            if width is not None and any(len(line) > width for line in lines):
                if is_table:
                    console.print(_redrawn(lines, width), end="")
                    continue
                lines = [broken(line, width) for line in lines]
            console.print("\n".join(lines), soft_wrap=True)
    shown = (visible(line, colour).rstrip() for line in stream.getvalue().splitlines())
    return "\n".join(shown) + "\n"


def _redrawn(lines: Sequence[str], width: int) -> Table:
    """A Markdown table as one whose cells can be broken, intervals below their values.

    Where even that is too wide, the ends of the longest intervals stand below each other.
    """
    from rich import box
    from rich.table import Column, Table

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [[cell.replace(" (", "\n(") for cell in row] for row in rows[:1] + rows[2:]]
    longest = _longest_words(rows)
    for widest in sorted(range(len(longest)), key=lambda i: -longest[i]):
        if sum(longest) + 2 * len(longest) > width:
            for row in rows:
                row[widest] = re.sub(r"\((\S+–)", r"(\1\n", row[widest])
            longest = _longest_words(rows)
    names = (textwrap.fill(name, max(n, 1)) for name, n in zip(rows[0], longest, strict=True))
    columns = (Column(name, overflow="fold") for name in names)
    table = Table(
        *columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _longest_words(rows: Sequence[Sequence[str]]) -> list[int]:
    """The length of the longest word of each column; a few words in brackets are one."""
    word = re.compile(r"\([^()\n]{,12}\)|\S+|$")
    return [
        max(len(w) for c in cells for w in word.findall(c)) for cells in zip(*rows, strict=True)
    ]


def _narrowed(part: Any, width: int, console: Console) -> Any:
    """A table without the least important columns, so that it fits."""
    from rich.measure import Measurement

    table = part.__rich__() if hasattr(part, "__rich__") else part
    left_out = []
    for name in _OPTIONAL_COLUMNS:
        columns = getattr(table, "columns", ())
        unbounded = console.options.update(max_width=_WIDEST)
        if not columns or Measurement.get(console, unbounded, table).maximum <= width:
            break
        if any(c.header == name for c in columns):
            table.columns = [c for c in columns if c.header != name]
            left_out.append(name)
    if left_out:
        table.caption = f"Left out to fit the width: {', '.join(left_out)}."
        table.caption_justify = "left"
    return table
