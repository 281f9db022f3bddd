"""Runs one after another in this very process."""

from __future__ import annotations

import itertools

from flops_fit.errors import InputError
from flops_fit.execute.attempt import attempt
from flops_fit.execute.executor import Handle, Report, Resources, Task
from flops_fit.records import Experiment, Run


class InProcessExecutor:
    """The simplest place: each run happens during :meth:`poll`, in the order submitted.

    Nothing is pickled and a debugger works. A run uses the threads and devices of this process, and
    one that kills its process ends the sweep.
    """

    capacity = 1

    def __init__(self) -> None:
        self._queue: dict[Handle, Experiment] = {}
        self._numbers = itertools.count()
        self._task: Task | None = None
        self._report: Report | None = None

    def start(self, task: Task, report: Report) -> None:
        """Keep the task."""
        self._task, self._report = task, report

    def submit(self, experiment: Experiment, resources: Resources | None = None) -> Handle:
        """Queue one experiment; ``resources`` can ask for no more processes than this one."""
        if resources is not None and resources.size > 1:
            raise InputError(
                f"resources: expected a run of this one process; got {resources}. Use "
                "executor='pool', or start this script with torchrun."
            )
        handle = Handle(experiment.id, next(self._numbers))
        self._queue[handle] = experiment
        return handle

    def poll(self, timeout: float | None = None) -> list[Run]:
        """Carry out the next experiment, however long it takes."""
        if not self._queue or self._task is None:
            return []
        experiment = self._queue.pop(next(iter(self._queue)))
        return [attempt(self._task, experiment, self._report)]

    def cancel(self, handle: Handle) -> bool:
        """Forget a queued experiment."""
        return self._queue.pop(handle, None) is not None

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()
