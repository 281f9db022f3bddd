"""The adaptive sweep, batch after batch through the same stages as any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit.adaptive.pilot import Experimenter, pilot_budgets_for, pilot_sizes
from flops_fit.adaptive.sweep import Asked, run_adaptive
from flops_fit.api.run import RunOptions, ranks_of, run_plan
from flops_fit.errors import InputError
from flops_fit.fit.fitting import fit_runs
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.plan.designs import Sizes
from flops_fit.plan.planner import check_budgets
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.records import Experiment, Run
from flops_fit.result import Result
from flops_fit.store.store import Store


def plan_pilot(
    spec: ModelSpec,
    compute_budgets: Sequence[float] | None,
    sizes: Sizes | None,
    max_flops: float | None,
    layout: Mapping[str, Any],
) -> tuple[tuple[float, ...], Sizes | None]:
    """The budgets and sizes to begin with.

    Parameters
    ----------
    layout
        Arguments that lay out other designs, by name: all have to be ``None``.
    """
    if told := [name for name, value in layout.items() if value is not None]:
        raise InputError(
            f"{told[0]}: an adaptive design chooses its own sizes from its pilot on. Leave it out."
        )
    budgets = check_budgets(pilot_budgets_for(compute_budgets, max_flops))
    return budgets, pilot_sizes(spec, budgets) if sizes is None else sizes


class GrowingStore(Store):
    """The folder of a sweep that asks for its runs batch after batch."""

    def others(self, experiments: Iterable[Experiment]) -> int:
        """None: runs that are recorded already may be those of a later batch."""
        return 0


def asked_for(target: float | None, half_width: float, max_flops: float | None) -> Asked:
    """What an adaptive sweep is asked for; an InputError where that was left out."""
    if target is None or max_flops is None:
        missing = "target_compute" if target is None else "max_flops"
        raise InputError(
            f"{missing}: an adaptive design needs a number of FLOPs; got none. Say what run the "
            "answer is for (target_compute=1e21) and what the sweep may spend (max_flops=1e19)."
        )
    return Asked(target, half_width, max_flops)


def find_adaptively(
    plan: SweepPlan, asked: Asked, sizes: Sequence[Size] | None, places: RunOptions
) -> Result:
    """Batch after batch, each carried out with all that came before it, to the answer.

    Parameters
    ----------
    plan
        Of the pilot.
    sizes
        Those that may be used; ``None`` for whatever the model accepts.
    """
    assert plan.maker is not None
    view = places.view  # one for all batches
    resume = places.resume

    def carry_out(experiments: Sequence[Experiment]) -> list[Run]:
        nonlocal resume
        batch = replace(plan, experiments=tuple(experiments))
        runs = run_plan(batch, plan.task, replace(places, resume=resume), GrowingStore, view)
        resume = True  # later batches belong to this sweep
        return runs

    oracle = Experimenter(plan.maker, plan.flops, carry_out, sizes)
    leads = ranks_of(plan.task).is_main
    found = run_adaptive(oracle, asked, view.step if leads else lambda line: None)
    if leads and (others := Store(Path(places.output_dir)).others(oracle.experiments)):
        view.note(f"{others} earlier runs of this folder were not wanted: kept, and not fitted.")
    plan = replace(plan, experiments=tuple(oracle.experiments))
    fit = fit_runs(oracle.runs, flops_per_unit=plan.flops, window=found.window)
    result = Result(plan, tuple(oracle.runs), fit, Path(places.output_dir), found)
    if leads:
        result.save()
    return result
