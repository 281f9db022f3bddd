"""The same runs at the learning rate of one size, for a parametrization that scales it by width."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flops_fit.fingerprint import digest
from flops_fit.model import Size
from flops_fit.plan._branch import with_trunks
from flops_fit.plan._sweep_plan import SweepPlan
from flops_fit.recipes import HParams, Recipe
from flops_fit.records import Experiment, ParamCount

__all__ = ["at_base"]


@dataclass(frozen=True)
class _AtBase:
    """A recipe whose rate is, for every size, the one that it has for ``base``.

    What the rate owes to the width is the parametrization's to say, and not twice.
    """

    recipe: Recipe
    base: ParamCount

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        rate = self.recipe(self.base, units, unit).lr
        return replace(self.recipe(params, units, unit), lr=rate)


def at_base(plan: SweepPlan, base: Size, parametrization: str) -> SweepPlan:
    """The plan with the learning rate that the recipe has for ``base``, at every size.

    Budgets, sizes, units, steps, batches and all other hyper-parameters stay as they are; what the
    rate owes to the length of a run stays too.

    Parameters
    ----------
    parametrization
        A fingerprint of what scales the rate from there, which becomes part of every run's id.
    """
    assert plan.maker is not None
    recipe = _AtBase(plan.maker.recipe, plan.maker.spec.require(base))
    conditions = digest([plan.maker.conditions, parametrization])
    maker = replace(plan.maker, recipe=recipe, conditions=conditions)
    made = [maker.make(e.budget, e.size, e.repeat) for e in plan.experiments]
    experiments = [e for e in made if isinstance(e, Experiment)]
    if maker.branch:
        experiments = with_trunks(experiments)
    return replace(plan, experiments=tuple(experiments), maker=maker)
