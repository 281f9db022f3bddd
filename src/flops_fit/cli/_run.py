"""``flops-fit run``: a sweep from its plan to its answer."""

from __future__ import annotations

import os
from typing import Annotated

import typer

import flops_fit
from flops_fit.cli._answer import Answer, Json
from flops_fit.cli._source import relied_on
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

__all__ = ["run"]


def run(
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
        resume=resume,
        progress=progress,
    )
    result = flops_fit.find_optimal(**read_sweep(sweep, flags, settings or ()).arguments())
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
