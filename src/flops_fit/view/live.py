"""Who watches a sweep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal

from flops_fit.records import Experiment, Run
from flops_fit.text import format_count, format_duration
from flops_fit.train.trainer import Progress
from flops_fit.view.board import Board, Going, Standing

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


_ROWS = 8  # of running runs
_AROUND = 6  # lines of a frame beside those
_WIDE = 90  # columns from which on running runs have bars

_STATES = {  # word and style, in the order shown
    "completed": ("completed", "green"),
    "running": ("running", "cyan"),
    "stopped": ("stopped", "yellow"),
    "waiting": ("waiting", ""),
    "elsewhere": ("made elsewhere", "magenta"),
    "diverged": ("diverged", "red"),
    "oom": ("out of memory", "red"),
    "failed": ("failed", "red"),
    "preempted": ("preempted", "red"),
}


def word(state: str) -> str:
    """The state of a run in words."""
    return _STATES[state][0] if state in _STATES else state


def frame(s: Standing, width: int, height: int) -> RenderableType:
    """A few lines on the whole sweep and one for each of the first runs that go on.

    Of a sweep that is over the sums are left.
    """
    from rich.console import Group

    if s.ended == s.runs:
        return _flow([*_states(s), _text(_spent(s)), *_times(s)], width)
    parts: list[RenderableType] = [_spending(s), _flow(_states(s), width), _flow(_times(s), width)]
    room = max(1, min(_ROWS, height - _AROUND))
    if s.going:
        parts.append(_rows(s, s.going[:room], width))
    if len(s.going) > room:
        parts.append(_text(f"  and {len(s.going) - room} more", "dim"))
    return Group(*parts)


def status(s: Standing) -> str:
    """The whole sweep in a line."""
    going = s.states.get("running", 0)
    rate = f" at {_flops_a_second(s.rate)}" if s.rate else ""
    return (
        f"[{s.ended}/{s.runs}] {going} running; {100 * s.share:.0f} % of FLOPs{rate} "
        f"after {_passed(s.elapsed)}{_left(s)}"
    )


def line(s: Standing, run: Run) -> str:
    """A run that has completed, and where that leaves the sweep."""
    loss = "no loss" if run.loss is None else f"loss {run.loss:.4f}"
    return (
        f"[{s.ended}/{s.runs}] {run.experiment.label}: {loss} in {format_duration(run.seconds)}; "
        f"{100 * s.share:.0f} % of FLOPs after {_passed(s.elapsed)}{_left(s)}"
    )


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _spending(s: Standing) -> Table:
    """FLOPs spent of those planned, as a bar, a percentage and numbers."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    bar = ProgressBar(total=1.0, completed=s.share, complete_style="cyan", finished_style="green")
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False, expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right", min_width=5)
    grid.add_column(no_wrap=True)
    grid.add_row(bar, _percent(s.share), _spent(s))
    return grid


def _spent(s: Standing) -> str:
    spent = f"{s.spent:.2e}" if s.spent else "0"
    return f"{spent:>8} of {s.planned:.2e} FLOPs"


def _states(s: Standing) -> list[Text]:
    """Runs by state."""
    whole = _text(f"{s.runs} {'run' if s.runs == 1 else 'runs'}", "bold")
    return [whole] + [
        _text(f"{s.states[state]} {name}", style)
        for state, (name, style) in _STATES.items()
        if s.states.get(state)
    ]


def _times(s: Standing) -> list[Text]:
    over = s.ended == s.runs
    parts = [_flops_a_second(s.rate)] if s.rate else []
    parts.append(_passed(s.elapsed) + ("" if over else " so far"))
    if s.left is not None:
        parts.append(f"about {_about(s.left)} left")
    if s.retries:
        parts.append(f"{s.retries} {'retry' if s.retries == 1 else 'retries'}")
    return [_text(part) for part in parts]


def _flow(parts: list[Text], width: int) -> Text:
    """Side by side, with as many lines as it takes and none broken within a part."""
    whole = _text("")
    used = 0
    for i, part in enumerate(parts):
        if i:
            breaks = used + 3 + len(part) > width
            whole.append("\n" if breaks else " · ")
            used = 0 if breaks else used + 3
        whole.append_text(part)
        used += len(part)
    return whole


def _rows(s: Standing, going: tuple[Going, ...], width: int) -> Table:
    """A line for each: label, how far, loss, units a second. Columns keep their places."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    wide = width >= _WIDE
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(width=0)
    grid.add_column(no_wrap=True, overflow="ellipsis", width=min(s.label_width, width // 2 - 6))
    if wide:
        grid.add_column(width=20)
    grid.add_column(no_wrap=True, justify="right", width=5)
    grid.add_column(no_wrap=True, min_width=11)
    grid.add_column(
        no_wrap=True,
        overflow="ellipsis",
        justify="right",
        min_width=max(len(run.unit) for run in going) + len("99.9k /s"),
    )
    for run in going:
        bar = ProgressBar(total=1.0, completed=run.share, width=20, complete_style="cyan")
        begun = not math.isnan(run.loss) or run.speed is not None
        cells: list[RenderableType] = [
            "",
            _text(run.label),
            *([bar] if wide else []),
            _percent(run.share),
            f"loss {run.loss:.3f}" if begun else _text("starting", "dim"),
            f"{format_count(run.speed)} {run.unit}/s" if run.speed else "",
        ]
        grid.add_row(*cells)
    return grid


def _percent(share: float) -> str:
    """Rounded down, so that 100 % is all of it."""
    tenths = math.floor(1000 * share + 1e-6)
    return f"{tenths / 10:.1f} %" if tenths < 100 else f"{tenths // 10} %"


def _flops_a_second(rate: float) -> str:
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if rate >= limit:
            return f"{rate / limit:.3g} {prefix}FLOP/s"
    return f"{rate:.3g} FLOP/s"


def _passed(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else format_duration(seconds)


def _left(s: Standing) -> str:
    return "" if s.left is None else f", about {_about(s.left)} left"


def _about(seconds: float) -> str:
    """A guess, so no more digits than it deserves."""
    if seconds < 60:
        return f"{max(5 * math.ceil(seconds / 5), 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else format_duration(seconds)


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
