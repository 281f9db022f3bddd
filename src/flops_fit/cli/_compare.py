"""``flops-fit compare``: how much compute one recipe needs to reach the other's loss."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import flops_fit
from flops_fit.cli._answer import Answer, Json
from flops_fit.cli._source import Columns, Form, Level, flops_number, read_fit

__all__ = ["compare"]


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="FIRST", help="The baseline: a table, or a sweep's folder.")
    ],
    second: Annotated[
        Path, typer.Argument(metavar="SECOND", help="What is compared with it, likewise.")
    ],
    at: Annotated[
        float | None,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs to compare at.",
            show_default="the smaller of the two largest runs'",
        ),
    ] = None,
    level: Level = 0.9,
    law: Form = "auto",
    column: Columns = None,
    as_json: Json = False,
) -> Answer:
    """Say how much compute one recipe needs to reach the loss of another.

    Both have to be judged by the same held-out data, in the same unit.
    """
    baseline, other = (read_fit(path, law, column) for path in (first, second))
    found = flops_fit.compare(baseline, other, at, level=level)
    text = str(found).replace("the second", str(second), 1).replace("the first", str(first), 1)
    names = f"First: {first}, trust: {baseline.trust}. Second: {second}, trust: {other.trust}."
    document = flops_fit.records.finite_json(asdict(found))
    document |= {"first": str(first), "second": str(second)}
    findings = [f"  • {d}" for d in found.diagnostics]
    good = all(d.severity != "critical" for d in found.diagnostics)
    return Answer((text, names, *findings), document, good)
