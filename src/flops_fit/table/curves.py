"""Training curves: the loss along each run, as approach 1 of Hoffmann et al. 2022 reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.errors import InputError, InputTypeError, TableError, check_number
from flops_fit.table.cells import Floats, is_missing
from flops_fit.table.columns import (
    ColumnMatch,
    Raw,
    check_mapping,
    find_numbers,
    find_text,
    wanted,
)
from flops_fit.table.headings import rank, split_unit
from flops_fit.table.left_out import Excluded
from flops_fit.table.sources import column_of, read_raw
from flops_fit.trackers.tracker import TrackedRuns

_RUN = ("run", "run_id", "run_name", "label", "name", "experiment")
_QUANTITIES = ("params", "tokens", "loss", "flops")
_POSITIONS = ("step", "units", "tokens", "samples")  # along one run
_TENSORBOARD = {"wall time", "step", "value"}


@dataclass(frozen=True, eq=False)
class Curve:
    """The loss of one run along its training: its name, N, and arrays of shape (points,).

    ``tokens`` are D so far, strictly increasing, ``loss`` the loss there, ``flops`` C so far if known.
    """

    label: str
    params: float
    tokens: Floats
    loss: Floats
    flops: Floats | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, eq=False)
class Curves:
    """Training curves of many runs, one entry of ``curves`` a run.

    ``excluded`` are runs and points that were left out, each with its reason; ``notes`` say what was
    chosen or changed on the way in.

    >>> log = {"run": ["a", "a", "b", "b"], "params": [1e6, 1e6, 2e6, 2e6],
    ...        "tokens": [1e7, 2e7, 1e7, 2e7], "val_loss": [4.0, 3.8, 3.9, 3.6]}
    >>> curves = Curves.read(log)
    >>> len(curves), curves.sizes.tolist()
    (2, [1000000.0, 2000000.0])
    """

    curves: tuple[Curve, ...]
    excluded: tuple[Excluded, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.curves)

    def __iter__(self) -> Iterator[Curve]:
        return iter(self.curves)

    @property
    def sizes(self) -> Floats:
        """The different N, ascending."""
        return np.unique([c.params for c in self.curves])

    def smoothed(self, width: float = 0.1) -> Curves:
        """The curves with ln L replaced by a running straight line over ``width`` in ln D.

        Each point becomes the value at its own D of the least-squares line of ln L in ln D
        through the points within ``width``/2 on either side: 0.1 averages over a tenth of the tokens
        seen so far. InputError where ``width`` is not positive.
        """
        check_number("width", width, above=0, expected="a positive number in ln D")
        smooth = tuple(replace(c, loss=_running_line(c.tokens, c.loss, width)) for c in self.curves)
        note = f"the curves are running lines of ln L over {width:g} in ln D"
        return replace(self, curves=smooth, notes=(*self.notes, note))

    @classmethod
    def read(cls, source: Any, columns: Mapping[str, str] | None = None) -> Curves:
        """Curves from a long table: one row for each run and point of its training.

        TableError where a column is missing or ambiguous, a run has one point, two sizes, the same tokens
        twice or FLOPs that do not grow; InputTypeError where ``source`` is no table. Steps are not turned
        into tokens: how many tokens a step takes is not in such a table.

        ``source`` is curves, a path to a CSV, JSONL or Parquet file, a dict of columns, a list of dicts,
        any DataFrame that narwhals understands, or runs of a service, as :func:`flops_fit.read_mlflow` and
        its like return them. ``columns`` says where a column has a name of its own, of ``run``, ``params``,
        ``tokens``, ``loss`` and, optional, ``flops``. Usual names are found; of a plain ``loss`` beside a
        held-out one such as ``val_loss``, the held-out one is taken. Points come in order of tokens. Points
        without a positive finite number in every column are left out and listed, as are runs with fewer
        than two points left.
        """
        if isinstance(source, Curves):
            return source
        return _curves(source, columns or {})


def read_points(source: Any, name: str) -> tuple[Floats, Floats]:
    """Positions along one run, ascending, and its losses; points without a finite loss are left out.

    Of a position that stands twice the last reading counts. ``name`` is what the caller calls ``source``: a
    Curve, a pair of arrays, or a table of one run.
    """
    if isinstance(source, Curve):
        source = source.tokens, source.loss
    if not (isinstance(source, tuple | list) and len(source) == 2 and np.ndim(source[0]) == 1):
        source = _columns(source, name)
    try:
        x, loss = (np.asarray(values, dtype=np.float64) for values in source)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{name}: expected numbers in both arrays; {error}.") from error
    if x.shape != loss.shape or not x.size:
        raise InputError(
            f"{name}: expected as many positions as losses; got {x.size} and {loss.size}."
        )
    sound = np.isfinite(x) & np.isfinite(loss) & (x > 0)
    if not np.any(sound):
        raise InputError(f"{name}: expected positions above 0 with finite losses; it has none.")
    x, last = np.unique(x[sound][::-1], return_index=True)
    return x, loss[sound][::-1][last]


def _columns(source: Any, name: str) -> tuple[Floats, Floats]:
    """The positions and losses in a table of one run, those in training if there are several."""
    own = wanted({})

    def quantity(heading: str) -> tuple[str, Any]:
        plain = heading.strip().lower().lstrip("_")
        found = ((n, rank(n, plain)) for n in _POSITIONS if n != "units")
        return (
            ("units", (0, 0, 0)) if plain == "units" else next((f for f in found if f[1]), ("", ()))
        )

    try:
        raw = read_raw(_log_of(source), lambda h: "number" if quantity(h)[0] else own(h))
    except InputTypeError as error:
        raise InputTypeError(
            f"{name}: expected a pair of arrays, (positions, losses), or a table of one run; got "
            f"{type(source).__name__}."
        ) from error
    filled = [h for h in raw.headings if h in raw.filled()]
    # W&B's _step counts calls of log.
    at = {
        h: (_POSITIONS.index(q[0]), h.startswith("_"), q[1])
        for h in filled
        if (q := quantity(h))[0]
    }
    losses = {
        h: ((1, 2, 0).index(r[0]), r) for h in filled if (r := rank("loss", h)) and h not in at
    }
    if not losses and {h.strip().lower() for h in filled} == _TENSORBOARD:
        losses = {h: (0, (1, 0, 0)) for h in filled if h.strip().lower() == "value"}
    if not at or not losses:
        raise InputError(
            f"{name}: expected columns such as step and loss; got {list(raw.headings)}. Rename yours, or "
            "give a pair of arrays."
        )
    label = find_text("label", filled)
    runs = {str(cell) for cell in raw.cells[label] if not is_missing(cell)} if label else set()
    if 1 < len(runs) < raw.rows:
        raise InputError(
            f"{name}: expected one run; column {label!r} names {len(runs)}. Give the rows of one."
        )
    x, loss = min(at, key=at.__getitem__), min(losses, key=losses.__getitem__)
    match = ColumnMatch(x, factor=split_unit(x)[1])
    return raw.numbers("tokens", match), raw.numbers("loss", ColumnMatch(loss))


def _log_of(source: Any) -> Any:
    """The log of steps in a trainer's state, or in its file; anything else as it is."""
    state = source
    if isinstance(source, str | Path) and str(source).endswith("trainer_state.json"):
        with suppress(OSError, ValueError):
            state = json.loads(Path(source).read_text("utf-8"))
    return state.get("log_history", source) if isinstance(state, Mapping) else source


