"""A table of runs: the columns that a law is fitted to, read from anything that holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.records import Excluded, Run
from flops_fit.table._build import clusters, fields_of
from flops_fit.table._names import NUMERIC
from flops_fit.table._sources import MOST_ROWS

__all__ = ["RunTable"]

Floats = NDArray[np.float64]


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
        Runs with equal values share a trunk or a seed, and so their noise; ``None`` where no two
        runs are known to.
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
        columns: dict[str, list[Any]] = {"label": list(self.labels)}
        for name in NUMERIC:
            column = getattr(self, name)
            if column is not None:
                columns[name] = column.tolist()
        if self.cluster is not None:
            columns["cluster"] = list(self.cluster)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

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
        unique = [math.nan if r.unique_tokens is None else r.unique_tokens for r in completed]
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
            unique_tokens=None if all(map(math.isnan, unique)) else column(unique),
            cluster=clusters([r.experiment.trunk for r in completed]),
            excluded=tuple(excluded),
            unit=completed[0].experiment.unit if completed else "tokens",
        )

    @classmethod
    def read(
        cls,
        source: RunTable | Iterable[Run] | Iterable[Mapping[str, Any]] | str | Path | Any,
        columns: Mapping[str, str] | None = None,
    ) -> RunTable:
        """A table of runs from whatever holds one, one row a run.

        Parameters
        ----------
        source
            A RunTable, runs of this library, a list of dicts, a dict of columns, any DataFrame that
            narwhals understands (pandas, polars, pyarrow, ...), or a path to CSV (also separated by
            semicolons, tabs or bars), JSON, JSON lines or Parquet; or runs of a service, as
            :func:`flops_fit.read_mlflow` and its like return them.
        columns
            Where a column has a name of its own: ``{"params": "n_weights"}``. Usual names
            (``N``, ``num_params``, ``D``, ``C``, ``val_loss``, ``final_loss``, ...) are found, also
            at the end of a tracker's path: ``config.n_params``, ``summary/val_loss``.

        Returns
        -------
        RunTable
            A held-out loss is taken before a training loss. Runs that did not finish (a column
            ``State`` or ``status``) and rows without positive N, D, C and loss are in ``excluded``,
            as are those whose loss was read before the end of their schedule, where
            ``planned_flops``, ``planned_tokens`` or ``planned_steps`` says how long it was. Of
            runs of a service that has to be known.

        Raises
        ------
        TableError
            A column is missing or ambiguous or holds text, the file is no table, or it has more
            than 1,000,000 rows. Nobody has trained a million models: such a file logs steps, and its
            rows are not independent runs. Runs of a service do not say how long their schedules
            were, and nobody vouches that they ended.
        InputTypeError
            ``source`` is none of the above.
        MissingExtraError
            A Parquet file without pyarrow.

        Examples
        --------
        >>> rows = [{"N": 1e8, "D": 2e9, "val_loss": 3.4}, {"N": 2e8, "D": 1e9, "val_loss": 3.5}]
        >>> RunTable.read(rows).loss.tolist()
        [3.4, 3.5]
        """
        if isinstance(source, RunTable):
            return source
        if isinstance(source, Iterator):
            source = list(islice(source, MOST_ROWS + 1))
        if isinstance(source, Sequence) and source and all(isinstance(r, Run) for r in source):
            return cls.from_runs([r for r in source if isinstance(r, Run)])
        return cls(**fields_of(source, columns or {}))
