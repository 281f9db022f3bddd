"""The same sweep under another recipe."""

from __future__ import annotations

from dataclasses import replace

from flops_fit.errors import InputError, PlanError
from flops_fit.plan._branch import with_trunks
from flops_fit.plan._plan import run_findings
from flops_fit.plan._sweep_plan import SweepPlan
from flops_fit.recipes import Recipe
from flops_fit.records import Diagnostic, Experiment

__all__ = ["with_recipe"]


def with_recipe(plan: SweepPlan, recipe: Recipe) -> SweepPlan:
    """The sizes and budgets of a plan, each run with the hyper-parameters of ``recipe``.

    Raises
    ------
    InputError
        The plan was read from a file, so that no run of it can be made anew.
    PlanError
        With the recipe's batches no run of a budget comes out in whole steps.
    """
    if plan.maker is None:
        raise InputError("plan: expected one that plan_sweep made; this one was read from a file.")
    maker = replace(plan.maker, recipe=recipe)
    made = [maker.make(e.budget, e.size, e.repeat) for e in plan.experiments]
    experiments = [e for e in made if isinstance(e, Experiment)]
    lost = [why for why in made if isinstance(why, str)]
    if {e.budget for e in experiments} != set(plan.budgets):
        raise PlanError(
            f"hparams: with the tuned batches a budget has no run left: {lost[0]}. Give larger budgets, or "
            "Tune(batch=False)."
        )
    if maker.branch:
        experiments = with_trunks(experiments)
    found = run_findings(experiments)
    told = {d.code for d in run_findings(plan.experiments)} | {d.code for d in found}
    kept = [d for d in plan.diagnostics if d.code not in told]
    if lost:
        text = f"With tuned hyper-parameters {len(lost)} runs were left out: {'; '.join(lost)}."
        found.append(Diagnostic("left_out", "note", text))
    return replace(plan, experiments=tuple(experiments), diagnostics=(*found, *kept), maker=maker)
