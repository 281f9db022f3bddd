"""Runs out of MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import TableError
from flops_fit.services import mlflow_client, mlflow_folder, needs, tracking_place
from flops_fit.tracked._runs import Add, TrackedRun, TrackedRuns, tracked_runs

__all__ = ["read_mlflow"]

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
        :class:`flops_fit.track.MLflowTracker`.
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
