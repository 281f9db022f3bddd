"""What happens inside a worker of Ray."""

from __future__ import annotations

import signal
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flops_fit.execute.attempt import Setting
from flops_fit.execute.process import fresh_processes, start_worker, stop
from flops_fit.records import Experiment, Run
from flops_fit.train.trainer import Progress

_LOOK = 0.5  # seconds: Ray's cancelling does not interrupt a longer wait
_DELIVERY = 5.0  # seconds that a run's last words may take


class Heard:
    """The newest progress of every run, until the driver takes it; an actor."""

    def __init__(self) -> None:
        self._said: dict[str, Progress] = {}

    def tell(self, progress: Progress) -> None:
        """A run has come this far."""
        self._said[progress.experiment_id] = progress

    def take(self) -> list[Progress]:
        """What was said since this was asked last."""
        said, self._said = list(self._said.values()), {}
        return said


def carry_out_here(
    content: bytes, experiment: Experiment, setting: Setting, with_gpus: bool, heard: Any
) -> Run:
    """The run in a process that is forked for it, so that none leaves anything to the next.

    Ray could end its worker after each task, and would then start a Python and import itself for
    every run, for a second or two of a core. A server to fork from is started once a worker.
    """
    import ray

    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray cancels
    if with_gpus:
        ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        setting = replace(setting, gpus=tuple(str(i) for i in ids))
    told = None
    with TemporaryDirectory(prefix="flops-fit-") as folder:
        task = Path(folder) / "task"
        task.write_bytes(content)
        worker = start_worker(fresh_processes(content), str(task), experiment, setting)
        try:
            while True:
                if not wait(list(worker.waits_for()), _LOOK):
                    continue
                message = worker.read()
                if isinstance(message, Run):
                    worker.end()
                    break
                if message is not None:
                    told = heard.tell.remote(message)
        except BaseException:
            stop([worker])
            raise
    if told is not None:
        ray.wait([told], timeout=_DELIVERY)
    return message
