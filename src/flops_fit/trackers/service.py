"""What every service for experiments is told of a run, and under which names."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from flops_fit.errors import InputError, MissingExtraError
from flops_fit.records import Experiment, Run, canonical_json, finite_json
from flops_fit.trackers.tracker import Tracker

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ALLOW = "MLFLOW_ALLOW_FILE_STORE"


def needs(package: str, extra: str, who: str) -> None:
    """Refuse where a package is missing, without importing it.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    found = importlib.util.find_spec(package)
    # A folder of runs, such as ./wandb, passes for a package without an origin.
    if found is None or found.origin is None:
        raise MissingExtraError(package, extra, who)


def tracking_place(uri: str | Path | None) -> str:
    """A URI that means the same in every process; folders are absolute ``file:`` URIs.

    Raises
    ------
    InputError
        It is that of a database, and only mlflow-skinny is installed.
    """
    text = str(uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlruns")
    scheme = urlparse(text).scheme
    if scheme.split("+")[0] in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
        raise InputError(
            f"tracking_uri={text!r}: a database needs all of MLflow, of which mlflow-skinny is a "
            "part: pip install mlflow. Or give a folder, or the URI of a server."
        )
    return text if scheme else Path(text).resolve().as_uri()


def mlflow_folder(uri: str) -> Path | None:
    """The folder that a URI names; ``None`` where it names something else."""
    place = urlparse(uri)
    return Path(url2pathname(place.path)) if place.scheme == "file" else None


def mlflow_client(uri: str) -> Any:
    """MLflow's client for a URI."""
    from mlflow.tracking import MlflowClient

    if mlflow_folder(uri) is None:
        return MlflowClient(tracking_uri=uri)
    before = os.environ.get(_ALLOW)
    os.environ[_ALLOW] = "true"
    try:
        # The registry, which is not used, would else be looked for at the default place.
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    finally:
        if before is None:
            del os.environ[_ALLOW]
        else:
            os.environ[_ALLOW] = before


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
        "hparams": experiment.hparams.to_dict(),
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
