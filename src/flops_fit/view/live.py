"""Progress displays of a sweep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flops_fit.forecasting import Forecast
from flops_fit.records import Experiment, Run
from flops_fit.store.read import forecast_ends
from flops_fit.text import format_count, format_duration, visible
from flops_fit.train.trainer import Progress
from flops_fit.view.board import Board, Snapshot

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

Move = Literal["waiting", "elsewhere", "lost"]

_ROWS = 8  # at most, of running runs
_OTHER_LINES = 6  # of a frame, beside those
_BAR_WIDTH = 90  # columns from which on running runs have bars
_EXPECTED_WIDTH = 110  # and the loss at which they are expected to end
_REFRESHES = 4  # per second
_LINE_SECONDS = 1.0  # between lines of ended runs
_STATUS_SECONDS = 60.0  # between lines of the whole sweep
_FORECAST_SECONDS = 60.0  # between forecasts of where runs will end, which take up to a second each
_STATES = {  # word and style, in the order shown
    "completed": ("completed", "green"), "running": ("running", "cyan"),
    "stopped": ("stopped", "yellow"), "waiting": ("waiting", ""),
    "elsewhere": ("made elsewhere", "magenta"), "diverged": ("diverged", "red"),
    "hopeless": ("hopeless", "yellow"),
    "oom": ("out of memory", "red"), "failed": ("failed", "red"), "preempted": ("preempted", "red"),
}  # fmt: skip


class SweepView:
    """The base of progress displays: each method does nothing."""

    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> AbstractContextManager[None]:
        """Begin to show a sweep of which ``finished`` have ended already."""
        return nullcontext()

    def progress(self, progress: Progress) -> None:
        """A run has come this far."""

    def moved(self, experiment: Experiment, to: Move) -> None:
        """A run is ``waiting``, made ``elsewhere``, or was ``lost`` and waits again."""

    def ended(self, run: Run) -> None:
        """A run has ended."""

    def note(self, message: str) -> None:
        """Show a message that concerns no single run."""

    def step(self, message: str) -> None:
        """Show a decision of the sweep."""


class SilentView(SweepView):
    """Shows nothing."""


class LiveView(SweepView):
    """A display at the bottom of a terminal; elsewhere plain lines, few of them.

    There a run that has ended is a line, at most one a second, always if it did not complete, and while
    none ends the sweep is a line each minute. A view may be opened again as a sweep grows. Where it knows
    the ``folder`` of the sweep, its runs are shown with the loss at which they are expected to end.
    """

    def __init__(
        self,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        folder: str | Path | None = None,
    ) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._clock = clock
        self._folder = folder
        self._since = self._forecast_at = clock()
        self._ends: dict[str, Forecast] = {}
        self._board = Board((), (), self._since)
        self._known: set[str] = set()
        self._last_line = -math.inf
        self._draws = False

    @contextmanager
    def open(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], capacity: int
    ) -> Iterator[None]:
        """Show the sweep until the block ends, whichever way it ends."""
        from rich.live import Live

        if not self._known:
            self._since = self._clock()
        new = {e.id for e in experiments} - self._known
        self._known |= new
        if already := sum(run.experiment.id in new for run in finished):
            self._print(f"{already} of {len(new)} runs are finished already.")
        self._board = Board(experiments, finished, self._clock())
        if len(finished) == len(experiments):
            yield
            return
        self._last_line = max(self._last_line, self._clock() - _STATUS_SECONDS / 2)
        self._draws = self._console.is_terminal and not self._console.is_dumb_terminal
        console = self._console
        live = Live(
            console=console,
            get_renderable=lambda: frame(self._snapshot(), console.width, console.height),
            refresh_per_second=_REFRESHES,
        )
        with live if self._draws else nullcontext():
            try:
                yield
            except BaseException:
                self._board.stop()
                raise

    def _snapshot(self) -> Snapshot:
        snapshot = self._board.snapshot(self._clock(), self._since)
        if self._folder is not None and self._draws:
            if self._clock() - self._forecast_at > _FORECAST_SECONDS:
                running = [experiment for experiment, _ in snapshot.running[:_ROWS]]
                self._ends = forecast_ends(self._folder, running, snapshot.completed)
                self._forecast_at = self._clock()
            snapshot = replace(snapshot, ends=self._ends)
        return snapshot

    def progress(self, progress: Progress) -> None:
        """Note it for the next drawing; elsewhere a line each minute."""
        self._board.progress(progress, self._clock())
        if not self._draws and self._line_is_due(_STATUS_SECONDS):
            self._print(status(self._snapshot()))

    def moved(self, experiment: Experiment, to: Move) -> None:
        """Note it for the next drawing."""
        self._board.moved(experiment, to)

    def ended(self, run: Run) -> None:
        """Show a line where it did not complete, or where nothing is drawn."""
        self._board.ended(run, self._clock())
        if run.state != "completed":
            self._print(f"{run.experiment.label}: {_STATES[run.state][0]} ({run.reason})", "red")
        elif not self._draws:
            snapshot = self._snapshot()
            if self._line_is_due(_LINE_SECONDS) or snapshot.ended == snapshot.runs:
                loss = "no loss" if run.loss is None else f"loss {run.loss:.4f}"
                what = f"{run.experiment.label}: {loss} in {format_duration(run.seconds)}"
                self._print(_line(snapshot, what))

    def _line_is_due(self, pause: float) -> bool:
        if (now := self._clock()) - self._last_line <= pause:
            return False
        self._last_line = now
        return True

    def note(self, message: str) -> None:
        """Show a line."""
        self._print(message, "yellow")

    def step(self, message: str) -> None:
        """Show a line: what an adaptive sweep does next, and why."""
        self._print(message)

    def _print(self, message: str, style: str = "") -> None:
        # Messages of a user's code may hold square brackets; a file's lines are not wrapped.
        self._console.print(
            visible(message), style=style, markup=False, highlight=False,
            soft_wrap=not self._console.is_terminal,
        )  # fmt: skip


def frame(s: Snapshot, width: int, height: int) -> RenderableType:
    """Lines on the whole sweep and its first running runs; only the totals once all have ended."""
    from rich.console import Group

    if s.ended == s.runs:
        return _flow([*_states(s), _text(_spent(s)), *_times(s)], width)
    parts: list[RenderableType] = [_spending(s), _flow(_states(s), width), _flow(_times(s), width)]
    rows = max(1, min(_ROWS, height - _OTHER_LINES))
    if s.running:
        parts.append(_rows(s, rows, width))
    if len(s.running) > rows:
        parts.append(_text(f"  and {len(s.running) - rows} more", "dim"))
    return Group(*parts)


def status(s: Snapshot) -> str:
    """The whole sweep in a line."""
    rate = f" at {_flops_per_second(s.rate)}" if s.rate else ""
    return _line(s, f"{s.states.get('running', 0)} running", rate)


def _line(s: Snapshot, what: str, rate: str = "") -> str:
    left = "" if s.left is None else f", about {_about(s.left)} left"
    spent = f"{100 * s.share:.0f} % of FLOPs{rate} after {_passed(s.elapsed)}{left}"
    return f"[{s.ended}/{s.runs}] {what}; {spent}"


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _spending(s: Snapshot) -> Table:
    """Spent of planned FLOPs, as a bar, a percentage and numbers."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    bar = ProgressBar(total=1.0, completed=s.share, complete_style="cyan", finished_style="green")
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False, expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right", min_width=5)
    grid.add_column(no_wrap=True)
    grid.add_row(bar, _percent(s.share), _spent(s))
    return grid


