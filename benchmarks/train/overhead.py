"""What a step costs over the same step in a loop written by hand.

Both sides train the same model on the same batches by the same updates (benchmarks/train/losses.py shows
it), in turns of a few steps (benchmarks/train/turns.py says how). Building the model and evaluating it are
outside on both sides; all that the trainer does between steps is inside: fetching samples one by one,
counting units, watching the loss, reporting. It reports twice a second by the clock on the wall, which
runs on in the other side's turns, so it is charged with more reports than it would make alone.

The loop by hand also runs against a copy of itself: what that column shows is the noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.utils.data import DataLoader

from benchmarks.common.pairs import Estimate, median_of
from benchmarks.common.report import IntervalGoal, Result, Table
from benchmarks.common.timing import duration, timed
from benchmarks.train.by_hand import Task
from benchmarks.train.engine import Text, train_by_engine
from benchmarks.train.turns import Seconds, Turns, steps_for
from flops_fit.examples.gpt import GPTConfig

RATIO_GOAL = 1.03  # at 1 M parameters
EXTRA_GOAL = 1e-3  # seconds a step more at 0.1 M
WIDTHS = {"0.1 M": 56, "1 M": 192}
TURN = {"0.1 M": 4, "1 M": 2}  # steps: about a tenth of a second
PAIRS, QUICK_PAIRS = 96, 12
RUNS = 4  # the pairs come from so many: where a model happens to lie in memory is worth a per cent
THREADS = (1, 2)


@dataclass(frozen=True)
class Measured:
    """One size on so many threads: seconds a step of each turn, side by side."""

    size: str
    threads: int
    engine: list[Seconds]
    hand: list[Seconds]
    again: list[Seconds]
    worst_loss: float

    @property
    def clock(self) -> str:
        """CPU time counts each thread and its waiting for the others: one thread only."""
        return "cpu" if self.threads == 1 else "wall"

    def ratio(self, side: list[Seconds], clock: str) -> Estimate:
        """Of a side to the loop by hand, pair by pair."""
        pairs = zip(side, self.hand, strict=True)
        return median_of([getattr(a, clock) / getattr(b, clock) for a, b in pairs])

    def extra(self, clock: str) -> Estimate:
        """Seconds a step that the trainer takes more, pair by pair."""
        pairs = zip(self.engine, self.hand, strict=True)
        return median_of([getattr(a, clock) - getattr(b, clock) for a, b in pairs])

    def goal(self) -> IntervalGoal:
        """At 1 M a ratio, at 0.1 M milliseconds."""
        where = f"{self.size} parameters, {self.threads} thread{'s' * (self.threads > 1)}"
        if self.size == "1 M":
            e, limit, what = self.ratio(self.engine, self.clock), RATIO_GOAL, "times by hand"
        else:
            e, limit, what = self.extra(self.clock), EXTRA_GOAL, "seconds a step more"
        return IntervalGoal(f"{where}: {what}, {self.clock}", e.median, e.low, e.high, limit)

    def rows(self) -> Iterable[tuple[str, ...]]:
        """A row a clock."""
        goal = self.goal()
        for clock in ("cpu", "wall") if self.threads == 1 else ("wall",):
            extra = self.extra(clock)
            yield (
                self.size, str(self.threads), clock,
                duration(median_of([getattr(s, clock) for s in self.hand]).median),
                duration(median_of([getattr(s, clock) for s in self.engine]).median),
                self.ratio(self.engine, clock).told(".4f"),
                f"{1e3 * extra.median:+.3f} [{1e3 * extra.low:+.3f}, {1e3 * extra.high:+.3f}]",
                self.ratio(self.again, clock).told(".4f"),
                f"{_limit(goal)}: {goal.outcome}" if clock == self.clock else "",
            )  # fmt: skip


def _limit(goal: IntervalGoal) -> str:
    return f"<= {goal.limit:g}" if goal.limit > 1 else f"<= {1e3 * goal.limit:g} ms"


def overhead(quick: bool) -> Result:
    """Step times in pairs, and what fetching a batch takes of them."""
    measured = [
        measure(size, threads, QUICK_PAIRS if quick else PAIRS)
        for threads in THREADS
        for size in WIDTHS
    ]
    columns = (
        "parameters", "threads", "clock", "by hand, a step", "Trainer", "ratio [95 %]",
        "ms a step more [95 %]", "by hand against itself", "goal: upper bound",
    )  # fmt: skip
    sizes = ", ".join(f"{GPTConfig(d).num_params():,}" for d in WIDTHS.values())
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    notes = (
        f"GPTs of {sizes} parameters, {_batch()} tokens a step, CPU; medians of "
        f"{len(measured[0].hand)} pairs from {RUNS} runs, intervals by bootstrap.",
        f"Load of this machine's {os.cpu_count()} cores after the runs: {load}.",
    )
    rows = tuple(row for m in measured for row in m.rows())
    tables = [Table("A step beside a loop written by hand", columns, rows, notes)]
    return [*tables, fetching(measured, quick)], [m.goal() for m in measured]


def _batch() -> str:
    return f"{Task.batch_size} × {Task.seq_len}"


def task_of(size: str, pairs: int) -> Task:
    """A run that is long enough for so many pairs."""
    return Task(WIDTHS[size], steps_for(pairs, TURN[size]))


def measure(size: str, threads: int, pairs: int) -> Measured:
    """Trainer and loop by hand, in runs of different seeds."""
    task = task_of(size, pairs // RUNS)
    text = Text(task.seq_len, held_out=2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    runs = []
    try:
        for seed in range(RUNS):
            seeded = replace(task, seed=seed)
            runs.append(Turns(seeded, text.windows(seeded), TURN[size]))
            train_by_engine(seeded, text.specs(), runs[-1])
    finally:
        torch.set_num_threads(before)
    sides = (
        [s for part in side for s in part] for side in zip(*(r.sides() for r in runs), strict=True)
    )
    return Measured(size, threads, *sides, max(r.worst_loss() for r in runs))


def fetching(measured: list[Measured], quick: bool) -> Table:
    """Batches of text a second by themselves, on one thread: ours, torch's, and one gather."""
    count = 100 if quick else 1000
    task = Task(width=56, steps=count)
    text = Text(task.seq_len, held_out=2)
    spec, windows, source = text.specs()[0], text.windows(task), text.train
    source.tokens  # noqa: B018 - read from disk before the clock starts
    sides: dict[str, Callable[[], object]] = {
        "DataSpec.batches": partial(
            _exhaust, partial(spec.batches, task.batch_size, count, task.seed)
        ),
        "torch DataLoader, no workers": partial(
            _exhaust, partial(DataLoader, source, batch_sampler=windows.order.tolist())
        ),
        "by hand, one gather": lambda: [windows.batch(o, task.seq_len) for o in windows.order],
    }
    step = min(median_of([s.cpu for s in m.hand]).median for m in measured if m.threads == 1)
    torch.set_num_threads(1)
    rows = []
    for what, work in sides.items():
        each = timed(work, 3 if quick else 7).median / count
        rows.append((what, f"{1 / each:,.0f}", duration(each), f"{100 * each / step:.2g}"))
    columns = ("batches of text", "a second", "one batch", "% of a step at 0.1 M")
    note = f"{_batch()} tokens a batch, CPU seconds on one thread."
    return Table("Fetching data alone", columns, tuple(rows), (note,))


def _exhaust(make: Callable[[], Iterable[object]]) -> None:
    for _ in make():
        pass
