"""Runs out of TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import TableError
from flops_fit.services import needs
from flops_fit.tracked._runs import Add, TrackedRun, TrackedRuns, tracked_runs

__all__ = ["read_tensorboard"]

_ALL = {"scalars": 0, "tensors": 0}  # a number would be the size of a random sample
_STARTED = "_hparams_/session_start_info"


def read_tensorboard(
    folder: str | Path, *, complete: bool = False, add: Add | None = None
) -> TrackedRuns:
    """The runs below a folder: each folder that has event files is one.

    Scalars become columns of their own names, values of the HParams tab ``hparams.x``; ``step`` is
    TensorBoard's. A run is named by its folder. TensorBoard knows no states: of runs not tracked by
    this library all count as finished that pass for complete.

    Parameters
    ----------
    folder
        What ``tensorboard --logdir`` is given.
    complete
        Vouch that each run went to the end of its schedule, where runs do not say so.
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
        There are no event files.
    MissingExtraError
        TensorBoard is not installed.

    Examples
    --------
    >>> sizes = {"small": 1e6, "large": 4e6}
    >>> runs = read_tensorboard(  # doctest: +SKIP
    ...     "logs", complete=True,
    ...     add=lambda row: {"params": sizes[row["label"]], "tokens": 65536 * row["step"]},
    ... )
    """
    needs("tensorboard", "tensorboard", "read_tensorboard")
    root = Path(folder)
    places = sorted({path.parent for path in root.rglob("*tfevents*") if path.is_file()})
    if not places:
        raise TableError(
            f"expected event files of TensorBoard, named *tfevents*, below {root}; there are none."
        )
    read = [(str(place.relative_to(root)), _run(place, root)) for place in places]
    return tracked_runs(read, f"TensorBoard's {root}", complete, add)


def _run(place: Path, root: Path) -> TrackedRun:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place), size_guidance=_ALL).Reload()
    points: dict[int, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            points.setdefault(event.step, {"step": event.step})[tag] = event.value
    for tag in events.Tags()["tensors"]:
        kind = events.SummaryMetadata(tag).plugin_data.plugin_name
        for event in events.Tensors(tag) if kind in ("scalars", "text") else ():
            value = _value(event.tensor_proto)
            if kind == "scalars":
                points.setdefault(event.step, {"step": event.step})[tag] = float(value)
            else:
                texts[tag] = value.decode(errors="replace")
    ordered: list[Mapping[str, Any]] = [points[step] for step in sorted(points)]
    settings = _settings(events)
    label = settings.get("hparams.label", str(place.relative_to(root)))
    # A text "state" means ours only where the settings are ours too.
    state = texts.get("state", "") if "hparams.planned_flops" in settings else ""
    return TrackedRun(label, state, settings, {}, tuple(ordered))


def _value(tensor: Any) -> Any:
    from tensorboard.util.tensor_util import make_ndarray

    return make_ndarray(tensor).reshape(-1)[0]


def _settings(events: Any) -> dict[str, Any]:
    """What the HParams tab shows of a run."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    try:
        metadata = events.SummaryMetadata(_STARTED)
    except KeyError:
        return {}
    started = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info
    return {
        f"hparams.{name}": getattr(value, value.WhichOneof("kind"))
        for name, value in started.hparams.items()
        if value.WhichOneof("kind")
    }
