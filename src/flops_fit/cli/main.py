"""The commands in one program: what they answer is printed here, and errors are one line."""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from flops_fit._version import __version__
from flops_fit.cli.answer import Answer, Settings, as_text
from flops_fit.cli.demo import demo
from flops_fit.cli.fit_commands import compare, fit, next_, report
from flops_fit.cli.folder_commands import doctor, export
from flops_fit.cli.predict import predict
from flops_fit.cli.reference import reference
from flops_fit.cli.sweep_commands import init, plan, run
from flops_fit.errors import FlopsFitError, InputError, InputTypeError
from flops_fit.text import error_line

NOT_GOOD, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141

EXIT_CODES = (
    "Exit codes: 0 done; 1 it failed, or the answer must not be relied on, or a check found "
    "something wrong; 2 the input cannot be used; 130 interrupted by Ctrl-C; 143 ended by "
    "SIGTERM; 141 the reader of a pipe has gone."
)

app = typer.Typer(name="flops-fit", pretty_exceptions_enable=False, epilog=EXIT_CODES)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flops-fit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _common(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_print_version,
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", metavar="", help="Show where an error comes from; in any place."),
    ] = False,
) -> None:
    """Given a compute budget: how big a model, on how much data, what loss, and how sure?"""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit


_SWEEP, _RUNS, _FOLDER = "Sweeps", "Answers from runs: no torch needed", "The folder of a sweep"
for _function, _panel in (
    (demo, _SWEEP),
    (init, _SWEEP),
    (plan, _SWEEP),
    (run, _SWEEP),
    (fit, _RUNS),
    (predict, _RUNS),
    (compare, _RUNS),
    (next_, _RUNS),
    (report, _RUNS),
    (doctor, _FOLDER),
    (export, _FOLDER),
):
    app.command(_function.__name__.rstrip("_"), rich_help_panel=_panel, epilog=EXIT_CODES)(
        _function
    )
app.add_typer(reference, name="reference", rich_help_panel=_RUNS)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, by default with the arguments of this process, and exit."""
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    settings = Settings(debug="--debug" in arguments)
    try:
        code = _carry_out([a for a in arguments if a != "--debug"], settings)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer is written once more as the process ends: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PIPE_CLOSED
    return code


def _carry_out(arguments: Sequence[str], settings: Settings) -> int:
    try:
        answer = app(arguments, prog_name="flops-fit", standalone_mode=False, obj=settings)
        if isinstance(answer, Answer):
            _print_answer(answer, settings)
            return 0 if answer.good else NOT_GOOD
        if answer != INTERRUPTED:
            return int(answer or 0)
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, typer.Abort):
        pass
    except Exception as error:  # one line for any of them; --debug shows where it comes from
        return _told(error, settings.debug)
    typer.echo("flops-fit: interrupted.", err=True)
    return INTERRUPTED


def _print_answer(answer: Answer, settings: Settings) -> None:
    if settings.json:
        text = json.dumps(answer.document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal and not answer.whole else None
        text = as_text(answer.shown, width, colour=terminal and os.environ.get("TERM") != "dumb")
    sys.stdout.write(text)


def _told(error: Exception, debug: bool) -> int:
    """Say what went wrong in one line; the exit code."""
    usage = getattr(error, "format_message", None)  # of typer's own errors
    if debug and usage is None:
        traceback.print_exception(error)
    elif usage is not None:
        ctx = getattr(error, "ctx", None)
        hint = f" See {ctx.command_path} --help." if ctx is not None else ""
        said = " ".join(usage().split())
        stop = "" if said.endswith((".", "?", "!")) else "."
        typer.echo(f"flops-fit: {said}{stop}{hint}", err=True)
        return BAD_INPUT
    elif isinstance(error, FlopsFitError):
        first, _, more = str(error).strip().partition("\n")
        typer.echo(f"flops-fit: {first}{' (--debug shows more)' if more else ''}", err=True)
    else:
        typer.echo(f"flops-fit: {error_line(error)} (--debug shows where)", err=True)
    return BAD_INPUT if isinstance(error, InputError | InputTypeError) else NOT_GOOD
