"""What ends a run before its last step: divergence, and signals."""

from __future__ import annotations

import copy
import math
import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from statistics import median
from types import FrameType
from typing import Any, NoReturn

from flops_fit.checks import check_number
from flops_fit.errors import InputError

_HALF_LIFE = 0.02  # of the run's steps: long compared with a reading, short compared with the run
_PATIENCE = 0.2  # of the run's steps: a run may recover from a rate that is too high at its peak
_MIN_STEPS = 10  # of either, in the shortest runs
_MARGIN = 0.1  # of the loss at the start: it comes from few batches and is noisy
_WINDOW = 50  # readings that a spike is compared with
_MIN_READINGS = 8  # for a median
_RIPPLE = 1e-3  # of the median: smaller rises are no spikes however flat the loss is
_MAD_TO_SD = 1.4826  # standard deviation of a normal law over its median absolute deviation
_Q90_TO_SD = 1 / 1.2816  # and over the distance from its median to its 90 % quantile
_MEDIAN_SE = 1.2533  # standard error of a median over sd/√n
_MAX_SPIKES = 100  # kept one by one; all are counted


@dataclass
class MonitorState:
    """All that a monitor remembers, as plain values."""

    step: int = 0
    start: float | None = None
    smoothed: float | None = None
    lowest: float | None = None
    first: list[float] = field(default_factory=list)
    margin: float = 0.0
    above: int = 0
    reason: str = ""
    recent: list[float] = field(default_factory=list)
    spikes: list[list[float]] = field(default_factory=list)
    spike_count: int = 0
    grad_steps: int = 0
    grad_mean: float = 0.0
    grad_max: float = 0.0


class DivergenceMonitor:
    """Follows the training loss of one run by its readings, means over the steps since the last.

    A run has diverged when a reading or a gradient norm is not finite, or when the smoothed loss stays a
    tenth above its start (the median of the first readings, plus three standard errors) for a share
    ``patience`` of the ``steps``. A spike, over ``spike`` standard deviations, is only recorded.
    """

    def __init__(self, steps: int, *, spike: float = 6.0, patience: float = _PATIENCE) -> None:
        check_number("steps", steps, at_least=1, infinite=True)
        check_number("spike", spike, above=0, infinite=True)
        check_number("patience", patience, above=0, at_most=1)
        self.half_life = max(_MIN_STEPS, _HALF_LIFE * steps)
        self.patience = max(_MIN_STEPS, patience * steps)
        self.spike = spike
        self.state = MonitorState()

    def observe(self, step: int, loss: float, grad_norm: float | None = None) -> str:
        """Take one reading after ``step`` steps; the reason why the run has diverged, if it has."""
        state = self.state
        if not step > state.step:
            raise InputError(f"step: expected one after the last, {state.step}; got {step!r}.")
        steps, state.step = step - state.step, step
        loss = float(loss)
        if state.reason:
            return state.reason
        if not math.isfinite(loss):
            state.reason = f"training loss {loss:g} by step {step}"
        elif grad_norm is not None and not math.isfinite(grad_norm):
            state.reason = f"gradient norm {float(grad_norm):g} by step {step}"
        else:
            if grad_norm is not None:
                norm = float(grad_norm)
                state.grad_steps += steps
                state.grad_mean += (norm - state.grad_mean) * steps / state.grad_steps
                state.grad_max = max(state.grad_max, norm)
            self._add_spike(step, loss)
            self._add_level(step, loss, steps)
        return state.reason

    @property
    def spikes(self) -> list[tuple[int, float]]:
        """The first hundred spikes, (step, loss)."""
        return [(int(step), loss) for step, loss in self.state.spikes]

    @property
    def has_risen(self) -> bool:
        """Whether the run has diverged by a level above its start, not by a number that is not finite."""
        return self.state.above >= self.patience

    def dismiss(self) -> None:
        """Take the present level for the start, where other evidence says that it is not above it."""
        self.state.start, self.state.margin = self.state.smoothed, 0.0
        self.state.above, self.state.reason = 0, ""

    def save(self) -> dict[str, Any]:
        """All it remembers, as plain values fit for JSON and for a checkpoint."""
        return asdict(self.state)

    def load(self, saved: Mapping[str, Any]) -> None:
        """Continue from what :meth:`save` returned."""
        names = {f.name for f in fields(MonitorState)}
        if set(saved) != names:
            raise InputError(
                "monitor: expected what DivergenceMonitor.save returned; got other names, "
                f"{sorted(set(saved) ^ names)}. The checkpoint is of another version: start again."
            )
        self.state = MonitorState(**copy.deepcopy(dict(saved)))

    def _add_level(self, step: int, loss: float, steps: int) -> None:
        """Smooth the loss, and count the steps for which it lies above its start."""
        s = self.state
        if s.start is None or s.smoothed is None or s.lowest is None:
            s.first = [loss]
            s.start = s.smoothed = s.lowest = loss
            return
        if step <= self.half_life and len(s.first) < _WINDOW:
            s.first = [*s.first, loss]
            s.start = median(s.first)
            sd = _MAD_TO_SD * median(abs(value - s.start) for value in s.first)
            s.margin = 3 * _MEDIAN_SE * sd / math.sqrt(len(s.first))
        old = 2.0 ** (-steps / self.half_life)
        s.smoothed = old * s.smoothed + (1 - old) * loss
        s.lowest = min(s.lowest, s.smoothed)
        bound = s.start + _MARGIN * abs(s.start) + s.margin
        s.above = s.above + steps if s.smoothed > bound else 0
        if s.above >= self.patience:
            s.reason = f"training loss rose from {s.start:.4g} to {s.smoothed:.4g} by step {step}"

    def _add_spike(self, step: int, loss: float) -> None:
        s = self.state
        if len(s.recent) >= _MIN_READINGS:
            middle = median(s.recent)
            spread = max(
                _MAD_TO_SD * median(abs(value - middle) for value in s.recent),
                _Q90_TO_SD * (sorted(s.recent)[int(0.9 * (len(s.recent) - 1))] - middle),
            )
            if loss > middle + self.spike * max(spread, _RIPPLE * abs(middle)):
                s.spike_count += 1
                if len(s.spikes) < _MAX_SPIKES:
                    s.spikes.append([step, loss])
        # A spike enters the window too: it hardly moves the median, and a new level becomes usual.
        s.recent = [*s.recent, loss][-_WINDOW:]


class Interruption:
    """Stores SIGINT or SIGTERM in ``signal`` instead of ending, unless ignored; a second SIGINT raises."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


def end_by(number: int) -> NoReturn:
    """End as a signal would have: KeyboardInterrupt, or exit with 128 + its number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
