"""Carry out a plan; tune it first; or choose its runs batch after batch."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from flops_fit.adaptive.candidates import Experimenter
from flops_fit.adaptive.sweep import AdaptiveResult, run_adaptive
from flops_fit.distributed import Ranks, join_ranks
from flops_fit.errors import InputError, OutputError, TableError, explains_names
from flops_fit.execute import resolve_executor
from flops_fit.execute.command import CommandTask
from flops_fit.execute.executor import Executor, InProcessExecutor, Task
from flops_fit.files import read_json, write_json
from flops_fit.model.spec import Size
from flops_fit.plan.designs import Adaptive
from flops_fit.plan.io import FINAL
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.records import Experiment, Run, as_record
from flops_fit.store.store import Store
from flops_fit.sweep import follow_sweep, lead_sweep, run_experiments
from flops_fit.train.trainer import Trainer
from flops_fit.tune.joint import Climbed, Climber, Rule, valley_prior
from flops_fit.tune.search import run_tuning
from flops_fit.tune.tuning import Tune, Tuning, resolve_tune
from flops_fit.view.live import LiveView, SilentView, SweepView

TUNING_FOLDER = "tuning"  # in the folder of the sweep: the trials, a sweep of their own
DECISIONS = "joint.json"  # there too: the rules by which a sweep that tunes itself went on


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
        return LiveView(folder=self.output_dir) if self.progress else SilentView()


def run_sweep(
    plan: SweepPlan,
    task: Task | None = None,
    *,
    executor: str | Executor = "inprocess",
    output_dir: str | Path = "outputs",
    resume: bool = True,
    progress: bool = True,
) -> list[Run]:
    """Carry out a plan of :func:`plan_sweep`, or what is missing of it: its runs, in its order.

    InputError where the plan cannot be trained, or not by this executor; OutputError where
    ``output_dir`` cannot be written or belongs to something else; SweepError where the first two runs
    failed for the same reason.

    Parameters
    ----------
    plan
        The plan; its finished runs are read from ``output_dir``.
    task
        ``(experiment, report) -> Run``: your own training code in place of the plan's trainer, or a
        :class:`CommandTask`. It must be picklable for executors that use other processes.
    executor, output_dir, resume, progress
        As :func:`find_optimal` takes them.
    """
    options = RunOptions(executor, output_dir, resume, progress)
    task = plan.task if task is None else task
    if any(d.code == "joint" for d in plan.diagnostics):
        return list(climb_plan(plan, task, options).runs)
    return run_plan(plan, task, options)


def run_plan(
    plan: SweepPlan, task: Task | None, options: RunOptions, view: SweepView | None = None
) -> list[Run]:
    """What :func:`run_sweep` does, with its arguments gathered; with a ``view``, a round of a sweep."""
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
        store = Store.open(options.output_dir, resume=options.resume)
        store.write_plan(plan.experiments, plan.diagnostics)
        shown = view or options.view
        if view is None:
            note_others(store, plan.experiments, shown)
        runs = run_experiments(plan.experiments, task, chosen, store, shown, after=after)
        gone = [r for r in runs if r.state in FINAL and not store.is_recorded(r.experiment.id)]
        if gone or not store.marker.exists():
            for run in gone:
                store.publish(run)
            store.write_plan(plan.experiments, plan.diagnostics)
        store.write_table(runs)
        if gone:
            raise OutputError(
                f"output_dir: {store.path} was removed while the sweep ran. {len(gone)} results were written "
                "again; logs and checkpoints are lost. Call again with the same arguments for the answer."
            )
        return runs

    if isinstance(task, CommandTask):
        task.check(plan.experiments)
    if isinstance(task, Trainer | CommandTask):
        store = Store(Path(options.output_dir))
        task = task.in_folder(store.runs, store.trunks, plan.experiments)
    stops = isinstance(task, Trainer) and task.config.stop_hopeless
    after = task.references if isinstance(task, Trainer) and stops else None
    return sweep(task) if ranks.size == 1 else lead_sweep(ranks, task, sweep)


def ranks_of(task: Task | None) -> Ranks:
    """The processes that carry out a task together."""
    return join_ranks(str(getattr(task, "device", "cpu")))


@explains_names({})
def tune_sweep(
    plan: SweepPlan,
    tune: str | Tune = "pilot",
    *,
    executor: str | Executor = "inprocess",
    output_dir: str | Path = "outputs",
    resume: bool = True,
    progress: bool = True,
) -> tuple[SweepPlan, Tuning]:
    """Try learning rates and batches for a plan with a data set, before it is carried out.

    Returns the same sizes and budgets with the tuned hyper-parameters, and what trying showed and cost.
    ``tune`` is ``"pilot"``, ``"per-size"`` or a :class:`flops_fit.tune.Tune`; the other arguments are as
    :func:`find_optimal` takes them, and the trials are in ``output_dir/tuning``.

    InputError where the plan cannot be trained, or there is nothing to tune; PlanError where the share
    of FLOPs leaves no room for informative trials, or all of them failed.
    """
    tuning_options = resolve_tune(tune)
    plan.require_planner("tune_sweep")
    if not isinstance(plan.task, Trainer | CommandTask):
        raise InputError(
            "tune_sweep: expected a plan that can be trained; this one was made without a data set, or "
            'in mode="mock". Give dataset= and loss_fn= to plan_sweep.'
        )
    if tuning_options.kind in ("none", "joint"):
        why = "which tunes nothing"
        if tuning_options.kind == "joint":
            why = "which tunes in the sweep itself: give it to plan_sweep or find_optimal"
        raise InputError(
            f"tune: expected 'pilot' or 'per-size'; got {tuning_options.kind!r}, {why}."
        )
    return tune_plan(plan, tuning_options, RunOptions(executor, output_dir, resume, progress))


def note_others(store: Store, experiments: Sequence[Experiment], view: SweepView) -> None:
    """Say how many runs of a folder are not part of a sweep, once all of that are known."""
    if others := store.others(experiments):
        view.note(
            f"{others} earlier runs of this folder are not part of this sweep: kept, and not fitted."
        )


class Rounds:
    """Carries out runs of a plan round after round, in one folder and with one view."""

    def __init__(self, plan: SweepPlan, task: Task | None, options: RunOptions) -> None:
        self.plan, self.task, self.options = plan, task, options
        self.view = options.view
        self.leads = ranks_of(task).is_main

    def __call__(self, experiments: Sequence[Experiment]) -> list[Run]:
        """The runs of the next round."""
        plan = replace(self.plan, experiments=tuple(experiments))
        runs = run_plan(plan, self.task, self.options, self.view)
        self.options = replace(self.options, resume=True)  # later rounds belong to this sweep
        return runs

    def say(self, line: str) -> None:
        """Show a decision, on one rank."""
        if self.leads:
            self.view.step(line)

    def note_others(self, experiments: Sequence[Experiment]) -> None:
        """See :func:`note_others`, on one rank."""
        if self.leads:
            note_others(Store(Path(self.options.output_dir)), experiments, self.view)


def climb_plan(plan: SweepPlan, task: Task | None, options: RunOptions) -> Climbed:
    """Carry out a plan that tunes itself, budget after budget."""
    rounds = Rounds(plan, task, options)
    done = climber(rounds).climb()
    rounds.note_others(done.experiments)
    return done


def climber(rounds: Rounds, design: Adaptive | None = None) -> Climber:
    """What carries out the plan of a sweep that tunes itself, by what was decided in its folder."""
    plan, options = rounds.plan, rounds.options
    joint, path = plan.require_planner("run_sweep").joint, Path(options.output_dir) / DECISIONS
    assert joint is not None
    known: dict[str, Rule] = {}
    if options.resume and path.exists():
        with suppress(TableError):  # torn: they are decided again
            known = as_record(read_json(path), dict[str, Rule], DECISIONS)

    def keep(decided: Mapping[str, Rule]) -> None:
        if rounds.leads:
            write_json(path, {losses: rule.to_dict() for losses, rule in decided.items()})

    limits = (None, None) if design is None else (design.top, design.max_flops)
    return Climber(plan, joint, rounds, valley_prior(plan, joint), rounds.say, known, keep, *limits)


def tune_plan(
    plan: SweepPlan, tune: Tune, options: RunOptions, total: float | None = None
) -> tuple[SweepPlan, Tuning]:
    """The plan with tuned hyper-parameters, and what was found; ``total`` are the sweep's FLOPs."""
    planner, task, checked = plan.require_planner("tune_sweep"), plan.task, plan.coordinates
    notes: tuple[str, ...] = ()
    if tune.kind == "pilot" and checked is not None and not checked.passed:
        notes = (f"The coordinate check did not pass, so each size was tuned: {checked.reason}",)
        tune = replace(tune, kind="per-size", share=tune.most)
    folder = Path(options.output_dir) / TUNING_FOLDER
    if isinstance(task, Trainer):
        task = replace(task, measures_noise=True)
    rounds = Rounds(plan, task, replace(options, output_dir=folder))
    if rounds.leads:
        Store.open(options.output_dir, resume=options.resume)
    tuning = run_tuning(
        tune, planner.factory, plan.experiments, plan.flops, rounds, total=total, say=rounds.say
    )
    tuning = replace(tuning, notes=(*notes, *tuning.notes))
    if rounds.leads:
        write_json(folder / "tuning.json", tuning.to_dict())
    return planner.remake(plan, tuning.recipe), tuning


def find_adaptively(
    plan: SweepPlan, design: Adaptive, sizes: Sequence[Size] | None, options: RunOptions
) -> tuple[SweepPlan, list[Run], AdaptiveResult, Climbed | None]:
    """Run batch after batch from the pilot's plan on, each chosen from all runs before it."""
    planner = plan.require_planner("find_optimal")
    rounds = Rounds(plan, plan.task, options)
    oracle: Experimenter | Climber
    if planner.joint is None:
        oracle = Experimenter(planner.factory, plan.flops, rounds, sizes)
        answer = run_adaptive(oracle, design, rounds.say, pilot_budgets=plan.budgets)
    else:
        oracle = climber(rounds, design)
        answer = oracle.adapt(design, sizes)
    rounds.note_others(oracle.experiments)
    plan = replace(plan, experiments=oracle.experiments)
    return plan, list(oracle.runs), answer, oracle.done if isinstance(oracle, Climber) else None
