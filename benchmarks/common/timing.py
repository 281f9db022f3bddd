"""Seconds, and how they are told.

Seconds are the process's CPU time. With one thread they are what the clock on the wall shows where
nothing else runs, and on a busy machine they stay what the work costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """CPU seconds of several repeats."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        if len(self.seconds) == 1:
            return f"{duration(self.median)} (once)"
        low, high = duration(min(self.seconds)), duration(max(self.seconds))
        return f"{duration(self.median)} ({low}–{high})"


def timed(work: Callable[[], Any], repeats: int, warm_up: int = 1) -> Timing:
    """Run ``work`` ``warm_up`` times unseen, then ``repeats`` times on the clock."""
    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return Timing(tuple(seconds))


def duration(seconds: float) -> str:
    """Three digits in a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
