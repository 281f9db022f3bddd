"""``flops-fit init``, ``plan`` and ``run``: a sweep from its file to its answer."""

from __future__ import annotations

import json
import os
import shlex
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli.answer import Answer, Json, relied_on
from flops_fit.cli.options import takes_sweep
from flops_fit.cli.sweep_file import SweepFile
from flops_fit.errors import InputError, OutputError
from flops_fit.text import format_duration

if TYPE_CHECKING:
    from flops_fit.plan.sweep_plan import SweepPlan


FILES = ("sweep.toml", "model.py", "data.py")


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to write; made where it is missing.")
    ] = Path(),
    as_json: Json = False,
) -> Answer:
    """Write a sweep to begin with, which runs as it is within a minute on a CPU.

    Three files: sweep.toml, model.py and data.py. Nothing is overwritten.
    """
    if there := [name for name in FILES if (folder / name).exists()]:
        raise InputError(
            f"init: expected a folder without {', '.join(FILES)}; {folder / there[0]} is there. "
            "Nothing was written: choose another folder."
        )
    source = resources.files("flops_fit.cli") / "skeleton"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write((source / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"init: {folder} cannot be written ({error.strerror}).") from error
    steps = ["flops-fit plan", "flops-fit run", "flops-fit predict outputs 1e10"]
    says = ["what will run, and what it costs", "train it, and answer", "ask for another compute"]
    if folder != Path():
        steps.insert(0, f"cd {shlex.quote(str(folder))}")
        says.insert(0, "")
    width = max(map(len, steps))
    written = [f"Wrote {folder / name}" for name in FILES]
    lines = [f"  {s:<{width}}   {t}".rstrip() for s, t in zip(steps, says, strict=True)]
    shown = (*written, "", "Next:", *lines, "", "Then put your own model and data in their place.")
    return Answer(shown, {"written": [str(folder / n) for n in FILES], "next": steps})


_PANEL = "The price"


@takes_sweep
def plan(
    sweep: SweepFile,
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
    arguments = sweep.arguments(planning=True)
    planned = flops_fit.find_optimal(**arguments, train=False)
    assert isinstance(planned, flops_fit.SweepPlan)
    cost = planned.estimate(on, dollars_per_hour, parallel, mfu)
    folder = Path(arguments.get("output_dir", "outputs"))
    shown: list[Any] = [planned, "", f"{cost.headline}.", cost.basis, *_done(planned, folder)]
    design = arguments.get("design", "grid")
    if adaptive := getattr(design, "kind", design) == "adaptive":
        shown.append("These are the runs of the pilot; the sweep chooses the others as it goes.")
    shown += [str(d) for d in planned.diagnostics]
    document = {**json.loads(planned.to_json()), "cost": cost.to_dict(), "pilot": adaptive}
    if designs:
        compared = planned.compare_designs(on, dollars_per_hour, parallel, mfu)
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
        shown.append(f"Runs: {planned.to_csv(out)}")
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
    left = "" if time is None else f", about {format_duration(time)} one after another"
    return [f"{text}; {len(diff.missing)} are missing, {diff.cost.flops:.3g} FLOPs{left}."]


@takes_sweep
def run(
    sweep: SweepFile,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            metavar="",
            help="Go on from what is finished, or set it aside and begin anew. [default: resume]",
            show_default=False,
        ),
    ] = None,
    progress: Annotated[
        bool | None,
        typer.Option(
            "--progress/--no-progress",
            metavar="",
            help="Show a live view on standard error, or nothing. [default: progress]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> Answer | None:
    """Train a sweep, fit a law and answer; called again, go on where it was interrupted."""
    for key, value in {"resume": resume, "progress": progress}.items():
        if value is not None:
            sweep.values[key] = value
    result = flops_fit.find_optimal(**sweep.arguments())
    assert isinstance(result, flops_fit.Result)
    if os.environ.get("RANK", "0") != "0":  # of several processes that train together one answers
        return None
    predictions = [result.predict(c) for c in result.plan.budgets]
    result.plot(show=False)
    folder = result.output_dir
    paths = {
        "report": result.report(),
        "plots": folder / "plots",
        "runs": folder / "runs.csv",
        "fit": folder / "fit.json",
    }
    shown = [*result.steps, *([""] if result.steps else []), str(result), ""]
    shown += [f"{name.capitalize() + ':':<8}{path}" for name, path in paths.items()]
    document = {
        "fit": result.fit.to_dict(),
        "predictions": [p.to_dict() for p in predictions],
        "steps": list(result.steps),
        "output_dir": str(folder),
        "paths": {name: str(path) for name, path in paths.items()},
    }
    findings = [*result.diagnostics, *predictions[-1].diagnostics]
    return Answer(
        tuple(shown), flops_fit.records.finite_json(document), relied_on(result.fit, findings)
    )
