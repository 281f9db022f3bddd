"""Which jobs are at which runs, in a file that outlives the driver."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Journal", "Known"]


@dataclass(frozen=True)
class Known:
    """A job that a driver has submitted, and its tasks."""

    id: str
    tasks: int


class Journal:
    """Experiment ids with their jobs, as JSON, replaced as a whole at each change.

    A file that cannot be read is taken for an empty one: at worst a run is submitted twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: dict[str, Known] = {}
        try:
            said: Any = json.loads(path.read_text(encoding="utf-8"))
            self._jobs = {str(k): Known(str(v[0]), int(v[1])) for k, v in said.items()}
        except (OSError, ValueError, AttributeError, TypeError, LookupError):
            return

    @property
    def jobs(self) -> Mapping[str, Known]:
        """The jobs that were not seen to their end, by the ids of their experiments."""
        return dict(self._jobs)

    def add(self, jobs: Mapping[str, tuple[str, int]]) -> None:
        """Remember jobs by the ids of their experiments."""
        self._jobs.update({k: Known(*v) for k, v in jobs.items()})
        self._save()

    def remove(self, experiment_id: str) -> None:
        """Forget the job of an experiment."""
        if self._jobs.pop(experiment_id, None) is not None:
            self._save()

    def _save(self) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.tmp")
        said = {k: [v.id, v.tasks] for k, v in self._jobs.items()}
        draft.write_text(json.dumps(said), encoding="utf-8")
        draft.replace(self._path)
