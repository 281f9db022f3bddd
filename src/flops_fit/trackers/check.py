"""Whether what was given as trackers can be used, asked before anything is spent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flops_fit.checks import check_choice
from flops_fit.errors import InputTypeError
from flops_fit.text import error_line
from flops_fit.trackers.mlflow import MLflowTracker
from flops_fit.trackers.tensorboard import TensorBoardTracker
from flops_fit.trackers.tracker import Tracker
from flops_fit.trackers.trackio import TrackioTracker
from flops_fit.trackers.wandb import WandbTracker

_ARGUMENTS = {
    "start": ("experiment",),
    "log": ("experiment", "values"),
    "finish": ("run",),
    "fail": ("run",),
}
_NAMED: dict[str, Callable[[], Tracker]] = {
    "mlflow": MLflowTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
}


def check_trackers(trackers: Any) -> tuple[Tracker, ...]:
    """The trackers as a tuple, those given by name made with their defaults.

    Raises
    ------
    InputError
        A name is not known.
    MissingExtraError
        The package of a name is not installed.
    InputTypeError
        They are no list; one is a class, lacks a method, has one that takes other arguments, or
        cannot be pickled.
    """
    if isinstance(trackers, str):
        trackers = [trackers]
    if not isinstance(trackers, list | tuple):
        raise InputTypeError(
            f"trackers: expected a list of trackers; got {type(trackers).__name__}. "
            "Put a single one into a list: trackers=[tracker]."
        )
    made = tuple(_made(tracker, f"trackers[{i}]") for i, tracker in enumerate(trackers))
    for i, tracker in enumerate(made):
        _check(tracker, f"trackers[{i}]")
    return made


def _made(tracker: Any, name: str) -> Any:
    if not isinstance(tracker, str):
        return tracker
    check_choice(name, tracker, list(_NAMED))
    return _NAMED[tracker]()


def _check(tracker: Any, name: str) -> None:
    if isinstance(tracker, type):
        raise InputTypeError(
            f"{name}: expected a tracker; got the class {tracker.__name__}. "
            f"Make one: {tracker.__name__}(...)."
        )
    missing = [m for m in _ARGUMENTS if not callable(getattr(tracker, m, None))]
    if missing:
        raise InputTypeError(
            f"{name}: expected an object with the methods {', '.join(_ARGUMENTS)}; "
            f"{type(tracker).__name__} lacks {', '.join(missing)}. Inherit from "
            "flops_fit.trackers.Tracker, which has them all and does nothing."
        )
    for method, arguments in _ARGUMENTS.items():
        _check_arguments(tracker, method, arguments, name)
    _check_picklable(tracker, name)


def _check_arguments(tracker: Any, method: str, arguments: tuple[str, ...], name: str) -> None:
    try:
        signature = inspect.signature(getattr(tracker, method))
    except (TypeError, ValueError):  # code without a signature is found out when called
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise InputTypeError(
            f"{name}: expected {type(tracker).__name__}.{method}({', '.join(arguments)}); it takes "
            f"{signature} ({error}). Change its arguments."
        ) from None


def _check_picklable(tracker: Any, name: str) -> None:
    try:
        import cloudpickle
    except ImportError:  # then no executor can send it anywhere
        return
    try:
        cloudpickle.dumps(tracker)
    except Exception as error:  # pickling runs the user's code
        raise InputTypeError(
            f"{name}: expected a tracker that can be pickled, as workers get copies; "
            f"{type(tracker).__name__} cannot ({error_line(error)}). Open files and connections in "
            "start()."
        ) from error