def _spent(s: Snapshot) -> str:
    return f"{f'{s.spent:.2e}' if s.spent else '0':>8} of {s.planned:.2e} FLOPs"


def _states(s: Snapshot) -> list[Text]:
    whole = _text(f"{s.runs} {'run' if s.runs == 1 else 'runs'}", "bold")
    return [whole] + [
        _text(f"{s.states[state]} {name}", style)
        for state, (name, style) in _STATES.items()
        if s.states.get(state)
    ]


def _times(s: Snapshot) -> list[Text]:
    over = s.ended == s.runs
    parts = [_flops_per_second(s.rate)] if s.rate else []
    parts.append(_passed(s.elapsed) + ("" if over else " so far"))
    if s.left is not None:
        parts.append(f"about {_about(s.left)} left")
    if s.retries:
        parts.append(f"{s.retries} {'retry' if s.retries == 1 else 'retries'}")
    return [_text(part) for part in parts]


def _flow(parts: list[Text], width: int) -> Text:
    """Parts side by side, in as many lines as needed; no part is broken."""
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


def _rows(s: Snapshot, most: int, width: int) -> Table:
    """A line for each run: label, share, loss, units per second. Columns keep their places."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    wide = width >= _BAR_WIDTH
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(width=0)
    grid.add_column(no_wrap=True, overflow="ellipsis", width=min(s.label_width, width // 2 - 6))
    if wide:
        grid.add_column(width=20)
    grid.add_column(no_wrap=True, justify="right", width=5)
    grid.add_column(no_wrap=True, min_width=11)
    least = max(len(e.unit) for e, _ in s.running[:most]) + len("99.9k /s")
    grid.add_column(no_wrap=True, overflow="ellipsis", justify="right", min_width=least)
    for e, p in s.running[:most]:
        share, speed = p.step / p.steps, p.units_per_second
        bar = ProgressBar(total=1.0, completed=share, width=20, complete_style="cyan")
        begun = not math.isnan(p.loss) or speed is not None
        loss = f"loss {p.loss:.3f}" if begun else _text("starting", "dim")
        if begun and width >= _EXPECTED_WIDTH and e.id in s.ends:
            loss = f"{loss}, expected {s.ends[e.id].span}"
        rate = f"{format_count(speed)} {e.unit}/s" if speed else ""
        grid.add_row("", _text(e.label), *[bar] * wide, _percent(share), loss, rate)
    return grid


def _percent(share: float) -> str:
    """Rounded down, so that 100 % is all of it."""
    tenths = math.floor(1000 * share + 1e-6)
    return f"{tenths / 10:.1f} %" if tenths < 100 else f"{tenths // 10} %"


def _flops_per_second(rate: float) -> str:
    prefixes = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, ""))
    limit, prefix = next((p for p in prefixes if rate >= p[0]), (1.0, ""))
    return f"{rate / limit:.3g} {prefix}FLOP/s"


def _passed(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else format_duration(seconds)


def _about(seconds: float) -> str:
    """An estimate, with few digits."""
    if seconds < 60:
        return f"{max(5 * math.ceil(seconds / 5), 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else format_duration(seconds)
