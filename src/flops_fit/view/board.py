"""The state of a sweep in numbers."""

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flops_fit.forecasting import Forecast
from flops_fit.records import Experiment, Run, own_flops, shared_steps
from flops_fit.train.trainer import Progress

_MIN_SECONDS = 5.0  # before a rate is given
_WINDOW_SECONDS = 30.0  # over which a rate is taken, at least
_OPEN = frozenset({"waiting", "running", "elsewhere"})


class Rate:
    """Work per second over the later half of the time so far, and over half a minute at least."""

    def __init__(self, now: float, work: float = 0.0) -> None:
        self._start = now
        self._samples = deque([(now, work)])

    def add(self, now: float, work: float) -> None:
        """All work done by a time; a few hundred samples are kept."""
        if now - self._samples[-1][0] > max(0.5, (now - self._start) / 200):
            self._samples.append((now, work))
        since = now - max(_WINDOW_SECONDS, (now - self._start) / 2)
        while len(self._samples) > 1 and self._samples[1][0] <= since:
            self._samples.popleft()

    def at(self, now: float, work: float) -> float | None:
        """Work per second; ``None`` in the first seconds."""
        then, before = self._samples[0]
        if now - self._start < _MIN_SECONDS or work <= before:
            return None
        return (work - before) / (now - then)


@dataclass(frozen=True)
class Snapshot:
    """A sweep at one instant."""

    states: Mapping[str, int]  # runs that wait, run, are made elsewhere, or have ended so
    retries: int
    running: tuple[tuple[Experiment, Progress], ...]  # and how far each is
    label_width: int
    spent: float  # FLOPs; what runs of one trunk share counts once
    planned: float
    rate: float | None  # FLOP/s, once known
    elapsed: float  # seconds
    left: float | None
    completed: tuple[Experiment, ...] = ()
    ends: Mapping[str, Forecast] = field(default_factory=dict)  # by id, of running runs

    @property
    def runs(self) -> int:
        """All runs."""
        return sum(self.states.values())

    @property
    def ended(self) -> int:
        """The runs that have ended, whether completed or not."""
        return sum(n for state, n in self.states.items() if state not in _OPEN)

    @property
    def share(self) -> float:
        """The spent share of the planned FLOPs."""
        return min(self.spent / self.planned, 1.0) if self.planned else 1.0


class Board:
    """The state of every run, for several threads; ``finished`` runs say nothing of the speed."""

    def __init__(
        self, experiments: Sequence[Experiment], finished: Sequence[Run], now: float
    ) -> None:
        self._lock = threading.Lock()
        self._experiments = {e.id: e for e in experiments}
        self._own = own_flops(experiments)
        self._shared = shared_steps(experiments)
        self._states = dict.fromkeys(self._experiments, "waiting")
        self._share = dict.fromkeys(self._experiments, 0.0)
        self._running: dict[str, Progress] = {}
        self._label_width = max((len(e.label) for e in experiments), default=0)
        self._retries = 0
        self._work = 0.0
        self._rate = Rate(now)
        for run in finished:
            self._states[run.experiment.id] = run.state
            self._share[run.experiment.id] = self._share_of(run)

    def progress(self, progress: Progress, now: float) -> None:
        """A run has come this far. The steps of an earlier attempt do not count as speed."""
        key = progress.experiment_id
        with self._lock:
            if self._states.get(key) not in _OPEN:
                return  # it arrives after the end of its run
            self._states[key] = "running"
            resumed = math.isnan(progress.loss) and progress.units_per_second is None
            if resumed and not progress.step:
                self._running.setdefault(key, progress)
                return
            self._running[key] = progress
            before = self._shared[key]
            share = max((progress.step - before) / (progress.steps - before), 0.0)
            is_first = not self._work
            if not resumed:
                self._work += self._own[key] * (share - self._share[key])
            self._share[key] = share
            if is_first and self._work and progress.step < progress.steps:
                self._rate = Rate(now, self._work)  # imports and compilation are over
            self._rate.add(now, self._work)

    def moved(self, experiment: Experiment, to: str) -> None:
        """A run waits, is made elsewhere, or was lost and waits again."""
        with self._lock:
            self._retries += to == "lost"
            self._states[experiment.id] = "elsewhere" if to == "elsewhere" else "waiting"
            self._running.pop(experiment.id, None)

    def ended(self, run: Run, now: float) -> None:
        """A run has ended."""
        key = run.experiment.id
        with self._lock:
            share = self._share_of(run)
            if self._states[key] != "elsewhere":
                self._work += self._own[key] * (share - self._share[key])
            self._states[key], self._share[key] = run.state, share
            self._running.pop(key, None)
            self._rate.add(now, self._work)

    def stop(self) -> None:
        """The running runs were stopped."""
        with self._lock:
            self._states |= dict.fromkeys(self._running, "stopped")
            self._running.clear()

    def snapshot(self, now: float, since: float) -> Snapshot:
        """The state of the sweep, which began at ``since``."""
        with self._lock:
            self._rate.add(now, self._work)
            rate = self._rate.at(now, self._work)
            todo = [i for i, state in self._states.items() if state in ("waiting", "running")]
            left = sum(self._own[i] * (1 - self._share[i]) for i in todo)
            spent = sum(self._own[i] * share for i, share in self._share.items())
            return Snapshot(
                Counter(self._states.values()), self._retries,
                running=tuple((self._experiments[i], p) for i, p in self._running.items()),
                label_width=self._label_width, spent=spent, planned=sum(self._own.values()),
                rate=rate, elapsed=now - since, left=left / rate if rate and left else None,
                completed=tuple(self._experiments[i] for i, s in self._states.items() if s == "completed"),
            )  # fmt: skip

    def _share_of(self, run: Run) -> float:
        """The share of its own FLOPs: all if it completed, else as recorded or last reported."""
        if run.state == "completed":
            return 1.0
        key = run.experiment.id
        return max(self._share[key], min(run.flops_spent / self._own[key], 1.0))
