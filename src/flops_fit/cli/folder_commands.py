"""``flops-fit export``: the runs of a sweep as one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli.answer import Answer, Json

if TYPE_CHECKING:
    from rich.console import Console

    from flops_fit.store.doctor import Examination


_STYLES = {"wrong": "red", "leftover": "yellow", "note": ""}
_MOST_ROWS = 100


def doctor(
    output_dir: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", metavar="", help="Do what is safe; without it nothing is changed."
        ),
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Check every record of a sweep; exit code 1 where something is wrong."""
    return examined(output_dir, repair)


def check_folder(folder: Path, repair: bool, console: Console | None = None) -> bool:
    """Print what is there and what is wrong; whether nothing is.

    With ``repair`` what is safe to fix is fixed, and the folder is checked once more.
    """
    from rich.console import Console

    console = console or Console(highlight=False, markup=False)
    answer = examined(folder, repair)
    for part in answer.shown:
        console.print(part)
    return answer.good


def examined(folder: Path, repair: bool) -> Answer:
    """What is there and what is wrong, after ``repair`` has fixed what is safe to fix."""
    from rich.text import Text

    found = flops_fit.store.examine(folder)
    shown, fixed = list(_shown(found)), []
    if repair and any(f.repair for f in found.findings):
        before = len(found.findings)
        fixed = flops_fit.store.repair(found)
        shown.append(f"\nFixed {len(fixed)} of {before}. What is left:")
        found = flops_fit.store.examine(folder)
        shown += _shown(found)
    elif any(f.repair for f in found.findings):
        shown.append("\nNothing was changed. --repair does what the last column says.")
    verdict = ("Sound.", "green") if found.sound else ("Not sound.", "red")
    document = {
        "sound": found.sound,
        "states": found.states,
        "findings": [
            {"grade": f.grade, "path": f.path, "message": f.message, "repair": f.fix}
            for f in found.findings
        ],
        "mended": [f.path for f in fixed],
    }
    return Answer((*shown, Text(*verdict)), document, found.sound)


def _shown(found: Examination) -> Iterator[Any]:
    from rich.table import Column, Table

    total = sum(found.states.values())
    states = ", ".join(f"{n} {state}" for state, n in sorted(found.states.items()))
    yield f"{total} runs: {states}." if total else "No runs."
    if not found.findings:
        return
    table = Table("", Column("where", overflow="fold"), "what", "repair")
    for finding in found.findings[:_MOST_ROWS]:
        cells = (finding.grade, finding.path, finding.message, finding.fix)
        table.add_row(*cells, style=_STYLES[finding.grade])
    yield table
    if (more := len(found.findings) - _MOST_ROWS) > 0:
        yield f"... and {more} more."


def export(
    output_dir: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    table: Annotated[
        Path, typer.Argument(help="Where to write: a name that ends in .csv or .parquet.")
    ],
    everything: Annotated[
        bool,
        typer.Option("--all", metavar="", help="Also runs that the last plan does not ask for."),
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Write the runs of a sweep, whatever their state, as one table."""
    runs = flops_fit.store.recorded_runs(output_dir, all_runs=everything)
    path = flops_fit.store.write_runs(runs, table)
    return Answer((f"{len(runs)} runs: {path}",), {"runs": len(runs), "path": str(path)})
