"""``flops-fit export``: the runs of a sweep as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import flops_fit
from flops_fit.cli._answer import Answer, Json

__all__ = ["export"]


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
