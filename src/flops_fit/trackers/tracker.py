"""What a tracker is, how a run calls its trackers, and what those of services share."""

import copy
import importlib.util
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flops_fit import rng
from flops_fit.errors import InputTypeError, MissingExtraError, TableError, check_choice
from flops_fit.records import Experiment, Run, canonical_json, finite_json
from flops_fit.text import anonymous, error_line

_ERROR_CHARACTERS = 300  # some services answer with a page
_SETTING_CHARACTERS = 250  # all services accept these
_ARGUMENTS = {"start": "experiment", "log": "experiment, values", "finish": "run", "fail": "run"}
_NAMED = {
    "mlflow": "mlflow:MLflowTracker",
    "tensorboard": "tensorboard:TensorBoardTracker",
    "trackio": "wandb:TrackioTracker",
    "wandb": "wandb:WandbTracker",
}


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

    >>> class Printed(Tracker):
    ...     def finish(self, run):
    ...         print(f"{run.experiment.label}: {run.loss:.3f}")
    """

    def start(self, experiment: Experiment) -> None:
        """A run begins, or goes on, before its model is built."""
        return  # a body that is empty would make the method abstract to type checkers

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """A reading, at most twice a second; the last step always has one.

        ``values`` are a line of ``metrics.jsonl``: ``step``; ``units`` seen; means of ``loss`` and
        ``gradient_norm``, ``units_per_second`` and ``mfu`` (or ``None``) since the last reading; ``rate``,
        the learning rate; ``seconds`` in steps, over all attempts.
        """
        return

    def finish(self, run: Run) -> None:
        """The run is complete: it has its held-out loss."""
        return

    def fail(self, run: Run) -> None:
        """The run ended in another ``run.state``, for ``run.reason``; a preempted one may go on later."""
        return


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
        told = replace(run, reason=anonymous(run.reason))
        for tracker in list(self._trackers):
            self._call(tracker, "finish" if run.state == "completed" else "fail", told)
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


def check_trackers(trackers: Any) -> tuple[Tracker, ...]:
    """The trackers as a tuple, those given by name made with their defaults.

    InputError for an unknown name, InputTypeError for what is no tracker that can be pickled,
    MissingExtraError where a package is missing.
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
            signature.bind(*arguments.split(", "))
        except TypeError as error:
            raise InputTypeError(
                f"{name}: expected {kind}.{method}({arguments}); it takes {signature} "
                f"({error}). Change its arguments."
            ) from None
    if importlib.util.find_spec("cloudpickle") is not None:  # else no executor can send it away
        import cloudpickle

        try:
            cloudpickle.dumps(tracker)
        except Exception as error:  # pickling runs the user's code
            raise InputTypeError(
                f"{name}: expected a tracker that can be pickled, as workers get copies; {kind} "
                f"cannot ({error_line(error)}). Open files and connections in start()."
            ) from error
    return tracker  # type: ignore[no-any-return]  # methods are checked above


def needs(package: str, who: str) -> None:
    """Refuse where a package is not installed, which has an extra of its name; it is not imported."""
    spec = importlib.util.find_spec(package)
    # A folder of runs, such as ./wandb, looks like a package without an origin.
    if spec is None or spec.origin is None:
        raise MissingExtraError(package, package, who)


class Service(Tracker):
    """A tracker that keeps a client, a run or a writer open; ``finish`` records any end of a run."""

    opened: Any = None  # since the last start; never pickled

    def fail(self, run: Run) -> None:
        """Record how the run ended."""
        self.finish(run)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "opened"}


def settings(experiment: Experiment) -> dict[str, int | float | str | bool]:
    """The settings of a run: flat, plain, and the same at each start."""
    e = experiment
    same = ("id", "label", "budget", "size", "seed", "repeat", "batch_size", "unit", "model")
    values = {
        **{name: getattr(e, name) for name in same},
        "params": e.params.total,
        "non_embedding": e.params.non_embedding,
        "planned_tokens": e.tokens,
        "planned_flops": e.flops,
        "planned_steps": e.steps,
        "cluster": e.trunk or None,
        "model_kwargs": dict(e.model_kwargs),
        "hparams": e.hparams.to_dict(),
    }
    out: dict[str, int | float | str | bool] = {}
    for name, value in flat(finite_json(values)).items():
        if isinstance(value, int | float):
            out[name] = value
        elif value is not None:
            text = value if isinstance(value, str) else canonical_json(value)
            out[name] = text[:_SETTING_CHARACTERS]
    return out


