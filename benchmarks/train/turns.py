"""A trainer and the loop by hand, taking turns of a few steps in one process.

Any trainer calls its loss function once a step. Given :class:`Turns` for a loss function, it is
stopped there every few steps, two copies of the loop by hand make as many, each stopped at its own
loss, and it goes on. So the turns that are compared lie a fraction of a second apart, and a machine
that is slower for a while is slower for all of them. From call to call is one whole step: backward,
clipping, update, whatever a loop does besides, the next batch and its forward pass. Building models
lies before the first call and evaluations after the last, on both sides. All are in the middle
of a step when they are stopped, so caches are as cold for one as for the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, is_grad_enabled

from benchmarks.train.by_hand import Recorder, Task, Windows, build, steps_by_hand

SKIPPED = 2  # turns at the start, in which memory is first taken


@dataclass(frozen=True)
class Seconds:
    """Of one step, by the process's CPU and by the clock on the wall."""

    cpu: float
    wall: float


class Turns(Recorder):
    """The loss function of a trainer that shares its time with the loop by hand.

    ``trainer``, ``hand`` and ``again`` hold the seconds a step of each turn.
    """

    def __init__(self, task: Task, data: Windows, turn: int) -> None:
        super().__init__()
        self.turn = turn
        self.hand_losses = Recorder()
        loops = [
            steps_by_hand(task, data, build(task), loss_fn)
            for loss_fn in (self.hand_losses, Recorder())
        ]
        for loop in loops:
            next(loop)
        self.trainer: list[Seconds] = []
        self.hand: list[Seconds] = []
        self.again: list[Seconds] = []
        self._loops = list(zip(loops, (self.hand, self.again), strict=True))
        self._resumed: tuple[float, float] | None = None

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        loss = super().__call__(outputs, labels)
        if not is_grad_enabled():
            self._resumed = None  # an evaluation is no part of a step: this turn is not timed
        elif len(self.losses) % self.turn == 1:
            self._hand_over()
        return loss

    def _hand_over(self) -> None:
        if self._resumed is not None:
            self.trainer.append(self._since(self._resumed))
            for loop, times in self._loops:
                start = _now()
                _advance(loop, self.turn)
                times.append(self._since(start))
            self._loops.reverse()  # each of the two is the trainer's neighbour in turn
        self._resumed = _now()

    def _since(self, start: tuple[float, float]) -> Seconds:
        cpu, wall = (b - a for a, b in zip(start, _now(), strict=True))
        return Seconds(cpu / self.turn, wall / self.turn)

    def sides(self) -> tuple[list[Seconds], list[Seconds], list[Seconds]]:
        """Trainer, by hand and by hand again, without the first turns."""
        return self.trainer[SKIPPED:], self.hand[SKIPPED:], self.again[SKIPPED:]

    def worst_loss(self) -> float:
        """Largest relative difference of a step's loss to the loop by hand."""
        both = zip(self.losses, self.hand_losses.losses, strict=False)
        return max(abs(float(a) / float(b) - 1) for a, b in both)


def steps_for(pairs: int, turn: int) -> int:
    """Steps of a run that has so many pairs of turns."""
    return (pairs + SKIPPED) * turn + 1


def _advance(loop: Iterator[None], steps: int) -> None:
    for _ in range(steps):
        next(loop)


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()
