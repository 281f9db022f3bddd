"""The files of a sweep as values, checked for schema, id and completeness; runs as a table; curves."""

import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.errors import FlopsFitError, InputError, OutputError, TableError
from flops_fit.files import csv_text, output_errors, read_json, write_output
from flops_fit.flops.functions import Floats, FlopsFunction, flops_from_dict
from flops_fit.forecasting import Forecast, forecast
from flops_fit.hparams import learning_rate
from flops_fit.lazy import import_extra
from flops_fit.plan.io import FINAL, SWEEP_FORMAT, SWEEP_SCHEMA
from flops_fit.records import SAID_BY_FIT, Diagnostic, Experiment, Run, as_record, canonical_json
from flops_fit.table.run_table import RunTable
from flops_fit.text import anonymous

_LEAST_READINGS = 20  # of a curve that others are forecast by


def read_run(path: Path, experiment_id: str) -> Run:
    """The result at ``path``; TableError where it is torn, foreign, or none."""
    content = as_record(read_json(path), dict[str, Any], "a run's record")
    if content.get("schema") != SWEEP_SCHEMA:
        raise TableError(f"it has schema {content.get('schema')!r}, not {SWEEP_SCHEMA}")
    run = Run.from_dict(content)
    if run.experiment.id != experiment_id:
        raise TableError(f"it records run {run.experiment.id}")
    if run.state not in FINAL:
        raise TableError(f"it records no result: {run.state}")
    return run


class TornError(OutputError):
    """The ``sweep.json`` of a folder that has runs is no JSON."""


def read_sweep(folder: Path) -> dict[str, Any]:
    """``sweep.json``; OutputError where it is not of flops-fit, or of another schema."""
    marker = folder / "sweep.json"
    try:
        content = read_json(marker)
    except TableError as error:
        if (folder / "runs").is_dir():
            raise TornError(
                f"output_dir: {marker} is torn. Run the sweep again with the same arguments: its results "
                "are kept, and the file is written again."
            ) from error
        content = None
    if not isinstance(content, dict) or content.get("format") != SWEEP_FORMAT:
        raise OutputError(
            f"output_dir: {marker} is not a record of flops-fit. Expected an empty or new folder, "
            "or that of an earlier sweep: choose another output_dir."
        )
    if (schema := content.get("schema")) != SWEEP_SCHEMA:
        raise OutputError(
            f"output_dir: {marker} has schema {schema!r}; this version reads {SWEEP_SCHEMA}. Use the "
            "version that wrote it, or another output_dir."
        )
    return content


def set_aside(path: Path) -> Path:
    """Rename what cannot be read; its new path."""
    return path.rename(path.with_name(f"{path.name}.unreadable-{time.time_ns()}"))


def write_runs(runs: Iterable[Run], path: str | Path) -> Path:
    """One row a run, whatever its state, in a file that ``RunTable.read`` reads back.

    ``path`` ends in ``.csv`` or ``.parquet``, else InputError; an existing file is replaced as a whole.
    MissingExtraError for Parquet without pyarrow; OutputError where it cannot be written.
    """
    path = Path(path)
    ending, rows = path.suffix.lower(), [_row(run) for run in runs]
    if ending not in (".csv", ".parquet"):
        raise InputError(f"{path}: expected a name that ends in .csv or .parquet.")
    content = csv_text(rows, () if rows else ["id"]) if ending == ".csv" else _parquet(rows)
    with output_errors(path):
        write_output(path, content)
    return path


