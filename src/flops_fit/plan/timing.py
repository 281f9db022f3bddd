"""A few real steps before the sweep: is the model trainable, and how fast is it here?"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from flops_fit import rng
from flops_fit.batches import (
    free_memory,
    is_out_of_memory,
    tensors_of,
    to_device,
)
from flops_fit.data.spec import DataSpec
from flops_fit.errors import LossError, ModelError
from flops_fit.lazy import torch
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Evaluator, Objective, check_loss, refuse_sparse_gradients
from flops_fit.plan.extent import compare
from flops_fit.records import Experiment
from flops_fit.text import error_line, user_line


@dataclass(frozen=True)
class Reading:
    """Seconds to read a sample, of that ``waiting`` (a disk), and its ``size`` in bytes."""

    seconds: float
    waiting: float
    size: float = 0.0
    on_host: bool = True


@dataclass(frozen=True)
class StepTimes:
    """One size N: a step takes ``fixed`` + C_step/``flops_per_second`` s, the first ``start`` s."""

    params: float
    fixed: float
    flops_per_second: float
    start: float = 0.0


@dataclass(frozen=True)
class Speed:
    """Measured training speed on one device, by size.

    ``held_out_units`` are evaluated at the end of every run, for a third of the training FLOPs. ``steps``
    are the parts of a step by size, ``alone`` those with one of a CPU's ``threads``, as when runs share it.
    """

    device: str
    steps: tuple[StepTimes, ...]
    held_out_units: float = 0.0
    reading: Reading | None = None
    alone: tuple[StepTimes, ...] = ()
    threads: int = 1

    def seconds(
        self, experiment: Experiment, flops: float | None = None, *, parallel: int = 1
    ) -> float:
        """Estimated time of a run that computes ``flops`` itself; ``parallel`` ones share CPU threads."""
        share = 1.0 if flops is None else flops / experiment.flops
        held_out = experiment.flops_per_unit / 3 * self.held_out_units
        at = self._at(experiment, parallel)
        steps = experiment.steps * share
        read = 0.0 if self.reading is None else self.reading.seconds * experiment.batch_size
        train = steps * (at.fixed + read) + experiment.flops * share / at.flops_per_second
        return at.start + train + self._evaluation(experiment, at, held_out)

    def step_seconds(self, experiment: Experiment) -> float:
        """Estimated time of one step, its batch being at hand."""
        at = self._at(experiment, 1)
        return at.fixed + experiment.flops / experiment.steps / at.flops_per_second

    def _evaluation(self, experiment: Experiment, at: StepTimes, flops: float) -> float:
        """Time of the held-out set in batches of 64 or more, a third of a step's calls for each."""
        samples = self.held_out_units / experiment.units_per_sample
        if samples <= 0:
            return 0.0
        batch = max(1.0, min(max(experiment.batch_size, 64), samples // 32))
        read = 0.0 if self.reading is None else self.reading.seconds * samples
        return math.ceil(samples / batch) * at.fixed / 3 + read + flops / at.flops_per_second

    def _at(self, experiment: Experiment, parallel: int) -> StepTimes:
        """Times at this size, with the threads that are left to one of ``parallel`` runs."""
        many = _interpolated(self.steps, experiment)
        threads = max(1, self.threads // parallel)
        if not self.alone or threads >= self.threads:
            return many
        one = _interpolated(self.alone, experiment)
        return StepTimes(many.params, *_between(threads, (1, self.threads), (one, many)))


def _interpolated(times: Sequence[StepTimes], experiment: Experiment) -> StepTimes:
    params = float(experiment.params.total)
    return StepTimes(params, *_between(params, [t.params for t in times], times))


def _between(at: float, known: Sequence[float], times: Sequence[StepTimes]) -> Iterator[float]:
    """Each part of a step, linear in logarithms between ``times`` at what is ``known``."""
    for part in ("fixed", "flops_per_second", "start"):
        logs = np.log(np.maximum([getattr(t, part) for t in times], 1e-9))
        yield math.exp(float(np.interp(math.log(at), np.log(known), logs)))


_STEP_FLOPS = 2e10  # a probed step costs no more than this: a second or so on two cores
_DEVICE_FLOPS = 2e12  # on a GPU, which shows its speed in whole batches alone
_READINGS = 6  # batches read to see how long reading takes, the first to warm up
_READING_SECONDS = 1.0  # fewer, where this has passed
_PART = 4  # a step is timed on its batch and on a quarter of it
_FEWEST, _MOST = 3, 25  # steps timed each
_STEP_SECONDS = 0.25  # no more of them once this has passed
_ALLOCATED = 5e7  # the largest model that is built only to be probed


@dataclass(frozen=True)
class Probe:
    """Trains a few steps of a model on its data, to see that it trains and how fast."""

    spec: ModelSpec
    data: DataSpec
    objective: Objective
    device: str
    microbatch: int | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def measure(self, experiments: Sequence[Experiment], held_out_samples: int = 0) -> Speed | None:
        """Steps at up to three of the planned sizes, and the reading of a few batches.

        The smallest size is always built: what cannot train raises LossError or ModelError before the sweep.
        ``None`` where the device has no memory for a step of it.
        """
        sizes = {repr(e.size): e for e in experiments}.values()
        ordered = sorted(sizes, key=lambda e: e.params.total)
        chosen = [ordered[i] for i in sorted({0, len(ordered) // 2, len(ordered) - 1})]
        chosen = [chosen[0], *(e for e in chosen[1:] if e.params.total <= _ALLOCATED)]
        threads = torch.get_num_threads() if torch.device(self.device).type == "cpu" else 1
        times: dict[int, list[StepTimes]] = {}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            for experiment in chosen:
                self._time_size(experiment, threads, times)
        if not times:
            return None
        held_out = held_out_samples * experiments[0].units_per_sample
        reading = time_reading(self.data, chosen[0].batch_size)
        alone = tuple(times[1]) if threads > 1 else ()
        return Speed(self.device, tuple(times[threads]), held_out, reading, alone, threads)

    def _time_size(
        self, experiment: Experiment, threads: int, times: dict[int, list[StepTimes]]
    ) -> None:
        """Time steps of one size, if they fit, with all threads and with one where a CPU has more."""
        on_cpu = torch.device(self.device).type == "cpu"
        per_sample = experiment.flops_per_sample
        most = min(experiment.batch_size, self.microbatch or experiment.batch_size)
        affordable = int((_STEP_FLOPS if on_cpu else _DEVICE_FLOPS) / per_sample)
        n = max(min(most, affordable), 2)
        started = time.perf_counter()
        try:
            model = self.spec.build(experiment.size).to(self.device)
        except Exception as error:
            if is_out_of_memory(error):
                return
            raise ModelError(
                f"model_cls: {self.spec.reference} of size {experiment.size!r} raised {error_line(error)}"
                f"{user_line(error)}."
            ) from error
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
        step = functools.partial(self._step, experiment, model, optimizer)
        while not step(batch := self.data.first_batch(n), first=True):
            free_memory(self.device)
            if n <= 2:
                return
            n = max(n // 2, 2)
        start = time.perf_counter() - started
        n = min(n, self.data.size or most)
        m = min(n, max(2, n // _PART))  # BatchNorm refuses a single sample
        part = self.data.first_batch(m)
        for used in sorted({threads, 1}, reverse=True):
            with ExitStack() as stack:
                if used != threads:
                    stack.callback(torch.set_num_threads, threads)
                    torch.set_num_threads(used)
                whole, fewer = _typical_seconds(step, (batch, part))
            each = (whole - fewer) / (n - m) if n > m else 0.0
            each = min(max(each, 0.25 * whole / n), whole / n)  # noise may reverse the order
            params = float(experiment.params.total)
            found = StepTimes(params, whole - n * each, per_sample / each, start)
            times.setdefault(used, []).append(found)

    def _step(
        self, experiment: Experiment, model: Any, optimizer: Any, batch: Any, first: bool = False
    ) -> bool:
        """One step; whether there was memory for it."""
        try:
            batch = to_device(batch, self.device)
            with self.autocast():
                total, count = self.objective(model, batch)
            if first:
                _check(total)
            (total / max(count, 1)).backward()
            refuse_sparse_gradients(model)
            torch.nn.utils.clip_grad_norm_(model.parameters(), float(experiment.hparams.clip))
            optimizer.step()
            optimizer.zero_grad()
        except (LossError, ModelError):
            raise
        except Exception as error:  # the user's code may raise anything
            if is_out_of_memory(error):
                return False
            described = f"{self.spec.reference} at {self.spec.arguments(experiment.size)}"
            raise ModelError(
                f"model_cls: a training step of {described} with its loss raised "
                f"{type(error).__name__}: {error}. It was called with the data set's first batch"
                f"{self.objective.call}."
            ) from error
        if first:  # some models change their weights in place between the modes, as by merging some
            _check_held_out(model, batch, self.objective, self.device, self.data)
        if (kind := torch.device(self.device).type) in ("cuda", "xpu", "mps"):
            getattr(torch, kind).synchronize()
        return True


def _typical_seconds(step: Callable[[Any], bool], batches: tuple[Any, Any]) -> tuple[float, float]:
    """Median seconds of a step on each of two batches, timed in turns."""
    taken: list[list[float]] = [[], []]
    while len(taken[0]) < _FEWEST or (sum(taken[0]) < _STEP_SECONDS and len(taken[0]) < _MOST):
        for batch, times in zip(batches, taken, strict=True):
            started = time.perf_counter()
            step(batch)
            times.append(time.perf_counter() - started)
    return float(np.median(taken[0])), float(np.median(taken[1]))


def time_reading(data: DataSpec, batch_size: int) -> Reading:
    """How long reading takes, the median of a few batches in a run's order."""
    clock: list[float] = []
    work: list[float] = []
    with closing(data.batches(batch_size, _READINGS, 0)) as batches:
        while len(clock) < _READINGS and sum(clock) < _READING_SECONDS:
            start, worked = time.perf_counter(), time.process_time()
            batch = next(batches)
            clock.append(time.perf_counter() - start)
            work.append(time.process_time() - worked)
    tensors = tensors_of(batch)
    # The first opens files and starts streams, which a run does once.
    seconds = float(np.median(clock[1:] or clock))
    waiting = max(0.0, seconds - float(np.median(work[1:] or work)))
    size = sum(t.numel() * t.element_size() for t in tensors)
    on_host = all(t.device.type == "cpu" for t in tensors)
    return Reading(seconds / batch_size, waiting / batch_size, size / batch_size, on_host)


def _check(total: Any) -> None:
    """Refuse a loss that cannot be trained on."""
    check_loss(total)
    if not bool(torch.isfinite(total)):
        raise LossError(
            f"loss_fn: the untrained model's loss on the first batch is {total.item():g}; expected "
            "a finite number. Look for NaN in the data, or in the model's output."
        )


def _check_held_out(
    model: Any, batch: Any, objective: Objective, device: str, data: DataSpec
) -> None:
    """Refuse a loss that fails in evaluation, or is a sum where it must be a mean over units."""
    was_training = model.training
    try:
        n = data.length(batch)
        with rng.kept(device):
            judge = Evaluator(model.eval(), objective, device)
            try:
                judge(batch)
            except Exception as error:
                raise ModelError(
                    f"model_cls: the model with its loss raised {error_line(error)}{user_line(error)}, after "
                    "model.eval(), in which held-out losses are computed, and not before. It has to return "
                    "the same in both modes."
                ) from error
            compare(judge, n, batch, list(data.cut(batch, n // 2)))
    except (LossError, ModelError):
        raise
    except Exception:  # some models refuse a part, or need a gradient; then nothing is known
        return
    finally:
        model.train(was_training)
