"""A table of runs: the columns that a law is fitted to, read from anything that holds them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputTypeError, TableError
from flops_fit.records import Excluded, Run

__all__ = ["RunTable"]

Floats = NDArray[np.float64]

_COLUMNS: dict[str, tuple[str, ...]] = {
    "params": ("params", "n", "num_params", "n_params", "parameters", "param_count", "model_size"),
    "tokens": (
        "tokens",
        "d",
        "num_tokens",
        "n_tokens",
        "training_tokens",
        "train_tokens",
        "samples",
    ),
    "flops": ("flops", "c", "compute", "training_flops", "train_flops", "total_flops"),
    "loss": ("loss", "l", "val_loss", "eval_loss", "final_loss", "validation_loss", "test_loss"),
    "budget": ("budget", "compute_budget", "c_budget"),
    "loss_se": ("loss_se", "loss_stderr", "se", "stderr"),
    "non_embedding": ("non_embedding", "non_embedding_params", "n_non_embedding"),
    "unique_tokens": ("unique_tokens", "d_unique"),
}
_REQUIRED = ("params", "tokens", "loss")


@dataclass(frozen=True)
class RunTable:
    """The columns that a law is fitted to, one entry a run; all arrays have shape (runs,).

    Attributes
    ----------
    params, tokens, flops, loss
        N, D, C as spent, and the held-out loss.
    labels
        A name for each run, used wherever one is flagged.
    budget
        The planned compute each run belongs to: the groups of approach 2.
    loss_se
        Standard error of each loss, where it is known.
    non_embedding, unique_tokens
        N without embeddings and D without repeats, where they are known.
    cluster
        Runs with equal values share a trunk or a seed, and so their noise.
    excluded
        What was left out before the fit, each with its reason.
    notes
        What was derived or assumed on the way in.
    """

    params: Floats
    tokens: Floats
    flops: Floats
    loss: Floats
    labels: tuple[str, ...]
    budget: Floats
    loss_se: Floats | None = None
    non_embedding: Floats | None = None
    unique_tokens: Floats | None = None
    cluster: tuple[str, ...] | None = None
    excluded: tuple[Excluded, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str = "tokens"

    def __len__(self) -> int:
        return len(self.loss)

    def select(self, keep: NDArray[np.bool_], reason: str = "") -> RunTable:
        """The runs where ``keep`` holds; with ``reason`` the others are listed as excluded."""
        picked = np.flatnonzero(keep)
        columns: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                columns[f.name] = value[picked]
        columns["labels"] = tuple(self.labels[i] for i in picked)
        if self.cluster is not None:
            columns["cluster"] = tuple(self.cluster[i] for i in picked)
        if reason:
            dropped = tuple(Excluded(self.labels[i], reason) for i in np.flatnonzero(~keep))
            columns["excluded"] = self.excluded + dropped
        return replace(self, **columns)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a run, under the names that :meth:`read` understands."""
        rows = []
        for i in range(len(self)):
            row: dict[str, Any] = {"label": self.labels[i]}
            for name in _COLUMNS:
                column = getattr(self, name)
                if column is not None and not isinstance(column, tuple):
                    row[name] = float(column[i])
            if self.cluster is not None:
                row["cluster"] = self.cluster[i]
            rows.append(row)
        return rows

    @classmethod
    def from_runs(cls, runs: Iterable[Run]) -> RunTable:
        """Completed runs as a table; every other run is listed as excluded with its reason."""
        completed, excluded = [], []
        for run in runs:
            if run.state == "completed" and run.loss is not None and math.isfinite(run.loss):
                completed.append(run)
            else:
                reason = f"{run.state}: {run.reason}" if run.reason else run.state
                excluded.append(Excluded(run.experiment.label, reason))

        def column(values: Iterable[float]) -> Floats:
            return np.array(list(values), dtype=np.float64)

        standard_errors = [r.loss_se for r in completed]
        unique = [
            r.tokens / r.experiment.epochs
            if r.experiment.epochs and r.experiment.epochs > 1
            else r.tokens
            for r in completed
        ]
        return cls(
            params=column(r.experiment.params.total for r in completed),
            tokens=column(r.tokens for r in completed),
            flops=column(r.flops for r in completed),
            loss=column(r.loss for r in completed if r.loss is not None),
            labels=tuple(r.experiment.label for r in completed),
            budget=column(r.experiment.budget for r in completed),
            loss_se=None
            if any(s is None for s in standard_errors)
            else column(s for s in standard_errors if s is not None),
            non_embedding=column(r.experiment.params.non_embedding for r in completed),
            unique_tokens=column(unique),
            excluded=tuple(excluded),
            unit=completed[0].experiment.unit if completed else "tokens",
        )

    @classmethod
    def read(
        cls,
        source: RunTable | Iterable[Run] | Iterable[Mapping[str, Any]] | str | Path | Any,
        columns: Mapping[str, str] | None = None,
    ) -> RunTable:
        """A table of runs from whatever holds one.

        Parameters
        ----------
        source
            A RunTable, runs of this library, a list of dicts, a dict of columns, a path to a CSV,
            JSONL or Parquet file, or any DataFrame that narwhals understands (pandas, polars,
            pyarrow, ...).
        columns
            Where a column has a name of its own: ``{"params": "n_weights"}``. Usual names
            (``N``, ``num_params``, ``D``, ``C``, ``val_loss``, ``final_loss``, ...) are found.

        Raises
        ------
        TableError
            A column is missing or ambiguous, or holds text or non-positive values.
        InputTypeError
            ``source`` is none of the above.
        """
        if isinstance(source, RunTable):
            return source
        if isinstance(source, Sequence) and source and all(isinstance(r, Run) for r in source):
            return cls.from_runs([r for r in source if isinstance(r, Run)])
        return _table_from_columns(_raw_columns(source), columns or {})


