"""Tuning before a sweep, through the same stages as its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit.api.adaptive import GrowingStore
from flops_fit.api.run import RunOptions, ranks_of, run_plan
from flops_fit.checks import names_near_matches
from flops_fit.errors import InputError
from flops_fit.execute.executor import Executor
from flops_fit.files import write_json
from flops_fit.plan.planner import with_recipe
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.records import Experiment, Run
from flops_fit.store.store import Store
from flops_fit.train.trainer import Trainer
from flops_fit.tune.run import run_tuning
from flops_fit.tune.tuning import Tune, Tuning, resolve_tune

FOLDER = "tuning"
"""Where the trials are, a sweep of their own in the folder of the sweep."""


@names_near_matches
def tune_sweep(
    plan: SweepPlan,
    tune: str | Tune = "pilot",
    *,
    executor: str | Executor = "inprocess",
    output_dir: str | Path = "outputs",
    resume: bool = True,
    progress: bool = True,
) -> tuple[SweepPlan, Tuning]:
    """Try learning rates and batches for a plan, before it is carried out.

    Parameters
    ----------
    plan
        From :func:`plan_sweep`, with a data set.
    tune
        ``"pilot"``, ``"per-size"`` or a :class:`flops_fit.tune.Tune`.
    executor, output_dir, resume, progress
        As :func:`find_optimal` takes them; the trials are in ``output_dir/tuning``.

    Returns
    -------
    SweepPlan
        The same sizes and budgets with the tuned hyper-parameters.
    Tuning
        What was tried, what it showed and what it cost.

    Raises
    ------
    InputError
        The plan cannot be trained, or there is nothing to tune.
    PlanError
        The share of FLOPs leaves no room for trials that tell anything, or all of them failed.
    """
    asked = resolve_tune(tune)
    if not isinstance(plan.task, Trainer) or plan.maker is None:
        raise InputError(
            "tune_sweep: expected a plan that can be trained; this one was made without a data set, or "
            'in mode="mock". Give dataset= and loss_fn= to plan_sweep.'
        )
    if asked.kind == "none":
        raise InputError("tune: expected 'pilot' or 'per-size'; got 'none', which tunes nothing.")
    return tune_plan(plan, asked, RunOptions(executor, output_dir, resume, progress))


def tune_asked(tune: Any, mode: str) -> Tune:
    """What is asked for, refused where there is nothing to tune.

    Raises
    ------
    InputError, InputTypeError
        It is no way of tuning; or runs are mocked, whose losses know no learning rate.
    """
    asked = resolve_tune(tune)
    if asked.kind != "none" and mode == "mock":
        raise InputError(
            f"tune: {asked.kind!r} needs runs that train, and mode='mock' trains none. Leave tune out, "
            "or give mode='local'."
        )
    return asked


def tune_plan(
    plan: SweepPlan, asked: Tune, places: RunOptions, total: float | None = None
) -> tuple[SweepPlan, Tuning]:
    """The plan with hyper-parameters that were tried, and what trying them showed.

    Parameters
    ----------
    total
        FLOPs of the sweep, where they are not those of the plan.
    """
    assert plan.maker is not None
    leads = ranks_of(plan.task).is_main
    view = places.view  # one for all rounds
    say = view.step if leads else lambda line: None
    why = ""
    if asked.kind == "pilot" and plan.coordinates is not None and not plan.coordinates.passed:
        why = (
            f"The coordinate check did not pass, so each size was tuned: {plan.coordinates.reason}"
        )
        asked = replace(asked, kind="per-size", share=asked.most)
    folder = Path(places.output_dir) / FOLDER
    if leads:
        Store.open(places.output_dir, resume=places.resume)
    task = plan.task
    if isinstance(task, Trainer):
        task = replace(task, measures_noise=True)
    resume = places.resume

    def carry_out(experiments: Sequence[Experiment]) -> list[Run]:
        nonlocal resume
        trials = replace(plan, experiments=tuple(experiments))
        there = replace(places, output_dir=folder, resume=resume)
        runs = run_plan(trials, task, there, GrowingStore, view)
        resume = True  # later rounds belong to this tuning
        return runs

    tuning = run_tuning(
        asked, plan.maker, plan.experiments, plan.flops, carry_out, total=total, say=say
    )
    if why:
        tuning = replace(tuning, notes=(why, *tuning.notes))
    if leads:
        write_json(folder / "tuning.json", tuning.to_dict())
    return with_recipe(plan, tuning.recipe), tuning
