"""How many processes read ahead of a run."""

from __future__ import annotations

import math
import multiprocessing
import os
from typing import Any, Literal

from flops_fit.errors import InputError
from flops_fit.plan import Speed
from flops_fit.records import Experiment

__all__ = ["Workers", "check_workers", "reading_workers"]

Workers = int | Literal["auto"]

_HANDOVER_SECONDS = 2e-3  # of a batch from one process to another, on busy cores
_HANDOVER_BYTES = 2e9  # a second, on top
_LEAST_GAIN = 0.1  # of a step: measured times vary by nearly as much
_LEAST_SECONDS = 5.0  # gained in the whole run, for processes have to be started


def check_workers(workers: Any) -> Workers:
    """``"auto"``, or how many processes read ahead, 0 for none."""
    whole = isinstance(workers, int) and not isinstance(workers, bool) and workers >= 0
    if workers == "auto" or whole:
        answer: Workers = workers
        return answer
    raise InputError(
        f"workers: expected 'auto' or a whole number of processes, 0 or more; got {workers!r}."
    )


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
        As of :func:`check_workers`.
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
