"""How fast a model trains on a device: what was measured, and the time of a run that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flops_fit.records import Experiment

__all__ = ["Reading", "Speed", "StepTimes"]


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
class StepTimes:
    """Times of one size: a step takes ``fixed`` + C_step/``flops_per_second``.

    Attributes
    ----------
    params
        N.
    fixed
        Seconds of a step however small its batch: calls, the optimizer, the gradient's norm.
    flops_per_second
        What each further sample is computed at.
    start
        Seconds from nothing to the end of a first step: building the model, memory, first calls.
    """

    params: float
    fixed: float
    flops_per_second: float
    start: float = 0.0


@dataclass(frozen=True)
class Speed:
    """Measured training speed, FLOP/s against N, on one device.

    ``held_out_units`` are evaluated at the end of every run, at a forward pass each: a third of
    the training FLOPs. ``reading`` is how fast samples are read, where it was measured.
    ``steps`` takes a step apart by size, where that was measured too; ``alone`` is the same with
    one thread of a CPU of ``threads``, as runs side by side have it. ``flops_per_second`` is that of
    steps as planned.
    """

    params: tuple[float, ...]
    flops_per_second: tuple[float, ...]
    device: str
    held_out_units: float = 0.0
    reading: Reading | None = None
    steps: tuple[StepTimes, ...] = ()
    alone: tuple[StepTimes, ...] = ()
    threads: int = 1

    def seconds(
        self, experiment: Experiment, flops: float | None = None, *, parallel: int = 1
    ) -> float:
        """Estimated time of one run: its start, its steps with their reading, its evaluation.

        Parameters
        ----------
        experiment
            The run.
        flops
            Those that it computes itself, where a part is shared.
        parallel
            Runs at the same time. On a CPU they share its threads; a GPU is taken to be each run's own.
        """
        share = 1.0 if flops is None else flops / experiment.flops
        held_out = experiment.flops_per_unit / 3 * self.held_out_units
        if not self.steps:
            return (experiment.flops * share + held_out) / self._speed(experiment)
        at = self._at(experiment, parallel)
        steps = experiment.steps * share
        read = 0.0 if self.reading is None else self.reading.seconds * experiment.batch_size
        train = steps * (at.fixed + read) + experiment.flops * share / at.flops_per_second
        return at.start + train + self._evaluation(experiment, at, held_out)

    def step_seconds(self, experiment: Experiment) -> float:
        """Estimated time of one step, its batch being at hand."""
        flops = experiment.flops / experiment.steps
        if not self.steps:
            return flops / self._speed(experiment)
        at = self._at(experiment, 1)
        return at.fixed + flops / at.flops_per_second

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
        share = math.log(threads) / math.log(self.threads)
        return StepTimes(
            many.params,
            *(
                math.exp((1 - share) * math.log(a) + share * math.log(b))
                for a, b in (
                    (one.fixed, many.fixed),
                    (one.flops_per_second, many.flops_per_second),
                    (one.start, many.start),
                )
            ),
        )

    def _speed(self, experiment: Experiment) -> float:
        speed = np.interp(
            math.log(experiment.params.total), np.log(self.params), np.log(self.flops_per_second)
        )
        return math.exp(float(speed))


_TINY = 1e-9  # seconds, where a logarithm needs one


def _interpolated(times: tuple[StepTimes, ...], experiment: Experiment) -> StepTimes:
    """Log-linear in N between the sizes measured; as the outermost beyond them."""
    log_n = math.log(experiment.params.total)
    known = [math.log(t.params) for t in times]

    def between(values: list[float]) -> float:
        return math.exp(float(np.interp(log_n, known, np.log(np.maximum(values, _TINY)))))

    return StepTimes(
        float(experiment.params.total),
        between([t.fixed for t in times]),
        between([t.flops_per_second for t in times]),
        between([t.start for t in times]),
    )
