"""The options of the commands that plan and run a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flops_fit.errors import InputError

_PANEL = "The sweep: flags override the file"

SweepPath = Annotated[
    Path | None,
    typer.Argument(
        metavar="SWEEP",
        help="The sweep as a TOML file.",
        show_default="sweep.toml where there is one",
    ),
]
ModelRef = Annotated[
    str | None,
    typer.Option(
        "--model-cls",
        metavar="REF",
        rich_help_panel=_PANEL,
        help="The model's class or factory: package.module:name or file.py:name.",
    ),
]
SizeParam = Annotated[
    str | None,
    typer.Option(
        "--model-size-param",
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="The argument that sets its size.",
    ),
]
DatasetRef = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="REF",
        rich_help_panel=_PANEL,
        help="The data: an object, or what is called without arguments to make it.",
    ),
]
LossRef = Annotated[
    str | None,
    typer.Option(
        "--loss-fn",
        metavar="REF",
        rich_help_panel=_PANEL,
        help="The loss: (model output, targets) to a mean.",
    ),
]
Budgets = Annotated[
    str | None,
    typer.Option(
        "--compute-budgets",
        metavar="FLOPS,...",
        rich_help_panel=_PANEL,
        help="Training FLOPs of each tier, separated by commas: 1e15,3e15,1e16.",
    ),
]
Design = Annotated[
    str | None,
    typer.Option(
        "--design",
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="grid, tapered, rectangular or adaptive.",
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        "--mode",
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="local trains; mock lets a known law answer, without training.",
    ),
]
ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="Where runs happen: inprocess, pool, ray or slurm.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="NUMBER",
        rich_help_panel=_PANEL,
        help="Every run derives its own from it.",
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir",
        metavar="FOLDER",
        rich_help_panel=_PANEL,
        help="Where records, tables and figures go.",
        show_default="outputs, beside the file",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=_PANEL,
        help="Any other key of the file, such as batch_size=16 or hparams.lr=0.01; may be repeated.",
    ),
]


def flags_of(budgets: str | None, **flags: Any) -> dict[str, Any]:
    """Flags by the keys that they override."""
    return {"compute_budgets": None if budgets is None else _numbers(budgets), **flags}


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            "--compute-budgets: expected training FLOPs separated by commas, such as 1e15,3e15; got "
            f"{text!r}."
        ) from None
