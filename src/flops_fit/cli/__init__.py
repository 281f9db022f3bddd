"""The command ``flops-fit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flops_fit._version import __version__
from flops_fit.cli._demo import run_demo
from flops_fit.cli._doctor import check_folder
from flops_fit.cli._fit import fit_table
from flops_fit.errors import FlopsFitError, InputError, InputTypeError
from flops_fit.store import recorded_runs, write_runs

__all__ = ["app", "main"]

app = typer.Typer(
    name="flops-fit",
    help="Given a compute budget: how big a model, on how much data, what loss, and how sure?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flops-fit {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def demo(
    output_dir: Annotated[
        Path, typer.Option(help="Where records, figures and the report go.")
    ] = Path("outputs/demo"),
    workers: Annotated[
        int, typer.Option(min=1, help="Runs at the same time, one thread each.")
    ] = 2,
) -> None:
    """Train a real sweep of small GPTs on real text, and answer; about 4 minutes on two cores."""
    try:
        run_demo(output_dir, workers)
    except KeyboardInterrupt:
        typer.echo(
            "Interrupted. Finished runs are kept; the same command goes on from there.", err=True
        )
        raise typer.Exit(130) from None


@app.command()
def fit(
    runs: Annotated[
        Path, typer.Argument(help="CSV, JSONL or Parquet with parameters, tokens and loss.")
    ],
    law: Annotated[str, typer.Option(help="auto, hoffmann, kappa or kaplan.")] = "auto",
    predict: Annotated[
        list[float] | None, typer.Option(help="Training FLOPs to answer for; may be repeated.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="name=heading, where a heading is unusual; may be repeated."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page here as well.")] = None,
    curves: Annotated[
        Path | None, typer.Option(help="Training curves: run, parameters, tokens and loss.")
    ] = None,
) -> None:
    """Fit a law to runs trained elsewhere, and answer; needs no torch."""
    typer.echo(fit_table(runs, law, predict or (), column or (), report, curves))


@app.command()
def doctor(
    output_dir: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Do what is safe; without it nothing is changed.")
    ] = False,
) -> None:
    """Check every record of a sweep; exit code 1 where something is wrong."""
    if not check_folder(output_dir, repair):
        raise typer.Exit(1)


@app.command()
def export(
    output_dir: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    table: Annotated[Path, typer.Argument(help="Where to write: a name in .csv or .parquet.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Also runs that the last plan does not ask for.")
    ] = False,
) -> None:
    """Write the runs of a sweep, whatever their state, as one table."""
    runs = recorded_runs(output_dir, all_runs=everything)
    typer.echo(f"{len(runs)} runs: {write_runs(runs, table)}")


def main() -> None:
    """Run the command; errors of ours are one line."""
    try:
        app(standalone_mode=True)
    except (InputError, InputTypeError) as error:
        _fail(error, 2)
    except FlopsFitError as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    typer.echo(f"flops-fit: {error}", err=True)
    sys.exit(code)
