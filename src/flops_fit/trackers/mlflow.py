"""MLflow: follow runs there, and read runs from there."""

import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from flops_fit.errors import InputError, TableError
from flops_fit.records import Experiment, Run
from flops_fit.text import error_line
from flops_fit.trackers import tracker
from flops_fit.trackers.tracker import Add, Service, TrackedRun, TrackedRuns

_PARAMS_PER_CALL = 100
_PAGE = 1000
_OWN_TAGS = "mlflow."  # that MLflow sets itself
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ALLOW = "MLFLOW_ALLOW_FILE_STORE"
_STATUS = {"completed": "FINISHED", "preempted": "KILLED"}


class MLflowTracker(Service):
    """Each run as a run of one MLflow experiment.

    Settings are its parameters, readings its metrics by step. A resumed run is found by its id.
    ``experiment`` is the name of the MLflow experiment, which is made where there is none;
    ``tracking_uri`` is a folder or any URI that MLflow knows, by default ``MLFLOW_TRACKING_URI``, which
    ``mlflow.set_tracking_uri`` sets too, else the folder ``mlruns`` here.

    MissingExtraError where MLflow is not installed; InputError for the URI of a database, which
    mlflow-skinny cannot read or write.
    """

    def __init__(self, experiment: str = "flops-fit", tracking_uri: str | Path | None = None):
        tracker.needs("mlflow", "MLflowTracker")
        self.experiment, self.tracking_uri = experiment, absolute_uri(tracking_uri)

    def start(self, experiment: Experiment) -> None:
        """Make the run, or find the one of the same id."""
        client, within = _open_experiment(self.tracking_uri, self.experiment)
        same_id = f"tags.`flops_fit.id` = '{experiment.id}'"
        known = client.search_runs([within], same_id, max_results=1)
        if known:
            self.opened = client, known[0].info.run_id
            client.update_run(known[0].info.run_id, status="RUNNING")
            return
        from mlflow.entities import Param

        tags = {"flops_fit.id": experiment.id}
        run_id = client.create_run(within, run_name=experiment.label, tags=tags).info.run_id
        self.opened = client, run_id

        params = [Param(name, str(value)) for name, value in tracker.settings(experiment).items()]
        for i in range(0, len(params), _PARAMS_PER_CALL):
            client.log_batch(run_id, params=params[i : i + _PARAMS_PER_CALL])

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """One metric for each number of the reading."""
        self._metrics(tracker.reading(experiment, values), values["step"])

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        client, run_id = self.opened
        now = int(time.time() * 1000)
        client.log_batch(run_id, [Metric(k, v, now, step) for k, v in values.items()])

    def finish(self, run: Run) -> None:
        """The last metrics; the state and its reason as tags; MLflow's status."""
        self._metrics(tracker.ending(run), tracker.last_step(run))
        client, run_id = self.opened
        client.set_tag(run_id, "flops_fit.state", run.state)
        client.set_tag(run_id, "flops_fit.reason", run.reason)
        client.set_terminated(run_id, _STATUS.get(run.state, "FAILED"))


def absolute_uri(uri: str | Path | None) -> str:
    """A URI that means the same in every process; folders are absolute ``file:`` URIs."""
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
    parts = urlparse(uri)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def mlflow_client(uri: str) -> Any:
    """MLflow's client for a URI."""
    from mlflow.tracking import MlflowClient

    if mlflow_folder(uri) is None:
        return MlflowClient(tracking_uri=uri)
    before = os.environ.get(_ALLOW)
    os.environ[_ALLOW] = "true"
    try:
        # Without a URI of its own the registry, which is not used, is looked for elsewhere.
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    finally:
        if before is None:
            del os.environ[_ALLOW]
        else:
            os.environ[_ALLOW] = before


def _open_experiment(uri: str, name: str) -> tuple[Any, str]:
    """A client, and the id of the experiment of a name, made where there is none."""
    from mlflow.exceptions import MlflowException

    folder = mlflow_folder(uri)
    with ExitStack() as stack:
        # One worker at a time: in a folder MLflow lets two make one experiment each.
        if folder is not None and sys.platform != "win32":
            import fcntl

            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        client = mlflow_client(uri)
        if (known := client.get_experiment_by_name(name)) is None:
            try:
                return client, str(client.create_experiment(name))
            except MlflowException:  # another worker was first
                if (known := client.get_experiment_by_name(name)) is None:
                    raise
        return client, str(known.experiment_id)


def read_mlflow(
    experiment: str,
    tracking_uri: str | Path | None = None,
    *,
    complete: bool = False,
    add: Add | None = None,
) -> TrackedRuns:
    """The runs of an MLflow experiment, with the history of each metric.

    Columns are ``params.x``, ``metrics.x`` and ``tags.x``; ``step`` is MLflow's. ``experiment`` and
    ``tracking_uri`` are as for :class:`flops_fit.trackers.MLflowTracker`. ``complete`` vouches that each
    finished run went to the end of its schedule, where runs do not say so. ``add`` computes more columns:
    it gets the settings of a run with one point of its history and ``label``, the run's name.

    TableError where there is no such folder, no experiment of that name, or damaged files;
    MissingExtraError where MLflow is not installed.

    >>> runs = read_mlflow(  # doctest: +SKIP
    ...     "gpt", "http://tracking:5000", add=lambda row: {"tokens": 524288 * row["step"]}
    ... )
    >>> fit_runs(runs, columns={"planned_steps": "params.max_steps"})  # doctest: +SKIP
    """
    tracker.needs("mlflow", "read_mlflow")
    uri = absolute_uri(tracking_uri)
    folder = mlflow_folder(uri)
    if folder is not None and not folder.is_dir():  # MLflow would make one
        raise TableError(f"expected a folder of MLflow's runs; {folder} is not there.")
    try:
        read = _runs(mlflow_client(uri), experiment)
    except TableError:
        raise
    except Exception as error:  # of a damaged file, whatever MLflow makes of it
        if folder is None:
            raise
        raise TableError(
            f"expected a sound folder of MLflow's runs; {folder} cannot be read: {error_line(error)}."
        ) from error
    return tracker.tracked_runs(read, f"MLflow's {experiment!r}", complete, add)


def _runs(client: Any, experiment: str) -> list[tuple[str, TrackedRun]]:
    """The runs of an experiment with their ids."""
    if (known := client.get_experiment_by_name(experiment)) is None:
        names = sorted(e.name for e in client.search_experiments(max_results=_PAGE))
        raise TableError(f"expected an experiment of MLflow; {experiment!r} is none of {names}.")
    got = client.search_runs([known.experiment_id], max_results=_PAGE)
    runs = list(got)
    while got.token:
        got = client.search_runs([known.experiment_id], max_results=_PAGE, page_token=got.token)
        runs += got
    return [(run.info.run_id, _run(client, run)) for run in runs]


def _run(client: Any, run: Any) -> TrackedRun:
    settings = {f"params.{name}": value for name, value in run.data.params.items()}
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith(_OWN_TAGS)}
    settings |= {f"tags.{name}": value for name, value in tags.items()}
    points: dict[int, dict[str, Any]] = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        for m in sorted(history, key=lambda m: m.timestamp):  # of a step made again, the last
            points.setdefault(m.step, {})[f"metrics.{name}"] = m.value
    label = run.info.run_name or run.info.run_id
    return TrackedRun(label, run.info.status, settings, {}, tracker.by_step(points))
