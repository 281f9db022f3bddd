"""The trackers of one run, kept from changing it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flops_fit.data import kept
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.track._tracker import Tracker

__all__ = ["Tracking"]

_LONGEST = 300  # characters of an error: some services answer with a page


class Tracking:
    """Passes what happens to one run on to its trackers, and drops those that raise.

    Attributes
    ----------
    notes
        Which tracker failed, at what and how; one line each.
    """

    def __init__(self, experiment: Experiment, trackers: Sequence[Tracker] = ()) -> None:
        self.notes: list[str] = []
        self._experiment = experiment
        self._trackers: list[Tracker] = []
        for tracker in trackers:
            self.join(tracker)

    def join(self, tracker: Tracker) -> None:
        """Start one more tracker."""
        self._trackers.append(tracker)
        self._call(tracker, "start", self._experiment)

    def log(self, values: Mapping[str, Any]) -> None:
        """Pass a reading on."""
        for tracker in list(self._trackers):
            self._call(tracker, "log", self._experiment, values)

    def end(self, run: Run) -> Run:
        """Tell how the run ended; the run, with a note for each tracker that failed."""
        for tracker in list(self._trackers):
            self._call(tracker, "finish" if run.state == "completed" else "fail", run)
        return replace(run, notes=(*run.notes, *self.notes))

    def _call(self, tracker: Tracker, method: str, *values: Any) -> None:
        try:
            with _generators_kept():
                getattr(tracker, method)(*copy.deepcopy(values))
        except Exception as error:  # trackers are the user's, and speak to services
            self._trackers = [other for other in self._trackers if other is not tracker]
            self.notes.append(
                f"tracker {type(tracker).__name__} failed in {method}() and heard no more of this "
                f"run: {error_line(error)[:_LONGEST]}"
            )


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Whatever is drawn inside, the generators of CPU and CUDA go on as they were."""
    import torch

    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    try:
        with kept():
            yield
    finally:
        if in_use:
            torch.cuda.set_rng_state_all(cuda)
