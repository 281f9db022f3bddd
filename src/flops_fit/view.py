"""How a sweep looks while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from flops_fit.records import Experiment, Run
from flops_fit.text import seconds as clock
from flops_fit.train import Progress
from flops_fit.trunks import own_flops, shared_steps

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["LiveView", "SilentView"]


class SilentView:
    """Shows nothing."""

    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> AbstractContextManager[None]:
        """Begin."""
        return _nothing()

    def progress(self, progress: Progress) -> None:
        """A run has come this far."""

    def ended(self, run: Run) -> None:
        """A run has ended."""

    def note(self, message: str) -> None:
        """Something was noticed that is no run's fault."""


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class LiveView:
    """One bar in a terminal; elsewhere a line for a run that has ended, one a second at most.

    The bar moves with the FLOPs of finished runs and parts of running ones alike, since runs
    differ in cost by orders of magnitude. What runs of one trunk share counts once, for the
    shortest of them.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._bar: Bar | None = None
        self._bar_task: TaskID | None = None
        self._flops: dict[str, float] = {}
        self._labels: dict[str, str] = {}
        self._share: dict[str, float] = {}
        self._shared: dict[str, int] = {}
        self._done = 0
        self._failed = 0
        self._last = ""
        self._started = time.monotonic()
        self._last_line = -math.inf

    @contextmanager
    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> Iterator[None]:
        """Show the bar until the block ends."""
        self._flops = own_flops(experiments)
        self._shared = shared_steps(experiments)
        self._labels = {e.id: e.label for e in experiments}
        for run in finished:
            self._share[run.experiment.id] = 1.0
        self._done = len(finished)
        self._started = time.monotonic()
        if finished:
            self._console.print(f"{len(finished)} of {len(experiments)} runs are finished already.")
        if len(finished) == len(experiments):
            yield
            return
        if not self._console.is_terminal:
            yield
            return
        self._bar = self._make_bar()
        # What is there already counts as done from the start, and not as speed.
        self._bar_task = self._bar.add_task(
            "", total=sum(self._flops.values()), completed=int(self._spent()), runs="", loss=""
        )
        with self._bar:
            self._refresh()
            yield
        self._bar = None

    def _make_bar(self) -> Bar:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        return Progress(
            TextColumn("{task.fields[runs]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} % of FLOPs"),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("· left"),
            TimeLeft(elapsed_when_finished=False),
            console=self._console,
            speed_estimate_period=120,
        )

    def progress(self, progress: Progress) -> None:
        """A run has come this far."""
        before = self._shared.get(progress.experiment_id, 0)
        own = (progress.step - before) / (progress.steps - before)
        self._share[progress.experiment_id] = max(own, 0.0)
        label = self._labels.get(progress.experiment_id, "")
        self._last = f"{label}: loss {progress.loss:.3f}"
        self._refresh()

    def ended(self, run: Run) -> None:
        """A run has ended."""
        self._share[run.experiment.id] = 1.0
        self._done += 1
        if run.state != "completed":
            self._failed += 1
            self._console.print(f"{run.experiment.label}: {run.state} ({run.reason})", style="red")
        elif self._bar is None and self._line_is_due():
            self._console.print(self._line(run), highlight=False)
        self._refresh()

    def _line_is_due(self) -> bool:
        """A line a second at most, and one for the last run."""
        now = time.monotonic()
        due = now - self._last_line > 1.0 or self._done == len(self._flops)
        self._last_line = now if due else self._last_line
        return due

    def note(self, message: str) -> None:
        """Something was noticed that is no run's fault."""
        self._console.print(message, style="yellow", markup=False)

    def _line(self, run: Run) -> str:
        share = self._spent() / sum(self._flops.values())
        return (
            f"[{self._done}/{len(self._flops)}] {run.experiment.label}: loss {run.loss:.4f} in "
            f"{clock(run.seconds)}; {100 * share:.0f} % of FLOPs after "
            f"{clock(time.monotonic() - self._started)}"
        ).replace("[", "\\[", 1)

    def _spent(self) -> float:
        return sum(self._flops[i] * share for i, share in self._share.items())

    def _refresh(self) -> None:
        if self._bar is None or self._bar_task is None:
            return
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.update(
            self._bar_task,
            completed=self._spent(),
            runs=f"{self._done}/{len(self._flops)} runs{failed}",
            loss=self._last,
        )
