"""Where a sweep stands, in numbers."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flops_fit.records import Experiment, Run
from flops_fit.train.trainer import Progress
from flops_fit.trunks import own_flops, shared_steps

_LEAST = 5.0  # seconds before anything is said
_WINDOW = 30.0  # seconds that are looked back at least


class Rate:
    """Work a second over the later half of the time so far, and over half a minute at least.

    A sweep starts with its dearest runs and ends with cheap ones of another speed, so all the time
    there was says too little of what is to come. Tasks that never say how far they are do their work
    in leaps; a window that grows keeps those within a factor of two.

    Parameters
    ----------
    now
        When the work begins, in seconds of any clock.
    work
        What is done by then, which is not counted.

    Examples
    --------
    >>> rate = Rate(now=100.0)
    >>> rate.add(now=110.0, work=50.0)
    >>> rate.at(now=110.0, work=50.0)
    5.0
    """

    def __init__(self, now: float, work: float = 0.0) -> None:
        self._start = now
        self._samples = deque([(now, work)])

    def add(self, now: float, work: float) -> None:
        """All that is done by a time; a few hundred of them are kept."""
        if now - self._samples[-1][0] > max(0.5, (now - self._start) / 200):
            self._samples.append((now, work))
        since = now - max(_WINDOW, (now - self._start) / 2)
        while len(self._samples) > 1 and self._samples[1][0] <= since:
            self._samples.popleft()

    def at(self, now: float, work: float) -> float | None:
        """Work a second; ``None`` before there is enough to say."""
        then, before = self._samples[0]
        if now - self._start < _LEAST or work <= before:
            return None
        return (work - before) / (now - then)


_OPEN = frozenset({"waiting", "running", "elsewhere"})


@dataclass(frozen=True)
class Going:
    """A run that goes on here."""

    label: str
    unit: str
    share: float  # of its steps
    loss: float  # NaN before its first step
    speed: float | None  # units a second


@dataclass(frozen=True)
class Standing:
    """A sweep at one instant.

    ``states`` counts runs: waiting, running, elsewhere, and what became of those that have ended.
    ``spent`` and ``planned`` are FLOPs, what runs of one trunk share counted once. ``rate`` is in
    FLOP/s and ``left`` in seconds, both ``None`` before there is enough to say.
    """

    states: Mapping[str, int]
    retries: int
    going: tuple[Going, ...]
    label_width: int
    spent: float
    planned: float
    rate: float | None
    elapsed: float
    left: float | None

    @property
    def runs(self) -> int:
        """All of them."""
        return sum(self.states.values())

    @property
    def ended(self) -> int:
        """Those that have come to an end, good or bad."""
        return sum(n for state, n in self.states.items() if state not in _OPEN)

    @property
    def share(self) -> float:
        """Of the planned FLOPs those that are spent."""
        return min(self.spent / self.planned, 1.0) if self.planned else 1.0


class Board:
    """The standing of every run; safe to be read while another thread writes.

    Parameters
    ----------
    experiments
        All runs of the sweep.
    finished
        Those that are there already: done, but no sign of speed.
    now
        In seconds of any clock.
    """

    def __init__(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], now: float
    ) -> None:
        self._lock = threading.Lock()
        self._experiments = {e.id: e for e in experiments}
        self._own = own_flops(experiments)
        self._shared = shared_steps(experiments)
        self._states = dict.fromkeys(self._experiments, "waiting")
        self._share = dict.fromkeys(self._experiments, 0.0)
        self._going: dict[str, Progress | None] = {}
        self._label_width = max((len(e.label) for e in experiments), default=0)
        self._open = len(self._experiments)
        self._retries = 0
        self._work = 0.0
        self._rate = Rate(now)
        for run in finished:
            self._states[run.experiment.id] = run.state
            self._share[run.experiment.id] = self._share_of(run)
            self._open -= 1

    def progress(self, progress: Progress, now: float) -> None:
        """A run has come this far. What it found of an earlier attempt is no sign of speed."""
        key = progress.experiment_id
        with self._lock:
            if self._states.get(key) not in _OPEN:
                return  # said on its way here, and overtaken by the end of its run
            self._states[key] = "running"
            found = math.isnan(progress.loss) and progress.units_per_second is None
            if found and not progress.step:
                self._going.setdefault(key, None)
                return
            self._going[key] = progress
            before = self._shared[key]
            share = max((progress.step - before) / (progress.steps - before), 0.0)
            fresh = not self._work
            if not found:
                self._work += self._own[key] * (share - self._share[key])
            self._share[key] = share
            if fresh and self._work and progress.step < progress.steps:
                self._rate = Rate(now, self._work)  # imports and compilation are behind it
            self._rate.add(now, self._work)

    def moved(self, experiment: Experiment, to: str) -> None:
        """A run waits, is made elsewhere, or was lost and waits again."""
        with self._lock:
            self._retries += to == "lost"
            self._states[experiment.id] = "elsewhere" if to == "elsewhere" else "waiting"
            self._going.pop(experiment.id, None)

    def ended(self, run: Run, now: float) -> None:
        """A run has ended."""
        key = run.experiment.id
        with self._lock:
            share = self._share_of(run)
            if self._states[key] != "elsewhere":
                self._work += self._own[key] * (share - self._share[key])
            self._open -= self._states[key] in _OPEN
            self._states[key], self._share[key] = run.state, share
            self._going.pop(key, None)
            self._rate.add(now, self._work)

    @property
    def over(self) -> bool:
        """Whether every run has ended."""
        return not self._open

    def stop(self) -> None:
        """What goes on here is given up."""
        with self._lock:
            for key in self._going:
                self._states[key] = "stopped"
            self._going.clear()

    def standing(self, now: float, since: float) -> Standing:
        """Where the sweep is now, having begun at ``since``."""
        with self._lock:
            self._rate.add(now, self._work)
            rate = self._rate.at(now, self._work)
            ahead = sum(
                self._own[i] * (1 - self._share[i])
                for i, state in self._states.items()
                if state in ("waiting", "running")
            )
            return Standing(
                states=Counter(self._states.values()),
                retries=self._retries,
                going=tuple(self._row(i, said) for i, said in self._going.items()),
                label_width=self._label_width,
                spent=sum(self._own[i] * share for i, share in self._share.items()),
                planned=sum(self._own.values()),
                rate=rate,
                elapsed=now - since,
                left=ahead / rate if rate and ahead else None,
            )

    def _row(self, key: str, said: Progress | None) -> Going:
        experiment = self._experiments[key]
        if said is None:
            return Going(experiment.label, experiment.unit, 0.0, math.nan, None)
        share = said.step / said.steps
        return Going(experiment.label, experiment.unit, share, said.loss, said.units_per_second)

    def _share_of(self, run: Run) -> float:
        """Of its own FLOPs; all where it completed, else what it says or what was last heard."""
        if run.state == "completed":
            return 1.0
        key = run.experiment.id
        return max(self._share[key], min(run.flops_spent / self._own[key], 1.0))
