"""Sweeps that choose their runs as they go: tuning before a sweep, and adaptive sweeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from flops_fit.adaptive.candidates import Experimenter
from flops_fit.adaptive.sweep import run_adaptive
from flops_fit.api.run import RunOptions, ranks_of, run_plan
from flops_fit.checks import names_near_matches
from flops_fit.errors import InputError
from flops_fit.execute.executor import Executor
from flops_fit.files import write_json
from flops_fit.fit.fitting import fit_runs
from flops_fit.model.spec import Size
from flops_fit.plan.designs import Adaptive
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.records import Experiment, Run
from flops_fit.result import Result
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
        The share of FLOPs leaves no room for informative trials, or all of them failed.
    """
    tuning_options = resolve_tune(tune)
    plan.require_planner("tune_sweep")
    if not isinstance(plan.task, Trainer):
        raise InputError(
            "tune_sweep: expected a plan that can be trained; this one was made without a data set, or "
            'in mode="mock". Give dataset= and loss_fn= to plan_sweep.'
        )
    if tuning_options.kind == "none":
        raise InputError("tune: expected 'pilot' or 'per-size'; got 'none', which tunes nothing.")
    return tune_plan(plan, tuning_options, RunOptions(executor, output_dir, resume, progress))


class GrowingStore(Store):
    """The folder of a sweep that asks for its runs batch after batch."""

    def others(self, experiments: Iterable[Experiment]) -> int:
        """None: runs that are recorded already may be those of a later batch."""
        return 0


def tune_plan(
    plan: SweepPlan, tune: Tune, options: RunOptions, total: float | None = None
) -> tuple[SweepPlan, Tuning]:
    """The plan with hyper-parameters that were tried, and what trying them showed.

    Parameters
    ----------
    total
        FLOPs of the sweep, where they are not those of the plan.
    """
    planner = plan.require_planner("tune_sweep")
    leads = ranks_of(plan.task).is_main
    view = options.view  # one for all rounds
    say = view.step if leads else lambda line: None
    why = ""
    if tune.kind == "pilot" and plan.coordinates is not None and not plan.coordinates.passed:
        why = (
            f"The coordinate check did not pass, so each size was tuned: {plan.coordinates.reason}"
        )
        tune = replace(tune, kind="per-size", share=tune.most)
    folder = Path(options.output_dir) / FOLDER
    if leads:
        Store.open(options.output_dir, resume=options.resume)
    task = plan.task
    if isinstance(task, Trainer):
        task = replace(task, measures_noise=True)
    resume = options.resume

    def carry_out(experiments: Sequence[Experiment]) -> list[Run]:
        nonlocal resume
        trials = replace(plan, experiments=tuple(experiments))
        own = replace(options, output_dir=folder, resume=resume)
        runs = run_plan(trials, task, own, GrowingStore, view)
        resume = True  # later rounds belong to this tuning
        return runs

    tuning = run_tuning(
        tune, planner.factory, plan.experiments, plan.flops, carry_out, total=total, say=say
    )
    if why:
        tuning = replace(tuning, notes=(why, *tuning.notes))
    if leads:
        write_json(folder / "tuning.json", tuning.to_dict())
    return planner.remake(plan, tuning.recipe), tuning


def find_adaptively(
    plan: SweepPlan, design: Adaptive, sizes: Sequence[Size] | None, options: RunOptions
) -> Result:
    """Batch after batch, each carried out with all that came before it, to the answer.

    Parameters
    ----------
    plan
        Of the pilot.
    sizes
        Those that may be used; ``None`` for whatever the model accepts.
    """
    factory = plan.require_planner("find_optimal").factory
    view = options.view  # one for all batches
    resume = options.resume

    def carry_out(experiments: Sequence[Experiment]) -> list[Run]:
        nonlocal resume
        batch = replace(plan, experiments=tuple(experiments))
        runs = run_plan(batch, plan.task, replace(options, resume=resume), GrowingStore, view)
        resume = True  # later batches belong to this sweep
        return runs

    oracle = Experimenter(factory, plan.flops, carry_out, sizes)
    leads = ranks_of(plan.task).is_main
    say = view.step if leads else lambda line: None
    answer = run_adaptive(oracle, design, say, pilot_budgets=plan.budgets)
    if leads and (others := Store(Path(options.output_dir)).others(oracle.experiments)):
        view.note(
            f"{others} earlier runs of this folder are not part of this sweep: kept, and not fitted."
        )
    plan = replace(plan, experiments=tuple(oracle.experiments))
    fit = fit_runs(oracle.runs, flops_per_unit=plan.flops, window=answer.window)
    result = Result(plan, tuple(oracle.runs), fit, Path(options.output_dir), answer)
    if leads:
        result.save()
    return result
