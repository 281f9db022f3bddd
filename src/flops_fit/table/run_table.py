"""A table of runs: the columns that a law is fitted to, read from anything that holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import TableError, nearest_name
from flops_fit.files import Rows
from flops_fit.records import SIMULATED, Diagnostic, Run
from flops_fit.table import columns as cols
from flops_fit.table.cells import Floats, budgets_of, is_missing, splits
from flops_fit.table.columns import NUMERIC, find_text
from flops_fit.table.left_out import Censored, Excluded, censored_rows, censored_run, flags, totals
from flops_fit.table.mixtures import mixtures, planned_experts
from flops_fit.table.quantities import batches, quantities, scaled_by_width
from flops_fit.table.schedules import unfinished_schedules
from flops_fit.table.sources import MOST_ROWS, final_rows, read_raw
from flops_fit.table.telling import telling
from flops_fit.text import anonymous, visible
from flops_fit.trackers.tracker import TrackedRuns

_POSITIVE = ("params", "tokens", "flops", "budget", "unique_tokens")


def _fields(source: Any, columns: Mapping[str, str], metrics: Sequence[str]) -> dict[str, Any]:
    """Every field of a RunTable, from a path or from anything in memory that holds a table."""
    mapping = cols.check_mapping(columns)
    # What is named as a metric is no other quantity.
    named = {**{f"metric {heading}": heading for heading in metrics}, **mapping}
    tracked = source if isinstance(source, TrackedRuns) else None
    if tracked is not None:
        source = final_rows(tracked, mapping)
    wanted = cols.wanted(named)
    raw = read_raw(source, wanted)
    if raw.rows == 0:
        head = f" below its headings {list(raw.headings)}" if raw.headings else ""
        raise TableError(
            f"expected at least one run; the table is empty{head}. Add rows of N, D and loss."
        )
    read = quantities(raw, named)
    data, label = read.data, find_text("label", [*raw.cells])
    names = raw.cells[label] if label else [None] * raw.rows
    labels = [_text(v) or f"run {i}" for i, v in enumerate(names, start=1)]
    reasons, trusted = unfinished_schedules(raw, mapping, tracked)
    state = find_text("state", [*raw.cells])
    states = cols.unfinished(raw.cells[state]) if state else {}
    unfinished = {i: f"its {state} is {word!r}, not finished" for i, word in states.items()}
    unfinished = flags(raw) | unfinished
    lost, task = np.flatnonzero(~np.isfinite(data["loss"])).tolist(), mapping.get("loss")
    outcomes = {*reasons, *unfinished, *(() if task in metrics else lost)}
    reasons |= _unsound_rows(data, unfinished, reasons)
    if task in metrics:  # which not every run need have
        reasons |= {i: f"it has no value of {task}" for i in lost if i not in outcomes}
    reasons = (summed := flags(raw, last=True) | totals(raw, labels, data)) | reasons
    kept = [i for i in range(raw.rows) if i not in reasons]
    fields: dict[str, Any] = {name: values[kept] for name, values in data.items()}
    if "budget" not in fields:
        fields["budget"] = budgets_of(fields["flops"])
    outcomes -= summed.keys()
    lr, (batch, batch_unit) = read.others.get("lr"), batches(read)
    least = read.others.get("loss_at_least")
    of_runs = data if least is None else {**data, "at_least": least}
    known = {i: {name: float(v[i]) for name, v in of_runs.items()} for i in outcomes}
    active, experts = mixtures(read)
    columns_of_some = {"lr": lr, "batch_units": batch, "active_params": active, "experts": experts}
    columns_of_some |= {"weight_decay": read.others.get("weight_decay")}
    fields |= {name: values[kept] for name, values in columns_of_some.items() if values is not None}
    if (speed := read.others.get("units_per_second")) is not None:
        fields["flops_per_second"] = speed[kept] * fields["flops"] / fields["tokens"]
    cluster = find_text("cluster", list(raw.cells))
    return {
        **fields,
        "batch_unit": batch_unit,
        "mup": scaled_by_width(raw),
        "censored": censored_rows(states, data, lr, batch, least),
        "findings": telling(raw, read, kept, label),
        "recognised": tuple(match.said(name) for name, match in read.matches.items()),
        "labels": tuple(labels[i] for i in kept),
        "cluster": _clusters([raw.cells[cluster][i] for i in kept] if cluster else []),
        "metrics": {name: values[kept] for name, values in cols.scores(raw, metrics).items()},
        "texts": {
            name: tuple(_text(cells[i]) for i in kept)
            for name, cells in raw.cells.items()
            if wanted(name) == "other" and splits(cells)
        },
        "excluded": tuple(
            Excluded.known(labels[i], reasons[i], known.get(i, {})) for i in sorted(reasons)
        ),
        "notes": (*read.notes, *(tracked.notes if tracked else ()), *trusted),
        "unit": tracked.unit if tracked else read.unit,
    }


def _text(value: Any) -> str:
    """What a cell says in one line, empty where that is nothing: it reaches terminals and pages."""
    return "" if is_missing(value) else visible(str(value)).replace("\n", " ")


def _numbers(cells: Sequence[str]) -> Floats | None:
    """Texts as numbers, NaN where one is empty; ``None`` where one is no number."""
    try:
        return np.array([float(cell or "nan") for cell in cells])
    except ValueError:
        return None


def _clusters(values: Sequence[Any]) -> tuple[str, ...] | None:
    """What each run shares its noise by, itself without a value; ``None`` where no run has one."""
    if all(is_missing(value) for value in values):
        return None
    numbered = enumerate(values, start=1)
    return tuple(f"run {i} alone" if is_missing(v) else str(v) for i, v in numbered)


def _unsound_rows(
    data: Mapping[str, Floats], states: dict[int, str], cut: Mapping[int, str]
) -> dict[int, str]:
    """Why rows are left out by their state or numbers."""
    loss = data["loss"]
    unsound = np.flatnonzero(~np.isfinite(loss)).tolist()
    reasons = {i: f"loss is {loss[i]:g}, expected a finite number" for i in unsound} | states
    for name in (n for n in _POSITIVE if n in data):
        values = data[name]
        wrong = ~(np.isfinite(values) & (values > 0))
        if name == "unique_tokens":
            wrong &= ~np.isnan(values)
        for i in np.flatnonzero(wrong).tolist():
            if i not in cut:
                shown = "missing" if math.isnan(values[i]) else f"{values[i]:g}"
                reasons.setdefault(i, f"{name} is {shown}, expected a positive number")
    return reasons


@dataclass(frozen=True)
class RunTable(Rows):
    """The columns that a law is fitted to, one entry a run; all arrays have shape (runs,).

    ``params``, ``tokens``, ``flops`` and ``loss`` are N, D, C as spent, and the held-out loss. ``labels``
    name each run wherever one is flagged. ``budget`` is the planned compute that each run belongs to: the
    groups of approach 2. ``loss_se``, ``non_embedding`` and ``unique_tokens`` are standard errors of the
    losses, N without embeddings and D without repeats, where known. Runs with equal values of ``cluster``
    share a trunk or a seed, and so their noise; ``None`` where no two runs are known to.

    ``lr``, ``batch_units`` and ``weight_decay`` are the peak learning rate, the units of a batch and AdamW's
    decay, where runs have them, else ``None``; ``batch_unit`` is what a batch counts, where that is not
    ``unit``. ``censored`` has N, D, learning rate and batch of runs that have these and no finite loss, and
    what that would have been at least, NaN where only that they diverged is known.
    ``regret`` is by how much a fit lowered ln L for the run's rate and batch; ``None`` where it did not.
    ``mup``: whether all rates are scaled by width, as a column ``parametrization`` says.
    ``active_params`` are the parameters that one unit meets, where some run has more in all, and
    ``experts`` how many experts there are for each that it visits. ``sparsity`` is N_total/N_active where
    ``params`` are N_active, else ``None``. ``texts`` are other columns that split the runs into a few
    groups, by their headings; empty where a run has no value. ``metrics`` are benchmark scores and the
    like, by their headings; NaN where a run has none. ``flops_per_second`` is the speed of training, on
    all devices of a run together, likewise.

    ``excluded`` was left out before the fit, each with its reason; ``notes`` say what was derived or
    assumed; ``recognised`` says which column was taken for each quantity, in which unit. ``findings`` are
    what the other columns tell of the runs: epochs, settings that differ, names that repeat.
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
    lr: Floats | None = None
    batch_units: Floats | None = None
    batch_unit: str = ""
    censored: tuple[Censored, ...] = ()
    regret: Floats | None = None
    mup: bool = False
    active_params: Floats | None = None
    experts: Floats | None = None
    sparsity: Floats | None = None
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    flops_per_second: Floats | None = None
    weight_decay: Floats | None = None
    excluded: tuple[Excluded, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str = "tokens"
    recognised: tuple[str, ...] = ()
    findings: tuple[Diagnostic, ...] = ()

    def __post_init__(self) -> None:
        columns = {n: v for n, v in vars(self).items() if isinstance(v, np.ndarray)}
        shapes = {name: values.shape for name, values in {**columns, **self.metrics}.items()}
        shapes["labels"] = (len(self.labels),)
        shapes |= {name: (len(cells),) for name, cells in self.texts.items()}
        shapes |= {} if self.cluster is None else {"cluster": (len(self.cluster),)}
        if wrong := {name: s for name, s in shapes.items() if s != shapes["loss"] or len(s) != 1}:
            raise TableError(f"expected one value a run in each column of a table; got {wrong}.")

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        return f"<RunTable of {len(self)} runs at {len(set(self.budget.tolist()))} budgets>"

    def setting(self) -> list[Floats]:
        """The columns in which runs are equal that differ by their seed alone."""
        columns = (self.params, self.tokens, self.lr, self.batch_units, self.sparsity)
        decay = self.weight_decay  # where every run has one
        known = decay is not None and np.all(np.isfinite(decay))
        return [c for c in (*columns, decay if known else None) if c is not None]

    @property
    def memory(self) -> Floats:
        """The share B/(η·λ·D) of each run over which AdamW averages; NaN where that is not known.

        Where a batch counts other units than D it is that share times a constant.
        """
        lr, batch, decay = self.lr, self.batch_units, self.weight_decay
        if lr is None or batch is None or decay is None:
            return np.full(len(self), np.nan)
        return np.asarray(batch / (lr * decay * self.tokens))

    def select(self, keep: NDArray[np.bool_], reason: str = "", lost: bool = False) -> RunTable:
        """The runs where ``keep`` holds; with ``reason`` the others are listed (``lost``: by outcome)."""
        if not reason:
            return self.take(np.flatnonzero(keep))
        return self.without(dict.fromkeys(np.flatnonzero(~keep).tolist(), reason), lost)

    def without(self, reasons: Mapping[int, str], lost: bool = False) -> RunTable:
        """The table less the runs at these positions, each listed with its reason."""
        known = ("budget", "params", "loss") if lost else ()
        out = tuple(
            Excluded.known(self.labels[i], reason, {n: float(getattr(self, n)[i]) for n in known})
            for i, reason in reasons.items()
        )
        left = np.delete(np.arange(len(self)), list(reasons))
        return replace(self.take(left), excluded=self.excluded + out)

    def take(self, picked: NDArray[np.intp]) -> RunTable:
        """The runs at these positions, in their order."""

        def pick(cells: Sequence[str]) -> tuple[str, ...]:
            return tuple(cells[i] for i in picked)

        fields = [(n, v) for n, v in vars(self).items() if isinstance(v, np.ndarray)]
        arrays: dict[str, Any] = {name: values[picked] for name, values in fields}
        cluster = None if self.cluster is None else pick(self.cluster)
        texts = {name: pick(cells) for name, cells in self.texts.items()}
        arrays["metrics"] = {name: values[picked] for name, values in self.metrics.items()}
        return replace(self, labels=pick(self.labels), cluster=cluster, texts=texts, **arrays)

    def covariates(self, names: Iterable[str]) -> list[Floats]:
        """The columns of numbers that are here: the table's own, metrics, and ``texts`` that are numbers."""
        columns = vars(self) | {name: _numbers(cells) for name, cells in self.texts.items()}
        columns |= self.metrics
        return [c for name in names if isinstance(c := columns.get(name), np.ndarray)]

    def having(self, metric: str) -> RunTable:
        """The runs with a value of a metric; TableError where the table has no such column."""
        if metric not in self.metrics:
            near = nearest_name(metric, self.metrics)
            how = near or f" Give the source of the runs, or read it with metrics=[{metric!r}]."
            raise TableError(
                f"expected a column {metric!r}; the table has the metrics {list(self.metrics)}.{how}"
            )
        return self.select(np.isfinite(self.metrics[metric]), f"it has no value of {metric}")

    def with_loss(self, metric: str) -> RunTable:
        """The runs with a value of a metric, which takes the place of the loss."""
        return replace(runs := self.having(metric), loss=runs.metrics[metric], loss_se=None)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a run, under the names that :meth:`read` understands; losses as measured."""
        columns: dict[str, Sequence[Any]] = {"label": self.labels}
        kept = (*NUMERIC, "active_params", "experts")
        columns |= {n: v.tolist() for n in kept if (v := getattr(self, n)) is not None}
        if self.sparsity is not None:
            columns["params"] = (self.params * self.sparsity).tolist()
        if self.cluster is not None:
            columns["cluster"] = self.cluster
        columns |= {**self.texts, **{name: v.tolist() for name, v in self.metrics.items()}}
        if self.regret is not None:
            columns["loss"] = (self.loss * np.exp(self.regret)).tolist()
            batch = "batch_size" if self.batch_unit or self.unit != "tokens" else "batch_tokens"
            settings = {"lr": self.lr, batch: self.batch_units, "weight_decay": self.weight_decay}
            settings |= {"regret": np.expm1(self.regret)}
            columns |= {name: c.tolist() for name, c in settings.items() if c is not None}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @classmethod
    def from_runs(cls, runs: Iterable[Run]) -> RunTable:
        """Completed runs as a table; every other run is listed as excluded with its reason."""
        completed, excluded, censored = [], [], []
        for run in runs:
            if run.measured is not None:
                completed.append(run)
            else:
                known = run.state == "completed" and math.isfinite(run.loss or 0.0)
                empty = "without tokens or FLOPs" if known and run.loss is not None else ""
                reason = anonymous(": ".join(filter(None, (run.state, run.reason, empty))))
                e = run.experiment
                N, bound = float(e.params.total), run.loss_at_least
                values = {"budget": e.budget, "params": N, "loss": run.loss, "at_least": bound}
                excluded.append(Excluded.known(e.label, reason, values))
                censored += censored_run(run)

        def column(values: Iterable[float]) -> Floats:
            return np.array(list(values), dtype=np.float64)

        standard_errors = [r.loss_se for r in completed if r.loss_se is not None]
        unique = [math.nan if r.unique_tokens is None else r.unique_tokens for r in completed]
        planned = [r.experiment for r in completed]
        sizes = [e.size if isinstance(e.size, Mapping) else {} for e in planned]
        active = [e.params.active for e in planned]
        has_experts = active != [e.params.total for e in planned]
        named = {n: tuple(str(s.get(n, "")) for s in sizes) for n in (sizes[0] if sizes else {})}
        return cls(
            params=column(e.params.total for e in planned),
            tokens=column(r.tokens for r in completed),
            flops=column(r.flops for r in completed),
            loss=column(r.measured for r in completed if r.measured is not None),
            labels=tuple(e.label for e in planned),
            budget=column(e.budget for e in planned),
            loss_se=column(standard_errors) if len(standard_errors) == len(completed) else None,
            non_embedding=column(e.params.non_embedding for e in planned),
            unique_tokens=None if all(map(math.isnan, unique)) else column(unique),
            cluster=_clusters([e.trunk for e in planned]),
            lr=column(e.hparams.lr for e in planned),
            batch_units=column(e.hparams.batch_units for e in planned),
            weight_decay=column(e.hparams.weight_decay for e in planned),
            active_params=column(active) if has_experts else None,
            experts=planned_experts(planned) if has_experts else None,
            censored=tuple(censored), excluded=tuple(excluded),
            texts={name: cells for name, cells in named.items() if splits(cells)},
            mup=bool(completed) and all(r.parametrization == "mup" for r in completed),
            unit=planned[0].unit if planned else "tokens",
            metrics={
                name: column(r.metrics.get(name, math.nan) for r in completed)
                for name in dict.fromkeys(name for r in completed for name in r.metrics)
            },
            flops_per_second=column(r.flops / r.tokens * r.units_per_second for r in completed),
            findings=(SIMULATED,) if any(r.device == "mock" for r in completed) else (),
        )  # fmt: skip

    @classmethod
    def read(
        cls,
        source: RunTable | Iterable[Run] | Iterable[Mapping[str, Any]] | str | Path | Any,
        columns: Mapping[str, str] | None = None,
        metrics: Sequence[str] = (),
    ) -> RunTable:
        """A table of runs from whatever holds one, one row a run.

        TableError where a column is missing or ambiguous or holds text; where the file is no table, or has
        more than 1,000,000 rows and so is a log of steps; or where runs of a service lack the length of
        their schedules and ``complete=True`` was not given. InputTypeError where ``source`` is none of
        those below, MissingExtraError for a Parquet file without pyarrow.

        ``source`` is a RunTable, runs of this library, a list of dicts, a dict of columns, any DataFrame
        that narwhals understands (pandas, polars, pyarrow, ...), or a path to CSV (also separated by
        semicolons, tabs or bars), JSON, JSON lines (all also packed by gzip) or Parquet; or runs of a
        service, as :func:`flops_fit.read_mlflow` and its like give them. ``columns`` names columns of names
        of their own: ``{"params": "n_weights"}``. Usual names (``N``, ``num_params``, ``D``, ``C``,
        ``val_loss``, ``final_loss``, ...) and those that trainers write are found, also at the end of a
        tracker's path: ``config.n_params``, ``summary/val_loss``. Units in headings and cells are read:
        ``Params (M)``, ``1.5B``.

        A held-out loss is taken before a training loss. Runs that did not finish (a column ``State`` or
        ``status``) and rows without positive N, D, C and finite loss are in ``excluded``, as are those
        whose loss was read before the end of their schedule, where ``planned_flops``, ``planned_tokens`` or
        ``planned_steps`` says how long it was. Of runs of a service that has to be known. ``metrics`` are
        headings of benchmark scores to keep, empty cells included.

        >>> rows = [{"N": 1e8, "D": 2e9, "val_loss": 3.4}, {"N": 2e8, "D": 1e9, "val_loss": 3.5}]
        >>> RunTable.read(rows).loss.tolist()
        [3.4, 3.5]
        """
        if isinstance(source, RunTable):
            return source
        if isinstance(source, Iterator) and not hasattr(source, "read"):
            source = list(islice(source, MOST_ROWS + 1))
        if isinstance(source, Sequence) and source and all(isinstance(r, Run) for r in source):
            return cls.from_runs([r for r in source if isinstance(r, Run)])
        return cls(**_fields(source, columns or {}, metrics))
