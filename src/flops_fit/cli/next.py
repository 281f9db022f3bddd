"""``flops-fit next``: the runs that would narrow an answer most."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import flops_fit
from flops_fit.cli.answer import (
    Answer,
    Columns,
    Csv,
    Form,
    Json,
    Runs,
    flops_option,
    option,
    read_fit,
    relied_on,
)
from flops_fit.text import format_count, format_percent, markdown_table

if TYPE_CHECKING:
    import flops_fit.adaptive
    import flops_fit.files


def next_(
    runs: Runs,
    target: Annotated[float, flops_option("Training FLOPs of the run to plan for.")],
    spend: Annotated[float, flops_option("Training FLOPs of the whole batch of runs.")],
    batch: Annotated[int, option("RUNS", "How many runs at most.", min=1)] = 6,
    max_run: Annotated[
        float | None, flops_option("Training FLOPs of one run at most.", "a third of --spend")
    ] = None,
    law: Form = "auto",
    column: Columns = None,
    out: Csv = None,
    as_json: Json = False,
) -> Answer:
    """Propose the next batch of runs: those that narrow N* at a target budget most."""
    fitted = read_fit(runs, law, column)
    proposal = flops_fit.adaptive.next_experiments(
        fitted, target_compute=target, budget_flops=spend, batch=batch, max_run_flops=max_run
    )
    unit = fitted.runs.unit
    rows = [["FLOPs", "N (parameters)", f"D ({unit})", "D/N"]]
    for run in proposal.runs:
        N, D = run["params"], run["tokens"]
        rows.append([f"{run['flops']:.3g}", format_count(N), format_count(D), f"{D / N:.3g}"])
    shown = [
        f"{markdown_table(rows)}\n",
        f"{proposal.cost:.3g} FLOPs in all. The 90 % interval of N* at {target:.3g} FLOPs: "
        f"{_width(proposal.now)} now, about {_width(proposal.after)} with these runs.",
        f"The loss is off the law's form by about {100 * proposal.misfit:.2g} %.",
    ]
    document = {
        "runs": list(proposal.runs),
        "unit": unit,
        "cost": proposal.cost,
        "target_compute": proposal.target_compute,
        "half_width_now": proposal.now,
        "half_width_after": proposal.after,
        "misfit": proposal.misfit,
        "trust": fitted.trust,
    }
    if fitted.trust == "no":
        shown.append("Do not rely on this fit: flops-fit fit says why.")
    if out is not None:
        text = flops_fit.files.csv_text(proposal.runs, ["params", "tokens", "flops"])
        with flops_fit.files.output_errors(out, "--csv"):
            flops_fit.files.write_output(out, text)
        shown.append(f"Runs: {out}")
    return Answer(tuple(shown), document, relied_on(fitted))


def _width(half: float) -> str:
    return format_percent(half) if math.isfinite(half) else "none"
