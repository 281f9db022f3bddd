"""All stages in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flops_fit.api.adaptive import asked_for, find_adaptively
from flops_fit.api.plan import plan_sweep
from flops_fit.api.run import RunOptions, ranks_of, run_plan
from flops_fit.api.tune import tune_asked, tune_plan
from flops_fit.checks import names_near_matches
from flops_fit.execute.executor import Executor
from flops_fit.fit.fitting import fit_runs
from flops_fit.laws.law import Law
from flops_fit.mup.parametrization import ParametrizationLike
from flops_fit.plan.designs import Design, PriorLike, Sizes
from flops_fit.plan.planner import check_fittable
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.recipes.resolve import RecipeLike
from flops_fit.result import Result
from flops_fit.trackers.tracker import Tracker
from flops_fit.train.optimizer import MakeOptimizer, ParamGroups
from flops_fit.train.precision import Precision
from flops_fit.tune.tuning import Tune

if TYPE_CHECKING:
    from torch.optim import Optimizer


@names_near_matches
def find_optimal(
    model_cls: Callable[..., Any] | None = None,
    model_size_param: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[..., Any] | None = None,
    compute_budgets: Sequence[float] | None = None,
    train: bool = True,
    mode: Literal["local", "mock"] = "local",
    output_dir: str | Path = "outputs",
    resume: bool = True,
    *,
    eval_dataset: Any = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    device: str = "auto",
    executor: str | Executor = "inprocess",
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
    target_compute: float | None = None,
    half_width: float = 0.1,
    max_flops: float | None = None,
    branch: bool = False,
    tune: str | Tune = "none",
    progress: bool = True,
    mock_law: Law | None = None,
    mock_noise: float = 0.005,
) -> Result | SweepPlan:
    """How big a model, on how much data, at what loss, for each compute budget?

    Plans an IsoFLOP sweep, trains every run of it, fits a scaling law and answers. Called again
    with the same arguments it continues where it was interrupted.

    Parameters
    ----------
    model_cls
        A class or factory that returns any ``torch.nn.Module``.
    model_size_param
        The argument of ``model_cls`` that sets its size, such as ``"d_model"``; optional where
        ``sizes`` names whole sets of arguments.
    model_kwargs
        The other arguments of ``model_cls``.
    dataset
        A torch Dataset, IterableDataset or DataLoader, or a sequence of samples. Batches are
        tuples (inputs..., targets) or dicts, which go to the model by name.
    loss_fn
        ``(model output, targets) -> scalar``, the mean over the batch's counted units. Optional
        where the model's output carries ``.loss``.
    compute_budgets
        Training FLOPs of each tier of the sweep; four or more, a factor of 2 to 3 apart.
    train
        ``False`` returns the :class:`SweepPlan` and runs nothing.
    mode
        ``"local"`` trains here. ``"mock"`` lets a known law with seeded noise answer instead: no
        training, no access to data.
    output_dir
        Where records, tables and figures go.
    resume
        ``False`` sets earlier runs of ``output_dir`` aside and trains anew.
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
        an instance such as ``flops_fit.execute.SlurmExecutor(partition="gpu", gpus_per_run=1)``.
    flops
        ``"measured"`` counts the traced model, ``"6nd"`` takes 6·N per unit, or a function
        ``(model) -> training FLOPs per unit``.
    sizes
        Values of ``model_size_param``, or dicts of arguments, or a dict from budget to either.
    repeats
        Runs of each size and budget, with seeds of their own.
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
    optimizer
        ``(param_groups, hparams) -> torch.optim.Optimizer``, or a class of such, in place of AdamW.
    param_groups
        ``(model, hparams) -> groups`` as torch takes them, each with an optional ``lr_scale``.
    parametrization
        ``"mup"`` or ``Mup(...)`` scales learning rates by width, so that one rate serves all sizes: that
        which ``hparams`` has for the smallest size (or ``Mup(base=)``), whatever it has for others. A
        check of whether it does so for this model takes some seconds and stands in the plan.
    microbatch
        Samples that go through the model at once; halved by itself where memory runs out. What is
        computed stays the same.
    precision
        ``"auto"`` (bfloat16 on CUDA GPUs that have it), ``"fp32"``, ``"bf16"``, or
        ``train.Precision("fp32", tf32=True)``.
    checkpoint_seconds, checkpoint_steps
        When a run keeps a checkpoint: after so much time (more where saving takes long: it gets a
        hundredth of a run's time), and at multiples of so many steps; ``None`` for neither.
    trackers
        Who follows each run that is trained here: ``"mlflow"``, ``"tensorboard"``, ``"wandb"``,
        ``"trackio"``, their trackers in :mod:`flops_fit.trackers` with settings, or a
        :class:`flops_fit.trackers.Tracker` of your own; a list of them. They change no run and no id; runs
        that are finished already are not told again.
    peak_flops
        FLOP/s that the device can do at most, for the utilisation (MFU) on record; by default from
        the data sheets of common GPUs.
    workers
        Processes that read ahead of each run; no result depends on them. ``"auto"`` takes the
        ``num_workers`` of a DataLoader, else as many as gain time where reading is slow. Runs of a
        pool read for themselves.
    compile
        Whether ``torch.compile`` is used in training; ``"auto"`` on GPUs, for runs of eight minutes
        or more. Where it fails the run goes on without and notes it.
    design
        How the sweep is laid out where ``sizes`` are not given: ``"grid"``, the same number of sizes
        at each budget; ``"tapered"``, most runs at the cheapest budgets (12, 9, 6, 4, 2) and far arms;
        ``"rectangular"``, the same sizes at all budgets, as ``branch=True`` wants them. Or
        ``"adaptive"``: a pilot, and then batches of runs where they tell most about N* at
        ``target_compute``. ``compute_budgets`` are then those of the pilot, by default three that
        take 1.5 % of ``max_flops``.
    prior
        What N* is taken to be before anything is known: the name of a published law, a law, the fit
        of earlier runs, or a number of units a parameter; by default 20.
    width
        Sizes reach this factor below and above N* of the prior; by default 6 for a grid, 10 tapered,
        and 3 beyond N* of the cheapest and of the dearest budget for a rectangle.
    sizes_per_budget
        How many sizes, by default 7 and tapered 12 at the cheapest budget; or one number for each
        budget, the cheapest first.
    target_compute, half_width, max_flops
        Of an adaptive design: FLOPs of the run that the answer is for; half the width of the 90 %
        interval of its N* that is sure enough, relative; what the sweep may spend.
    branch
        Train one run of each size at a constant rate and cool it down once for every budget,
        instead of one run for each of them (Hägele et al. 2024). It needs ``sizes`` that occur at
        several budgets and hyper-parameters that depend on the size alone:
        ``hparams={"schedule": "wsd", "batch_units": 4096, "warmup_units": 20_000}``. Each branch is,
        to the last bit on a CPU, the run that it would have been alone from the same seed. Runs
        that share a trunk share its noise, and intervals count them as one cluster.
    tune
        Try learning rates and batches before the sweep: ``"pilot"``, at two sizes and two lengths,
        for 15 % of all FLOPs at most, moves the recipe by factors that serve all runs; ``"per-size"``
        finds a rate for each size; ``"none"`` takes the recipe as it is. :class:`flops_fit.tune.Tune`
        says more. The trials are in ``output_dir/tuning``, what they show in ``Result.tuning``.
    progress
        Show a live view.
    mock_law, mock_noise
        What ``mode="mock"`` answers with; by default Besiroglu et al. 2024 with 0.5 % noise.

    Returns
    -------
    Result or SweepPlan
        The answer, with the plan, the runs and the fit it rests on; or with ``train=False`` the
        plan alone.

    Raises
    ------
    InputError, InputTypeError
        An argument cannot be used; before any compute is spent.
    OutputError
        ``output_dir`` cannot be written or belongs to something else.
    SweepError
        The first two runs failed for the same reason.
    FitError
        Too few runs completed; the message says what to add.
    """
    tuned = tune_asked(tune, mode)
    asked = None
    if design == "adaptive" and train:
        asked = asked_for(target_compute, half_width, max_flops)
    plan = plan_sweep(
        model_cls,
        model_size_param,
        model_kwargs,
        dataset,
        loss_fn,
        compute_budgets,
        mode=mode,
        requires_data=train,
        eval_dataset=eval_dataset,
        batch_size=batch_size,
        seed=seed,
        device=device,
        flops=flops,
        sizes=sizes,
        repeats=repeats,
        count_fn=count_fn,
        step_fn=step_fn,
        example_batch=example_batch,
        hparams=hparams,
        optimizer=optimizer,
        param_groups=param_groups,
        parametrization=parametrization,
        microbatch=microbatch,
        precision=precision,
        checkpoint_seconds=checkpoint_seconds,
        checkpoint_steps=checkpoint_steps,
        trackers=trackers,
        peak_flops=peak_flops,
        workers=workers,
        compile=compile,
        design=design,
        prior=prior,
        width=width,
        sizes_per_budget=sizes_per_budget,
        max_flops=max_flops,
        branch=branch,
        mock_law=mock_law,
        mock_noise=mock_noise,
    )
    if not train:
        return plan
    places = RunOptions(executor, output_dir, resume, progress)
    if asked is None:
        check_fittable(plan)
    tuning = None
    if tuned.kind != "none":
        total = None if asked is None else asked.max_flops
        plan, tuning = tune_plan(plan, tuned, places, total)
        places = replace(places, resume=True)  # the folder is this sweep's by now
    if asked is not None:
        asked = replace(asked, pilot_budgets=plan.budgets)
        wanted = None if sizes is None else list(sizes)
        return replace(find_adaptively(plan, asked, wanted, places), tuning=tuning)
    runs = run_plan(plan, plan.task, places)
    fit = fit_runs(runs, flops_per_unit=plan.flops)
    result = Result(plan, tuple(runs), fit, Path(output_dir), tuning=tuning)
    if ranks_of(plan.task).is_main:
        result.save()
    return result
