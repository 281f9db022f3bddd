"""Runs out of MLflow."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flops_fit.errors import TableError
from flops_fit.records import Experiment, Run
from flops_fit.trackers.history import Add, TrackedRun, TrackedRuns, tracked_runs
from flops_fit.trackers.service import (
    Service,
    ending,
    last_step,
    mlflow_client,
    mlflow_folder,
    needs,
    reading,
    settings,
    tracking_place,
)

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


_PAGE = 1000
_HELD_ALREADY = "mlflow."  # tags that MLflow makes for itself


def read_mlflow(
    experiment: str,
    tracking_uri: str | Path | None = None,
    *,
    complete: bool = False,
    add: Add | None = None,
) -> TrackedRuns:
    """The runs of an MLflow experiment, with the history of each metric.

    Parameters become the columns ``params.x``, metrics ``metrics.x``, tags ``tags.x``; ``step`` is
    MLflow's.

    Parameters
    ----------
    experiment
        Its name.
    tracking_uri
        A folder or any URI that MLflow knows; by default as for
        :class:`flops_fit.trackers.MLflowTracker`.
    complete
        Vouch that each finished run went to the end of its schedule, where runs do not say so.
    add
        Makes columns from those there are: it gets the settings of a run with one point of its
        history and ``label``, its name.

    Returns
    -------
    TrackedRuns
        For ``fit_runs(tracked, curves=tracked)``, with ``columns=`` for unusual names.

    Raises
    ------
    TableError
        There is no such folder, or no experiment of that name.
    MissingExtraError
        MLflow is not installed.

    Examples
    --------
    >>> runs = read_mlflow(  # doctest: +SKIP
    ...     "gpt", "http://tracking:5000", add=lambda row: {"tokens": 524288 * row["step"]}
    ... )
    >>> fit_runs(runs, columns={"planned_steps": "params.max_steps"})  # doctest: +SKIP
    """
    needs("mlflow", "mlflow", "read_mlflow")
    place = tracking_place(tracking_uri)
    folder = mlflow_folder(place)
    if folder is not None and not folder.is_dir():  # MLflow would make one
        raise TableError(f"expected a folder of MLflow's runs; {folder} is not there.")
    client = mlflow_client(place)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = sorted(e.name for e in client.search_experiments(max_results=_PAGE))
        raise TableError(f"expected an experiment of MLflow; {experiment!r} is none of {names}.")
    runs, page = [], None
    while page is None or page:
        got = client.search_runs([found.experiment_id], max_results=_PAGE, page_token=page)
        runs += list(got)
        page = got.token or ""
    read = [(run.info.run_id, _run(client, run)) for run in runs]
    return tracked_runs(read, f"MLflow's {experiment!r}", complete, add)


def _run(client: Any, run: Any) -> TrackedRun:
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith(_HELD_ALREADY)}
    settings = {
        **{f"params.{name}": value for name, value in run.data.params.items()},
        **{f"tags.{name}": value for name, value in tags.items()},
    }
    points: dict[int, dict[str, Any]] = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        for m in sorted(history, key=lambda m: m.timestamp):  # of a step made again, the last
            points.setdefault(m.step, {"step": m.step})[f"metrics.{name}"] = m.value
    ordered: list[Mapping[str, Any]] = [points[step] for step in sorted(points)]
    label = run.info.run_name or run.info.run_id
    return TrackedRun(label, run.info.status, settings, {}, tuple(ordered))