def _raw_columns(source: Any) -> dict[str, list[Any]]:
    if isinstance(source, str | Path):
        return _read_file(Path(source))
    if isinstance(source, Mapping):
        return {str(k): list(v) for k, v in source.items()}
    import narwhals as nw

    try:
        frame = nw.from_native(source, eager_only=True)
    except TypeError:
        pass
    else:
        return {name: frame[name].to_list() for name in frame.columns}
    if isinstance(source, Iterable):
        rows = list(source)
        if all(isinstance(r, Mapping) for r in rows):
            names = list(dict.fromkeys(str(k) for r in rows for k in r))
            return {name: [r.get(name) for r in rows] for name in names}
    raise InputTypeError(
        f"expected a table of runs (path, list of dicts, dict of columns, DataFrame, RunTable); "
        f"got {type(source).__name__}."
    )


def _read_file(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise TableError(f"expected a file of runs; {path} does not exist or is no file.")
    suffix = path.suffix.lower()
    if suffix in {".jsonl", ".ndjson"}:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        return _raw_columns([json.loads(line) for line in lines])
    if suffix in {".parquet", ".pq"}:
        import narwhals as nw

        frame = nw.read_parquet(str(path), backend="pyarrow")
        return {name: frame[name].to_list() for name in frame.columns}
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        rows = list(reader)
        names = reader.fieldnames or []
    return {name: [row[name] for row in rows] for name in names if name}


def _table_from_columns(raw: dict[str, list[Any]], mapping: Mapping[str, str]) -> RunTable:
    rows = len(next(iter(raw.values()), []))
    if rows == 0:
        raise TableError(
            "expected at least one run; the table is empty. Add rows of N, D and loss."
        )
    unknown = set(mapping) - set(_COLUMNS)
    if unknown:
        raise TableError(f"columns= maps {sorted(unknown)}; it may map {list(_COLUMNS)}.")
    found = {name: _find_column(name, raw, mapping) for name in _COLUMNS}
    missing = [name for name in _REQUIRED if found[name] is None]
    if missing == ["tokens"] and found["flops"] is not None:
        missing = []
    if missing:
        raise TableError(
            f"the table lacks {missing}; it has the columns {list(raw)}. "
            f"Say which is which: columns={{{missing[0]!r}: 'your_column'}}."
        )
    data: dict[str, Any] = {
        name: _numbers(raw[column], column) for name, column in found.items() if column is not None
    }
    notes: list[str] = []
    if "tokens" not in data:
        data["tokens"] = data["flops"] / (6 * data["params"])
        notes.append("The table has no tokens: D = C/(6N) was assumed.")
    if "flops" not in data:
        data["flops"] = 6 * data["params"] * data["tokens"]
        notes.append("The table has no FLOPs: C = 6·N·D was assumed.")
    if "budget" not in data:
        data["budget"] = _group_budgets(data["flops"])
    label = raw.get("label") or raw.get("name") or [f"run {i + 1}" for i in range(rows)]
    labels = [str(v) for v in label]
    keep = np.ones(rows, dtype=bool)
    excluded = []
    for i in range(rows):
        for name in ("params", "tokens", "flops", "loss"):
            value = data[name][i]
            if not (math.isfinite(value) and value > 0):
                keep[i] = False
                excluded.append(
                    Excluded(labels[i], f"{name} is {value:g}, expected a positive number")
                )
                break
    cluster = raw.get("cluster")
    table = RunTable(
        **data,
        labels=tuple(labels),
        cluster=tuple(str(v) for v in cluster) if cluster else None,
        excluded=tuple(excluded),
        notes=tuple(notes),
    )
    return table.select(keep)


def _find_column(name: str, raw: Mapping[str, Any], mapping: Mapping[str, str]) -> str | None:
    if name in mapping:
        if mapping[name] not in raw:
            raise TableError(
                f"columns= names {mapping[name]!r} for {name}; the table has {list(raw)}."
            )
        return mapping[name]
    if name in raw:
        return name
    matches = [c for c in raw if c.lower().strip() in _COLUMNS[name]]
    if len(matches) > 1:
        raise TableError(
            f"{matches} could each be {name}; say which: columns={{{name!r}: {matches[0]!r}}}."
        )
    return matches[0] if matches else None


def _numbers(values: Sequence[Any], column: str) -> Floats:
    out = np.empty(len(values), dtype=np.float64)
    for i, value in enumerate(values):
        try:
            out[i] = math.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            raise TableError(
                f"column {column!r}, row {i + 1}: expected a number, got {value!r}."
            ) from None
    return out


def _group_budgets(flops: Floats, spread: float = 0.1) -> Floats:
    """Name each run's budget: runs whose C lies within ``spread`` of a group's start share it."""
    order = np.argsort(flops)
    budgets = np.empty_like(flops)
    group: list[int] = []
    for i in order:
        if group and flops[i] > flops[group[0]] * (1 + spread):
            budgets[group] = np.exp(np.mean(np.log(flops[group])))
            group = []
        group.append(int(i))
    if group:
        budgets[group] = np.exp(np.mean(np.log(flops[group])))
    return budgets
