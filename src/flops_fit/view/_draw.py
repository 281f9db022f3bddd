"""Where a sweep stands, as people see it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flops_fit.records import Run
from flops_fit.text import count
from flops_fit.text import seconds as clock
from flops_fit.view._board import Going, Standing

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["frame", "line", "status", "word"]

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
        f"[{s.ended}/{s.runs}] {run.experiment.label}: {loss} in {clock(run.seconds)}; "
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
            f"{count(run.speed)} {run.unit}/s" if run.speed else "",
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
    return f"{seconds:.0f} s" if seconds < 60 else clock(seconds)


def _left(s: Standing) -> str:
    return "" if s.left is None else f", about {_about(s.left)} left"


def _about(seconds: float) -> str:
    """A guess, so no more digits than it deserves."""
    if seconds < 60:
        return f"{max(5 * math.ceil(seconds / 5), 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else clock(seconds)
