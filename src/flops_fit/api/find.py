"""All stages in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from flops_fit.api.plan import MOVED, ModeLike, Sweep, make_plan
from flops_fit.api.run import RunOptions, climb_plan, find_adaptively, ranks_of, run_plan, tune_plan
from flops_fit.errors import InputError, explains_names
from flops_fit.execute.executor import Executor, Mock
from flops_fit.fit.fitting import fit_runs
from flops_fit.fit.varied import HParamNames
from flops_fit.model.sizes import ModelSizes
from flops_fit.plan.counting import FlopsMethod
from flops_fit.plan.designs import Adaptive, DesignLike, Sizes
from flops_fit.plan.planner import check_fittable
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.recipes.resolve import RecipeLike
from flops_fit.result import Result
from flops_fit.store.store import Store
from flops_fit.train.config import TrainingConfig
from flops_fit.train.metrics import Measures
from flops_fit.tune.joint import valley_prior
from flops_fit.tune.tuning import Tune, resolve_tune


@explains_names(MOVED)
def find_optimal(
    model_cls: Callable[..., Any] | ModelSizes | None = None,
    model_size_param: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[..., Any] | None = None,
    compute_budgets: Sequence[float] | None = None,
    train: bool = True,
    mode: ModeLike = Sweep.mode,
    output_dir: str | Path = "outputs",
    resume: bool = True,
    *,
    eval_dataset: Any = None,
    batch_size: int | str = Sweep.batch_size,
    seed: int = Sweep.seed,
    device: str = Sweep.device,
    executor: str | Executor = "inprocess",
    flops: FlopsMethod = Sweep.flops,
    sizes: Sizes | None = None,
    count_fn: Callable[[Any], int] | None = None,
    step_fn: Callable[..., Any] | None = None,
    example_batch: Any = None,
    hparams: RecipeLike = Sweep.hparams,
    design: DesignLike = Sweep.design,
    progress: bool = True,
    training: TrainingConfig = Sweep.training,
    tune: str | Tune = Sweep.tune,
    metrics: Measures | None = Sweep.metrics,
) -> Result | SweepPlan:
    """How big a model, on how much data, at what loss, for each compute budget?

    Plans an IsoFLOP sweep, trains its runs, fits a scaling law and returns the answer, with the plan, runs
    and fit it rests on. Called again with the same arguments it continues where it was interrupted.

    InputError or InputTypeError where an argument cannot be used, before any compute is spent; OutputError
    where ``output_dir`` cannot be written or belongs to something else; SweepError where the first two runs
    failed for the same reason; FitError where too few runs completed, with what to add.

    Parameters
    ----------
    model_cls
        A class or factory that returns any ``torch.nn.Module``; or :class:`ModelSizes`, the parameters of
        each size of a model that a command trains.
    model_size_param
        The argument of ``model_cls`` that sets its size, such as ``"d_model"``; optional where
        ``sizes`` names whole sets of arguments.
    model_kwargs
        The other arguments of ``model_cls``. One that follows from the size is a function of it, such as
        ``{"heads": lambda d_model: d_model // 64}``.
    dataset
        A torch Dataset, IterableDataset or DataLoader, or a sequence of samples. Batches are
        tuples (inputs..., targets) or dicts, which go to the model by name. Or a function of arguments
        that ``design=Grid(axes=...)`` varies, such as ``(share)``, that returns one.
    loss_fn
        ``(model output, targets) -> scalar``, a mean over units; or the output's ``.loss`` is used.
    compute_budgets
        Training FLOPs of each tier of the sweep; four or more, a factor of 2 to 3 apart.
    train
        ``False`` returns the :class:`SweepPlan` and runs nothing.
    mode
        ``"local"`` trains. ``"mock"`` simulates the runs by a known law with seeded noise, without
        data; :class:`flops_fit.Mock` names another law and noise. :class:`flops_fit.CommandTask` runs a
        trainer of your own, a command; another command is another sweep.
    output_dir
        Where records, tables and figures go.
    resume
        ``False`` sets earlier runs of ``output_dir`` aside and trains again.
    eval_dataset
        The held-out set; by default 5 % of ``dataset``.
    batch_size
        Samples in a batch, ``"auto"`` for the recipe's choice.
    seed
        Every run derives its own seed from it.
    device
        A torch device; ``"auto"`` takes a GPU where there is one.
    executor
        ``"inprocess"``, ``"pool"`` (several processes on this machine), ``"ray"``, ``"slurm"``, or
        an instance such as ``flops_fit.execute.SlurmExecutor(partition="gpu")``.
    flops
        ``"measured"`` counts the traced model, ``"6nd"`` takes 6·N per unit, or a function
        ``(model) -> training FLOPs per unit``.
    sizes
        Values of ``model_size_param``, or dicts of arguments, or a dict from budget to either.
    count_fn
        ``batch -> int``, the units of a batch; by default targets other than −100.
    step_fn
        ``(model, batch) -> (loss sum, count)`` in place of ``loss_fn`` and ``count_fn``.
    example_batch
        A batch to count FLOPs on where the data set must not be read.
    hparams
        How each run is trained: a recipe's name such as ``"steplaw2025"``; a dict of changes to
        the one that its key ``"recipe"`` names, by default ``"default"``; the path of a TOML file
        of own rules; an :class:`HParams` for every run; or a function
        ``(params, units, unit) -> HParams``. docs/recipes.md compares them.
    design
        How sizes are chosen where ``sizes`` are not given: ``"grid"``, the same number at each budget;
        ``"tapered"``, most runs at the smallest budgets; ``"rectangular"``, the same sizes at all
        budgets, as branches use them; or :class:`Grid`, :class:`Tapered`, :class:`Rectangular` with
        numbers of their own. :class:`Adaptive` trains a pilot, and then batches of the runs that narrow
        N* at its ``target_compute`` most. ``"adaptive"`` stands for ``target_compute=10 *
        max(compute_budgets), max_flops=7 * sum(compute_budgets)``: at most what ``"grid"`` costs.
    progress
        Show a live view.
    training
        Optimizer, parametrization, precision, checkpoints, trackers and more:
        :class:`flops_fit.TrainingConfig`.
    tune
        ``"joint"`` varies learning rate and batch in the sweep itself, around the best that it knows
        before each budget, and fits them with the law: ``Result.recipe``. ``"pilot"`` and ``"per-size"``
        try them before the sweep, in ``output_dir/tuning``; what they show is in ``Result.tuning``.
        ``"none"`` takes the recipe as it is. See :class:`flops_fit.tune.Tune`.
    metrics
        What to measure of each model at the end of its run, by name: functions ``(model, batches) ->
        number``, the model in evaluation mode, the batches those of the held-out set; a benchmark with
        questions of its own leaves them aside. ``Run.metrics`` and ``runs.csv`` have the values, for
        :func:`flops_fit.fit.metric`. Each is tried before any compute is spent; one that fails later
        leaves its value out and a note. They change no run and no id.
    """
    given = {**locals(), "requires_data": train}
    sweep = Sweep(**{field.name: given[field.name] for field in fields(Sweep)})
    tuning_options = resolve_tune(tune)
    if tuning_options.kind != "none" and isinstance(sweep.task, Mock):
        raise InputError(
            f"tune: {tuning_options.kind!r} needs runs that train, and simulated runs have no learning "
            "rate. Leave tune out, or give mode='local'."
        )
    if train:
        Store(Path(output_dir)).refuse_foreign()  # before planning, which takes longer
    plan = make_plan(sweep)
    if not train:
        return plan
    options = RunOptions(executor, output_dir, resume, progress)
    adaptive = sweep.resolved_design if isinstance(sweep.resolved_design, Adaptive) else None
    if adaptive is None:
        check_fittable(plan)
    answer = tuning = climbed = None
    if tuning_options.kind not in ("none", "joint"):
        total = None if adaptive is None else adaptive.max_flops
        plan, tuning = tune_plan(plan, tuning_options, options, total)
        options = replace(options, resume=True)  # the folder is this sweep's by now
    prior: HParamNames = "auto"
    if sweep.joint is not None:
        prior = valley_prior(plan, sweep.joint)
    elif tuning is not None:
        prior = None  # what differs is the best of each size as trials found it
    if adaptive is not None:
        allowed = None if sizes is None else list(sizes)
        plan, runs, answer, climbed = find_adaptively(plan, adaptive, allowed, options)
    elif sweep.joint is not None:
        climbed = climb_plan(plan, plan.task, options)
        plan, runs = replace(plan, experiments=climbed.experiments), list(climbed.runs)
    else:
        runs = run_plan(plan, plan.task, options)
    fit = fit_runs(runs, flops_per_unit=plan.flops, hparams=prior)
    result = Result(plan, tuple(runs), fit, Path(output_dir), answer, tuning, climbed)
    if ranks_of(plan.task).is_main:
        result.save()
    return result
