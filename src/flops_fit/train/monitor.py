"""What is watched of a run: speed, readings, held-out loss, gradient noise, and what ends it early."""

from __future__ import annotations

import copy
import json
import math
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from flops_fit import rng
from flops_fit.data.spec import DataSpec
from flops_fit.distributed import ALONE, Ranks
from flops_fit.flops.functions import Floats
from flops_fit.lazy import nn, torch
from flops_fit.objective import Evaluator, Objective
from flops_fit.records import Experiment, finite_json
from flops_fit.trackers.tracker import Tracker

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
_SPIKE = 6.0  # standard deviations above the median
_MAX_SPIKES = 100


@dataclass
class MonitorState:
    """All that a monitor remembers, as plain values."""

    step: int = 0
    start: float | None = None
    smoothed: float | None = None
    first: list[float] = field(default_factory=list)
    margin: float = 0.0
    above: int = 0
    reason: str = ""
    recent: list[float] = field(default_factory=list)
    spikes: list[list[float]] = field(default_factory=list)


class DivergenceMonitor:
    """Follows the training loss of one run by its readings, means over the steps since the last.

    A run has diverged when a reading or a gradient norm is not finite, or when the smoothed loss stays a
    tenth above its start (the median of the first readings, plus three standard errors) for a fifth of the
    ``steps``. A spike, over six standard deviations, is only recorded.
    """

    def __init__(self, steps: int) -> None:
        self.half_life = max(_MIN_STEPS, _HALF_LIFE * steps)
        self.patience = max(_MIN_STEPS, _PATIENCE * steps)
        self.state = MonitorState()

    def observe(self, step: int, loss: float, grad_norm: float = 0.0) -> str:
        """Take one reading after ``step`` steps; the reason why the run has diverged, if it has."""
        state = self.state
        steps, state.step = step - state.step, step
        if state.reason:
            return state.reason
        if not math.isfinite(loss):
            state.reason = f"training loss {loss:g} by step {step}"
        elif not math.isfinite(grad_norm):
            state.reason = f"gradient norm {grad_norm:g} by step {step}"
        else:
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
        self.state = MonitorState(**copy.deepcopy(dict(saved)))

    def _add_level(self, step: int, loss: float, steps: int) -> None:
        """Smooth the loss, and count the steps for which it lies above its start."""
        s = self.state
        if s.start is None or s.smoothed is None:
            s.first = [loss]
            s.start = s.smoothed = loss
            return
        if step <= self.half_life and len(s.first) < _WINDOW:
            s.first = [*s.first, loss]
            s.start = median(s.first)
            sd = _MAD_TO_SD * median(abs(value - s.start) for value in s.first)
            s.margin = 3 * _MEDIAN_SE * sd / math.sqrt(len(s.first))
        old = 2.0 ** (-steps / self.half_life)
        s.smoothed = old * s.smoothed + (1 - old) * loss
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
            limit = middle + _SPIKE * max(spread, _RIPPLE * abs(middle))
            if loss > limit and len(s.spikes) < _MAX_SPIKES:
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


_DRAW_SEED, _DRAW_STEP = 1 << 16, 1 << 20  # torch's generator of a CPU takes 32 bits
_DRAWN = 8_192  # samples with random numbers of their own: a held-out loss is a mean of so many
_MOST_DRAWS = 32
_MIN_BATCHES = 32  # that the held-out set is cut into, to see how they vary


@dataclass
class Throughput:
    """Units per second and MFU, F·D/(seconds·peak) (Chowdhery et al. 2022), ``peak`` of all devices."""

    flops_per_step: float = 0.0
    peak: float | None = None
    _last: tuple[int, int, float] = field(default=(0, 0, 0.0), init=False)

    def since_last(self, step: int, units: int, seconds: float) -> dict[str, Any]:
        """The throughput since the last reading, from the totals up to this one."""
        last_step, last_units, last_seconds = self._last
        self._last = step, units, seconds
        passed = seconds - last_seconds
        return {
            "units_per_second": (units - last_units) / passed if passed > 0 else 0.0,
            "mfu": self.mfu(step - last_step, passed),
        }

    def mfu(self, steps: int, seconds: float) -> float | None:
        """The utilisation over so many steps and seconds; ``None`` without a known peak."""
        if self.peak is None or seconds <= 0:
            return None
        return steps * self.flops_per_step / (seconds * self.peak)


