"""The numeric columns of a table under our names, N, D and C complete."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import TableError
from flops_fit.table import columns as cols
from flops_fit.table.columns import CIRCUMSTANCES, ColumnMatch, Raw, find_numbers

Floats = NDArray[np.float64]

_REQUIRED = ("params", "tokens", "loss")
_PLANNED_OFF = 10.0  # a budget this far off 6·N·D is no compute in FLOPs
_SEVERAL = 1.05  # epochs
_SEEN = {"seen", "trained", "consumed", "processed", "total", "training", "train"}


@dataclass
class Quantities:
    """Columns as numbers, which headings they had, and what was derived or assumed."""

    data: dict[str, Floats]
    matches: dict[str, ColumnMatch]
    notes: list[str]
    others: dict[str, Floats]  # the circumstances of the runs, by our names
    asks_epochs: bool = False  # nothing says whether D counts repeats

    @property
    def unit(self) -> str:
        """What D counts, by its heading."""
        heading = self.matches["tokens"].column.lower() if "tokens" in self.matches else ""
        return "samples" if any(w in heading for w in ("sample", "image", "example")) else "tokens"


def quantities(raw: Raw, mapping: Mapping[str, str]) -> Quantities:
    """Everything that is known of N, D, C and the loss; TableError where one cannot be known."""
    filled = raw.filled()
    # An optional column without a single value is ignored.
    matches = {
        name: match
        for name, match in find_numbers(raw, mapping).items()
        if name in _REQUIRED or match.column in filled or name in mapping
    }
    others = {}
    for name, match in find_numbers(raw, mapping, CIRCUMSTANCES).items():
        with suppress(TableError):  # a column of text is none of these
            if match.column in filled:
                others[name] = raw.numbers(name, match)
    planned = None
    if "budget" in matches:
        try:
            planned = raw.numbers("budget", matches["budget"])
        except TableError:
            del matches["budget"]
    has_compute = "flops" in matches or planned is not None
    from_steps = _tokens_of(others)
    derivable = has_compute or from_steps is not None
    if "tokens" in matches and matches["tokens"].column not in filled and derivable:
        del matches["tokens"]
    needed = [name for name in _REQUIRED if name != "tokens" or not derivable]
    if missing := [name for name in needed if name not in matches]:
        raise _lacks(missing, raw, matches, others)
    data = {name: raw.numbers(name, m) for name, m in matches.items()}
    units = [f"{m.said(name)}." for name, m in matches.items() if m.factor != 1]
    notes = [*units, *(m.note for m in matches.values() if m.note)]
    out = Quantities(data, matches, notes, others)
    with np.errstate(all="ignore"):
        _complete(out, planned, from_steps)
    return out


def _tokens_of(others: Mapping[str, Floats]) -> tuple[Floats, str] | None:
    """D from how long the runs were, and in which words."""
    for words in ("samples seq_len", "step batch_tokens", "step batch_size seq_len"):
        factors = words.split()
        if all(name in others for name in factors):
            return np.prod([others[name] for name in factors], axis=0), " × ".join(factors)
    return None


def _complete(
    out: Quantities, planned: Floats | None, from_steps: tuple[Floats, str] | None
) -> None:
    """Fill in C and D, and say how."""
    data, notes = out.data, out.notes
    if "tokens" not in data and from_steps is not None:
        data["tokens"] = from_steps[0]
        notes.append(f"The table has no tokens: D = {from_steps[1]}.")
    flops = out.matches.get("flops")
    if flops and flops.distance == 4 and "tokens" in data:
        off = float(np.nanmedian(data["flops"] / (6 * data["params"] * data["tokens"])))
        if not 1 / _PLANNED_OFF < off < _PLANNED_OFF:
            del data["flops"], out.matches["flops"]
            notes.append(
                f"The column {flops.column!r} is no compute of whole runs; it is not used."
            )
    if "flops" not in data and planned is not None:
        ratio = planned / (6 * data["params"] * data["tokens"]) if "tokens" in data else 1.0
        if 1 / _PLANNED_OFF < float(np.nanmedian(ratio)) < _PLANNED_OFF:
            data["flops"] = planned
            column = out.matches["budget"].column
            notes.append(f"The table has no FLOPs: C is the planned compute, {column!r}.")
    if "tokens" not in data:
        data["tokens"] = data["flops"] / (6 * data["params"])
        notes.append("The table has no tokens: D = C/(6N) was assumed.")
    _epochs(out)
    active = out.others.get("active_params")
    if active is not None and not np.array_equal(active, data["params"], equal_nan=True):
        if "flops" not in data:
            data["flops"] = 6 * active * data["tokens"]
            notes.append("The table has no FLOPs: C = 6·N_active·D was assumed; N counts all.")
    elif "flops" not in data:
        data["flops"] = 6 * data["params"] * data["tokens"]
        notes.append("The table has no FLOPs: C = 6·N·D was assumed.")


def _epochs(out: Quantities) -> None:
    """Use the number of epochs where something tells whether D counts repeats."""
    epochs, data = out.others.get("epochs"), out.data
    if epochs is None or not np.nanmax(epochs, initial=0) > _SEVERAL:
        return
    D, column = data["tokens"], out.matches["tokens"].column if "tokens" in out.matches else ""
    active = out.others.get("active_params", data["params"])
    spent = data["flops"] / (6 * active * D) if "flops" in data else np.full(len(D), np.nan)
    unique = data.get("unique_tokens")

    def near(values: Floats, others: Floats) -> bool:
        several = (epochs > _SEVERAL) & np.isfinite(values)
        return bool(np.any(several)) and bool(
            np.median(np.abs(np.log(values / others))[several])
            < 0.25 * np.log(np.median(epochs[several]))
        )

    if near(spent, epochs) or (unique is not None and near(unique, D)):
        data["tokens"], data["unique_tokens"] = D * epochs, D
        out.notes.append(
            f"D is {column!r} times the epochs: the compute says that it counts data once."
        )
    elif unique is not None or not column:
        return
    elif near(spent, np.ones(len(D))) or _SEEN & set(column.lower().replace("/", "_").split("_")):
        data["unique_tokens"] = D / np.maximum(epochs, 1)
        out.notes.append(
            f"{column!r} counts tokens seen: unique tokens are D divided by the epochs."
        )
    else:
        out.asks_epochs = True


def _lacks(
    missing: list[str], raw: Raw, matches: Mapping[str, ColumnMatch], others: Mapping[str, Floats]
) -> TableError:
    """All that is missing, with the likeliest heading of each."""
    taken = {match.column for match in matches.values()}
    likely: dict[str, str] = {}
    for name in missing:
        likely[name] = cols.likeliest(name, raw, {*taken, *likely.values()})
    fix = f"Say which is which: {cols.call(likely)}."
    if "tokens" in missing and "step" in others:
        fix += " Steps are no tokens: add a column tokens = steps × batch size × sequence length."
    elif "tokens" in missing and "samples" in others:
        fix += " Sequences are no tokens: add a column of the sequence length, seq_len."
    with suppress(ValueError):
        if list(map(float, raw.headings)):
            fix = "Its first line holds numbers: put the headings params,tokens,loss above."
    return TableError(f"the table lacks {missing}; it has the columns {list(raw.headings)}. {fix}")
