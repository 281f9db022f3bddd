"""The folder of a sweep: ``doctor`` checks its records, ``export`` writes its runs as one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import flops_fit
from flops_fit.cli.answer import Answer, Json

if TYPE_CHECKING:
    from rich.table import Table

    import flops_fit.store
    from flops_fit.store.doctor import Examination

_STYLES = {"wrong": "red", "leftover": "yellow", "note": ""}
_MAX_ROWS = 100

Folder = Annotated[Path, typer.Argument(help="The folder of a sweep.")]


def doctor(
    output_dir: Folder,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", metavar="", help="Fix what is safe to fix; without it nothing is changed."
        ),
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Check every record of a sweep; exit code 1 if something is wrong."""
    from rich.text import Text

    examination = flops_fit.store.examine(output_dir)
    shown: list[str | Table | Text] = list(_findings(examination))
    fixed = []
    if any(f.repair for f in examination.findings):
        if repair:
            fixed = flops_fit.store.repair(examination)
            shown.append(f"\nFixed {len(fixed)} of {len(examination.findings)}. What is left:")
            examination = flops_fit.store.examine(output_dir)
            shown += _findings(examination)
        else:
            shown.append("\nNothing was changed. --repair does what the last column says.")
    shown.append(Text("Sound.", "green") if examination.sound else Text("Not sound.", "red"))
    document = {
        "sound": examination.sound,
        "states": examination.states,
        "findings": [
            {"grade": f.grade, "path": f.path, "message": f.message, "repair": f.fix}
            for f in examination.findings
        ],
        "mended": [f.path for f in fixed],
    }
    return Answer(tuple(shown), document, examination.sound)


def _findings(examination: Examination) -> Iterator[str | Table]:
    from rich.table import Column, Table

    total = sum(examination.states.values())
    states = ", ".join(f"{n} {state}" for state, n in sorted(examination.states.items()))
    yield f"{total} runs: {states}." if total else "No runs."
    if not examination.findings:
        return
    table = Table("", Column("where", overflow="fold"), "what", "repair")
    for f in examination.findings[:_MAX_ROWS]:
        table.add_row(f.grade, f.path, f.message, f.fix, style=_STYLES[f.grade])
    yield table
    if (more := len(examination.findings) - _MAX_ROWS) > 0:
        yield f"... and {more} more."


def export(
    output_dir: Folder,
    table: Annotated[
        Path, typer.Argument(help="Where to write: a name that ends in .csv or .parquet.")
    ],
    everything: Annotated[
        bool,
        typer.Option("--all", metavar="", help="Also runs that are not in the last plan."),
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Write the runs of a sweep, in every state, as one table."""
    runs = flops_fit.store.recorded_runs(output_dir, all_runs=everything)
    path = flops_fit.store.write_runs(runs, table)
    return Answer((f"{len(runs)} runs: {path}",), {"runs": len(runs), "path": str(path)})
