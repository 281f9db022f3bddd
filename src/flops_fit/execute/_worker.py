"""What happens inside a worker process."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from flops_fit.records import Experiment, Run
from flops_fit.train import Progress

__all__ = ["carry_out"]


def carry_out(task_path: str, experiment: Experiment, pipe: Connection, threads: int) -> None:
    """Carry out one experiment and send its Run back; end at once if nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads)

    def report(progress: Progress) -> None:
        try:
            pipe.send(progress)
        except OSError:
            os._exit(1)

    try:
        task = pickle.loads(Path(task_path).read_bytes())
    except Exception as error:  # what was sent may need a module that is not here
        reason = f"the task cannot be read in a worker: {type(error).__name__}: {error}"
        pipe.send(Run(experiment, "failed", reason=reason, details=traceback.format_exc()))
    else:
        pipe.send(task(experiment, report))
    pipe.close()
