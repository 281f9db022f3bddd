"""What every service for experiments is told of a run, and under which names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from flops_fit.records import Experiment, Run, canonical_json, finite_json
from flops_fit.track._tracker import Tracker

__all__ = ["Service", "ending", "last_step", "reading", "settings"]

_LONGEST = 250  # characters of a setting: what services take everywhere


class Service(Tracker):
    """A tracker that holds something open while a run goes on.

    Attributes
    ----------
    opened
        A client, a run or a writer; ``None`` before the first ``start`` and after each end. It stays
        behind where the tracker is pickled.
    """

    opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "opened"}

    def taken(self) -> Any:
        """What is open, which is then no longer held."""
        opened, self.opened = self.opened, None
        return opened


def settings(experiment: Experiment) -> dict[str, int | float | str | bool]:
    """What a run is made with: flat, plain, and the same whenever the run is started.

    ``planned_flops`` is C at the end of the schedule, by which a reader can tell whether a run came
    there; that so far is ``flops`` of :func:`reading`. D cannot tell where targets are masked.
    """
    values = {
        "id": experiment.id,
        "label": experiment.label,
        "params": experiment.params.total,
        "non_embedding": experiment.params.non_embedding,
        "planned_tokens": experiment.tokens,
        "planned_flops": experiment.flops,
        "budget": experiment.budget,
        "size": experiment.size,
        "seed": experiment.seed,
        "repeat": experiment.repeat,
        "planned_steps": experiment.steps,
        "batch_size": experiment.batch_size,
        "unit": experiment.unit,
        "model": experiment.model,
        "cluster": experiment.trunk or None,
        "model_kwargs": dict(experiment.model_kwargs),
        "hparams": dict(experiment.hparams),
    }
    return dict(_flat(finite_json(values)))


def reading(experiment: Experiment, values: Mapping[str, Any]) -> dict[str, float]:
    """A line of ``metrics.jsonl`` under the names of a table of runs, with C so far.

    Masked positions cost FLOPs too, so C is counted by steps, as in ``Run.flops``.
    """
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


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, int | float | str | bool):
            yield f"{before}{name}", value[:_LONGEST] if isinstance(value, str) else value
        elif value is not None:
            yield f"{before}{name}", canonical_json(value)[:_LONGEST]
