"""Runs in MLflow: in a folder, on a server, in a database."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flops_fit.records import Experiment, Run
from flops_fit.services import mlflow_client, mlflow_folder, needs, tracking_place
from flops_fit.track._service import Service, ending, last_step, reading, settings

__all__ = ["MLflowTracker"]

_AT_ONCE = 100  # parameters that MLflow takes in one call
_STATUS = {"completed": "FINISHED", "preempted": "KILLED"}


class MLflowTracker(Service):
    """Each run as a run of one MLflow experiment.

    Settings are its parameters and tags, readings its metrics by step, among them ``tokens`` and
    ``flops`` for the x-axis. A run that goes on is found by its tag ``flops_fit.id``.

    Parameters
    ----------
    experiment
        The name of the MLflow experiment; it is made where there is none.
    tracking_uri
        A folder or any URI that MLflow knows. By default ``MLFLOW_TRACKING_URI``, which
        ``mlflow.set_tracking_uri`` sets too, else the folder ``mlruns`` here. For folders MLflow asks
        that ``MLFLOW_ALLOW_FILE_STORE`` be set: that is done while the client is opened.

    Raises
    ------
    MissingExtraError
        MLflow is not installed.
    InputError
        The URI is that of a database, which mlflow-skinny cannot read or write.
    """

    def __init__(self, experiment: str = "flops-fit", tracking_uri: str | Path | None = None):
        needs("mlflow", "mlflow", "MLflowTracker")
        self.experiment, self.tracking_uri = experiment, tracking_place(tracking_uri)

    def start(self, experiment: Experiment) -> None:
        """Make the run, or find the one of the same id."""
        with _alone(self.tracking_uri):
            client = mlflow_client(self.tracking_uri)
            within = _experiment_id(client, self.experiment)
        of_this_id = f"tags.`flops_fit.id` = '{experiment.id}'"
        found = client.search_runs([within], of_this_id, max_results=1)
        if found:
            self.opened = client, found[0].info.run_id
            client.update_run(found[0].info.run_id, status="RUNNING")
            return
        tags = {"flops_fit.id": experiment.id}
        made = client.create_run(within, run_name=experiment.label, tags=tags).info.run_id
        self.opened = client, made
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in settings(experiment).items()]
        for i in range(0, len(params), _AT_ONCE):
            client.log_batch(made, params=params[i : i + _AT_ONCE])

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """One metric for each number of the reading."""
        self._metrics(reading(experiment, values), values["step"])

    def finish(self, run: Run) -> None:
        """The held-out loss, and the status FINISHED."""
        self._end(run)

    def fail(self, run: Run) -> None:
        """The reason as a tag, and the status FAILED, or KILLED where the run may go on."""
        self._end(run)

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        client, run_id = self.opened
        now = int(time.time() * 1000)
        client.log_batch(run_id, [Metric(k, v, now, step) for k, v in values.items()])

    def _end(self, run: Run) -> None:
        self._metrics(ending(run), last_step(run))
        client, run_id = self.taken()
        client.set_tag(run_id, "flops_fit.state", run.state)
        client.set_tag(run_id, "flops_fit.reason", run.reason)
        client.set_terminated(run_id, _STATUS.get(run.state, "FAILED"))


def _experiment_id(client: Any, name: str) -> str:
    """The experiment of a name, made where there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another worker was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One worker at a time where MLflow lets two make one experiment each: in a folder."""
    folder = mlflow_folder(uri)
    if folder is None or sys.platform == "win32":
        yield
        return
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
