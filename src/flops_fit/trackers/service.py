"""What all services share: what a run reports under which names, and runs read back from one."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flops_fit.errors import MissingExtraError, TableError
from flops_fit.records import Experiment, Run, canonical_json, finite_json
from flops_fit.trackers.tracker import Tracker

_SETTING_CHARACTERS = 250  # all services accept these


def needs(package: str, extra: str, who: str) -> None:
    """Refuse where a package is not installed, without importing it."""
    spec = importlib.util.find_spec(package)
    # A folder of runs, such as ./wandb, looks like a package without an origin.
    if spec is None or spec.origin is None:
        raise MissingExtraError(package, extra, who)


class Service(Tracker):
    """A tracker that keeps a client, a run or a writer open during a run."""

    opened: Any = None  # before the first start and after each end; never pickled

    def finish(self, run: Run) -> None:
        """Record how the run ended."""
        self.end(run)

    fail = finish

    def end(self, run: Run) -> None:
        """Write the last values and close what is open."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "opened"}

    def release(self) -> Any:
        """What is open; the tracker no longer holds it."""
        opened, self.opened = self.opened, None
        return opened


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
        if value is not None and not isinstance(value, int | float):
            text = value if isinstance(value, str) else canonical_json(value)
            value = text[:_SETTING_CHARACTERS]
        if value is not None:
            out[name] = value
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
    """One run of a service.

    Attributes
    ----------
    label, state
        Its name, and its state as the service calls it; empty where it has none.
    settings, summary, points
        Its settings, such as ``config.lr``; final values; and what was logged together, in order.
    """

    label: str
    state: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    points: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TrackedRuns:
    """Runs of a service: ``fit_runs(tracked, curves=tracked)``, with ``columns=`` for unusual names.

    Attributes
    ----------
    runs, where
        The runs, under distinct names, and their source, for error messages.
    complete
        Whether the user vouches that each finished run completed its schedule.
    notes
        Remarks on how they were read.
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