def _curves(source: Any, columns: Mapping[str, str]) -> Curves:
    mapping = check_mapping(columns, ("run", *_QUANTITIES), "for curves it")
    own_name = mapping.pop("run", None)
    where = str(source) if isinstance(source, str | Path) else "the table of curves"
    if isinstance(source, TrackedRuns):
        where, source = source.where, _tracked_rows(source, mapping)
    own = wanted(mapping)
    names_of_runs = [_plain(name) for name in ([own_name] if own_name else _RUN)]
    raw = read_raw(source, lambda h: "text" if _plain(h) in names_of_runs else own(h))
    if raw.rows == 0:
        raise TableError(f"expected one row for each point of each curve; {where} is empty.")
    headings = {_plain(heading): heading for heading in reversed(raw.cells)}
    run = next((headings[name] for name in names_of_runs if name in headings), None)
    if run is None:
        raise _lacks(own_name or "run", raw, where, "run")
    matches = find_numbers(raw, mapping)
    for name in ("params", "tokens", "loss"):
        if name not in matches:
            steps = ", or add tokens = step × tokens per step" if name == "tokens" else ""
            raise _lacks(name, raw, where, name, steps)
    data = {name: raw.numbers(name, matches[name]) for name in _QUANTITIES if name in matches}
    notes = tuple(matches[name].note for name in data if matches[name].note)
    rows: dict[str, list[int]] = {}
    for i, label in enumerate(raw.cells[run]):
        if is_missing(label):
            raise TableError(f"{where}, row {i + 1}: expected the run's name, got {label!r}.")
        rows.setdefault(str(label), []).append(i)
    curves, excluded = [], []
    for label, index in rows.items():
        if len(index) == 1:
            raise TableError(
                f"run {label!r} has one point, which is no curve. Expected one row for each point "
                f"of a run's training, with the run's name in column {run!r}; a table "
                "of finished runs belongs in fit_runs(runs), not in curves=."
            )
        part = {name: column[index] for name, column in data.items()}
        sound = {n: np.isfinite(v) & ((v > 0) | (n == "loss")) for n, v in part.items()}
        keep = np.all(list(sound.values()), axis=0)
        count = int(np.sum(keep))
        if count < len(index):
            lacking = " and ".join(name for name, values in sound.items() if not np.all(values))
            reason = f"{len(index) - count} of {len(index)} points lack a positive finite {lacking}"
            excluded.append(Excluded(label, reason))
        if count < 2:
            excluded.append(Excluded(label, f"{count} points are left, no curve"))
        else:
            curves.append(_curve(label, {name: v[keep] for name, v in part.items()}))
    if not curves:
        raise TableError(
            f"{where} has no curve with two points of positive params and tokens and a finite loss."
        )
    return Curves(tuple(curves), tuple(excluded), notes)


