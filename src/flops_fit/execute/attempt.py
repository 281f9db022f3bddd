"""One run in one process: the task read, its threads pinned, its exceptions a failed run."""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flops_fit.execute.executor import Report, Task
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line

_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class Setting:
    """What a run's process is given: threads, ranks that share its batches, environment variables.

    ``gpus`` are the devices of its ranks, one each, as CUDA_VISIBLE_DEVICES names them; ``None``
    leaves the devices as they are.
    """

    threads: int = 1
    ranks: int = 1
    gpus: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def attempt(task: Task, experiment: Experiment, report: Report | None) -> Run:
    """What came of the task; an exception of its own makes a failed run.

    Being stopped from outside passes through.
    """
    try:
        return task(experiment, report)
    except Exception as error:  # a task may raise anything: that is a run that failed
        reason, details = error_line(error), traceback.format_exc()
    except SystemExit as error:
        if error.code in _STOPPED:
            raise
        reason = f"the run ended its process by sys.exit({error.code!r})"
        details = traceback.format_exc()
    return Run(experiment, "failed", reason=reason, details=details)


def read_task(path: str | Path, experiment: Experiment) -> Task | Run:
    """The task that the driver wrote, or a failed run that says why it cannot be read here."""
    try:
        task: Task = pickle.loads(Path(path).read_bytes())
    except Exception as error:  # what was sent may need a module that is not here
        reason = f"the task cannot be read in a worker: {type(error).__name__}: {error}"
        return Run(experiment, "failed", reason=reason, details=traceback.format_exc())
    return task


def print_in_order() -> None:
    """Write out each line when it is printed, so that it keeps its place beside a subprocess's."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def pin_threads(threads: int) -> None:
    """Give this process so many threads, in torch and in what has yet to be imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
