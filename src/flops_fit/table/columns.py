"""Which column holds which quantity, and its cells as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputTypeError, TableError

Floats = NDArray[np.float64]
ColumnKind = Literal["", "number", "text", "other"]
Wanted = Callable[[str], ColumnKind]

MOST_GROUPS = 50  # into which a column of text may split the runs


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMERIC: dict[str, frozenset[str]] = {
    name: _words(headings)
    for name, headings in {
        "params": "params n num_params n_params parameters num_parameters n_parameters param_count "
        "parameter_count model_size model_params total_params",
        "tokens": "tokens d num_tokens n_tokens training_tokens train_tokens total_tokens "
        "tokens_seen samples",
        "flops": "flops c compute training_flops train_flops total_flops num_flops",
        "loss": "loss l final_loss val_loss eval_loss valid_loss validation_loss test_loss "
        "final_val_loss final_eval_loss heldout_loss held_out_loss train_loss training_loss "
        "final_train_loss",
        "budget": "budget compute_budget flops_budget c_budget",
        "loss_se": "loss_se loss_stderr se stderr",
        "non_embedding": "non_embedding non_embedding_params n_non_embedding",
        "unique_tokens": "unique_tokens d_unique",
    }.items()
}
# The planned length of a run, and the quantity it is compared with.
HORIZON = {"planned_flops": "flops", "planned_tokens": "tokens", "planned_steps": "step"}
_ALL = {
    **NUMERIC,
    **{name: frozenset([name]) for name in HORIZON},
    "step": frozenset(["step", "global_step"]),
}
_TEXT: dict[str, tuple[str, ...]] = {
    "label": ("label", "name", "run_name", "runname", "display_name", "run_id", "id"),
    "state": ("state", "status", "run_state"),
    "cluster": ("cluster",),
}
# Where trackers keep values: W&B's config.x and summary.x, MLflow's params.x and metrics.x.
_SCOPES = _words(
    "config summary summary_metrics metrics metric params param hparams tags mlflow attributes "
    "data info run"
)
_HELD_OUT = _words("val valid validation eval evaluation test dev heldout held")
_TRAINING = frozenset({"train", "training"})
_MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "-", "–"})
# Commas that can only group thousands: two groups or more, or a decimal point behind one.
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:,\d{3}){2,}(?:\.\d*)?|,\d{3}\.\d*)")
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_FINISHED = _words("finished completed complete success succeeded done")
_UNFINISHED = _words(
    "crashed failed failure running killed preempting preempted pending scheduled queued error "
    "diverged oom aborted cancelled canceled timeout interrupted stopped planned"
)


@dataclass(frozen=True)
class ColumnMatch:
    """The column that holds a quantity, and a note on that choice."""

    column: str
    note: str = ""


def check_mapping(mapping: object) -> dict[str, str]:
    """``columns=`` as a dict from our names to headings, where it is one."""
    if not isinstance(mapping, Mapping):
        raise InputTypeError(
            f"columns=: expected a dict such as {{'params': 'n_weights'}}; "
            f"got {type(mapping).__name__}."
        )
    unknown = sorted(str(name) for name in mapping if name not in _ALL)
    if unknown:
        raise TableError(f"columns= maps {unknown}; it may map {list(_ALL)}.")
    return {str(name): str(heading) for name, heading in mapping.items()}


def wanted(mapping: Mapping[str, str], others: bool = False) -> Wanted:
    """The kind of value to read under each heading; ``""`` where none is kept in memory."""
    own = frozenset(mapping.values())

    def kind(heading: str) -> ColumnKind:
        if heading in own or any(_rank(name, heading) for name in _ALL):
            return "number"
        if any(_plain(heading) in usual for usual in _TEXT.values()):
            return "text"
        return "other" if others else ""

    return kind


def find_numbers(
    headings: Sequence[str],
    filled: Sequence[str],
    mapping: Mapping[str, str],
    names: Iterable[str] = NUMERIC,
) -> dict[str, ColumnMatch]:
    """The column of each quantity that the table has; one that is not ``filled`` if no other fits."""
    matches = {}
    for name in names:
        if name in mapping:
            if mapping[name] not in headings:
                raise TableError(
                    f"columns= names {mapping[name]!r} for {name}; the table has {list(headings)}."
                )
            matches[name] = ColumnMatch(mapping[name])
            continue
        taken = {heading for other, heading in mapping.items() if other != name}
        ranks = {h: _rank(name, h) for h in headings if h not in taken}
        candidates = {h: rank for h, rank in ranks.items() if rank is not None}
        candidates = {h: r for h, r in candidates.items() if h in filled} or candidates
        if candidates:
            matches[name] = _best(name, candidates)
    return matches


def find_text(name: str, headings: Sequence[str]) -> str | None:
    """The column of labels, states or clusters; the first of the usual headings that is there."""
    plain = {_plain(heading): heading for heading in reversed(headings)}
    return next((plain[usual] for usual in _TEXT[name] if usual in plain), None)


def _best(name: str, candidates: Mapping[str, tuple[int, int]]) -> ColumnMatch:
    purpose, closeness = best = min(candidates.values())
    ties = [heading for heading, rank in candidates.items() if rank == best]
    if len(ties) > 1:
        raise TableError(
            f"{ties} could each be {name}; say which: columns={{{name!r}: {ties[0]!r}}}."
        )
    column = ties[0]
    others = [heading for heading, rank in candidates.items() if rank[0] > purpose]
    note = f"The column {column!r} was taken for {name}." if closeness == 3 else ""
    if name == "loss" and purpose == 0 and others:
        note = f"The loss is {column!r}, which is held out; {others} is not used."
    elif name == "loss" and purpose == 2:
        note = (
            f"The loss {column!r} is a training loss: it is noisier than a held-out one, and "
            "lower where data repeats."
        )
    return ColumnMatch(column, note)


def _rank(name: str, heading: str) -> tuple[int, int] | None:
    """How badly a heading suits a quantity: the kind of loss, then the distance of the name."""
    words = set(re.split(r"[_./:]+", _normal(heading)))
    held_out = bool(words & _HELD_OUT)
    purpose = 0
    if name == "loss" and not held_out:
        purpose = 2 if words & _TRAINING else 1
    usual, last = _ALL[name], _parts(heading)[-1]
    if heading == name:
        return purpose, 0
    if _normal(heading) in usual:
        return purpose, 1
    if name != "loss" and held_out:
        return None  # the tokens of an evaluation are not those of the training
    if _plain(heading) in usual:
        return purpose, 2
    # A lone letter at the end of a path, such as attention/n, says too little.
    return (purpose, 3) if len(last) > 1 and last in usual else None


def _normal(heading: str) -> str:
    return re.sub(r"[\s\-]+", "_", heading.strip().lower())


def _parts(heading: str) -> list[str]:
    """The components of a path such as ``summary.val/loss``, without the tracker's own first ones."""
    parts = [part for part in re.split(r"[./:]+", _normal(heading)) if part] or [""]
    while len(parts) > 1 and parts[0] in _SCOPES:
        parts = parts[1:]
    if len(parts) == 1:
        for scope in ("config_", "summary_", "metrics_"):
            parts = [parts[0].removeprefix(scope)]
    return parts


