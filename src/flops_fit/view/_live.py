"""Who watches a sweep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal

from flops_fit.records import Experiment, Run
from flops_fit.train import Progress
from flops_fit.view._board import Board, Standing
from flops_fit.view._draw import frame, line, status, word

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["LiveView", "SilentView"]

Place = Literal["waiting", "elsewhere", "lost"]

_REFRESHES = 4  # a second
_LINE_SECONDS = 1.0
_QUIET_SECONDS = 60.0


class SilentView:
    """Shows nothing."""

    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> AbstractContextManager[None]:
        """Begin."""
        return _nothing()

    def progress(self, progress: Progress) -> None:
        """A run has come this far."""

    def moved(self, experiment: Experiment, to: Place) -> None:
        """A run is ``waiting``, made ``elsewhere``, or was ``lost`` and waits again."""

    def ended(self, run: Run) -> None:
        """A run has ended."""

    def note(self, message: str) -> None:
        """Something was noticed that is no run's fault."""

    def step(self, message: str) -> None:
        """Something was decided."""


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class LiveView:
    """A display at the bottom of a terminal; elsewhere few plain lines.

    The display is drawn four times a second at most, from numbers that executors of any kind
    report: runs by state, the first of the running ones, FLOPs spent of those planned, time. What
    is noted scrolls by above it. Elsewhere a run that has ended is a line, one a second at most,
    and while none ends the sweep is one each minute. What went wrong is always a line.

    One view may be opened again and again as a sweep grows: its clock goes on.

    Parameters
    ----------
    console
        Standard error by default.
    clock
        Seconds.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._clock = clock
        self._board: Board | None = None
        self._since = clock()
        self._known: set[str] = set()
        self._last_line = -math.inf
        self._draws = False

    @contextmanager
    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> Iterator[None]:
        """Show the sweep until the block ends, whichever way it ends."""
        if not self._known:
            self._since = self._clock()
        new = {e.id for e in experiments} - self._known
        self._known |= new
        if already := sum(run.experiment.id in new for run in finished):
            self._print(f"{already} of {len(new)} runs are finished already.")
        self._board = board = Board(experiments, finished, self._clock())
        if len(finished) == len(experiments):
            yield
            return
        self._last_line = max(self._last_line, self._clock() - _QUIET_SECONDS / 2)
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        with self._display() if self._draws else _nothing():
            try:
                yield
            except BaseException:
                board.stop()
                raise

    def _display(self) -> AbstractContextManager[object]:
        from rich.live import Live

        return Live(
            console=self._console, get_renderable=self._frame, refresh_per_second=_REFRESHES
        )

    def _frame(self) -> RenderableType:
        return frame(self._standing(), self._console.width, self._console.height)

    def _standing(self) -> Standing:
        assert self._board is not None
        return self._board.standing(self._clock(), self._since)

    def progress(self, progress: Progress) -> None:
        """A run has come this far."""
        if self._board is None:
            return
        self._board.progress(progress, self._clock())
        if not self._draws and self._line_is_due(_QUIET_SECONDS):
            self._print(status(self._standing()))

    def moved(self, experiment: Experiment, to: Place) -> None:
        """A run is ``waiting``, made ``elsewhere``, or was ``lost`` and waits again."""
        if self._board is not None:
            self._board.moved(experiment, to)

    def ended(self, run: Run) -> None:
        """A run has ended."""
        if self._board is None:
            return
        self._board.ended(run, self._clock())
        if run.state != "completed":
            self._print(f"{run.experiment.label}: {word(run.state)} ({run.reason})", "red")
        elif not self._draws and (self._line_is_due(_LINE_SECONDS) or self._board.over):
            self._print(line(self._standing(), run))

    def _line_is_due(self, pause: float) -> bool:
        now = self._clock()
        due = now - self._last_line > pause
        self._last_line = now if due else self._last_line
        return due

    def note(self, message: str) -> None:
        """Something was noticed that is no run's fault."""
        self._print(message, "yellow")

    def step(self, message: str) -> None:
        """Something was decided: what an adaptive sweep does next, and why."""
        self._print(message)

    def _print(self, message: str, style: str = "") -> None:
        # Whatever a user's code says may hold square brackets; a file's lines are not wrapped.
        self._console.print(
            message,
            style=style,
            markup=False,
            highlight=False,
            soft_wrap=not self._console.is_terminal,
        )
