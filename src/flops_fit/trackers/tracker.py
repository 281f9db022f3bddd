"""The trackers of one run, kept from changing it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from flops_fit import rng
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line


class Tracker(Protocol):
    """Follows each run of a sweep: opens a record, takes readings, closes it.

    Inherit from it and write the methods you need, the others do nothing; or give any object that
    has all four. One run hears ``start``, then ``log`` some times, then either ``finish`` or
    ``fail``. A run that goes on from a checkpoint hears ``start`` again with the same
    ``experiment.id``, and steps may come twice; a run that is finished already hears nothing.

    *Where it works.* A tracker is used in the process that trains. In this process one object
    follows all runs, one after another; with ``executor="pool"`` every run has a copy of its own, as
    it was given to :func:`~flops_fit.find_optimal`. So it has to be picklable before its first
    ``start``: open files and connections there. What a copy collects in memory ends with its
    process: write it somewhere.

    *What it cannot do.* It gets copies, so nothing it changes reaches the run. What it draws from
    torch's, NumPy's and Python's global generators is taken back. Where a method raises, the tracker
    hears no more of that run, and the run's ``notes`` say so; the next run starts it anew.
    KeyboardInterrupt and SystemExit pass through and end the run. Not guarded against: a
    method that hangs, as training waits for it; threads of its own that draw random numbers; other
    state of the process, such as torch's default type. A process that is killed, or
    loses the one that started it, calls nothing.

    Examples
    --------
    >>> class Printed(Tracker):
    ...     def finish(self, run):
    ...         print(f"{run.experiment.label}: {run.loss:.3f}")
    """

    def start(self, experiment: Experiment) -> None:
        """A run begins, or goes on, before its model is built.

        ``experiment.label`` is a name to show, ``experiment.id`` one to find the run again by and
        ``experiment.to_dict()`` what it is made with.
        """
        return  # a body that is empty would make the method abstract to type checkers

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """A reading, twice a second at most; that of the last step comes always.

        Parameters
        ----------
        values
            The line that ``metrics.jsonl`` gets: ``step``; ``units`` seen; ``loss`` and
            ``gradient_norm``, means over the steps since the last reading; ``rate``, the
            learning rate; ``seconds`` in steps, over all attempts; ``units_per_second`` and ``mfu``
            since the last reading, ``mfu`` being ``None`` where the device's peak is not known.
        """
        return

    def finish(self, run: Run) -> None:
        """The run is complete: it has its held-out loss."""
        return

    def fail(self, run: Run) -> None:
        """The run ended otherwise; ``run.reason`` says why.

        ``run.state`` is ``"diverged"``, ``"oom"`` or ``"failed"``; ``"preempted"`` where it was
        interrupted and goes on from its checkpoint when the sweep is called again.
        """
        return


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
            with rng.kept("cpu"):
                getattr(tracker, method)(*copy.deepcopy(values))
        except Exception as error:  # trackers are the user's, and speak to services
            self._trackers = [other for other in self._trackers if other is not tracker]
            self.notes.append(
                f"tracker {type(tracker).__name__} failed in {method}() and heard no more of this "
                f"run: {error_line(error)[:_LONGEST]}"
            )
