"""From the user's arguments to a plan that can be trained."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, Literal, ParamSpec, TypeVar

from flops_fit import rng
from flops_fit.adaptive.candidates import check_adaptive, pilot_budgets, pilot_sizes
from flops_fit.api.width_check import smallest, with_check
from flops_fit.data import (
    DataSpec,
    axes_of_data,
    check_dataset_type,
    made_data,
    split_data,
)
from flops_fit.errors import InputError, InputTypeError, check_choice, check_whole, explains_names
from flops_fit.execute.command import CommandTask
from flops_fit.execute.executor import Mock
from flops_fit.fingerprint import digest
from flops_fit.fit.varied import TUNED
from flops_fit.model.sizes import ModelSizes
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.mup.parametrization import parametrize
from flops_fit.objective import Objective
from flops_fit.plan.counting import FlopsCounter, FlopsMethod
from flops_fit.plan.designs import Adaptive, Design, DesignLike, Grid, Sizes, resolve_design
from flops_fit.plan.experiments import ExperimentFactory
from flops_fit.plan.extent import examine
from flops_fit.plan.findings import (
    batch_norms,
    code_findings,
    data_findings,
    in_words,
    settle_labels,
    smallest_built,
)
from flops_fit.plan.lengths import look_at, uniform
from flops_fit.plan.planner import EXAMPLE_SAMPLES, Joint, Planner, check_budgets
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.plan.timing import Probe
from flops_fit.recipes.resolve import RecipeLike, resolve_recipe
from flops_fit.records import Diagnostic
from flops_fit.train.config import TrainingConfig, resolve_device, resolve_precision
from flops_fit.train.memory import memory_findings, refusal
from flops_fit.train.metrics import Measures, check_metrics
from flops_fit.train.step import INDIVISIBLE
from flops_fit.train.trainer import Trainer
from flops_fit.tune.tuning import Tune, resolve_tune

P = ParamSpec("P")
R = TypeVar("R")

_TRAINING = TrainingConfig()


@dataclass(frozen=True)
class Place:
    """Where a setting is: a field of the object that an argument takes."""

    argument: str
    type: str
    field: str

    def __str__(self) -> str:
        return f"{self.argument}={self.type}({self.field}=...)"


MOVED: Mapping[str, Place] = {
    **{f.name: Place("training", "TrainingConfig", f.name) for f in fields(TrainingConfig)},
    **{f.name: Place("design", "Grid", f.name) for f in fields(Grid)},
    **{f.name: Place("design", "Adaptive", f.name) for f in fields(Adaptive)},
    "mock_law": Place("mode", "Mock", "law"),
    "mock_noise": Place("mode", "Mock", "noise"),
}
"""Settings that are no arguments of find_optimal, and where they are."""

ModeLike = Literal["local", "mock"] | Mock | CommandTask


@dataclass(frozen=True, eq=False)
class Sweep:
    """The arguments that decide a plan, checked; :func:`find_optimal` explains them."""

    model_cls: Callable[..., Any] | ModelSizes | None = None
    model_size_param: str | None = None
    model_kwargs: Mapping[str, Any] | None = None
    dataset: Any = None
    loss_fn: Callable[..., Any] | None = None
    compute_budgets: Sequence[float] | None = None
    _: KW_ONLY
    mode: ModeLike = "local"
    requires_data: bool = False
    eval_dataset: Any = None
    batch_size: int | str = "auto"
    seed: int = 0
    device: str = "auto"
    flops: FlopsMethod = "measured"
    sizes: Sizes | None = None
    count_fn: Callable[[Any], int] | None = None
    step_fn: Callable[..., Any] | None = None
    example_batch: Any = None
    hparams: RecipeLike = "default"
    training: TrainingConfig = _TRAINING
    design: DesignLike = "grid"
    tune: str | Tune = "none"
    metrics: Measures | None = None

    def __post_init__(self) -> None:
        if self.model_cls is None:
            raise InputError("model_cls: expected a class or factory of models; got none.")
        if not isinstance(self.mode, Mock | CommandTask):
            check_choice("mode", self.mode, ("local", "mock"))
        if not isinstance(self.training, TrainingConfig):
            raise InputTypeError(
                f"training: expected a flops_fit.TrainingConfig; got {type(self.training).__name__}."
            )
        own = self.model_size_param, self.model_kwargs, self.dataset, self.example_batch
        if isinstance(self.model_cls, ModelSizes) and any(value is not None for value in own):
            raise InputError(
                "model_cls: expected no size parameter, arguments, data or batch beside ModelSizes, which "
                "names sizes of a model that a command trains. Leave them out."
            )
        check_whole("seed", self.seed, at_least=None)
        if self.batch_size != "auto":
            expected = "a positive whole number or 'auto'"
            check_whole("batch_size", self.batch_size, expected=expected)
        if self.training.stop_hopeless and isinstance(self.mode, CommandTask):
            raise InputError(
                "stop_hopeless: expected runs that train here, whose losses are seen on the way; a command's "
                "are not. Leave it out."
            )
        if isinstance(self.resolved_design, Adaptive):
            check_adaptive(self.sizes, self.training.branch)
        self._check_joint()
        if self.metrics is not None:
            check_metrics(self.metrics)
            if self.metrics and self.task is not None:
                raise InputError(
                    "metrics: expected runs that train here; simulated runs and commands show no model. A "
                    "command's scores are columns of a table of your own, for flops_fit.fit.metric."
                )
        for name in ("dataset", "eval_dataset"):
            made = name == "dataset" and self.data_axes
            if (given := getattr(self, name)) is not None and not made:
                check_dataset_type(given, name)

    @property
    def resolved_design(self) -> Design:
        """The design; budgets decide what ``"adaptive"`` stands for."""
        if self.design == Adaptive.kind and self.compute_budgets is not None:
            return resolve_design(self.design, check_budgets(self.compute_budgets))
        return resolve_design(self.design)

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """Further arguments that the design varies."""
        return getattr(self.resolved_design, "axes", {})

    @property
    def data_axes(self) -> tuple[str, ...]:
        """Those that a function given as ``dataset`` takes."""
        return axes_of_data(self.dataset, self.axes)

    def _check_joint(self) -> None:
        if resolve_tune(self.tune).kind != "joint":
            return
        if self.training.branch:
            raise InputError(
                "tune: 'joint' gives each run a rate of its own, and branches share the rate of their "
                'trunk. Leave branch out, or give tune="pilot".'
            )

    @property
    def joint(self) -> Joint | None:
        """How rates and batches are drawn; ``None`` where they are the recipe's."""
        tune = resolve_tune(self.tune)
        if tune.kind != "joint":
            return None
        batch = tune.batch and self.batch_size == "auto"
        if tune.decay and not batch:
            raise InputError(
                f"tune: expected batch_size='auto' with decay=True, which varies both; got {self.batch_size}."
            )
        names = TUNED[: 1 + batch + tune.decay]
        spread = tune.step**2, tune.step
        return Joint(names, spread, tune.most, self.training.mup is not None)

    @property
    def task(self) -> Mock | CommandTask | None:
        """What carries out the runs in place of the trainer, without data; ``None`` where that trains."""
        if isinstance(self.mode, Mock | CommandTask):
            return self.mode
        return Mock() if self.mode == "mock" else None


