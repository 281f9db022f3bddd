"""What happens inside a worker process."""

from __future__ import annotations

import os
import pickle
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from flops_fit.records import Experiment
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

    task = pickle.loads(Path(task_path).read_bytes())
    pipe.send(task(experiment, report))
    pipe.close()
