"""What a tracker is, how a run calls its trackers, and whether one can be used."""

from __future__ import annotations

import copy
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from flops_fit import rng
from flops_fit.checks import check_choice
from flops_fit.errors import InputTypeError
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line


class Tracker(Protocol):
    """Follows each run of a sweep: opens a record, takes readings, closes it.

    Inherit from it and write the methods you need; or give any object that has all four. Each run
    calls ``start``, then ``log`` some times, then either ``finish`` or ``fail``. A run that resumes
    from a checkpoint calls ``start`` again with the same ``experiment.id``, and steps may come twice; a
    run that is already finished, or a process that is killed, calls nothing.

    *Where it works.* In the process that trains, of which each has its own copy: a tracker has to be
    picklable before its first ``start``, where it opens files and connections.

    *What it cannot do.* It gets copies, so nothing it changes reaches the run. Draws from the
    global generators of torch, NumPy and Python are undone. A method that raises ends the tracking
    of that run, and the run's ``notes`` say so. KeyboardInterrupt and SystemExit end the run. Not
    guarded against: a method that hangs, threads that draw random numbers, other global state.

    Examples
    --------
    >>> class Printed(Tracker):
    ...     def finish(self, run):
    ...         print(f"{run.experiment.label}: {run.loss:.3f}")
    """

    def start(self, experiment: Experiment) -> None:
        """A run begins, or goes on, before its model is built."""
        return  # a body that is empty would make the method abstract to type checkers

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """A reading, at most twice a second; the last step always has one.

        Parameters
        ----------
        values
            A line of ``metrics.jsonl``: ``step``; ``units`` seen; means of ``loss`` and
            ``gradient_norm``, ``units_per_second`` and ``mfu`` (or ``None``) since the last reading;
            ``rate``, the learning rate; ``seconds`` in steps, over all attempts.
        """
        return

    def finish(self, run: Run) -> None:
        """The run is complete: it has its held-out loss."""
        return

    def fail(self, run: Run) -> None:
        """The run ended in another ``run.state``, for ``run.reason``; a preempted one may go on later."""
        return


_ERROR_CHARACTERS = 300  # some services answer with a page


class Tracking:
    """Passes what happens to one run on to its trackers; drops those that raise, with a note."""

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
        """Pass on how the run ended; return it with a note for each tracker that failed."""
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
                f"tracker {type(tracker).__name__} failed in {method}() and was dropped for this "
                f"run: {error_line(error)[:_ERROR_CHARACTERS]}"
            )


_ARGUMENTS = {
    "start": ["experiment"],
    "log": ["experiment", "values"],
    "finish": ["run"],
    "fail": ["run"],
}
_NAMED = {
    "mlflow": "mlflow:MLflowTracker",
    "tensorboard": "tensorboard:TensorBoardTracker",
    "trackio": "wandb:TrackioTracker",
    "wandb": "wandb:WandbTracker",
}


def check_trackers(trackers: Any) -> tuple[Tracker, ...]:
    """The trackers as a tuple, those given by name made with their defaults.

    Raises
    ------
    InputError, InputTypeError, MissingExtraError
        A name is not known; something is no tracker that can be pickled; a package is missing.
    """
    if isinstance(trackers, str):
        trackers = [trackers]
    if not isinstance(trackers, list | tuple):
        raise InputTypeError(
            f"trackers: expected a list of trackers; got {type(trackers).__name__}. Put a single one "
            "into a list: trackers=[tracker]."
        )
    return tuple(_checked(tracker, f"trackers[{i}]") for i, tracker in enumerate(trackers))


def _checked(tracker: Any, name: str) -> Tracker:
    """A usable tracker, made where it is given by name."""
    if isinstance(tracker, str):
        check_choice(name, tracker, _NAMED)
        tracker = pkgutil.resolve_name(f"flops_fit.trackers.{_NAMED[tracker]}")()
    if isinstance(tracker, type):
        own = tracker.__name__
        raise InputTypeError(
            f"{name}: expected a tracker; got the class {own}. Make one: {own}(...)."
        )
    kind = type(tracker).__name__
    missing = [m for m in _ARGUMENTS if not callable(getattr(tracker, m, None))]
    if missing:
        raise InputTypeError(
            f"{name}: expected an object with the methods {', '.join(_ARGUMENTS)}; {kind} lacks "
            f"{', '.join(missing)}. Inherit from flops_fit.trackers.Tracker, which has them all."
        )
    for method, arguments in _ARGUMENTS.items():
        try:
            signature = inspect.signature(getattr(tracker, method))
        except (TypeError, ValueError):  # code without a signature fails when it is called
            continue
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise InputTypeError(
                f"{name}: expected {kind}.{method}({', '.join(arguments)}); it takes {signature} "
                f"({error}). Change its arguments."
            ) from None
    try:
        import cloudpickle
    except ImportError:  # then no executor can send it anywhere
        return tracker  # type: ignore[no-any-return]
    try:
        cloudpickle.dumps(tracker)
    except Exception as error:  # pickling runs the user's code
        raise InputTypeError(
            f"{name}: expected a tracker that can be pickled, as workers get copies; {kind} cannot "
            f"({error_line(error)}). Open files and connections in start()."
        ) from error
    return tracker  # type: ignore[no-any-return]