def takes(arguments: Callable[P, Sweep]) -> Callable[[Callable[[Sweep], R]], Callable[P, R]]:
    """Let a function of a sweep take the arguments that make it."""

    def decorate(function: Callable[[Sweep], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(arguments(*args, **kwargs))

        answer = inspect.signature(function).return_annotation
        signature = inspect.signature(arguments).replace(return_annotation=answer)
        # inspect, help() and the command line read it.
        call.__signature__ = signature  # type: ignore[attr-defined]  # types do not know it
        return explains_names(MOVED)(call)

    return decorate


@takes(Sweep)
def plan_sweep(sweep: Sweep) -> SweepPlan:
    """The runs of a sweep, or of an adaptive design's pilot, and their exact cost.

    The arguments are those of :func:`find_optimal`; ``requires_data`` refuses a plan without a data
    set or loss. With a data set, a few steps are run to see that the model trains and how fast, and
    the plan can be given to :func:`run_sweep`. With ``tune="joint"`` that draws rates and batches.
    """
    if (kind := resolve_tune(sweep.tune).kind) not in ("none", "joint"):
        raise InputError(
            f"tune: expected 'none' or 'joint', which a plan can say; trials of {kind!r} come before it. Use "
            f"tune_sweep(plan, {kind!r})."
        )
    return make_plan(sweep)


def make_plan(sweep: Sweep) -> SweepPlan:
    """What :func:`plan_sweep` does, with its arguments gathered."""
    assert sweep.model_cls is not None
    if isinstance(sweep.model_cls, ModelSizes):
        spec: ModelSpec = sweep.model_cls
    else:
        kwargs = {} if sweep.model_kwargs is None else sweep.model_kwargs
        spec = ModelSpec(sweep.model_cls, sweep.model_size_param, kwargs, sweep.data_axes)
    budgets, sizes, design = _layout(sweep, spec)
    objective = Objective(sweep.loss_fn, sweep.count_fn, sweep.step_fn)
    task, mup, data, trainer = sweep.task, sweep.training.mup, None, None
    split, data_axes, most = None, None, sweep.training.eval_samples
    if task is None and sweep.data_axes:
        split, data_axes = made_data(sweep.dataset, sweep.axes, sweep.eval_dataset, most)
    elif task is None and sweep.dataset is not None:
        split = split_data(sweep.dataset, sweep.eval_dataset, most)
    elif task is None and sweep.requires_data:
        raise InputError(
            "dataset: training needs a data set; got none. Give dataset=, or train=False for "
            'the plan alone, mode=CommandTask(...) for a trainer of your own, or mode="mock" to try it.'
        )
    example = sweep.example_batch
    if split is not None:
        data = split[0]
        first = data.first_batch(EXAMPLE_SAMPLES)
        example = first if example is None else example
    findings = code_findings(spec, objective)
    if example is not None:
        objective, labels = settle_labels(spec, objective, example, sizes)
        findings += labels
    conditions = "" if task is None else task.fingerprint()
    if split is not None:
        findings += data_findings(*split, sweep.eval_dataset is not None)
        device = resolve_device(sweep.device)
        precision = resolve_precision(sweep.training.precision, device)
        config = replace(sweep.training, precision=precision)
        trainer = Trainer(spec, *split, objective, device, config, data_axes=data_axes)
        trainer = replace(trainer, metrics=dict(sweep.metrics or {}))
    small = None if example is None else smallest_built(spec, sizes)
    counter, per_sample = _counter(sweep, spec, objective, data, small)
    if split is not None and trainer is not None:
        extent = examine(
            spec,
            small,
            objective,
            split,
            sweep.batch_size,
            lambda s: counter.per_unit(s) * per_sample,
        )
        divisible = extent.divisible and not batch_norms(spec, small)
        trainer = replace(trainer, judged_on=extent.judged_on, divisible=divisible)
        findings += extent.findings
        # All that decides how runs come out and is not part of their experiments.
        judged_by = [part.fingerprint() for part in (objective, *split)]
        judged_by += [] if data_axes is None else data_axes.fingerprints()
        own = [*trainer.config.fingerprints(trainer.precision), *extent.conditions]
        conditions = digest([*judged_by, *own])
    if data_axes is not None and counter.lengths is not None:
        data_axes.refuse_lengths()
    factory = ExperimentFactory(
        spec,
        counter,
        resolve_recipe(sweep.hparams),
        per_sample,
        sweep.batch_size,
        None if data is None else data.size,
        sweep.seed,
        conditions,
        sweep.training.branch,
        None if data is None else data.count(),
        data_axes,
    )
    read = () if data is None else tuple(data.notes)
    if isinstance(spec, ModelSizes) and counter.method == "6nd":
        read = (in_words("sizes_6nd", unit=spec.unit.rstrip("s")).message,)
    joint = sweep.joint
    planner = Planner(
        factory, budgets, design, sizes, read, tuple(findings), task=task, joint=joint
    )
    plan = planner.plan()
    if isinstance(task, CommandTask):
        task.check(plan.experiments)
    if joint is not None:
        joint.check(plan)
        pilot = isinstance(sweep.resolved_design, Adaptive)
        plan = replace(plan, diagnostics=(joint.diagnostic(plan, pilot), *plan.diagnostics))
    roles = None
    if mup is not None:
        base = smallest(plan) if mup.base is None else mup.base
        mup = replace(mup, base=base)
        if task is None:
            roles = parametrize(spec, objective, example, [e.size for e in plan.experiments], mup)
        plan = planner.at_base(plan, base, mup.fingerprint(base))
    if roles is not None:
        message = f"{roles} Every size has the learning rate that the recipe has for the base."
        limits = [Diagnostic("parametrization_limits", "warning", note) for note in roles.notes]
        notes = (Diagnostic("parametrization", "note", message), *limits)
        plan = replace(plan, diagnostics=(*plan.diagnostics, *notes))
    return plan if trainer is None else _with_trainer(plan, replace(trainer, parametrization=roles))


def _counter(
    sweep: Sweep, spec: ModelSpec, objective: Objective, data: DataSpec | None, small: Size | None
) -> tuple[FlopsCounter, float]:
    """What counts FLOPs, and the number of units per sample; 6·N per unit where no data may be read."""
    flops, batch = sweep.flops, sweep.example_batch
    source = data.dataset if data is not None and sweep.data_axes else sweep.dataset
    if isinstance(spec, ModelSizes):
        source, flops = spec, spec.flops_method if flops == "measured" else flops
    lengths, samples = None, None
    if data is not None:
        if batch is None:
            batch = data.first_batch(EXAMPLE_SAMPLES)
            samples = min(EXAMPLE_SAMPLES, data.size or EXAMPLE_SAMPLES)
        lengths = look_at(data, objective, sweep.batch_size)
        batch = batch if lengths is None else lengths.examples[0][0]
    if batch is not None:
        unit = objective.unit(batch, source)
        ask = (spec, objective, flops, batch, unit, samples, lengths)
        counter, each = FlopsCounter.from_batch(*ask)
        if small is not None:
            read = data if sweep.example_batch is None else None
            counter.settle(small, lengths or uniform(read, objective, batch, each))
        return counter, each if lengths is None else lengths.typical()[0]
    declared = getattr(source, "unit", None)
    per_sample = getattr(source, "units_per_sample", None)
    unit = declared if isinstance(declared, str) else "units"
    counter = FlopsCounter(spec, objective, flops, unit)
    return counter, float(per_sample) if isinstance(per_sample, int | float) else 1.0


def _layout(sweep: Sweep, spec: ModelSpec) -> tuple[tuple[float, ...], Sizes | None, Grid]:
    """The budgets, the sizes where they are known, and the design where they are not."""
    design, given = sweep.resolved_design, sweep.compute_budgets
    if not isinstance(design, Adaptive):
        return check_budgets(given), sweep.sizes, design
    if given is None or sweep.design == Adaptive.kind:  # the name takes them for those of a grid
        given = pilot_budgets(design.max_flops)
    budgets = check_budgets(given)
    return budgets, pilot_sizes(spec, budgets) if sweep.sizes is None else sweep.sizes, Grid()


def _with_trainer(plan: SweepPlan, trainer: Trainer) -> SweepPlan:
    """The plan with a trainer that was tried on it and knows how fast it is."""
    trainer.try_optimizer(plan.experiments)
    small = min(plan.experiments, key=lambda e: e.params.total)
    fits = not refusal(trainer.model, small, trainer.device, 1, trainer.config.optimizer is None)
    if fits:
        trainer.try_metrics(plan.experiments)
    part, most = trainer.config.microbatch, max(e.batch_size for e in plan.experiments)
    if part is not None and part < most and not trainer.divisible:
        raise InputError(
            f"microbatch: expected None, as {INDIVISIBLE}; got {part} where batches have up to {most} "
            "samples. Give a smaller batch_size instead."
        )
    precision, device = trainer.precision, trainer.device
    probed = trainer.model, trainer.data, trainer.objective
    probe = Probe(
        *probed, device, trainer.config.microbatch, functools.partial(precision.autocast, device)
    )
    with rng.kept(device), precision.flags(device):
        speed = probe.measure(plan.experiments, trainer.held_out.size or 0) if fits else None
        if trainer.parametrization is not None:
            plan = with_check(plan, trainer, trainer.parametrization)
    planner = replace(plan.require_planner("plan"), task=replace(trainer, speed=speed))
    told = memory_findings(plan.experiments, *probed, device, trainer.config)
    if speed is None and not told:
        told = [in_words("no_memory", run=small, device=device)]
    return replace(plan, planner=planner, speed=speed, diagnostics=(*plan.diagnostics, *told))
