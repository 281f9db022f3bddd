"""``flops-fit plan``: what a sweep will run, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli._answer import Answer, Json
from flops_fit.cli._sweep_file import read_sweep
from flops_fit.cli._sweep_options import (
    Budgets,
    DatasetRef,
    Design,
    ExecutorName,
    LossRef,
    Mode,
    ModelRef,
    OutputDir,
    Seed,
    Set,
    SizeParam,
    SweepPath,
    flags_of,
)
from flops_fit.text import seconds as clock

if TYPE_CHECKING:
    from flops_fit.plan import SweepPlan

__all__ = ["plan"]

_PANEL = "The price"


def plan(
    sweep: SweepPath = None,
    model_cls: ModelRef = None,
    model_size_param: SizeParam = None,
    dataset: DatasetRef = None,
    loss_fn: LossRef = None,
    compute_budgets: Budgets = None,
    design: Design = None,
    mode: Mode = None,
    executor: ExecutorName = None,
    seed: Seed = None,
    output_dir: OutputDir = None,
    settings: Set = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE",
            rich_help_panel=_PANEL,
            help="Times on another device by its data sheet, such as H100.",
        ),
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=_PANEL,
            help="Share of that device's peak FLOP/s that training reaches.",
            show_default="0.3",
        ),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(metavar="RUNS", min=1, rich_help_panel=_PANEL, help="Runs at the same time."),
    ] = 1,
    dollars_per_hour: Annotated[
        float | None,
        typer.Option(
            metavar="DOLLARS", rich_help_panel=_PANEL, help="Price of all that the sweep occupies."
        ),
    ] = None,
    designs: Annotated[
        bool,
        typer.Option(
            "--designs",
            metavar="",
            rich_help_panel=_PANEL,
            help="Also what the same budgets cost with each design.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the runs as a table.")
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Show every run of a sweep, with its cost, before anything is spent.

    A few steps are trained to measure the time. Nothing is written.
    """
    flags = flags_of(
        compute_budgets,
        model_cls=model_cls,
        model_size_param=model_size_param,
        dataset=dataset,
        loss_fn=loss_fn,
        design=design,
        mode=mode,
        executor=executor,
        seed=seed,
        output_dir=output_dir,
    )
    file = read_sweep(sweep, flags, settings or ())
    arguments = file.arguments(planning=True)
    found = flops_fit.find_optimal(**arguments, train=False)
    assert isinstance(found, flops_fit.SweepPlan)
    cost = found.estimate(on, dollars_per_hour, parallel, mfu)
    folder = Path(arguments.get("output_dir", "outputs"))
    shown: list[Any] = [found, "", f"{cost.headline}.", cost.basis, *_done(found, folder)]
    if adaptive := arguments.get("design") == "adaptive":
        shown.append("These are the runs of the pilot; the sweep chooses the others as it goes.")
    shown += [str(d) for d in found.diagnostics]
    document = {**json.loads(found.to_json()), "cost": cost.to_dict(), "pilot": adaptive}
    if designs:
        compared = found.compare_designs(on, dollars_per_hour, parallel, mfu)
        shown += ["", compared]
        document["designs"] = [
            {
                "design": d.design,
                "runs": len(d.experiments),
                "flops": d.cost.flops if d.cost else None,
                "wall_seconds": d.cost.wall_seconds if d.cost else None,
                "notes": d.notes,
            }
            for d in compared.designs
        ]
    if out is not None:
        shown.append(f"Runs: {found.to_csv(out)}")
    return Answer(tuple(shown), flops_fit.records.finite_json(document))


def _done(plan: SweepPlan, folder: Path) -> list[str]:
    """What of the plan is there already."""
    if not (folder / "sweep.json").exists():
        return []
    diff = plan.diff(folder)
    text = f"{len(diff.finished)} of these runs are finished in {folder}"
    if not diff.missing:
        return [f"{text}: nothing is missing."]
    time = diff.cost.wall_seconds
    left = "" if time is None else f", about {clock(time)} one after another"
    return [f"{text}; {len(diff.missing)} are missing, {diff.cost.flops:.3g} FLOPs{left}."]
