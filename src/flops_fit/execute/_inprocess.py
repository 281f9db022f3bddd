"""Runs one after another in this very process."""

from __future__ import annotations

from collections import deque

from flops_fit.execute._contract import Report, Task
from flops_fit.records import Experiment, Run

__all__ = ["InProcessExecutor"]


class InProcessExecutor:
    """The simplest place: each run happens during :meth:`poll`, in the order submitted."""

    capacity = 1

    def __init__(self) -> None:
        self._queue: deque[Experiment] = deque()
        self._task: Task | None = None
        self._report: Report | None = None

    def start(self, task: Task, report: Report) -> None:
        """Keep the task."""
        self._task, self._report = task, report

    def submit(self, experiment: Experiment) -> None:
        """Queue one experiment."""
        self._queue.append(experiment)

    def poll(self) -> list[Run]:
        """Carry out the next experiment."""
        if not self._queue or self._task is None:
            return []
        return [self._task(self._queue.popleft(), self._report)]

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()
