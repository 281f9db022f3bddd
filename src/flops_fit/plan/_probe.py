"""A few real steps before the sweep: is the model trainable, and how fast is it here?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from flops_fit.data import DataSpec
from flops_fit.errors import LossError, ModelError
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective, batch_length, check_loss, map_tensors, to_device
from flops_fit.records import Experiment

_STEP_FLOPS = 2e10  # a probed step costs no more than this: a second or so on two cores
_DEVICE_FLOPS = 2e12  # on a GPU, which shows its speed in whole batches alone
_READINGS = 6  # batches read to see how long reading takes, the first to warm up
_READING_SECONDS = 1.0  # fewer, where this has passed
_ALLOCATED = 5e7  # the largest model that is built only to be probed


@dataclass(frozen=True)
class Reading:
    """How long reading a sample takes.

    Attributes
    ----------
    seconds, waiting
        Per sample, of the clock, and of that without work for the processor, as for a disk.
    size
        Bytes of a sample.
    on_host
        Whether samples are in the host's memory.
    """

    seconds: float
    waiting: float
    size: float = 0.0
    on_host: bool = True


@dataclass(frozen=True)
class Speed:
    """Measured training speed, FLOP/s against N, on one device.

    ``held_out_units`` are evaluated at the end of every run, at a forward pass each: a third of
    the training FLOPs. ``reading`` is how fast samples are read, where it was measured.
    """

    params: tuple[float, ...]
    flops_per_second: tuple[float, ...]
    device: str
    held_out_units: float = 0.0
    reading: Reading | None = None

    def seconds(self, experiment: Experiment, flops: float | None = None) -> float:
        """Estimated time of one run, alone on the device: training and its final evaluation.

        ``flops`` are those that it computes itself, where a part is shared.
        """
        own = experiment.flops if flops is None else flops
        evaluation = experiment.flops_per_unit / 3 * self.held_out_units
        return (own + evaluation) / self._speed(experiment)

    def step_seconds(self, experiment: Experiment) -> float:
        """Estimated time of one step, its batch being at hand."""
        return experiment.flops / experiment.steps / self._speed(experiment)

    def _speed(self, experiment: Experiment) -> float:
        speed = np.interp(
            math.log(experiment.params.total), np.log(self.params), np.log(self.flops_per_second)
        )
        return math.exp(float(speed))


def probe(
    spec: ModelSpec,
    data: DataSpec,
    objective: Objective,
    experiments: tuple[Experiment, ...],
    device: str,
    held_out_samples: int = 0,
    microbatch: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Speed:
    """Train a few steps at up to three of the planned sizes, and read a few batches.

    The smallest size is always built: what cannot train is found out here, before any compute is
    spent. Larger sizes are built up to 5e7 parameters. ``microbatch`` and ``autocast`` are those of
    the runs.

    Raises
    ------
    LossError
        The loss is no scalar, has no gradient, is not finite, or is a sum over the batch.
    ModelError
        The model's constructor or its forward pass raises.
    """
    import torch

    by_size = sorted({repr(e.size): e for e in experiments}.values(), key=lambda e: e.params.total)
    chosen = [by_size[i] for i in sorted({0, len(by_size) // 2, len(by_size) - 1})]
    chosen = [chosen[0], *(e for e in chosen[1:] if e.params.total <= _ALLOCATED)]
    speeds: dict[float, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for experiment in chosen:
            most = min(experiment.batch_size, microbatch or experiment.batch_size)
            timed = _time_steps(spec, data, objective, experiment, device, most, autocast)
            seconds, flops = timed
            speeds[float(experiment.params.total)] = flops / seconds
    sizes = tuple(sorted(speeds))
    held_out = held_out_samples * experiments[0].units_per_sample
    reading = time_reading(data, chosen[0].batch_size)
    return Speed(sizes, tuple(speeds[n] for n in sizes), device, held_out, reading)


def time_reading(data: DataSpec, batch_size: int) -> Reading:
    """How long reading takes, the median of a few batches in a run's order."""
    clock: list[float] = []
    work: list[float] = []
    size, on_host = 0.0, True

    def see(tensor: Any) -> None:
        nonlocal size, on_host
        size += tensor.numel() * tensor.element_size()
        on_host = on_host and tensor.device.type == "cpu"

    with closing(data.batches(batch_size, _READINGS, 0)) as batches:
        while len(clock) < _READINGS and sum(clock) < _READING_SECONDS:
            start, worked = time.perf_counter(), time.process_time()
            batch = next(batches)
            clock.append(time.perf_counter() - start)
            work.append(time.process_time() - worked)
    map_tensors(batch, see)
    # The first opens files and starts streams, which a run does once.
    seconds = float(np.median(clock[1:] or clock))
    waiting = max(0.0, seconds - float(np.median(work[1:] or work)))
    return Reading(seconds / batch_size, waiting / batch_size, size / batch_size, on_host)


