"""TensorBoard: write event files, and read runs from them."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import TableError
from flops_fit.records import Experiment, Run
from flops_fit.trackers import tracker
from flops_fit.trackers.tracker import Add, Service, TrackedRun, TrackedRuns

_EVERY_EVENT = {"scalars": 0, "tensors": 0}  # other numbers would draw a random sample
_STARTED = "_hparams_/session_start_info"


class TensorBoardTracker(Service):
    """Each run as a folder of event files, with units seen as the step.

    Settings are those of the HParams tab; the texts ``state`` and ``reason`` say how the run ended. A resumed
    run writes into the same folder, and points after its checkpoint are dropped. MissingExtraError where
    TensorBoard is not installed. ``folder`` is what ``tensorboard --logdir`` is given.
    """

    def __init__(self, folder: str | Path = "tensorboard"):
        tracker.needs("tensorboard", "TensorBoardTracker")
        self.folder = Path(folder).resolve()

    def start(self, experiment: Experiment) -> None:
        """Nothing yet: where the run goes on from is known at its first reading."""
        self.opened = None

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """One scalar for each number of the reading."""
        if self.opened is None:
            self._open(experiment, values["units"])
        self._summaries(tracker.reading(experiment, values), values["units"])

    def _open(self, experiment: Experiment, units: int) -> None:
        """A new file, which takes back all points from these units on in the files before it."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        name = re.sub(r"[^\w.=#+-]+", "_", experiment.label)
        self.opened = EventFileWriter(str(self.folder / f"{name}_{experiment.id}"))
        self._write(units, session_log=SessionLog(status=SessionLog.START))
        began = SessionStartInfo(start_time_secs=time.time())
        for setting, value in tracker.settings(experiment).items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(began.hparams[setting], kind, value)
        self._hparams(session_start_info=began)
        self._summaries({"state": "running"}, units)

    def finish(self, run: Run) -> None:
        """The last scalars; the state and its reason as texts; the status of the HParams tab."""
        from tensorboard.plugins.hparams.api_pb2 import Status
        from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

        if self.opened is None:  # it ended before its first reading
            self._open(run.experiment, run.tokens)
        last = {**tracker.ending(run), "state": run.state, "reason": run.reason}
        self._summaries(last, run.tokens)
        word = "STATUS_SUCCESS" if run.state == "completed" else "STATUS_FAILURE"
        ended = SessionEndInfo(status=Status.Value(word), end_time_secs=time.time())
        self._hparams(session_end_info=ended)
        self.opened.close()

    def _hparams(self, **content: Any) -> None:
        """One of the messages that the HParams tab reads, under a tag of its own name."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        (name,) = content
        summary = Summary()
        summary.value.add(
            tag=f"_hparams_/{name}",
            metadata=metadata.create_summary_metadata(HParamsPluginData(**content)),
            tensor=metadata.NULL_TENSOR,
        )
        self._write(0, summary=summary)

    def _summaries(self, values: Mapping[str, float | str], step: int) -> None:
        """Texts, and numbers in double precision, which TensorBoard's own functions round."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.util.tensor_util import make_tensor_proto

        summary = Summary()
        for tag, value in values.items():
            if isinstance(value, str):
                tensor = make_tensor_proto([value.encode()])
                plugin, data_class = "text", "DATA_CLASS_TENSOR"
            else:
                tensor = make_tensor_proto(value, dtype="float64")
                plugin, data_class = "scalars", "DATA_CLASS_SCALAR"
            data = SummaryMetadata.PluginData(plugin_name=plugin)
            shown = SummaryMetadata(plugin_data=data, data_class=data_class)
            summary.value.add(tag=tag, metadata=shown, tensor=tensor)
        self._write(step, summary=summary)

    def _write(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.opened.add_event(Event(wall_time=time.time(), step=step, **content))
        self.opened.flush()


def read_tensorboard(
    folder: str | Path, *, complete: bool = False, add: Add | None = None
) -> TrackedRuns:
    """The runs below a folder: each folder that has event files is one.

    Scalars become columns of their own names, values of the HParams tab ``hparams.x``. A run is named
    by its folder. It has no state where this library did not track it, and counts as finished. ``folder``
    is what ``tensorboard --logdir`` is given; ``complete`` and ``add`` are as for
    :func:`~flops_fit.trackers.read_mlflow`.
    TableError where there are no event files; MissingExtraError where TensorBoard is not installed.

    >>> sizes = {"small": 1e6, "large": 4e6}
    >>> runs = read_tensorboard(  # doctest: +SKIP
    ...     "logs", complete=True,
    ...     add=lambda row: {"params": sizes[row["label"]], "tokens": 65536 * row["step"]},
    ... )
    """
    tracker.needs("tensorboard", "read_tensorboard")
    root = Path(folder)
    events = root.rglob("*tfevents*") if os.path.isdir(root) else ()
    folders = sorted({path.parent for path in events if path.is_file()})
    if not folders:
        raise TableError(
            f"expected event files of TensorBoard, named *tfevents*, below {root}; there are none."
        )
    read = [(str(path.relative_to(root)), _run(path, root)) for path in folders]
    return tracker.tracked_runs(read, f"TensorBoard's {root}", complete, add)


def _run(folder: Path, root: Path) -> TrackedRun:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance=_EVERY_EVENT).Reload()
    points: dict[int, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            points.setdefault(event.step, {})[tag] = event.value
    for tag in events.Tags()["tensors"]:
        kind = events.SummaryMetadata(tag).plugin_data.plugin_name
        for event in events.Tensors(tag) if kind in ("scalars", "text") else ():
            value = make_ndarray(event.tensor_proto).reshape(-1)[0]
            if kind == "text":
                texts[tag] = value.decode(errors="replace")
            else:
                points.setdefault(event.step, {})[tag] = float(value)
    settings = _settings(events)
    label = settings.get("hparams.label", str(folder.relative_to(root)))
    # A text "state" means ours only where the settings are ours too.
    state = texts.get("state", "") if "hparams.planned_flops" in settings else ""
    return TrackedRun(label, state, settings, {}, tracker.by_step(points))


def _settings(events: Any) -> dict[str, Any]:
    """What the HParams tab shows of a run."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    try:
        metadata = events.SummaryMetadata(_STARTED)
    except KeyError:
        return {}
    started = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info
    kinds = ((name, value, value.WhichOneof("kind")) for name, value in started.hparams.items())
    return {f"hparams.{name}": getattr(value, kind) for name, value, kind in kinds if kind}
