"""A run's training curve on disk: one line for each reading of the loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.records import Experiment, finite_json
from flops_fit.track import Tracker

__all__ = ["Metrics"]


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