def _time_steps(
    spec: ModelSpec,
    data: DataSpec,
    objective: Objective,
    experiment: Experiment,
    device: str,
    most: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[float, float]:
    """Seconds and FLOPs of one step, the fastest of three after a first that is checked."""
    import torch

    per_sample = experiment.flops_per_unit * experiment.units_per_sample
    kind = torch.device(device).type
    cost = _STEP_FLOPS if kind == "cpu" else _DEVICE_FLOPS
    size = max(1, min(most, int(cost / per_sample) or 1))
    batch = to_device(data.first_batch(max(size, 2)), device)
    try:
        model: Any = spec.build(experiment.size).to(device)
    except Exception as error:
        raise ModelError(
            f"model_cls: {spec.reference}({spec.arguments(experiment.size)}) raised "
            f"{type(error).__name__}: {error}."
        ) from error
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    fastest = math.inf
    for attempt in range(4):
        start = time.perf_counter()
        try:
            with autocast():
                total, count = objective(model, batch)
        except (LossError, ModelError):
            raise
        except Exception as error:
            raise ModelError(
                f"model_cls: a forward pass of {spec.reference} at {spec.arguments(experiment.size)} "
                f"with its loss raised {type(error).__name__}: {error}. It was called with the "
                "data set's first batch."
            ) from error
        if attempt == 0:
            _check(model, batch, objective, total)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        if kind in ("cuda", "xpu", "mps"):
            getattr(torch, kind).synchronize()
        if attempt:
            fastest = min(fastest, time.perf_counter() - start)
    return fastest, per_sample * batch_length(batch)


def _check(model: Any, batch: Any, objective: Objective, total: Any) -> None:
    """Refuse a loss that cannot be trained on."""
    import torch

    check_loss(total)
    if not bool(torch.isfinite(total)):
        raise LossError(
            f"loss_fn: the untrained model's loss on the first batch is {total.item():g}; expected "
            "a finite number. Look for NaN in the data, or in the model's output."
        )
    if objective.loss_fn is None or objective.step_fn is not None or batch_length(batch) < 2:
        return
    _check_mean(model, batch, objective)


def _sample(batch: Any, i: int) -> Any:
    return map_tensors(batch, lambda t: t[i : i + 1])


def _check_mean(model: Any, batch: Any, objective: Objective) -> None:
    """Refuse a loss that adds up over the batch: it must be a mean over counted units."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            n = batch_length(batch)
            whole = float(objective.mean(model, batch))
            losses = [float(objective.mean(model, _sample(batch, i))) for i in range(n)]
    except Exception:  # some models refuse a single sample; then nothing is known
        return
    finally:
        model.train(was_training)
    added = math.fsum(losses)
    if abs(added) > 1e-12 and abs(whole / added - 1) < 1e-3 and n > 1:
        raise LossError(
            f"loss_fn: expected the mean over the batch's units; over {n} samples it returned the "
            'sum of their losses. Use reduction="mean".'
        )
