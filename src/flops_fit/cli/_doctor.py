"""What a sweep's folder holds and what is wrong with it, in the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from flops_fit.store import Examination, examine, repair

__all__ = ["check_folder"]

_STYLES = {"wrong": "red", "leftover": "yellow", "note": ""}
_MOST_ROWS = 100


def check_folder(folder: Path, mend: bool, console: Console | None = None) -> bool:
    """Print what is there and what is wrong; whether nothing is.

    With ``mend`` what is safe is done about it, and the folder is looked at once more.
    """
    console = console or Console(highlight=False, markup=False)
    found = examine(folder)
    _show(found, console)
    if mend and any(f.act for f in found.findings):
        mended = repair(found)
        console.print(f"\nMended {len(mended)} of {len(found.findings)}. What is left:")
        found = examine(folder)
        _show(found, console)
    elif any(f.act for f in found.findings):
        console.print("\nNothing was changed. --repair does what the last column says.")
    console.print(
        "Sound." if found.sound else "Not sound.", style="green" if found.sound else "red"
    )
    return found.sound


def _show(found: Examination, console: Console) -> None:
    total = sum(found.states.values())
    states = ", ".join(f"{n} {state}" for state, n in sorted(found.states.items()))
    console.print(f"{total} runs: {states}." if total else "No runs.")
    if not found.findings:
        return
    table = Table("", Column("where", overflow="fold"), "what", "repair")
    for finding in found.findings[:_MOST_ROWS]:
        cells = (finding.grade, finding.path, finding.message, finding.mend)
        table.add_row(*cells, style=_STYLES[finding.grade])
    console.print(table)
    if (more := len(found.findings) - _MOST_ROWS) > 0:
        console.print(f"... and {more} more.")
