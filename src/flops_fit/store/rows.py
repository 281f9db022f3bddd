"""Runs as a table in a file: CSV, or Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import InputError, MissingExtraError
from flops_fit.files import csv_text, unwritable, write_output
from flops_fit.records import Run, canonical_json


def write_runs(runs: Iterable[Run], path: str | Path) -> Path:
    """One row a run, whatever its state, in a file that ``RunTable.read`` reads back.

    Parameters
    ----------
    path
        Ends in ``.csv`` or ``.parquet``; what is there is replaced as a whole.

    Raises
    ------
    InputError
        The ending is another one.
    MissingExtraError
        Parquet without pyarrow.
    OutputError
        The file cannot be written.
    """
    path = Path(path)
    writers = {".csv": _csv, ".parquet": _parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"{path}: expected a name that ends in .csv or .parquet.")
    content = writer([_row(run) for run in runs])
    try:
        write_output(path, content)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def _csv(rows: list[dict[str, Any]]) -> bytes:
    return csv_text(rows, () if rows else ["id"]).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from None
    names = list(rows[0]) if rows else ["id"]
    table = pyarrow.table({name: _arrow([row[name] for row in rows], pyarrow) for name in names})
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


def _row(run: Run) -> dict[str, Any]:
    e = run.experiment
    return {
        "id": e.id,
        "label": e.label,
        "state": run.state,
        "reason": run.reason,
        "budget": e.budget,
        "size": json.dumps(dict(e.size)) if isinstance(e.size, Mapping) else e.size,
        "params": e.params.total,
        "non_embedding": e.params.non_embedding,
        "tokens": run.tokens,
        "unit": e.unit,
        "unique_tokens": run.unique_tokens,
        "repeated_tokens": run.repeated_tokens,
        "epochs": run.epochs,
        "flops": run.flops,
        "flops_6nd": run.flops_6nd,
        "flops_6nd_matmul": run.flops_6nd_matmul,
        "flops_6nd_non_embedding": run.flops_6nd_non_embedding,
        "flops_shared": run.flops_shared,
        "cluster": e.trunk,
        "loss": run.loss,
        "loss_se": run.loss_se,
        "train_loss": run.train_loss,
        "gradient_norm": run.gradient_norm,
        "steps": e.steps,
        "batch_size": e.batch_size,
        "lr": e.hparams.lr,
        "seed": e.seed,
        "repeat": e.repeat,
        "seconds": round(run.seconds, 3),
        "units_per_second": run.units_per_second,
        "mfu": run.mfu,
        "device": run.device,
    }
