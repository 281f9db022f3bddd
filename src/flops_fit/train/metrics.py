"""Asked to stop, a run ends after the step it is in, so that nothing is half done."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flops_fit.records import Experiment, finite_json
from flops_fit.trackers.tracker import Tracker


class Metrics(Tracker):
    """``metrics.jsonl`` in a run's folder; :meth:`Tracker.log` says what is in a line.

    A line is written whole and at once; the last one of a killed run may be torn and is dropped
    when the run goes on, as are lines of steps that will be made again.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        self._path, self._after = folder / "metrics.jsonl", after

    def start(self, experiment: Experiment) -> None:
        """Keep what an earlier attempt left, up to the step that the run goes on from."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in self._lines() if line["step"] <= self._after]
        with self._path.open("w", encoding="utf-8") as handle:
            handle.writelines(_text(line) for line in kept)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if isinstance(values, dict) and isinstance(values.get("step"), int):
                found.append(values)
        return found

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """Append one reading."""
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(_text(values))


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(finite_json(values), allow_nan=False) + "\n"


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which SIGINT and SIGTERM are noted instead of ending the process.

    Only the main thread hears signals; elsewhere nothing changes. A signal that is ignored stays
    ignored. A second SIGINT raises KeyboardInterrupt at once, for steps that take too long.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    @property
    def asked(self) -> int:
        """The number of the signal that asked to stop; 0 where none did."""
        return self._asked

    def obey(self, number: int) -> NoReturn:
        """End as the signal would have: KeyboardInterrupt, or exit 128 + its number."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
