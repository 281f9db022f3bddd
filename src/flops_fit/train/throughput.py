"""How many processes read ahead of a run."""

from __future__ import annotations

import math
import multiprocessing
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from flops_fit.peaks import find_peak
from flops_fit.plan.timing import Speed
from flops_fit.records import Experiment
from flops_fit.train.precision import Precision


def peak_of(name: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a device in the numbers of ``precision``; ``None`` where it is not listed.

    Parameters
    ----------
    name
        As ``torch.cuda.get_device_name`` gives it.
    precision
        bf16, TF32 or fp32 decide which of its units compute.

    Examples
    --------
    >>> peak_of("NVIDIA A100-SXM4-80GB", Precision("bf16"))
    312000000000000.0
    >>> peak_of("NVIDIA A100-SXM4-40GB MIG 1g.5gb", Precision("bf16")) is None
    True
    """
    peak = find_peak(name)
    if peak is None:
        return None
    kind = "bf16" if precision.name == "bf16" else "tf32" if precision.tf32 else "fp32"
    found: float | None = getattr(peak, kind)
    return None if found is None else found * 1e12


def device_peak(device: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a torch device; ``None`` for CPUs and for what is not listed."""
    if not device.startswith("cuda"):
        return None
    import torch

    return peak_of(torch.cuda.get_device_name(device), precision)


@dataclass
class Throughput:
    """Units a second, and the model FLOPs utilisation (Chowdhery et al. 2022, appendix B).

    MFU is the FLOPs that the model's passes need over those that the device could have done in the
    time: here F·D/(seconds·peak) with F as the plan counts it. Counted on the traced
    model, attention is counted in full and recomputed activations are not.

    Attributes
    ----------
    flops_per_step
        Training FLOPs of one step.
    peak
        FLOP/s of all devices of the run together, ``None`` where that is not known.

    Examples
    --------
    >>> pace = Pace(flops_per_step=64e9, peak=1e12)
    >>> pace.since(step=1, units=64, seconds=0.5)
    {'units_per_second': 128.0, 'mfu': 0.128}
    """

    flops_per_step: float = 0.0
    peak: float | None = None
    _before: tuple[int, int, float] = field(default=(0, 0, 0.0), init=False)

    def begin(self, step: int, units: int, seconds: float) -> None:
        """Where the next reading counts from."""
        self._before = step, units, seconds

    def since(self, step: int, units: int, seconds: float) -> dict[str, Any]:
        """The pace since the last reading, from all that was done up to this one."""
        before, self._before = self._before, (step, units, seconds)
        passed = seconds - before[2]
        return {
            "units_per_second": (units - before[1]) / passed if passed > 0 else 0.0,
            "mfu": self.mfu(step - before[0], passed),
        }

    def mfu(self, steps: int, seconds: float) -> float | None:
        """The utilisation over so many steps and seconds; ``None`` without a known peak."""
        if self.peak is None or seconds <= 0:
            return None
        return steps * self.flops_per_step / (seconds * self.peak)


Workers = int | Literal["auto"]

_HANDOVER_SECONDS = 2e-3  # of a batch from one process to another, on busy cores
_HANDOVER_BYTES = 2e9  # a second, on top
_LEAST_GAIN = 0.1  # of a step: measured times vary by nearly as much
_LEAST_SECONDS = 5.0  # gained in the whole run, for processes have to be started


def reading_workers(
    workers: Workers,
    wish: int | None,
    speed: Speed | None,
    experiment: Experiment,
    ranks: int = 1,
) -> int:
    """The processes that read ahead of a run, on which no result depends.

    ``"auto"`` is ``wish``, that of a DataLoader, where there is one. Else it is 0 unless measured times
    say that workers gain a tenth of a step and five seconds of the run: reading must take long
    beside handing a batch over, and cores must be free to do it, or it must be waiting. It is 0 also
    where nothing was measured, where samples lie on a device, and where processes are not forked,
    as each would import the user's script.

    Parameters
    ----------
    workers
        As of :class:`flops_fit.TrainingConfig`.
    wish
        The ``num_workers`` of the DataLoader that the user gave.
    speed
        What planning measured.
    ranks
        Processes that share each batch, and the cores.
    """
    if workers != "auto":
        return workers
    if wish is not None:
        return wish
    if speed is None or speed.reading is None or not speed.reading.on_host or not _forks():
        return 0
    n, reading = experiment.batch_size / ranks, speed.reading
    step = speed.step_seconds(experiment) / ranks
    clock, waiting = reading.seconds * n, reading.waiting * n
    handover = _HANDOVER_SECONDS + reading.size * n / _HANDOVER_BYTES
    cores = max(1, _cores() // ranks)
    free = cores - _busy(speed.device)
    work = clock - waiting
    # Work for which no core is free is done at the expense of the step, wherever it is done.
    at_best = max(step, work / free) if free > 0 else step + work
    wanted = max(1, min(math.ceil(clock / at_best), cores))
    gain = step + clock - max(at_best, clock / wanted) - handover
    enough = gain >= _LEAST_GAIN * (step + clock) and gain * experiment.steps >= _LEAST_SECONDS
    return wanted if enough else 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy(device: str) -> int:
    """Cores that a step keeps busy: torch's threads, or the one that drives a device."""
    import torch

    return torch.get_num_threads() if device == "cpu" else 1


def _forks() -> bool:
    """Whether a process started here is a copy of this one."""
    chosen = multiprocessing.get_start_method(allow_none=True)
    return (chosen or multiprocessing.get_all_start_methods()[0]) == "fork"