def recorded_flops(folder: str | Path, table: RunTable) -> FlopsFunction | None:
    """The F(N) of the folder's last fit; None where there is none, or it is not that of the table."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        content = read_json(Path(folder) / "fit.json")
        flops = flops_from_dict(content["flops_per_unit"])
        spent = table.flops / table.tokens
        return flops if np.allclose(flops(table.params), spent, rtol=1e-3) else None
    return None


def recorded_findings(folder: str | Path) -> list[Diagnostic]:
    """What was found about the folder's last plan, but for what a fit says of its own runs."""
    with suppress(OSError, TableError):
        content = as_record(read_json(Path(folder) / "sweep.json"), dict[str, Any], "a plan")
        findings = as_record(content.get("findings", []), list[Diagnostic], "a plan's findings")
        return [d for d in findings if d.code not in SAID_BY_FIT]
    return []


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow = import_extra("pyarrow", "parquet", "writing Parquet")
    parquet = import_extra("pyarrow.parquet", "parquet", "writing Parquet")
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["id"]
    cells = {name: [row.get(name) for row in rows] for name in names}
    table = pyarrow.table({name: _arrow(values, pyarrow) for name, values in cells.items()})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _arrow(values: list[Any], pyarrow: Any) -> Any:
    """One kind of value a column: numbers, or else text."""
    given = [v for v in values if v is not None]
    if all(isinstance(v, int | float) for v in given):
        whole = given and all(isinstance(v, int) and abs(v) < 2**63 for v in given)
        kind = pyarrow.int64() if whole else pyarrow.float64()
        return pyarrow.array([v if v is None or whole else float(v) for v in values], kind)
    texts = [v if v is None or isinstance(v, str) else canonical_json(v) for v in values]
    return pyarrow.array(texts, pyarrow.string())


_COLUMNS = (
    "id label state reason budget size params active_params non_embedding tokens unit unique_tokens "
    "repeated_tokens epochs flops flops_6nd flops_6nd_matmul flops_6nd_non_embedding flops_shared "
    "cluster loss loss_se train_loss gradient_norm steps batch_size lr seed repeat seconds "
    "units_per_second mfu device parametrization"
)


def _row(run: Run) -> dict[str, Any]:
    """The columns: attributes of the run, or else of its experiment, and those named otherwise."""
    e = run.experiment
    own = {
        "size": json.dumps(dict(e.size)) if isinstance(e.size, Mapping) else e.size,
        "params": e.params.total, "active_params": e.params.active,
        "non_embedding": e.params.non_embedding, "cluster": e.trunk,
        "reason": anonymous(run.reason), "lr": e.hparams.lr, "seconds": round(run.seconds, 3),
    }  # fmt: skip
    columns = {
        name: own[name] if name in own else getattr(run if hasattr(run, name) else e, name)
        for name in _COLUMNS.split()
    }
    bound = {} if run.loss_at_least is None else {"loss_at_least": run.loss_at_least}
    return {**columns, **bound, **run.metrics}


@dataclass(frozen=True, eq=False)
class TrainingCurve:
    """The training loss along a run; arrays of shape (readings,).

    ``loss`` is the mean over some steps, and ``share`` that of the run, 0 to 1, at their middle.
    """

    run: Run
    share: Floats
    loss: Floats


def training_curves(folder: str | Path, runs: Iterable[Run]) -> list[TrainingCurve]:
    """The curves of those runs of a sweep's folder that have one, torn lines left out."""
    out = []
    for run in runs:
        path = Path(folder) / "runs" / run.experiment.id / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        steps, losses = [0.0], []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
                values = json.loads(line)
                # A loss that is not finite is None, which is no number.
                step, loss = float(values["step"]), float(values["loss"])
                if step > steps[-1] and math.isfinite(step) and math.isfinite(loss):
                    steps.append(step)
                    losses.append(loss)
        if losses:
            ends = np.array(steps) / run.experiment.steps
            out.append(TrainingCurve(run, (ends[1:] + ends[:-1]) / 2, np.array(losses)))
    return out


def forecast_ends(
    folder: str | Path, running: Iterable[Experiment], finished: Iterable[Experiment]
) -> dict[str, Forecast]:
    """By id, the training loss at which runs under way will end, where their curves can tell.

    Those of the ``finished`` runs say what their schedule does to a loss.
    """

    def parts(curve: TrainingCurve) -> tuple[tuple[Floats, Floats], Callable[[float], float], int]:
        e = curve.run.experiment
        rate = partial(
            learning_rate, e.hparams, planned=e.steps * e.batch_size * e.units_per_sample
        )
        per_step = e.batch_size * e.units_per_sample
        return (curve.share * e.steps, curve.loss), lambda step: rate(step * per_step), e.steps

    earlier, ours = (
        training_curves(folder, [Run(e, "running") for e in experiments])
        for experiments in (finished, running)
    )
    prior = [parts(c) for c in earlier if len(c.loss) >= _LEAST_READINGS]
    ends = {}
    for curve in ours:
        points, rate, steps = parts(curve)
        with suppress(FlopsFitError):  # it is too early
            ends[curve.run.experiment.id] = forecast(points, rate, end=steps, prior=prior)
    return ends