def _plain(heading: str) -> str:
    return heading.strip().lower()


def _lacks(column: str, raw: Raw, where: str, name: str, more: str = "") -> TableError:
    return TableError(
        f"{where} lacks {column!r}; it has the columns {list(raw.headings)}. Say which is "
        f"which: Curves.read(..., columns={{{name!r}: 'your_column'}}){more}."
    )


def _curve(label: str, part: Mapping[str, Floats]) -> Curve:
    sizes = np.unique(part["params"])
    if len(sizes) > 1:
        raise TableError(
            f"run {label!r} has {len(sizes)} sizes, {sizes[0]:.6g} to {sizes[-1]:.6g}; expected "
            "one N a run. Give runs of different sizes different names."
        )
    order = np.argsort(part["tokens"], kind="stable")
    tokens = part["tokens"][order]
    if len(twice := np.flatnonzero(np.diff(tokens) == 0)):
        raise TableError(
            f"run {label!r} has {tokens[twice[0]]:.6g} tokens twice; expected one loss for each "
            "point. Average repeated evaluations, keep the last of steps made again after a resume, "
            "and give repeated runs names of their own."
        )
    flops = part["flops"][order] if "flops" in part else None
    if flops is not None and np.any(np.diff(flops) <= 0):
        raise TableError(
            f"the FLOPs of run {label!r} do not grow with its tokens; expected those spent so "
            "far. Leave the column out to count F(N)·D."
        )
    return Curve(label, float(sizes[0]), tokens, part["loss"][order], flops)


def _tracked_rows(tracked: TrackedRuns, mapping: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each reading of a loss that a run has twice; of points read again, the last."""
    several: set[str] = set()
    for run in tracked:
        counts = Counter(name for p in run.points for name, v in p.items() if not is_missing(v))
        several |= {name for name, count in counts.items() if count > 1}
    rows: list[list[dict[str, Any]]] = []
    for run in tracked:
        settings = {name: v for name, v in run.settings.items() if name not in several}
        points = ({k: v for k, v in p.items() if k in several} for p in run.points)
        rows.append([{"run": run.label, **settings, **p} for p in points])
    every = [row for run_rows in rows for row in run_rows]
    loss, tokens = (column_of(name, every, mapping) for name in ("loss", "tokens"))
    if not loss:
        return every
    kept: list[dict[str, Any]] = []
    for run_rows in rows:
        start = len(kept)
        for row in run_rows:
            if is_missing(row.get(loss)):
                continue
            at = row.get(tokens)
            while len(kept) > start and isinstance(at, int | float):
                before = kept[-1].get(tokens)
                if not (isinstance(before, int | float) and at <= before):
                    break
                kept.pop()
            kept.append(row)
    return kept


def _running_line(tokens: Floats, loss: Floats, width: float) -> Floats:
    """At each point the value of a line through its neighbours within width/2 in ln D."""
    x, y = np.log(tokens), np.log(loss)
    x, level = x - x.mean(), y.mean()
    low = np.searchsorted(x, x - width / 2 - 1e-12)
    high = np.searchsorted(x, x + width / 2 + 1e-12, side="right")

    def window(values: Floats) -> Floats:
        total = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray(total[high] - total[low])

    count, mean_x, mean_y = (high - low).astype(float), window(x), window(y - level)
    mean_x, mean_y = mean_x / count, mean_y / count
    variance = window(x * x) / count - mean_x**2
    together = window(x * (y - level)) / count - mean_x * mean_y
    slope = np.where(variance > 1e-12, together / np.maximum(variance, 1e-12), 0.0)
    return np.asarray(np.exp(level + mean_y + slope * (x - mean_x)))
