"""Each service's records of runs, read back by its own reader."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.trackers import (
    MLflowTracker,
    TensorBoardTracker,
    Tracker,
    TrackioTracker,
    WandbTracker,
)
from flops_fit.trackers.mlflow import mlflow_client


@dataclass
class Kept:
    """What a service has of one run: settings as text, and each metric as (step, value)."""

    settings: dict[str, str]
    metrics: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    state: str = ""
    reason: str = ""
    status: str = ""

    def last(self, name: str) -> float:
        return self.metrics[name][-1][1]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _read_mlflow(folder: Path) -> list[Kept]:
    client = mlflow_client((folder / "mlruns").as_uri())
    sweep = client.get_experiment_by_name("sweep")
    found = []
    for run in client.search_runs([sweep.experiment_id]):
        points = {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        tags = run.data.tags
        found.append(
            Kept(
                dict(run.data.params),
                points,
                tags["flops_fit.state"],
                tags["flops_fit.reason"],
                run.info.status,
            )
        )
    return found


def _read_tensorboard(folder: Path) -> list[Kept]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.util.tensor_util import make_ndarray

    found = []
    for place in sorted((folder / "board").iterdir()):
        events = EventAccumulator(str(place), {"tensors": 0}).Reload()

        def plugin(tag: str, events: Any = events) -> Any:
            metadata = events.SummaryMetadata(tag)
            return HParamsPluginData.FromString(metadata.plugin_data.content)

        began = plugin("_hparams_/session_start_info").session_start_info.hparams
        values = {k: getattr(v, v.WhichOneof("kind")) for k, v in began.items()}
        ended = plugin("_hparams_/session_end_info").session_end_info.status
        points: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for tag in events.Tags()["tensors"]:
            for event in events.Tensors(tag):
                value = make_ndarray(event.tensor_proto)
                kind = events.SummaryMetadata(tag).plugin_data.plugin_name
                if kind == "text":
                    texts[tag] = value.item().decode()
                elif kind == "scalars":
                    points.setdefault(tag, []).append((event.step, value.item()))
        settings = {k: _text(v) for k, v in values.items()}
        found.append(Kept(settings, points, texts["state"], texts["reason"], str(ended)))
    return found


def _read_trackio(folder: Path) -> list[Kept]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for run in trackio.Api().runs(folder.name):
        kept = Kept({k: _text(v) for k, v in run.config.items()})
        for row in SQLiteStorage.get_logs(folder.name, run.name):
            kept.state, kept.reason = row.get("state", ""), row.get("reason", "")
            for name, value in row.items():
                if isinstance(value, float):
                    kept.metrics.setdefault(name, []).append((row["step"], value))
        found.append(kept)
    return found


def _records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format in blocks of 32 KiB, after seven bytes."""
    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (1 << 15) - at % (1 << 15) < 7:
            at += (1 << 15) - at % (1 << 15)
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part of several
            yield parts
            parts = b""


def _read_wandb(folder: Path) -> list[Kept]:
    """Offline runs, those of one id together, as W&B does when they are sent to it."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Kept] = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        records: list[Any] = []
        until = time.monotonic() + 30
        # W&B's own process writes the file, a moment after finish() has returned.
        while not any(r.HasField("exit") for r in records) and time.monotonic() < until:
            time.sleep(0.02)
            records = [Record.FromString(content) for content in _records(path)]
        for record in records:
            which = record.WhichOneof("record_type")
            if which == "run":
                items = record.run.config.update
                settings = {i.key: _text(json.loads(i.value_json)) for i in items}
                kept = found.setdefault(record.run.run_id, Kept(settings))
            elif which == "history":
                row = {
                    ".".join([item.key] if item.key else item.nested_key): item.value_json
                    for item in record.history.item
                }
                for name, value in row.items():
                    point = (float(row["_step"]), float(json.loads(value)))
                    kept.metrics.setdefault(name, []).append(point)
            elif which == "summary":
                told = {item.key: json.loads(item.value_json) for item in record.summary.update}
                kept.state = told.get("state", kept.state)
                kept.reason = told.get("reason", kept.reason)
            elif which == "exit":
                kept.status = str(record.exit.exit_code)
    return list(found.values())


SERVICES: dict[str, tuple[Callable[[Path], Tracker], Callable[[Path], list[Kept]]]] = {
    "mlflow": (lambda folder: MLflowTracker("sweep", folder / "mlruns"), _read_mlflow),
    "tensorboard": (lambda folder: TensorBoardTracker(folder / "board"), _read_tensorboard),
    "trackio": (lambda folder: TrackioTracker(folder.name), _read_trackio),
    "wandb": (
        lambda folder: WandbTracker("sweep", mode="offline", folder=folder),
        _read_wandb,
    ),
}
