"""One Experiment in, one Run out."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flops_fit import rng
from flops_fit._version import __version__
from flops_fit.batches import is_out_of_memory, to_device
from flops_fit.data.axes import DataAxes
from flops_fit.data.reading import explain_lost_reader
from flops_fit.data.spec import DataSpec
from flops_fit.distributed import ALONE, PeerError, Ranks, join_ranks
from flops_fit.errors import DataError, InputError
from flops_fit.hparams import learning_rate
from flops_fit.lazy import torch
from flops_fit.model.spec import ModelSpec
from flops_fit.mup.parametrization import Parametrization
from flops_fit.objective import Objective
from flops_fit.plan.timing import Speed
from flops_fit.records import Experiment, Run, RunState, branch_step
from flops_fit.text import error_line
from flops_fit.trackers.tracker import Tracking
from flops_fit.train.checkpoint import Checkpoints
from flops_fit.train.config import (
    Precision,
    TrainingConfig,
    device_peak,
    reading_workers,
    resolve_precision,
    use_compile,
)
from flops_fit.train.hopeless import Reference, is_due, judge, references
from flops_fit.train.memory import ShardedStepper, end_launch, recompute, refusal, shard
from flops_fit.train.metrics import Measures, measure
from flops_fit.train.monitor import Interruption, Metrics, Throughput, end_by, evaluate, noise_scale
from flops_fit.train.optimizer import make_optimizer, set_learning_rate, try_optimizer
from flops_fit.train.state import TrainState, trunk_snapshots
from flops_fit.train.step import Stepper

_REPORT_SECONDS = 0.5  # between readings of the loss
_NOISE_PARTS = 16  # batches that the gradient noise scale is measured from
_ERRORS = 3.0  # standard errors by which a held-out loss has to lie above its start, and
_MARGIN = 0.02  # the share of the start: noise of steps keeps a run that can learn nothing above it
_UNPLANNED = 0.01  # of a run's units, by which it may miss its plan without a note
_MAX_TRIED_PARAMS = 5e7  # the largest model that is built only to try an optimizer


@dataclass(frozen=True)
class Progress:
    """Where a run is: steps done, and loss and speed since the last report, NaN and None before it."""

    experiment_id: str
    step: int
    steps: int
    loss: float
    units_per_second: float | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Trainer:
    """All that training an experiment needs; call it with one.

    ``model`` is trained with ``objective`` on ``data``, on a torch ``device``, as ``config`` says.
    ``folder`` keeps the curve and checkpoints of each run in a folder of its id, ``None`` neither. In
    ``trunks`` runs leave their state to longer ones; ``None`` lets each train alone, with the same outcome.
    ``judged_on`` and ``divisible`` are as in :class:`~flops_fit.plan.extent.Extent`.
    ``measures_noise``: whether to measure the gradient noise scale at the end, for four steps more.
    ``metrics`` are measured there. ``references`` are the runs, by their ids, that runs are compared with
    where they may be stopped. ``data_axes`` has the data of each run where it differs; ``data`` is then one
    of them.
    """

    model: ModelSpec
    data: DataSpec
    held_out: DataSpec
    objective: Objective
    device: str = "cpu"
    config: TrainingConfig = field(default_factory=TrainingConfig)
    folder: Path | None = None
    trunks: Path | None = None
    speed: Speed | None = None
    parametrization: Parametrization | None = None
    measures_noise: bool = False
    judged_on: int | None = None
    divisible: bool = True
    metrics: Measures = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    data_axes: DataAxes | None = None

    @property
    def precision(self) -> Precision:
        """The numbers that forward passes compute in, on this device."""
        return resolve_precision(self.config.precision, self.device)

    def in_folder(
        self,
        folder: Path,
        trunks: Path | None = None,
        experiments: Sequence[Experiment] = (),
    ) -> Trainer:
        """The same trainer, keeping curves and checkpoints of ``experiments`` under ``folder``."""
        compared = references(experiments) if self.config.stop_hopeless else {}
        return replace(self, folder=folder, trunks=trunks, references=compared)

    def try_optimizer(self, experiments: Sequence[Experiment]) -> None:
        """Refuse an optimizer or groups of the user's own that the smallest model cannot take."""
        smallest = min(experiments, key=lambda e: e.params.total)
        config = self.config
        own = config.optimizer, config.param_groups, self.parametrization
        if any(own) and smallest.params.total <= _MAX_TRIED_PARAMS:
            with rng.kept(self.device):
                try_optimizer(self.model.build(smallest.size), smallest.hparams, *own)

    def try_metrics(self, experiments: Sequence[Experiment]) -> None:
        """Refuse a metric that cannot be measured on the smallest model, untrained."""
        if self.metrics:
            smallest = min(experiments, key=lambda e: e.params.total)
            with rng.kept(self.device):
                _, notes = self._measured(self.model.build(smallest.size).to(self.device), 64)
            if notes:
                raise InputError(
                    f"metrics: {notes[0]}, on the smallest model before training. Expected functions (model, "
                    "held-out batches) -> one finite number."
                )

    def _measured(self, model: Any, size: int) -> tuple[dict[str, float], tuple[str, ...]]:
        batches = partial(self.held_out.in_order, size)
        with self.precision.autocast(self.device):
            return measure(self.metrics, model, batches, self.device)

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """Train one experiment to its end and evaluate it, from its checkpoint if there is one.

        What goes wrong becomes the state of the run; only an interruption passes through, after a checkpoint.
        """
        if self.data_axes is not None:
            own = replace(self, data=self.data_axes.of(experiment.size), data_axes=None)
            return own(experiment, report)
        started = time.perf_counter()
        ranks = join_ranks(self.device)
        versions = {"flops_fit": __version__, "torch": torch.__version__}
        run = Run(
            experiment, "failed", device=self.device, versions=versions, ranks=ranks.size,
            parametrization="" if self.parametrization is None else "mup",
        )  # fmt: skip
        tracking = Tracking(experiment, self.config.tracker_objects if ranks.is_main else ())
        by_peer = False
        try:
            with rng.kept(self.device), self.precision.flags(self.device):
                run = self._train(run, report or (lambda progress: None), ranks, tracking)
        except PeerError:
            by_peer = True
        except Exception as error:  # the user's code may raise anything
            # Arguments are refused on all ranks alike; anything else may have stopped one in a pass.
            if self.config.sharding and ranks.size > 1 and type(error) is not InputError:
                end_launch(error)
            state: RunState = "oom" if is_out_of_memory(error) else "failed"
            where = "" if state == "oom" else "".join(traceback.format_exception(error)[-3:])
            reason = explain_lost_reader(error) or error_line(error)
            run = replace(run, state=state, reason=reason, details=where)
        except BaseException as error:  # an interruption from outside
            why = f"interrupted by {error_line(error)}"
            tracking.end(replace(run, state="preempted", reason=why))
            raise
        run = _agreed(run, ranks, by_peer)
        return tracking.end(replace(run, seconds=run.seconds + time.perf_counter() - started))

    def _train(self, run: Run, report: Report, ranks: Ranks, tracking: Tracking) -> Run:
        experiment, config = run.experiment, self.config
        steps, batch_size = experiment.steps, experiment.batch_size

        cut = ranks.size if config.sharding else 1
        if why := refusal(self.model, experiment, self.device, cut, config.optimizer is None):
            return replace(run, state="oom", reason=why)

        # 1. The model, initialised from the run's own seed; what it draws later differs by rank.
        step = self._stepper(experiment, ranks)
        peak = config.peak_flops or device_peak(self.device, self.precision)
        peak = None if peak is None else peak * ranks.size
        throughput = Throughput(experiment.flops_per_sample * batch_size, peak)
        state = TrainState(steps, self.device, throughput)
        keeps, shares = ranks.all_reduce_max(self.folder is not None, self.trunks is not None)
        if not step.sharded:
            ranks.broadcast_tensors([*step.model.parameters(), *step.model.buffers()])

        # 2. Where an earlier attempt, or a shorter run of its trunk, left off. Rank 0 has the folders.
        folder = self.folder / experiment.id if self.folder and ranks.is_main else None
        checkpoints = trunk = None
        kept, key = folder and folder / "checkpoint", experiment.id
        if step.sharded and (shared := ranks.broadcast(kept)):
            kept = shared / f"rank-{ranks.rank:04}"
            key += f" {ranks.rank}/{ranks.size}"
        if kept is not None:
            every = config.checkpoint_seconds, config.checkpoint_steps
            checkpoints = Checkpoints(kept, key, *every)
        if keeps:
            state.resume(checkpoints, step)
        if self.trunks is not None and experiment.trunk and ranks.is_main:
            trunk = trunk_snapshots(self.trunks, experiment.trunk)
        branches_at = branch_step(experiment) if shares else 0
        if branches_at:
            state.resume(trunk, step, at_most=branches_at, owner=experiment.id)
        if folder is not None:
            tracking.join(Metrics(folder, after=state.step))
        reference = None
        if folder is not None and experiment.id in self.references:
            reference = Reference.read(folder.with_name(self.references[experiment.id]))
        left = steps - state.step
        pays = use_compile(config.compile, self.device, self.speed, experiment, left, ranks.size)
        if any(ranks.all_reduce_max(pays)):  # measured times may differ
            step.compile()

        # 3. Whole steps over exactly the planned units, each along the mean over its batch's units.
        loader = self.data.workers
        workers = reading_workers(config.workers, loader, self.speed, experiment, ranks.size)
        share, pin = ranks.shard(batch_size), self.device.startswith("cuda")
        batches = self.data.batches(
            batch_size, left, experiment.seed, state.step, share=share, workers=workers, pin=pin
        )
        per_step = batch_size * experiment.units_per_sample
        last_reading = time.perf_counter()
        with Interruption() as interruption, closing(batches):
            if state.step and ranks.is_main:
                report(Progress(experiment.id, state.step, steps, math.nan))
            for batch in batches:
                middle = (state.step + 0.5) * per_step
                rate = learning_rate(experiment.hparams, middle, steps * per_step)
                set_learning_rate(step.optimizer, rate)
                state.add(*step(batch))
                if reason := state.observe():
                    if state.monitor.has_risen:  # few batches show too little of rare classes
                        reason = self._rise(experiment, step, *self._evaluate(step.model, step))
                    if reason:
                        return replace(state.record(run, step), state="diverged", reason=reason)
                    state.monitor.dismiss()
                if config.stop_hopeless and is_due(state.step, steps):
                    verdict = reference and judge(experiment, state.curve, reference)
                    if found := ranks.broadcast(verdict):
                        run = replace(run, reason=found[0], loss_at_least=found[1])
                        return replace(state.record(run, step), state="hopeless")

                # 4. The loss is read twice a second at most: reading it waits for the device.
                waited = time.perf_counter() - last_reading
                reads = state.step in (1, steps) or waited > _REPORT_SECONDS
                due = checkpoints is not None and checkpoints.due(state.step)
                read_now, save_now, stop = ranks.all_reduce_max(reads, due, interruption.signal)
                if read_now:
                    last_reading = time.perf_counter()
                    values = state.read(rate)
                    if ranks.is_main:
                        loss, speed = values["loss"], values["units_per_second"]
                        report(Progress(experiment.id, state.step, steps, loss, speed))
                    tracking.log(values)
                    (stop,) = ranks.all_reduce_max(interruption.signal)
                if state.step == branches_at:
                    state.save(trunk, step, owner=experiment.id)
                if keeps and (stop or save_now):
                    state.save(checkpoints, step)
                if stop:
                    end_by(stop)

        # 5. The held-out loss at the end of the schedule, which a run cut short never reaches.
        if state.step < steps:
            raise DataError(
                f"dataset: it ended after {state.step} of {steps} steps, in the middle of the schedule. "
                "Give more data, or smaller budgets."
            )
        run = state.record(run, step)
        if abs(run.tokens - experiment.tokens) > _UNPLANNED * experiment.tokens:
            counted = (
                f"{run.tokens:,} {experiment.unit} were counted, and {experiment.tokens:,} planned"
            )
            note = (
                f"{counted}, whose FLOPs are those on record: samples differ more than planning saw"
            )
            run = replace(run, notes=(*run.notes, note))
        if (length := self.data.pass_length) and experiment.epochs is None:
            experiment = replace(experiment, epochs=batch_size * steps / length)
            epochs = f"{experiment.epochs:.3g} epochs"
            note = f"the stream was begun again after {length} samples: {epochs}"
            run = replace(run, experiment=experiment, notes=(*run.notes, note))
        return self._evaluated(run, state, step)

    def _stepper(self, experiment: Experiment, ranks: Ranks) -> Stepper:
        config = self.config
        rng.seed(experiment.seed, device=self.device)
        model: Any = self.model.build(experiment.size)
        if self.parametrization is not None:
            self.parametrization.apply(model)
        if config.activation_checkpointing:
            recompute(model)
        sharded = config.sharding is not None and ranks.size > 1
        model = (shard(model, self.device, ranks) if sharded else model.to(self.device)).train()
        if ranks.rank:
            rng.seed(experiment.seed + ranks.rank, device=self.device)
        own = config.optimizer, config.param_groups, self.parametrization
        return (ShardedStepper if sharded else Stepper)(
            model,
            self.objective,
            make_optimizer(model, experiment.hparams, *own),
            float(experiment.hparams.clip),
            experiment.batch_size,
            config.microbatch or experiment.batch_size,
            self.device,
            partial(self.precision.autocast, self.device),
            ranks,
            divisible=self.divisible,
            cut=self.data.cut,
        )

    def _evaluate(self, model: Any, step: Stepper) -> tuple[float, float]:
        """The held-out loss of a model and its standard error; random numbers stay as they were."""
        size = self.judged_on or (step.microbatch if step.halved else max(step.samples, 64))
        exactly, where = self.judged_on is not None, self.device
        with self.precision.autocast(where):
            ranks = ALONE if step.sharded else step.ranks  # which make each pass together
            return evaluate(model, self.held_out, self.objective, where, size, ranks, exactly)

    def _rise(self, experiment: Experiment, step: Stepper, loss: float, error: float) -> str:
        """How far a held-out loss lies above that of the untrained model; empty if within errors."""
        if not math.isfinite(loss):
            return f"held-out loss {loss:g}"
        with rng.kept(self.device):
            untrained = self._stepper(experiment, step.ranks).model
            start, start_error = self._evaluate(untrained, step)
        error, start_error = (e if math.isfinite(e) else abs(start) for e in (error, start_error))
        bound = start + _MARGIN * abs(start) + _ERRORS * math.hypot(error, start_error)
        return f"held-out loss rose from {start:.4g} to {loss:.4g}" if loss > bound else ""

    def _evaluated(self, run: Run, state: TrainState, step: Stepper) -> Run:
        """The run with its held-out loss, and whether it has learnt anything."""
        loss, standard_error = self._evaluate(step.model, step)
        last = state.tail_loss
        run = replace(run, loss=loss, loss_se=standard_error, train_loss=last)
        if not math.isfinite(loss):
            return replace(run, state="diverged", loss=None, reason=f"held-out loss {loss:g}")
        fell = last <= state.start_loss
        if not fell and (reason := self._rise(run.experiment, step, loss, standard_error)):
            return replace(run, state="diverged", reason=reason)
        if self.measures_noise and step.ranks.size == 1:
            experiment = run.experiment
            part = max(1, min(experiment.batch_size // 4, step.microbatch))
            batches = self.data.batches(part, _NOISE_PARTS, experiment.seed, 0)  # as in training
            with closing(batches), self.precision.autocast(self.device):
                moved = (to_device(batch, self.device) for batch in batches)
                run = replace(run, noise_scale=noise_scale(step.model, self.objective, moved))
        if self.metrics:  # on every rank, as a model may be cut over them
            rng.seed(run.experiment.seed, device=self.device)
            values, notes = self._measured(step.model, max(step.samples, 64))
            run = replace(run, metrics=values, notes=(*run.notes, *notes))
        return replace(run, state="completed")


def _agreed(run: Run, ranks: Ranks, by_peer: bool) -> Run:
    """The run of the first rank that failed by itself, not ``by_peer``; else that of rank 0."""
    if not by_peer:
        try:
            ranks.all_reduce_max(failed=run.state in ("oom", "failed"))
        except PeerError:
            by_peer = True
    if ranks.size == 1:
        return run
    runs: list[tuple[bool, Run]] = ranks.all_gather((by_peer, run), check=False)
    failed = (r for peer, r in runs if not peer and r.state in ("oom", "failed"))
    return next(failed, runs[0][1])