def reading(experiment: Experiment, values: Mapping[str, Any]) -> dict[str, float]:
    """A line of ``metrics.jsonl`` under the names of a table of runs, with C so far."""
    # Masked positions cost FLOPs too, so C is counted by steps, as in Run.flops.
    spent = experiment.flops_per_sample * experiment.batch_size * values["step"]
    named = {"tokens": values["units"], "flops": spent, "train_loss": values["loss"]}
    rest = {k: v for k, v in values.items() if k not in ("step", "units", "loss")}
    return _numbers({**named, **rest})


def ending(run: Run) -> dict[str, float]:
    """The numbers of a run that ended; the held-out loss only where it is complete."""
    return _numbers(
        {
            "tokens": run.tokens or None,  # not known of a run that raised
            "flops": run.flops or None,
            "unique_tokens": run.unique_tokens,
            "val_loss": run.loss if run.state == "completed" else None,
            "loss_se": run.loss_se,
            "final_train_loss": run.train_loss,
            "run_seconds": run.seconds,
            "mfu": run.mfu,
        }
    )


def last_step(run: Run) -> int:
    """The step at which a run ended, by what it spent."""
    experiment = run.experiment
    return round(run.flops / (experiment.flops_per_sample * experiment.batch_size))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite: services refuse the others, or show them as zeros."""
    return {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}


Add = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class TrackedRun:
    """One run of a service: its name, and its state as the service calls it, empty where it has none.

    ``settings`` are such as ``config.lr``, ``summary`` final values, ``points`` what was logged together,
    in order.
    """

    label: str
    state: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    points: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TrackedRuns:
    """Runs of a service: ``fit_runs(tracked, curves=tracked)``, with ``columns=`` for unusual names.

    ``runs`` have distinct names; ``where`` is their source, for error messages. ``complete``: whether the
    user vouches that each finished run completed its schedule. ``notes`` say how they were read.
    """

    runs: tuple[TrackedRun, ...]
    where: str
    complete: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[TrackedRun]:
        return iter(self.runs)

    @property
    def unit(self) -> str:
        """What D counts, where this library tracked all runs and they agree."""
        units = set()
        for run in self.runs:
            scopes = (name.removesuffix("unit") for name in run.settings if name.endswith(".unit"))
            own = next((s for s in scopes if f"{s}planned_flops" in run.settings), "")
            units.add(str(run.settings.get(f"{own}unit", "") if own else ""))
        return (units.pop() if len(units) == 1 else "") or "tokens"


def tracked_runs(
    runs: Sequence[tuple[str, TrackedRun]],
    where: str,
    complete: bool,
    add: Add | None,
    notes: tuple[str, ...] = (),
) -> TrackedRuns:
    """Pairs (id, run) under distinct names, with the columns that ``add`` computes."""
    labels = [run.label for _, run in runs]
    named = [
        replace(run, label=f"{run.label} {id}") if labels.count(run.label) > 1 else run
        for id, run in runs
    ]
    named = named if add is None else _added(named, add, where)
    return TrackedRuns(tuple(named), where, complete, notes)


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings under one heading each, with ``before`` in front."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{before}{name}.")
        else:
            out[f"{before}{name}"] = value
    return out


def by_step(points: Mapping[int, Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """What was logged at each step."""
    return tuple({"step": step, **points[step]} for step in sorted(points))


def _added(runs: Sequence[TrackedRun], add: Add, where: str) -> list[TrackedRun]:
    """Each run with what ``add`` computes from its settings, alone and with each point."""
    missing: list[KeyError] = []  # not everything is logged at every step

    def more(values: Mapping[str, Any], label: str) -> dict[str, Any]:
        try:
            return dict(add({**values, "label": label}))
        except KeyError as error:
            missing.append(error)
            return {}

    out = []
    for run in runs:
        known = {**run.settings, **run.summary}
        points = tuple({**p, **more({**known, **p}, run.label)} for p in run.points)
        out.append(replace(run, points=points, summary={**run.summary, **more(known, run.label)}))
    if missing and len(missing) == sum(1 + len(run.points) for run in runs):
        names = sorted({name for run in runs for p in (run.settings, *run.points) for name in p})
        raise TableError(
            f"add= asks for {missing[-1]}, which no run of {where} has; they have {names}."
        )
    return out
