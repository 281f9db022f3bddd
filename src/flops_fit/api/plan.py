"""From the user's arguments to a plan that can be trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from flops_fit import rng
from flops_fit.adaptive.pilot import check_adaptive
from flops_fit.api.adaptive import plan_pilot
from flops_fit.api.mup import in_mup, scale_rates, with_check
from flops_fit.checks import check_choice, check_whole, names_near_matches
from flops_fit.data.spec import DataSpec
from flops_fit.data.split import check_dataset_type, split_data
from flops_fit.errors import InputError
from flops_fit.execute.mock import MockTask
from flops_fit.fingerprint import digest, fingerprint_any
from flops_fit.laws.law import Law
from flops_fit.model.spec import ModelSpec
from flops_fit.mup.parametrization import Mup, ParametrizationLike
from flops_fit.objective import Objective
from flops_fit.plan.designs import DESIGNS, Design, PriorLike, Sizes
from flops_fit.plan.findings import code_findings, data_findings, settle_labels
from flops_fit.plan.planner import EXAMPLE_SAMPLES, check_budgets, make_plan
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.plan.timing import probe
from flops_fit.recipes.resolve import RecipeLike
from flops_fit.records import Diagnostic
from flops_fit.reference.published_laws import law as published_law
from flops_fit.trackers.tracker import Tracker
from flops_fit.train.config import TrainingConfig
from flops_fit.train.optimizer import MakeOptimizer, ParamGroups
from flops_fit.train.precision import Precision, resolve_device, resolve_precision
from flops_fit.train.trainer import Trainer

if TYPE_CHECKING:
    from torch.optim import Optimizer


@names_near_matches
def plan_sweep(
    model_cls: Callable[..., Any] | None = None,
    model_size_param: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[..., Any] | None = None,
    compute_budgets: Sequence[float] | None = None,
    *,
    mode: Literal["local", "mock"] = "local",
    requires_data: bool = False,
    eval_dataset: Any = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    device: str = "auto",
    flops: str | Callable[[Any], float] = "measured",
    sizes: Sizes | None = None,
    repeats: int = 1,
    count_fn: Callable[[Any], int] | None = None,
    step_fn: Callable[..., Any] | None = None,
    example_batch: Any = None,
    hparams: RecipeLike = "default",
    optimizer: MakeOptimizer | type[Optimizer] | None = None,
    param_groups: ParamGroups | None = None,
    parametrization: ParametrizationLike = "standard",
    microbatch: int | None = None,
    precision: str | Precision = "auto",
    checkpoint_seconds: float | None = 60.0,
    checkpoint_steps: int | None = None,
    trackers: str | Sequence[Tracker | str] = (),
    peak_flops: float | None = None,
    workers: int | Literal["auto"] = "auto",
    compile: bool | Literal["auto"] = "auto",
    design: Design | Literal["adaptive"] = "grid",
    prior: PriorLike = None,
    width: float | None = None,
    sizes_per_budget: int | Sequence[int] | None = None,
    max_flops: float | None = None,
    branch: bool = False,
    mock_law: Law | None = None,
    mock_noise: float = 0.005,
) -> SweepPlan:
    """The runs of a sweep, their exact cost and what to know before paying for it.

    The arguments are those of :func:`find_optimal`; ``requires_data`` refuses a plan that could
    not be carried out for want of a data set or a loss. With a data set, a few steps are run to
    see that the model trains and how fast, and the plan can be given to :func:`run_sweep`. With
    ``design="adaptive"`` the plan is that of the pilot.
    """
    if model_cls is None:
        raise InputError("model_cls: expected a class or factory of models; got none.")
    _check(mode, design, seed)
    config = TrainingConfig(
        optimizer,
        param_groups,
        parametrization,
        precision,
        microbatch,
        workers,
        compile,
        checkpoint_seconds,
        checkpoint_steps,
        trackers,
        peak_flops,
        branch,
    )
    mup = config.mup
    spec = ModelSpec(model_cls, model_size_param, {} if model_kwargs is None else model_kwargs)
    if design == "adaptive":
        check_adaptive(sizes, repeats, branch)
        layout = {"prior": prior, "width": width, "sizes_per_budget": sizes_per_budget}
        budgets, sizes = plan_pilot(spec, compute_budgets, sizes, max_flops, layout)
    else:
        budgets = check_budgets(compute_budgets)
    objective = Objective(loss_fn, count_fn, step_fn)
    for name, given in (("dataset", dataset), ("eval_dataset", eval_dataset)):
        if given is not None:
            check_dataset_type(given, name)
    split = None if mode == "mock" else _split(dataset, eval_dataset, requires_data)
    example = example_batch
    if split is not None:
        first = split[0].first_batch(EXAMPLE_SAMPLES)
        if requires_data:
            objective.check(first)
        example = first if example is None else example
    objective, findings = _asked_of_the_model(spec, objective, example, sizes)
    make = functools.partial(
        make_plan,
        spec,
        objective,
        budgets,
        dataset=dataset,
        example_batch=example_batch,
        sizes=sizes,
        flops=flops,
        hparams=hparams,
        batch_size=batch_size,
        repeats=repeats,
        seed=seed,
        branch=branch,
        design="grid" if design == "adaptive" else design,
        prior=prior,
        width=width,
        sizes_per_budget=sizes_per_budget,
    )
    if mode == "mock":
        law = published_law("besiroglu2024") if mock_law is None else mock_law
        return _mocked(make, findings, MockTask(law, mock_noise), mup)
    if split is None:
        plan = make(data=None, findings=findings)
        return plan if mup is None else in_mup(plan, mup, spec, objective, example)[0]
    findings += data_findings(*split, eval_dataset is not None)
    place = resolve_device(device)
    config = replace(config, precision=resolve_precision(precision, place))
    trainer = Trainer(spec, *split, objective, place, config)
    return _trainable(make, findings, trainer, mup, example)


def _check(mode: str, design: str, seed: int) -> None:
    check_choice("mode", mode, ("local", "mock"))
    check_choice("design", design, (*DESIGNS, "adaptive"))
    check_whole("seed", seed, at_least=None)


def _split(
    dataset: Any, eval_dataset: Any, requires_data: bool
) -> tuple[DataSpec, DataSpec] | None:
    """The data to train on and to judge by; ``None`` where there are none and need be none."""
    if dataset is not None:
        return split_data(dataset, eval_dataset)
    if requires_data:
        raise InputError(
            "dataset: training needs a data set; got none. Give dataset=, or train=False for "
            'the plan alone, or mode="mock" to try the call.'
        )
    return None


def _asked_of_the_model(
    spec: ModelSpec, objective: Objective, example: Any, sizes: Sizes | None
) -> tuple[Objective, list[Diagnostic]]:
    """The objective, told whose labels it counts, and what was found about the code."""
    findings = code_findings(spec, objective)
    if example is None:
        return objective, findings
    objective, found = settle_labels(spec, objective, example, sizes)
    return objective, [*findings, *found]


def _mocked(
    make: Callable[..., SweepPlan], findings: Sequence[Diagnostic], task: MockTask, mup: Mup | None
) -> SweepPlan:
    plan = make(data=None, conditions=fingerprint_any(task), findings=findings)
    return replace(plan if mup is None else scale_rates(plan, mup), task=task)


def _trainable(
    make: Callable[..., SweepPlan],
    findings: Sequence[Diagnostic],
    trainer: Trainer,
    mup: Mup | None,
    example: Any,
) -> SweepPlan:
    """The plan, by a trainer that was tried on it and knows how fast it is."""
    plan = make(data=trainer.data, conditions=_conditions(trainer), findings=findings)
    if mup is not None:
        plan, roles = in_mup(plan, mup, trainer.model, trainer.objective, example)
        trainer = replace(trainer, parametrization=roles)
    trainer.try_optimizer(plan.experiments)
    numbers, place = trainer.precision, trainer.device
    with rng.kept(place), numbers.flags(place):
        speed = probe(
            trainer.model,
            trainer.data,
            trainer.objective,
            plan.experiments,
            place,
            trainer.held_out.size or 0,
            trainer.config.microbatch,
            functools.partial(numbers.autocast, place),
        )
        if mup is not None:
            plan = with_check(plan, trainer, mup)
    return replace(plan, task=replace(trainer, speed=speed), speed=speed)


def _conditions(trainer: Trainer) -> str:
    """A fingerprint of all that decides how runs come out and is not part of their experiments."""
    judged_by = (trainer.objective, trainer.data, trainer.held_out)
    conditions = [thing.fingerprint() for thing in judged_by]
    return digest([*conditions, *trainer.config.fingerprints(trainer.precision)])