def _plain(heading: str) -> str:
    return "_".join(_parts(heading))


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value: None, NaN, pandas.NA, an empty text or a word for it."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or str(value).strip().lower() in _MISSING


def numbers(values: Sequence[Any] | NDArray[Any], column: str) -> Floats:
    """A column as floats, NaN where a cell is empty; text and ambiguous commas are refused."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "iuf":
            return values.astype(np.float64)
        values = values.tolist()
    if set(map(type, values)) <= {float, int, str}:
        with suppress(ValueError, OverflowError):
            return np.array(list(map(float, values)), dtype=np.float64)
    grouped = any(isinstance(v, str) and _GROUPED.fullmatch(v.strip()) for v in values)
    parsed = (_number(value, grouped, column, i) for i, value in enumerate(values, start=1))
    return np.fromiter(parsed, dtype=np.float64, count=len(values))


def _number(value: Any, grouped: bool, column: str, row: int) -> float:
    if is_missing(value):
        return math.nan
    hint = ""
    if isinstance(value, str):
        text = value.strip()
        if _GROUPED.fullmatch(text) or (grouped and _ONE_GROUP.fullmatch(text)):
            return float(text.replace(",", ""))
        if "," in text:
            hint = " Write decimals with a point, and no commas between thousands."
        elif re.fullmatch(r"[\d.]+\s*[kKmMbBgGtT]", text):
            hint = " Write it out, such as 70e9."
    with suppress(TypeError, ValueError):
        if not isinstance(value, bool | np.bool_):
            try:
                return float(value)
            except OverflowError:  # an integer beyond 1e308
                return math.inf
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
    raise TableError(f"column {column!r}, row {row}: expected a number, got {shown}.{hint}")


def is_text(cells: Sequence[Any] | NDArray[Any]) -> bool:
    """Whether a column splits its rows into a few groups by texts that are no numbers."""
    if isinstance(cells, np.ndarray) or not all(isinstance(c, str) or is_missing(c) for c in cells):
        return False
    values = {c for c in cells if not is_missing(c)}
    try:
        return 2 <= len(values) <= MOST_GROUPS and not list(map(float, values))
    except ValueError:
        return True


def unfinished(states: Sequence[Any] | NDArray[Any]) -> dict[int, str]:
    """The rows whose run did not finish, each with its state, if the words are those of trackers."""
    words = ["" if is_missing(s) else str(s).strip() for s in states]
    if not any(w.lower() in _FINISHED | _UNFINISHED for w in words):
        return {}
    return {i: w for i, w in enumerate(words) if w and w.lower() not in _FINISHED}


def budgets_of(flops: Floats, spread: float = 0.1) -> Floats:
    """Each run's budget: from the cheapest up, runs within ``spread`` share their geometric mean."""
    order = np.argsort(flops, kind="stable")
    ordered = flops[order]
    starts: list[int] = []
    at = 0
    while at < len(ordered):
        starts.append(at)
        at = int(np.searchsorted(ordered, ordered[at] * (1 + spread), side="right"))
    sizes = np.diff([*starts, len(ordered)])
    means = np.exp(np.add.reduceat(np.log(ordered), starts) / sizes) if starts else ordered
    budgets = np.empty_like(flops)
    budgets[order] = np.repeat(means, sizes)
    return budgets
