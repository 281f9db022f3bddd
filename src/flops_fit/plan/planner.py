"""The same sweep under another recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flops_fit.checks import check_whole
from flops_fit.data.spec import DataSpec
from flops_fit.errors import BudgetError, InputError, PlanError
from flops_fit.fingerprint import digest
from flops_fit.hparams import HParams
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.objective import Objective
from flops_fit.plan.counting import FlopsCounter, FlopsMethod
from flops_fit.plan.designs import (
    Layout,
    PriorLike,
    Sizes,
    asked_for,
    grid_sizes,
    make_layout,
    resolve_prior,
)
from flops_fit.plan.experiments import (
    ExperimentFactory,
    branch_findings,
    make_experiments,
    with_trunks,
)
from flops_fit.plan.findings import model_findings, recipe_findings
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.recipes.published import Recipe
from flops_fit.recipes.resolve import RecipeLike, resolve_recipe
from flops_fit.records import Diagnostic, Experiment, ParamCount
from flops_fit.text import format_count

FEWEST_STEPS = 500
MOST_EPOCHS = 4.0
FEWEST_PARAMETERS = 5  # of the additive law, the simplest that answers
EXAMPLE_SAMPLES = 4


def check_budgets(budgets: Any) -> tuple[float, ...]:
    """The budgets as ascending floats.

    Raises
    ------
    BudgetError
        None are given, or one is no positive finite number, or two are equal.
    """
    if budgets is None or isinstance(budgets, str | bytes) or not isinstance(budgets, Iterable):
        raise BudgetError(
            f"compute_budgets: expected a list of training FLOPs such as [1e15, 3e15, 1e16]; "
            f"got {budgets!r}."
        )
    values = list(budgets)
    if not values:
        raise BudgetError(
            "compute_budgets: expected at least one number of FLOPs; the list is empty."
        )
    out = []
    for value in values:
        try:
            number = math.nan if isinstance(value, str | bytes | bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise BudgetError(
                f"compute_budgets: expected positive finite numbers of FLOPs; got {value!r}."
            )
        out.append(number)
    if len(set(out)) < len(out):
        twice = next(b for b in out if out.count(b) > 1)
        raise BudgetError(
            f"compute_budgets: expected distinct budgets; {twice:g} is there twice. "
            "To repeat runs, give repeats=."
        )
    return tuple(sorted(out))


def check_fittable(plan: SweepPlan) -> None:
    """Refuse to train what could determine no law however well it went."""
    different = {(e.params.total, e.tokens) for e in plan.experiments}
    if len(plan.budgets) < 2 or len(different) <= FEWEST_PARAMETERS:
        raise PlanError(
            f"compute_budgets: expected two budgets or more and more than {FEWEST_PARAMETERS} "
            f"different runs, as many as a law has parameters; got {len(plan.budgets)} budgets and "
            f"{len(different)} runs. Add budgets or sizes; five sizes at each of four budgets is a "
            "good sweep. To train without a law, use plan_sweep and run_sweep."
        )


def make_plan(
    spec: ModelSpec,
    objective: Objective,
    budgets: tuple[float, ...],
    *,
    data: DataSpec | None,
    example_batch: Any = None,
    dataset: Any = None,
    sizes: Sizes | None = None,
    flops: FlopsMethod = "measured",
    hparams: RecipeLike = "default",
    batch_size: int | str = "auto",
    repeats: int = 1,
    seed: int = 0,
    branch: bool = False,
    design: str = "grid",
    prior: PriorLike = None,
    width: float | None = None,
    sizes_per_budget: int | Sequence[int] | None = None,
    conditions: str = "",
    findings: Sequence[Diagnostic] = (),
) -> SweepPlan:
    """At each budget C several sizes N, each for D = C/F(N) units.

    Parameters
    ----------
    data
        The training part; ``None`` where no data may be read. Then FLOPs are 6·N per unit unless
        ``example_batch`` is there to trace the model on.
    dataset
        What the user gave, asked only for what it declares (``unit``, ``units_per_sample``).
    branch
        Runs of one size share one run until they cool down.
    design, prior, width, sizes_per_budget
        Which sizes, where none are given.
    conditions
        A fingerprint of all else that decides how a run comes out.
    findings
        What was found about the inputs already.

    Raises
    ------
    PlanError, ModelError, InputError
        Nothing can be planned from these inputs; the message says what to change.
    """
    if batch_size != "auto":
        check_whole("batch_size", batch_size, expected="a positive whole number or 'auto'")
    check_whole("repeats", repeats)
    counter, per_sample = _counter(spec, objective, flops, data, example_batch, dataset)
    samples = None if data is None else data.size
    if samples is not None and isinstance(batch_size, int) and samples < batch_size:
        raise InputError(
            f"dataset: expected at least one batch of {batch_size} samples to train on; it has "
            f"{samples}. Give more data or a smaller batch_size."
        )
    recipe = resolve_recipe(hparams)
    maker = ExperimentFactory(
        spec, counter, recipe, per_sample, batch_size, samples, seed, conditions, branch
    )
    layout, chosen, lost = _choose(maker, budgets, sizes, design, prior, width, sizes_per_budget)
    experiments, dropped = make_experiments(maker, chosen, repeats)
    if branch:
        experiments = with_trunks(experiments)
    used = list({repr(e.size): e.size for e in experiments}.values())
    notes = [*counter.notes, *spec.notes, *(data.notes if data is not None else ())]
    told = () if layout is None else (Diagnostic("design", "note", str(layout)),)
    return SweepPlan(
        experiments=tuple(experiments),
        unit=counter.unit,
        flops=counter.function(used),
        diagnostics=(
            *told,
            *run_findings(experiments),
            *branch_findings(experiments),
            *model_findings(spec, experiments),
            *recipe_findings(recipe, counter.unit),
            *findings,
            *_told(spec, notes, [*lost, *dropped]),
        ),
        maker=maker,
        layout=layout,
    )


def _choose(
    maker: ExperimentFactory,
    budgets: tuple[float, ...],
    sizes: Sizes | None,
    design: str,
    prior: PriorLike,
    width: float | None,
    sizes_per_budget: int | Sequence[int] | None,
) -> tuple[Layout | None, dict[float, list[Size]], list[str]]:
    """The sizes at each budget, by whom they were chosen, and those that could not be had."""
    if sizes is None:
        layout = make_layout(design, resolve_prior(prior), width, sizes_per_budget, budgets)
        return layout, *grid_sizes(layout, maker.spec, budgets, maker.flops())
    idle = {"prior": prior, "width": width, "sizes_per_budget": sizes_per_budget}
    idle["design"] = None if design == "grid" else design
    if told := [name for name, value in idle.items() if value is not None]:
        raise InputError(
            f"{told[0]}: it would have no effect, as sizes= names the sizes themselves. Leave one of "
            "them out."
        )
    return None, asked_for(maker.spec, budgets, sizes), []


def _counter(
    spec: ModelSpec,
    objective: Objective,
    flops: FlopsMethod,
    data: DataSpec | None,
    example_batch: Any,
    dataset: Any,
) -> tuple[FlopsCounter, float]:
    batch = example_batch
    if batch is None and data is not None:
        batch = data.first_batch(EXAMPLE_SAMPLES)
    if batch is not None:
        unit = objective.unit(batch, dataset)
        return FlopsCounter.from_batch(spec, objective, flops, batch, unit)
    declared = getattr(dataset, "unit", None)
    per_sample = getattr(dataset, "units_per_sample", None)
    counter = FlopsCounter(
        spec, objective, flops, declared if isinstance(declared, str) else "units"
    )
    return counter, float(per_sample) if isinstance(per_sample, int | float) else 1.0


def run_findings(experiments: Sequence[Experiment]) -> list[Diagnostic]:
    """What the runs of a plan give to say: too few, too short, repeated data, another FLOPs count."""
    out = []
    budgets = sorted({e.budget for e in experiments})
    sizes = {b: len({repr(e.size) for e in experiments if e.budget == b}) for b in budgets}
    if len(budgets) < 4 or min(sizes.values()) < 5:
        out.append(
            Diagnostic(
                "small_grid",
                "warning",
                f"{len(budgets)} budgets with {min(sizes.values())} to {max(sizes.values())} sizes "
                "are few for a law.",
                "plan at least 4 budgets of at least 5 sizes",
            )
        )
    short = [e for e in experiments if e.steps < FEWEST_STEPS]
    if short:
        fewest = min(short, key=lambda e: e.steps)
        out.append(
            Diagnostic(
                "few_steps",
                "warning",
                f"{len(short)} of {len(experiments)} runs have fewer than {FEWEST_STEPS} steps "
                f"({fewest.label}: {fewest.steps}).",
                "a smaller batch_size or larger budgets",
            )
        )
    repeated = [e for e in experiments if e.epochs is not None and e.epochs > 1]
    if repeated:
        most = max(repeated, key=lambda e: e.epochs or 0.0)
        assert most.epochs is not None
        out.append(
            Diagnostic(
                "repeated_data",
                "warning" if most.epochs > MOST_EPOCHS else "note",
                f"{len(repeated)} runs see their data more than once, up to {most.epochs:.3g} times "
                f"({most.label}).",
                "more data; repeated data is worth less than new data"
                if most.epochs > MOST_EPOCHS
                else "",
            )
        )
    return out + _six_nd(experiments)


def _six_nd(experiments: Sequence[Experiment]) -> list[Diagnostic]:
    ratios = {e.params.total: e.flops_per_unit / e.flops_per_unit_6nd for e in experiments}
    far = max(ratios.values(), key=lambda r: abs(math.log(r)))
    if abs(far - 1) <= 0.05:
        return []
    small, large = min(ratios), max(ratios)
    return [
        Diagnostic(
            "flops_vs_6nd",
            "note",
            f"Counted FLOPs are {ratios[small]:.3g}×6ND at N = {format_count(small)} and "
            f"{ratios[large]:.3g}×6ND at N = {format_count(large)}; the counted ones are used.",
        )
    ]


def _told(spec: ModelSpec, notes: Sequence[str], dropped: Sequence[str]) -> list[Diagnostic]:
    out = [Diagnostic("assumption", "note", note) for note in notes]
    if dropped:
        out.append(
            Diagnostic(
                "left_out",
                "note",
                f"{len(dropped)} sizes were left out: {'; '.join(dropped)}.",
            )
        )
    if spec.refusals:
        reason = next(iter(spec.refusals.values()))
        out.append(
            Diagnostic(
                "refused",
                "note",
                f"{len(spec.refusals)} values of {spec.size_param} were tried and refused by the "
                f"constructor, for example: {reason}",
            )
        )
    return out


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
