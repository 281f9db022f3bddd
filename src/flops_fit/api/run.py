"""Carry out a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flops_fit.distributed import Ranks, join_ranks
from flops_fit.errors import InputError
from flops_fit.execute import resolve_executor
from flops_fit.execute.executor import Executor, InProcessExecutor, Task
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.records import Run
from flops_fit.store.store import Store
from flops_fit.sweep import follow_sweep, lead_sweep, run_experiments
from flops_fit.train.trainer import Trainer
from flops_fit.view.live import LiveView, SilentView, SweepView


@dataclass(frozen=True)
class RunOptions:
    """Where runs happen, are kept and are shown."""

    executor: str | Executor
    output_dir: str | Path
    resume: bool
    progress: bool

    @property
    def view(self) -> SweepView:
        """The progress display."""
        return LiveView() if self.progress else SilentView()


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
    executor, output_dir, resume, progress
        As :func:`find_optimal` takes them.

    Returns
    -------
    list of Run
        In the order of the plan; finished ones are read from ``output_dir``.

    Raises
    ------
    InputError
        The plan cannot be trained, or not by this executor.
    OutputError
        ``output_dir`` cannot be written or belongs to something else.
    SweepError
        The first two runs failed for the same reason.
    """
    options = RunOptions(executor, output_dir, resume, progress)
    return run_plan(plan, plan.task if task is None else task, options)


def run_plan(
    plan: SweepPlan,
    task: Task | None,
    options: RunOptions,
    folder: type[Store] = Store,
    view: SweepView | None = None,
) -> list[Run]:
    """What :func:`run_sweep` does, with its arguments gathered, its kind of folder and its view."""
    if task is None:
        raise InputError(
            "run_sweep: the plan was made without a data set, so it cannot be trained. Give dataset= "
            "and loss_fn= to plan_sweep, or a task."
        )
    chosen = resolve_executor(options.executor)
    ranks = ranks_of(task)
    if ranks.size > 1 and not isinstance(chosen, InProcessExecutor):
        raise InputError(
            f"executor: {ranks.size} processes were launched to train each run together, which takes "
            f'executor="inprocess"; got {options.executor!r}. Or start one process, whose executor '
            "starts others."
        )
    if not ranks.is_main:
        return follow_sweep(ranks, task)

    def sweep(task: Task) -> list[Run]:
        store = folder.open(options.output_dir, resume=options.resume)
        store.write_plan(plan.experiments)
        runs = run_experiments(plan.experiments, task, chosen, store, view or options.view)
        store.write_table(runs)
        return runs

    if isinstance(task, Trainer):
        store = Store(Path(options.output_dir))
        task = task.in_folder(store.runs, store.trunks)
    return sweep(task) if ranks.size == 1 else lead_sweep(ranks, task, sweep)


def ranks_of(task: Task | None) -> Ranks:
    """The processes that carry out a task together."""
    return join_ranks(str(getattr(task, "device", "cpu")))
