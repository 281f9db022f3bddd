"""What is measured while a run trains, its file of readings, and signals that stop it between steps."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flops_fit.peaks import find_peak
from flops_fit.records import Experiment, finite_json
from flops_fit.trackers.tracker import Tracker
from flops_fit.train.precision import Precision


def peak_of(name: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a device in the numbers of ``precision``; ``None`` if it is not listed.

    ``name`` is what ``torch.cuda.get_device_name`` returns.

    Examples
    --------
    >>> peak_of("NVIDIA A100-SXM4-80GB", Precision("bf16"))
    312000000000000.0
    >>> peak_of("NVIDIA A100-SXM4-40GB MIG 1g.5gb", Precision("bf16")) is None
    True
    """
    peak = find_peak(name)
    if peak is None:
        return None
    fp32 = peak.tf32 if precision.tf32 else peak.fp32
    rate = peak.bf16 if precision.name == "bf16" else fp32
    return None if rate is None else rate * 1e12


def device_peak(device: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a torch device; ``None`` for CPUs and for devices that are not listed."""
    if not device.startswith("cuda"):
        return None
    import torch

    return peak_of(torch.cuda.get_device_name(device), precision)


@dataclass
class Throughput:
    """Units per second, and the model FLOPs utilisation (Chowdhery et al. 2022, appendix B).

    MFU is the FLOPs that the model's passes need over those that the device could have done in the
    time: F·D/(seconds·peak) with F as the plan counts it. Counted on the traced model, attention
    is counted in full and recomputed activations are not.

    Attributes
    ----------
    flops_per_step
        Training FLOPs of one step.
    peak
        FLOP/s of all devices of the run together, ``None`` if not known.

    Examples
    --------
    >>> throughput = Throughput(flops_per_step=64e9, peak=1e12)
    >>> throughput.since_last(step=1, units=64, seconds=0.5)
    {'units_per_second': 128.0, 'mfu': 0.128}
    """

    flops_per_step: float = 0.0
    peak: float | None = None
    _last: tuple[int, int, float] = field(default=(0, 0, 0.0), init=False)

    def begin(self, step: int, units: int, seconds: float) -> None:
        """Set the totals that the next reading is compared with."""
        self._last = step, units, seconds

    def since_last(self, step: int, units: int, seconds: float) -> dict[str, Any]:
        """The throughput since the last reading, from the totals up to this one."""
        last_step, last_units, last_seconds = self._last
        self.begin(step, units, seconds)
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
    """``metrics.jsonl`` in a run's folder; :meth:`Tracker.log` says what is in a line.

    A line is written whole and at once. When a run continues, a torn last line is dropped, and so
    are lines of steps that will be repeated.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        self._path, self._after = folder / "metrics.jsonl", after

    def start(self, experiment: Experiment) -> None:
        """Keep what an earlier attempt left, up to the step that the run continues from."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for line in self._lines() if line["step"] <= self._after]
        with self._path.open("w", encoding="utf-8") as handle:
            handle.writelines(map(_text, lines))

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if isinstance(values, dict) and isinstance(values.get("step"), int):
                lines.append(values)
        return lines

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """Append one reading."""
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(_text(values))


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(finite_json(values), allow_nan=False) + "\n"


class Interruption:
    """A context in which SIGINT and SIGTERM are noted instead of ending the process.

    A run then ends after the step it is in. Signals reach only the main thread; elsewhere nothing
    changes. A signal that is ignored stays ignored. A second SIGINT raises KeyboardInterrupt at
    once, for steps that take too long.

    Attributes
    ----------
    signal
        The number of the signal that came; 0 for none.
    """

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