class Metrics(Tracker):
    """``metrics.jsonl`` in a run's folder; each line is written whole and at once."""

    def __init__(self, folder: Path, after: int = 0) -> None:
        self._path, self._after = folder / "metrics.jsonl", after

    def start(self, experiment: Experiment) -> None:
        """Drop a torn line, and those after the step that the run continues from."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        there = self._path.exists()
        text = self._path.read_text(encoding="utf-8", errors="replace") if there else ""
        with self._path.open("w", encoding="utf-8") as handle:
            for line in text.splitlines():
                with suppress(ValueError, KeyError, TypeError, RecursionError):  # it is torn
                    values = json.loads(line)
                    if values["step"] <= self._after:
                        handle.write(_line(values))

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """Append one reading."""
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(_line(values))


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(finite_json(values), allow_nan=False) + "\n"


def evaluate(
    model: nn.Module,
    held_out: DataSpec,
    objective: Objective,
    device: str,
    batch_size: int,
    ranks: Ranks = ALONE,
    exactly: bool = False,
) -> tuple[float, float]:
    """Mean held-out loss over all units, and its standard error over batches; ranks share the batches.

    What draws random numbers has the same ones for any weights, and several sets of them. With ``exactly``
    each batch has ``batch_size`` samples, and a shorter one at the end is left out.
    """
    length = held_out.size or held_out.take or 0
    if held_out.size is not None and not exactly:
        batch_size = max(1, min(batch_size, length // _MIN_BATCHES))
    last = length // batch_size if exactly and length >= batch_size else sys.maxsize
    parts: list[tuple[int, float, float]] = []
    ranks.broadcast_tensors(list(model.buffers()))
    was_training = model.training
    model.eval()
    judge = Evaluator(model, objective, device)
    draws, done = 1, 0
    with rng.kept(device):
        while done < draws:
            batches = held_out.in_order(batch_size, ranks.rank, ranks.size)
            for index, batch in zip(range(ranks.rank, last, ranks.size), batches, strict=False):
                if objective.has_units(batch):
                    key = _DRAW_SEED + done * _DRAW_STEP + index
                    parts.append((index, *judge(batch, key)))
            if not done and any(ranks.all_reduce_max(bool(judge.draws))):
                draws = min(max(2, math.ceil(_DRAWN / (length or _DRAWN))), _MOST_DRAWS)
            done += 1
    model.train(was_training)
    gathered = [part for own in ranks.all_gather(parts) for part in own]
    batch_of, sums, counts = np.array(gathered, dtype=float).reshape(-1, 3).T
    if draws > 1:  # the mean of each batch: its draws are no batches of their own
        same = np.unique(batch_of, return_inverse=True)[1]
        sums, counts = np.bincount(same, sums) / draws, np.bincount(same, counts) / draws
    return ratio_standard_error(sums, counts)


def ratio_standard_error(sums: Floats, counts: Floats) -> tuple[float, float]:
    """The ratio of two totals and its standard error over their m parts (Cochran 1977, eq. 6.13)."""
    m, total = len(counts), counts.sum()
    if total <= 0:
        return math.nan, math.nan
    ratio = float(sums.sum() / total)
    if m == 1:
        return ratio, math.nan
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that has diverged
        spread = float(np.sum((sums - ratio * counts) ** 2) * m / (m - 1))
    return ratio, math.sqrt(spread) / float(total)


def noise_scale_of(
    norms: Iterable[tuple[float, float]], whole: tuple[float, float]
) -> float | None:
    """B_simple = tr(Σ)/|G|² from (units, |g|²) of small batches and of all; ``None`` if |G|² ≤ 0.

    From E|g_B|² = |G|² + tr(Σ)/B (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1).
    """
    small = [(units, square) for units, square in norms if units > 0]
    if len(small) < 2:
        return None
    b = math.fsum(u for u, _ in small) / len(small)
    square = math.fsum(s for _, s in small) / len(small)
    B, all_square = whole
    gradient = (B * all_square - b * square) / (B - b)
    noise = (square - all_square) / (1 / b - 1 / B)
    if not (gradient > 0 and noise >= 0 and math.isfinite(noise)):
        return None
    return round(noise / gradient, 9)


def noise_scale(model: nn.Module, objective: Objective, batches: Iterable[Any]) -> float | None:
    """The gradient noise scale at these batches, in units; the model's gradients stay empty."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    summed: list[torch.Tensor] | None = None
    norms: list[tuple[float, float]] = []
    was_training = model.training
    model.eval()  # dropout is not noise of the data
    try:
        for batch in batches:
            if not objective.has_units(batch):
                continue
            total, count = objective(model, batch)
            units = float(count)
            sums = list(torch.autograd.grad(total, parameters, materialize_grads=True))
            norms.append((units, _square(sums) / units**2))
            summed = sums if summed is None else [a + g for a, g in zip(summed, sums, strict=True)]
    finally:
        model.train(was_training)
    if summed is None:
        return None
    units = math.fsum(u for u, _ in norms)
    return noise_scale_of(norms, (units, _square(summed) / units**2))


def _square(gradients: list[torch.Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(gradients)).double().square().sum())
