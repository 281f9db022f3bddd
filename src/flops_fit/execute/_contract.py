"""The contract of every place where runs can happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from flops_fit.records import Experiment, Run
from flops_fit.train import Progress

__all__ = ["Executor", "Report", "Task"]

Report = Callable[[Progress], None]
Task = Callable[[Experiment, Report | None], Run]
"""Carries out one experiment; its failures are states of the Run it returns."""


class Executor(Protocol):
    """A place where runs happen.

    ``start`` hands over the task once, ``submit`` queues an experiment, ``poll`` waits until
    something ends, ``close`` cancels what still runs and frees everything.
    """

    @property
    def capacity(self) -> int:
        """How many runs go on at the same time."""

    def start(self, task: Task, report: Report) -> None:
        """Make ready to carry out ``task``; ``report`` hears of the progress of every run."""

    def submit(self, experiment: Experiment) -> None:
        """Queue one experiment."""

    def poll(self) -> list[Run]:
        """Wait until at least one submitted run has ended and return those that have."""

    def close(self) -> None:
        """Cancel what is queued or running; safe to call twice."""
