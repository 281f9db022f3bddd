"""``flops-fit next``: the runs that would tell most."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Annotated

import typer

import flops_fit
from flops_fit.cli._answer import Answer, Json
from flops_fit.cli._screen import markdown
from flops_fit.cli._source import Columns, Form, Runs, flops_number, read_fit, relied_on
from flops_fit.errors import OutputError
from flops_fit.text import count, percent

__all__ = ["next_"]


def next_(
    runs: Runs,
    target: Annotated[
        float,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs of the run that the answer is for.",
        ),
    ],
    spend: Annotated[
        float,
        typer.Option(
            metavar="FLOPS", parser=flops_number, help="Training FLOPs of all runs of the batch."
        ),
    ],
    batch: Annotated[int, typer.Option(metavar="RUNS", min=1, help="How many runs at most.")] = 6,
    max_run: Annotated[
        float | None,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs of one run at most.",
            show_default="a third of --spend",
        ),
    ] = None,
    law: Form = "auto",
    column: Columns = None,
    out: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write the runs to make as a table."),
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Propose the next batch of runs: those that narrow the optimum at a target most."""
    fit = read_fit(runs, law, column)
    found = flops_fit.design.next_experiments(
        fit, target_compute=target, budget_flops=spend, batch=batch, max_run_flops=max_run
    )
    unit = fit.runs.unit
    rows = [["FLOPs", "N (parameters)", f"D ({unit})", "D/N"]]
    for run in found.runs:
        N, D = run["params"], run["tokens"]
        rows.append([f"{run['flops']:.3g}", count(N), count(D), f"{D / N:.3g}"])
    shown = [
        markdown(rows),
        "",
        f"{found.cost:.3g} FLOPs in all. The 90 % interval of N* at {target:.3g} FLOPs: "
        f"{_width(found.now)} now, about {_width(found.after)} with these runs.",
        f"The law's {found.form}.",
    ]
    document = {
        "runs": list(found.runs),
        "unit": unit,
        "cost": found.cost,
        "target_compute": found.target_compute,
        "half_width_now": found.now,
        "half_width_after": found.after,
        "form": {"p_value": found.form.p_value, "doubtful": found.form.told},
        "trust": fit.trust,
    }
    if fit.trust == "no":
        shown.append("Do not rely on this fit: flops-fit fit says why.")
    if out is not None:
        _write(out, found.runs)
        shown.append(f"Runs: {out}")
    return Answer(tuple(shown), flops_fit.records.finite_json(document), relied_on(fit))


def _width(half: float) -> str:
    return percent(half) if math.isfinite(half) else "none"


def _write(path: Path, runs: tuple[dict[str, float], ...]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["params", "tokens", "flops"])
            writer.writeheader()
            writer.writerows(runs)
    except OSError as error:
        raise OutputError(f"--csv: {path} cannot be written ({error.strerror}).") from error
