"""The stages one by one, and all of them in one call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flops_fit.arguments import check_choice, names_near_matches
from flops_fit.data import check_dataset_type, split_data
from flops_fit.design import (
    Asked,
    Experimenter,
    check_adaptive,
    pilot_budgets_for,
    pilot_sizes,
    run_adaptive,
)
from flops_fit.errors import InputError, InputTypeError
from flops_fit.execute import (
    Executor,
    InProcessExecutor,
    MockTask,
    Task,
    follow,
    lead,
    resolve_executor,
)
from flops_fit.fingerprint import digest, fingerprint_any, fingerprint_code
from flops_fit.fit import fit_runs
from flops_fit.laws import Law
from flops_fit.model import ModelSpec, Size
from flops_fit.objective import Objective
from flops_fit.plan import (
    DESIGNS,
    EXAMPLE_SAMPLES,
    Design,
    PriorLike,
    Sizes,
    SweepPlan,
    check_budgets,
    check_fittable,
    code_findings,
    data_findings,
    make_plan,
    probe,
    settle_labels,
)
from flops_fit.ranks import Ranks, join_ranks
from flops_fit.recipes import HParams, Recipe
from flops_fit.records import Experiment, Run
from flops_fit.reference import law as published_law
from flops_fit.result import Result
from flops_fit.store import Store
from flops_fit.sweep import run_experiments
from flops_fit.track import Tracker, check_trackers
from flops_fit.train import (
    MakeOptimizer,
    ParamGroups,
    Precision,
    Trainer,
    check_compile,
    check_microbatch,
    check_peak,
    check_workers,
    kept_generators,
    resolve_device,
    resolve_precision,
)
from flops_fit.view import LiveView, SilentView

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["find_optimal", "plan_sweep", "run_sweep"]


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
    hparams: str | Recipe | Mapping[str, Any] | HParams = "default",
    optimizer: MakeOptimizer | type[Optimizer] | None = None,
    param_groups: ParamGroups | None = None,
    microbatch: int | None = None,
    precision: str | Precision = "auto",
    checkpoint_seconds: float | None = 60.0,
    checkpoint_steps: int | None = None,
    trackers: Sequence[Tracker] = (),
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
        ``"inprocess"``, ``"pool"`` (several processes on this machine) or an instance.
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
        A recipe's name, a dict or :class:`HParams` for every run, or a function
        ``(params, units, unit) -> HParams``.
    optimizer
        ``(param_groups, hparams) -> torch.optim.Optimizer``, or a class of such, in place of AdamW.
    param_groups
        ``(model, hparams) -> groups`` as torch takes them, each with an optional ``lr_scale``.
    microbatch
        Samples that go through the model at once; halved by itself where memory runs out. What is
        computed stays the same.
    precision
        ``"auto"`` (bfloat16 on GPUs that have it), ``"fp32"``, ``"bf16"``, or
        ``train.Precision("fp32", tf32=True)``.
    checkpoint_seconds, checkpoint_steps
        When a run keeps a checkpoint: after so much time (more where saving takes long: it gets a
        hundredth of a run's time), and at multiples of so many steps; ``None`` for neither.
    trackers
        Who follows each run that is trained here: see :class:`flops_fit.track.Tracker`. They change
        no run and no id; runs that are finished already are not told again.
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
    if design == "adaptive":
        asked = _asked(target_compute, half_width, max_flops, plan.budgets)
        places = _Places(executor, Path(output_dir), resume, progress)
        return _adaptive(plan, asked, None if sizes is None else list(sizes), places)
    check_fittable(plan)
    runs = run_sweep(
        plan, executor=executor, output_dir=output_dir, resume=resume, progress=progress
    )
    fit = fit_runs(runs, flops_per_unit=plan.flops)
    result = Result(plan=plan, runs=tuple(runs), fit=fit, output_dir=Path(output_dir))
    if _ranks(plan.task).leads:
        result.save()
    return result


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
    hparams: str | Recipe | Mapping[str, Any] | HParams = "default",
    optimizer: MakeOptimizer | type[Optimizer] | None = None,
    param_groups: ParamGroups | None = None,
    microbatch: int | None = None,
    precision: str | Precision = "auto",
    checkpoint_seconds: float | None = 60.0,
    checkpoint_steps: int | None = None,
    trackers: Sequence[Tracker] = (),
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
    check_choice("mode", mode, ("local", "mock"))
    check_choice("design", design, (*DESIGNS, "adaptive"))
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputTypeError(f"seed: expected a whole number; got {seed!r}.")
    followers, peak = check_trackers(trackers), check_peak(peak_flops)
    if not isinstance(branch, bool):
        raise InputTypeError(f"branch: expected True or False; got {branch!r}.")
    workers, compile = check_workers(workers), check_compile(compile)
    spec = ModelSpec(model_cls, model_size_param, {} if model_kwargs is None else model_kwargs)
    if design == "adaptive":
        check_adaptive(sizes, repeats, branch)
        layout = {"prior": prior, "width": width, "sizes_per_budget": sizes_per_budget}
        if told := [name for name, value in layout.items() if value is not None]:
            raise InputError(
                f"{told[0]}: an adaptive design chooses its own sizes from its pilot on. Leave it out."
            )
        compute_budgets = pilot_budgets_for(compute_budgets, max_flops)
    budgets = check_budgets(compute_budgets)
    if design == "adaptive" and sizes is None:
        sizes = pilot_sizes(spec, budgets)
    objective = Objective(loss_fn, count_fn, step_fn)
    for name, given in (("dataset", dataset), ("eval_dataset", eval_dataset)):
        if given is not None:
            check_dataset_type(given, name)
    split = None
    if dataset is not None and mode == "local":
        split = split_data(dataset, eval_dataset)
        first = split[0].first_batch(EXAMPLE_SAMPLES)
        if requires_data:
            objective.check(first)
    example = example_batch if example_batch is not None or split is None else first
    findings = [*code_findings(spec, objective)]
    if example is not None:
        objective, found = settle_labels(spec, objective, example, sizes)
        findings += found
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
        task = MockTask(
            published_law("besiroglu2024") if mock_law is None else mock_law, mock_noise
        )
        return replace(
            make(data=None, conditions=fingerprint_any(task), findings=findings), task=task
        )
    if split is None:
        if requires_data:
            raise InputError(
                "dataset: training needs a data set; got none. Give dataset=, or train=False for "
                'the plan alone, or mode="mock" to try the call.'
            )
        return make(data=None, findings=findings)
    data, held_out = split
    findings += data_findings(data, held_out, eval_dataset is not None)
    place = resolve_device(device)
    numbers = resolve_precision(precision, place)
    conditions = [objective.fingerprint(), data.fingerprint(), held_out.fingerprint()]
    conditions += [fingerprint_code(f) for f in (optimizer, param_groups) if f is not None]
    conditions += [] if numbers == Precision() else [repr(numbers)]
    # "auto" goes by measured times, and on another machine has to find the same runs again.
    conditions += ["compiled"] if compile is True else []
    plan = make(data=data, conditions=digest(conditions), findings=findings)
    trainer = Trainer(
        spec,
        data,
        held_out,
        objective,
        place,
        microbatch=check_microbatch(microbatch),
        checkpoint_seconds=checkpoint_seconds,
        checkpoint_steps=checkpoint_steps,
        optimizer=optimizer,
        param_groups=param_groups,
        precision=numbers,
        trackers=followers,
        peak_flops=peak,
        workers=workers,
        compile=compile,
    )
    trainer.try_optimizer(plan.experiments)
    with kept_generators(place), numbers.flags(place):
        speed = probe(
            spec,
            data,
            objective,
            plan.experiments,
            place,
            held_out.size or 0,
            trainer.microbatch,
            functools.partial(numbers.autocast, place),
        )
    return replace(plan, task=replace(trainer, speed=speed), speed=speed)


def run_sweep(
    plan: SweepPlan,
    task: Task | None = None,
    *,
    executor: str | Executor = "inprocess",
    output_dir: str | Path = "outputs",
    resume: bool = True,
    progress: bool = True,
) -> list[Run]:
    """Carry out a plan, or what is missing of it.

    Parameters
    ----------
    plan
        From :func:`plan_sweep`.
    task
        ``(experiment, report) -> Run``: your own training code in place of the plan's trainer. It
        must be picklable for executors that use other processes.

    Returns
    -------
    list of Run
        In the order of the plan; finished ones are read from ``output_dir``.
    """
    task = plan.task if task is None else task
    if task is None:
        raise InputError(
            "run_sweep: the plan was made without a data set, so it cannot be trained. Give dataset= "
            "and loss_fn= to plan_sweep, or a task."
        )
    chosen = resolve_executor(executor)
    ranks = _ranks(task)
    if ranks.size > 1 and not isinstance(chosen, InProcessExecutor):
        raise InputError(
            f"executor: {ranks.size} processes were launched to train each run together, which takes "
            f'executor="inprocess"; got {executor!r}. Or start one process, whose executor starts others.'
        )
    if not ranks.leads:
        return follow(ranks, task)

    def sweep(task: Task) -> list[Run]:
        store = Store.open(output_dir, resume=resume)
        store.write_plan(plan.experiments)
        view = LiveView() if progress else SilentView()
        runs = run_experiments(plan.experiments, task, chosen, store, view)
        store.write_table(runs)
        return runs

    if isinstance(task, Trainer):
        place = Store(Path(output_dir))
        task = task.in_folder(place.runs, place.trunks)
    return sweep(task) if ranks.size == 1 else lead(ranks, task, sweep)


@dataclass(frozen=True)
class _Places:
    """Where runs happen and are kept."""

    executor: str | Executor
    output_dir: Path
    resume: bool
    progress: bool


def _asked(
    target: float | None, half_width: float, max_flops: float | None, budgets: tuple[float, ...]
) -> Asked:
    if target is None or max_flops is None:
        missing = "target_compute" if target is None else "max_flops"
        raise InputError(
            f"{missing}: an adaptive design needs a number of FLOPs; got none. Say what run the "
            "answer is for (target_compute=1e21) and what the sweep may spend (max_flops=1e19)."
        )
    return Asked(target, half_width, max_flops, pilot_budgets=budgets)


def _adaptive(
    plan: SweepPlan, asked: Asked, sizes: Sequence[Size] | None, places: _Places
) -> Result:
    """Batch after batch, each through :func:`run_sweep` with all that came before it."""
    assert plan.maker is not None
    resume = places.resume

    def carry_out(experiments: Sequence[Experiment]) -> list[Run]:
        nonlocal resume
        runs = run_sweep(
            replace(plan, experiments=tuple(experiments)),
            executor=places.executor,
            output_dir=places.output_dir,
            resume=resume,
            progress=places.progress,
        )
        resume = True  # later batches belong to this sweep
        return runs

    oracle = Experimenter(plan.maker, plan.flops, carry_out, sizes)
    leads = _ranks(plan.task).leads
    found = run_adaptive(oracle, asked, print if places.progress and leads else lambda line: None)
    plan = replace(plan, experiments=tuple(oracle.experiments))
    # The runs lie where the design wanted them: a window would take their arms away.
    fit = fit_runs(oracle.runs, flops_per_unit=plan.flops, window=None)
    result = Result(plan, tuple(oracle.runs), fit, places.output_dir, found)
    if leads:
        result.save()
    return result


def _ranks(task: Task | None) -> Ranks:
    """The processes that carry out a task together."""
    return join_ranks(str(getattr(task, "device", "cpu")))
