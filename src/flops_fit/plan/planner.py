"""From a model, its data and a design to a plan; and the same plan with another recipe."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import BudgetError, FlopsFitError, InputError, PlanError, is_number
from flops_fit.fingerprint import digest
from flops_fit.hparams import HParams
from flops_fit.model.spec import Size
from flops_fit.mup.coordinate_check import CoordinateCheck
from flops_fit.plan import findings
from flops_fit.plan.cost import DesignCost, DesignCosts, Device, estimate
from flops_fit.plan.designs import Grid, Layout, Rectangular, Sizes, Tapered
from flops_fit.plan.experiments import (
    ExperimentFactory,
    UnmetBudgetError,
    branchable,
    cross_axes,
    grid_sizes,
    make_experiments,
    named_sizes,
    with_trunks,
)
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.recipes.published import Recipe
from flops_fit.recipes.resolve import resolve_recipe
from flops_fit.records import Diagnostic, Experiment, ParamCount, Run, Severity

FEWEST_PARAMETERS = 5  # of the additive law, the simplest that answers
EXAMPLE_SAMPLES = 4
ENOUGH_TO_TUNE = 20  # runs, for law and valley together


def check_budgets(budgets: Any) -> tuple[float, ...]:
    """The budgets as ascending floats."""
    if isinstance(budgets, str | bytes) or not isinstance(budgets, Iterable):
        raise BudgetError(
            f"compute_budgets: expected a list of training FLOPs such as [1e15, 3e15, 1e16]; got {budgets!r}."
        )
    values = []
    for value in budgets:
        if not is_number(value) or value <= 0:
            raise BudgetError(
                f"compute_budgets: expected positive finite numbers of FLOPs; got {value!r}."
            )
        if float(value) in values:
            raise BudgetError(
                f"compute_budgets: expected distinct budgets; {value:g} is given twice. "
                "To repeat runs, give design=Grid(repeats=2)."
            )
        values.append(float(value))
    if not values:
        raise BudgetError(
            "compute_budgets: expected one number of FLOPs or more; the list is empty."
        )
    return tuple(sorted(values))


def check_fittable(plan: SweepPlan) -> None:
    """Refuse to train a plan that has too few runs to determine any law."""
    different = {(e.params.total, e.tokens) for e in plan.experiments}
    if len(plan.budgets) < 2 or len(different) <= FEWEST_PARAMETERS:
        raise PlanError(
            f"compute_budgets: expected two budgets or more and more than {FEWEST_PARAMETERS} "
            f"different runs, as many as a law has parameters; got {len(plan.budgets)} budgets and "
            f"{len(different)} runs. Add budgets or sizes; five sizes at each of four budgets is a "
            "good sweep. To train without a law, use plan_sweep and run_sweep."
        )


_DRAWN = ("", "learning rate", "learning rate and batch", "learning rate, batch and weight decay")


@dataclass(frozen=True)
class Joint:
    """How the runs of a sweep that tunes itself are drawn, in place of its recipe.

    ``names`` are drawn, within a factor ``spread`` of the best that is known: the first at the smallest
    budget, the second at the largest. ``share`` is what runs beyond the plan may take of all FLOPs. ``mup``:
    whether rates are scaled by width.
    """

    names: tuple[str, ...]
    spread: tuple[float, float]
    share: float
    mup: bool

    def check(self, plan: SweepPlan) -> None:
        """Refuse a recipe without a weight decay around which it could be drawn."""
        least = min(e.hparams.weight_decay for e in plan.experiments)
        if len(self.names) > 2 and least <= 0:
            raise InputError(
                "tune: expected a recipe with a weight decay above 0 for decay=True, which varies it; got "
                f"{least:g}. Give hparams={{'weight_decay': 0.1}}."
            )

    def diagnostic(self, plan: SweepPlan, pilot: bool) -> Diagnostic:
        """What will happen, for the plan, or for the ``pilot`` of an adaptive sweep."""
        what = _DRAWN[len(self.names)]
        budgets = ", ".join(f"{b:.3g}" for b in plan.budgets)
        few = len(plan) < ENOUGH_TO_TUNE and not pilot
        then = ", and then batch after batch" if pilot else ""
        said = {"runs": len(plan), "enough": ENOUGH_TO_TUNE, "then": then}
        severity: Severity = "warning" if few else "note"
        return findings.in_words(
            "joint", severity, few, joint=self, what=what, budgets=budgets, **said
        )


@dataclass(frozen=True)
class Planner:
    """Makes the plan of a sweep, of named or chosen sizes, and makes it again with another recipe."""

    factory: ExperimentFactory
    budgets: tuple[float, ...]
    design: Grid
    sizes: Sizes | None = None
    notes: tuple[str, ...] = ()
    findings: tuple[Diagnostic, ...] = ()
    task: Callable[..., Run] | None = None
    coordinates: CoordinateCheck | None = None
    joint: Joint | None = None

    def plan(self) -> SweepPlan:
        """At each budget C several sizes N, each for D = C/F(N) units."""
        factory, spec = self.factory, self.factory.spec
        layout: Layout | None = None
        lost: list[str] = []
        if self.sizes is None:
            layout = self.design.layout(self.budgets)
            sizes, lost = self._grid(layout)
            if self.design.axes:
                sizes, more = cross_axes(spec, sizes, self.design.axes)
                lost += more
        elif replace(self.design, repeats=1) == Grid():
            sizes = named_sizes(spec, self.budgets, self.sizes)
            factory.counter.function([size for own in sizes.values() for size in own])
        else:
            raise InputError(
                "design: it would have no effect but for its repeats, as sizes= names the sizes themselves. "
                "Leave one of them out."
            )
        experiments, dropped = make_experiments(factory, sizes, self.design.repeats)
        used = list({repr(e.size): e.size for e in experiments}.values())
        counter = factory.counter
        notes = [*counter.notes, *spec.notes, *self.notes]
        return SweepPlan(
            experiments=tuple(experiments),
            unit=counter.unit,
            flops=counter.function(used, int(np.median([e.batch_size for e in experiments]))),
            diagnostics=(
                *([] if layout is None else [Diagnostic("design", "note", str(layout))]),
                *findings.run_findings(experiments),
                *findings.branch_findings(experiments),
                *findings.model_findings(spec, experiments),
                *findings.recipe_findings(factory.recipe, counter.unit),
                *self.findings,
                *(() if counter.lengths is None else counter.lengths.findings),
                *findings.assumption_findings(spec, notes, [*lost, *dropped]),
            ),
            layout=layout,
            planner=self,
        )

    def _grid(self, layout: Layout) -> tuple[dict[float, list[Size]], list[str]]:
        """The sizes at each budget, counted from the outermost inwards; once more where that refutes F(N)."""
        counter = self.factory.counter
        for _ in range(2):
            counter.refuted, rough = False, counter.roughly()
            flops = self.factory.flops(rough)
            sizes, lost = grid_sizes(layout, self.factory.spec, self.budgets, flops)
            counter.function([size for own in sizes.values() for size in own])
            if not (counter.refuted or rough.refuted):
                break
        return sizes, lost

    def remake(self, plan: SweepPlan, recipe: Recipe, conditions: str | None = None) -> SweepPlan:
        """The plan with the hyper-parameters of ``recipe``; ``conditions`` become part of the ids."""
        own = self.factory.conditions
        conditions = own if conditions is None else digest([own, conditions])
        factory = replace(self.factory, recipe=recipe, conditions=conditions)
        experiments: list[Experiment] = []
        lost: list[str] = []
        for e in plan.experiments:
            try:
                experiments.append(factory.make(e.budget, e.size, e.repeat))
            except UnmetBudgetError as error:
                lost.append(str(error))
        if {e.budget for e in experiments} != set(plan.budgets):
            raise PlanError(
                f"hparams: with the new batches a budget has no run left: {lost[0]}. Give larger budgets, "
                "or Tune(batch=False)."
            )
        if factory.branch:
            experiments = with_trunks(experiments)
        diagnostics = plan.diagnostics
        before, after = findings.run_findings(plan.experiments), findings.run_findings(experiments)
        codes = {d.code for d in (*before, *after)}
        if lost:
            text = f"With new hyper-parameters {len(lost)} runs were left out: {'; '.join(lost)}."
            after.append(Diagnostic("left_out", "note", text))
        if before != after:
            diagnostics = (*after, *(d for d in plan.diagnostics if d.code not in codes))
        planner = replace(self, factory=factory)
        return replace(
            plan, experiments=tuple(experiments), diagnostics=diagnostics, planner=planner
        )

    def at_base(self, plan: SweepPlan, base: Size, parametrization: str) -> SweepPlan:
        """The plan with the learning rate of ``base`` at every size, scaled by ``parametrization``."""
        recipe = _AtBase(self.factory.recipe, self.factory.spec.require(base))
        return self.remake(plan, recipe, parametrization)

    def compare_designs(self, plan: SweepPlan, where: Device) -> DesignCosts:
        """See :meth:`SweepPlan.compare_designs`."""
        if self.factory.spec.size_param is None:
            raise InputError(
                "compare_designs: expected a plan with model_size_param; the model of this one has no "
                "size parameter."
            )
        prior = None if plan.layout is None else plan.layout.prior
        kind = "sizes given" if plan.layout is None else plan.layout.design
        branched = " + branch" if any(e.trunk for e in plan.experiments) else ""
        cost = estimate(plan.experiments, plan.speed, where)
        rows = [DesignCost(f"this plan ({kind}{branched})", plan.experiments, cost)]
        others = (Grid(), Tapered(), Rectangular(), Rectangular())
        for design, branch in zip(others, (False, False, False, True), strict=True):
            name = f"{design.kind} + branch" if branch else design.kind
            layout = design.layout(plan.budgets)
            layout = layout if prior is None else replace(layout, prior=prior)
            try:
                experiments, notes = self._alternative(plan, layout, branch)
            except FlopsFitError as error:
                rows.append(DesignCost(name, (), None, str(error)))
            else:
                cost = estimate(experiments, plan.speed, where)
                rows.append(DesignCost(name, tuple(experiments), cost, "; ".join(notes)))
        return DesignCosts(tuple(rows))

    def _alternative(
        self, plan: SweepPlan, layout: Layout, branch: bool
    ) -> tuple[list[Experiment], list[str]]:
        """The runs of another design at the budgets of a plan, and what to know about them."""
        alone = replace(self.factory, branch=False)
        repeats = 1 + max(e.repeat for e in plan.experiments)
        sizes, lost = grid_sizes(layout, alone.spec, plan.budgets, alone.flops())
        experiments, dropped = make_experiments(alone, sizes, repeats)
        notes: list[str] = []
        if branch:
            branching = replace(alone, branch=True)
            try:
                experiments = make_experiments(branching, sizes, repeats)[0]
            except InputError:
                # The hyper-parameters depend on a run's length. Costs hardly depend on them, so those
                # of the shortest run serve for all.
                short = min(experiments, key=lambda e: e.tokens).hparams.to_dict()
                hparams = {k: v for k, v in short.items() if k != "recipe"}
                recipe = resolve_recipe(hparams | branchable(experiments))
                branching = replace(branching, recipe=recipe)
                experiments, dropped = make_experiments(branching, sizes, repeats)
                notes = ["with schedule='wsd', and batch and warmup of the shortest run for all"]
        if lost or dropped:
            notes.insert(0, f"{len(lost) + len(dropped)} sizes left out")
        return experiments, notes


@dataclass(frozen=True)
class _AtBase:
    """A recipe whose rate is, for every size, the one that it has for ``base``."""

    recipe: Recipe
    base: ParamCount

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        rate = self.recipe(self.base, units, unit).lr
        return replace(self.recipe(params, units, unit), lr=rate)
